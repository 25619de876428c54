"""The D2D-CE head, against the paper's formula written image by image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from acgan.gan.models import Discriminator
from acgan.gan.reacgan import MARGIN, TEMPERATURE, ProxyHead, d2d_cross_entropy
from acgan.gan.step import Training, train_step
from tests.kit import tiny_config

CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def units(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=seeded(seed), dtype=torch.float64), dim=-1)


def by_hand(embeddings: Tensor, proxies: Tensor, labels: Tensor) -> float:
    f, v, y = embeddings.numpy(), proxies.numpy(), labels.tolist()
    total = 0.0
    for i in range(len(y)):
        alike = math.exp(min(float(f[i] @ v[y[i]]) - 0.98, 0) / 0.5)
        different = sum(
            math.exp(max(float(f[i] @ f[j]) - 0.02, 0) / 0.5) for j in range(len(y)) if y[j] != y[i]
        )
        total -= math.log(alike / (alike + different))
    return total / len(y)


def test_the_constants_are_the_published_ones() -> None:
    assert (TEMPERATURE, MARGIN) == (0.5, 0.98)


@pytest.mark.parametrize("size", [2, 40])
@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1, 2, 0], [0, 0, 0, 1], [2, 2]])
def test_the_loss_is_the_papers_formula(labels: list[int], size: int) -> None:
    embeddings, proxies = units(len(labels), size, seed=1), units(3, size, seed=2)
    y = torch.tensor(labels)
    found = d2d_cross_entropy(embeddings, embeddings @ proxies.T, y)
    assert found.item() == pytest.approx(by_hand(embeddings, proxies, y), abs=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    y = torch.tensor([0, 1, 2, 0, 1])

    def loss(raw: Tensor, proxies: Tensor) -> Tensor:
        f = F.normalize(raw)
        return d2d_cross_entropy(f, f @ F.normalize(proxies).T, y)

    raw, proxies = units(5, 6, seed=3), units(3, 6, seed=4)
    assert torch.autograd.gradcheck(loss, (raw.requires_grad_(), proxies.requires_grad_()))


def test_images_at_their_proxies_and_far_from_other_classes_feel_no_pull() -> None:
    proxies = torch.eye(3, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0])
    embeddings = proxies[y].clone().requires_grad_()
    loss = d2d_cross_entropy(embeddings, embeddings @ proxies.T, y)
    # Each is above the margin, and each other class's cosine, 0, is below 0.02.
    assert loss.item() == pytest.approx(np.mean([math.log(1 + n) for n in (2, 3, 3, 2)]))
    loss.backward()
    assert embeddings.grad is not None
    assert embeddings.grad.abs().max() == 0


def test_a_batch_of_one_class_has_no_loss_and_finite_gradients() -> None:
    embeddings = units(4, 5, seed=0).requires_grad_()
    loss = d2d_cross_entropy(embeddings, embeddings @ units(3, 5, seed=1).T, torch.full((4,), 2))
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_the_head_gives_unit_embeddings_and_names_the_nearest_proxy() -> None:
    head = ProxyHead(features=7, classes=3, size=5)
    torch.nn.init.normal_(head.proxies, generator=seeded())
    embeddings = head(torch.randn(9, 7, generator=seeded(1)))
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(9))
    logits = head.class_logits(embeddings)
    cosine = F.cosine_similarity(embeddings[:, None], head.proxies[None], dim=-1)
    torch.testing.assert_close(logits, 2 * cosine)
    nearest = torch.cdist(embeddings, F.normalize(head.proxies)).argmin(1)
    assert torch.equal(logits.argmax(1), nearest)


def test_the_discriminators_initial_weights_are_the_baselines_but_for_the_head() -> None:
    plain, proxies = (
        Discriminator(tiny_config(reacgan_head=on)).state_dict() for on in (False, True)
    )
    shared = plain.keys() & proxies.keys()
    assert plain.keys() - shared == {"label.weight", "label.bias"}
    assert all(torch.equal(plain[name], proxies[name]) for name in shared)
    again = Discriminator(tiny_config(reacgan_head=True)).state_dict()
    assert all(torch.equal(again[name], proxies[name]) for name in again)


def test_a_step_has_the_loss_of_real_images_then_that_of_generated_ones() -> None:
    training = Training(tiny_config(reacgan_head=True, width=1 / 8), classes=3, device=CPU)
    head = training.discriminator.label
    assert isinstance(head, ProxyHead)
    images = torch.rand(6, 3, 16, 16, generator=seeded()) * 2 - 1
    labels = torch.arange(6) % 3
    seen: list[tuple[Tensor, Tensor]] = []
    head.register_forward_hook(
        lambda module, inputs, output: seen.append(
            (output.detach().double(), F.normalize(head.proxies).detach().double())
        )
    )
    sampled: list[Tensor] = []
    training.generator.register_forward_hook(
        lambda module, inputs, output: sampled.append(inputs[1])
    )
    losses = train_step(training, images, labels, seeded(3)).tolist()
    (of_both, proxies), (generated, moved) = seen
    assert losses[2] == pytest.approx(by_hand(of_both[:6], proxies, labels), abs=1e-5)
    assert losses[8] == pytest.approx(by_hand(generated, moved, sampled[1]), abs=1e-5)
    correct = ((of_both[:6] @ proxies.T).argmax(1) == labels).double().mean()
    assert losses[5] == pytest.approx(correct.item())


def test_proxies_are_learned_by_the_discriminator_alone() -> None:
    training = Training(tiny_config(reacgan_head=True), classes=3, device=CPU)
    names = [name for name, _ in training.discriminator.named_parameters()]
    assert "label.proxies" in names
    head = training.discriminator.label
    assert isinstance(head, ProxyHead)
    before = head.proxies.detach().clone()
    images = torch.rand(6, 3, 16, 16, generator=seeded()) * 2 - 1
    train_step(training, images, torch.arange(6) % 3, seeded())
    assert not torch.equal(before, head.proxies)
    assert head.proxies.grad is None
    assert len(training.discriminator_adam.parameters) == len(names)


def test_evaluation_reads_class_logits_of_either_head() -> None:
    for on in (False, True):
        discriminator = Discriminator(tiny_config(reacgan_head=on)).eval()
        _, label = discriminator(torch.rand(4, 3, 16, 16, generator=seeded()))
        logits = discriminator.class_logits(label)
        assert logits.shape == (4, 3)
        assert (logits is label) is not on
