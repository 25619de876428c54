"""Mode seeking, against its definition; and that a step pairs its latents."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from acgan.gan.mode_seeking import EPSILON, pair_labels, reach, variety_loss
from acgan.gan.models import Generator
from acgan.gan.step import Training, train_step, update_generator
from tests.kit import tiny_config

UNBOUNDED = torch.tensor(torch.inf)


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_loss_is_the_inverse_of_the_images_difference_over_the_latents() -> None:
    images, latents = (
        torch.rand(6, 3, 4, 4, generator=noise()),
        torch.rand(6, 5, generator=noise(1)),
    )
    of_images = sum((images[i] - images[i + 3]).abs().sum() for i in range(3)) / (3 * 3 * 4 * 4)
    of_latents = sum((latents[i] - latents[i + 3]).abs().sum() for i in range(3)) / (3 * 5)
    expected = 1 / (of_images / of_latents + EPSILON)
    torch.testing.assert_close(variety_loss(images, latents, UNBOUNDED), expected)


def test_images_twice_as_different_cost_half_and_equal_ones_are_still_finite() -> None:
    images, latents = (
        torch.rand(4, 3, 4, 4, generator=noise()),
        torch.rand(4, 5, generator=noise(1)),
    )
    once, twice = (
        variety_loss(images, latents, UNBOUNDED),
        variety_loss(2 * images, latents, UNBOUNDED),
    )
    assert twice.item() == pytest.approx(once.item() / 2, rel=1e-4)
    one = images[:1].repeat(4, 1, 1, 1).requires_grad_()
    loss = variety_loss(one, latents, UNBOUNDED)
    loss.backward()
    assert loss.item() == pytest.approx(1 / EPSILON)
    assert one.grad is not None
    assert one.grad.isfinite().all()


def test_its_gradient_moves_the_images_of_a_pair_apart() -> None:
    images = torch.tensor([[0.1], [0.2], [0.4], [0.1]]).view(4, 1, 1, 1).requires_grad_()
    variety_loss(images, torch.tensor([[0.0], [0.0], [1.0], [1.0]]), UNBOUNDED).backward()
    assert images.grad is not None
    # 0.1 and 0.4 are one pair, 0.2 and 0.1 the other: downhill leads away from each other.
    assert (-images.grad).sign().flatten().tolist() == [-1, 1, 1, -1]


def test_nothing_is_paid_beyond_the_bound() -> None:
    images, latents = (
        torch.rand(4, 3, 4, 4, generator=noise()),
        torch.rand(4, 5, generator=noise(1)),
    )
    images.requires_grad_()
    bound = torch.tensor(0.01)
    loss = variety_loss(images, latents, bound)
    assert loss.item() == pytest.approx(1 / (0.01 + EPSILON))
    loss.backward()
    assert images.grad is not None
    assert not images.grad.any()


def test_the_bound_is_the_mean_difference_of_real_images_of_one_class_over_latents() -> None:
    images, labels = torch.rand(5, 3, 4, 4, generator=noise()), torch.tensor([1, 0, 1, 2, 1])
    pairs = [(0, 2), (2, 4)]  # of the three images of class 1, each with the next
    expected = sum((images[a] - images[b]).abs().mean() for a, b in pairs) / 2 / (2 / 3)
    torch.testing.assert_close(reach(images, labels), expected)
    latents = torch.rand(2, 100_000, generator=noise()) * 2 - 1
    assert (latents[0] - latents[1]).abs().mean().item() == pytest.approx(2 / 3, abs=0.005)


def test_a_batch_without_two_of_a_class_sets_no_bound() -> None:
    assert reach(torch.rand(3, 3, 4, 4), torch.tensor([2, 0, 1])).item() == torch.inf
    assert reach(torch.rand(1, 3, 4, 4), torch.tensor([2])).item() == torch.inf


def test_the_two_of_a_pair_are_of_one_class() -> None:
    assert pair_labels(torch.tensor([2, 0, 1, 1, 1, 0])).tolist() == [2, 0, 1, 2, 0, 1]


def labels_of_a_step(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Tensor:
    seen: list[Tensor] = []
    forward = Generator.forward

    def watched(self: Generator, latents: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return forward(self, latents, labels)

    monkeypatch.setattr(Generator, "forward", watched)
    training = Training(tiny_config(**changes), classes=3, device=torch.device("cpu"))
    real, classes = torch.rand(16, 3, 16, 16, generator=noise()), torch.arange(16) % 3
    train_step(training, real, classes, noise())
    _, labels = seen  # of the discriminator's step, and of the generator's
    return labels


def test_a_step_pairs_its_latents_only_where_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = labels_of_a_step(monkeypatch, mode_seeking=1.0)
    assert torch.equal(labels[:16], labels[16:])
    plain = labels_of_a_step(monkeypatch)
    assert not torch.equal(plain[:16], plain[16:])
    assert torch.equal(plain[:16], labels[:16])  # the same draws


def test_the_loss_grows_by_the_weight_times_the_penalty() -> None:
    def total(weight: float) -> tuple[float, float]:
        training = Training(tiny_config(mode_seeking=weight), classes=3, device=torch.device("cpu"))
        loss, source, label = update_generator(training, 32, noise(), reach=UNBOUNDED)
        return loss.item(), (source + label).item()

    (first, rest), (second, same) = total(0.5), total(1.5)
    assert rest == same  # the first update of the same weights
    assert second - rest == pytest.approx(3 * (first - rest), rel=1e-4)
