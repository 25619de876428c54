from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import acgan.gan.r1
from acgan.gan.models import Discriminator
from acgan.gan.r1 import lazy_r1, r1
from acgan.gan.step import Training, train_step
from tests.kit import tiny_config


class Linear(nn.Module):
    """A discriminator whose gradient is one and the same at all images."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.einsum("bchw,c->b", images, self.weight), images


class Square(Linear):
    """Logit |x|²: the gradient is 2x."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.square().sum((1, 2, 3)), images


@pytest.fixture
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def settled() -> Discriminator:
    """Return a discriminator whose moving statistics are not the initial ones."""
    discriminator = Discriminator(tiny_config(width=1 / 8)).train()
    for seed in range(3):
        discriminator(images_of(6, seed))
    return discriminator


def images_of(count: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 16, 16, generator=random) * 2 - 1


def test_the_penalty_of_a_linear_function_is_its_weights_squared_at_every_pixel() -> None:
    discriminator = Linear()
    penalty = r1(discriminator, torch.rand(5, 3, 4, 4))
    assert penalty.item() == pytest.approx(16 * (1 + 4 + 9))
    penalty.backward()
    assert discriminator.weight.grad is not None
    torch.testing.assert_close(discriminator.weight.grad, 2 * 16 * discriminator.weight.detach())


def test_the_penalty_of_a_square_is_four_times_the_mean_square_length() -> None:
    images = torch.rand(5, 3, 4, 4)
    expected = 4 * images.square().sum((1, 2, 3)).mean()
    assert r1(Square(), images).item() == pytest.approx(expected.item())


@pytest.mark.usefixtures("double_precision")
def test_the_penalty_is_that_of_finite_differences_in_inference_mode() -> None:
    discriminator, images = settled(), images_of(2)
    found = r1(discriminator, images).item()
    discriminator.eval()
    total, step = 0.0, 1e-5
    with torch.no_grad():
        for place in range(images[0].numel()):
            shift = torch.zeros(images[0].numel())
            shift[place] = step
            ahead, behind = (
                discriminator(images + sign * shift.view(images[0].shape))[0] for sign in (1, -1)
            )
            total += ((ahead - behind) / (2 * step)).square().mean().item()
    assert found == pytest.approx(total, rel=1e-6)


@pytest.mark.usefixtures("double_precision")
def test_what_is_learned_is_the_penaltys_slope() -> None:
    discriminator, images = settled(), images_of(3)
    r1(discriminator, images).backward()
    weight = dict(discriminator.named_parameters())["convolutions.2.weight"]
    assert weight.grad is not None
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    values = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            weight.add_(step * direction)
        values.append(r1(discriminator, images).item())
        with torch.no_grad():
            weight.sub_(step * direction)
    slope = (values[0] - values[1]) / 2e-6
    assert (weight.grad * direction).sum().item() == pytest.approx(slope, rel=1e-5)


def test_an_images_penalty_does_not_depend_on_the_others_nor_on_the_mode() -> None:
    discriminator, images = settled(), images_of(4)
    each = [r1(discriminator, image[None]).item() for image in images]
    before = {k: v.clone() for k, v in discriminator.state_dict().items()}
    assert r1(discriminator.train(), images).item() == pytest.approx(sum(each) / 4, rel=1e-5)
    assert discriminator.training
    assert all(torch.equal(before[k], v) for k, v in discriminator.state_dict().items())
    assert r1(discriminator.eval(), images).item() == pytest.approx(sum(each) / 4, rel=1e-5)
    assert not discriminator.training


def test_it_comes_at_every_so_many_updates_and_as_much_stronger() -> None:
    discriminator, images = Linear(), torch.rand(5, 3, 4, 4)
    found = [lazy_r1(discriminator, images, n, gamma=10, every=4) for n in range(9)]
    assert [n for n, value in enumerate(found) if value is not None] == [0, 4, 8]
    assert found[4] is not None
    assert found[4].item() == pytest.approx(4 * 5 * 16 * 14)


def test_a_step_has_the_penalty_in_its_loss_when_it_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config(r1_gamma=4, r1_every=2)
    training = Training(config, classes=3, device=torch.device("cpu"))
    labels, noise = torch.arange(6) % 3, torch.Generator().manual_seed(0)
    seen: list[float] = []

    def recording(discriminator: nn.Module, images: Tensor) -> Tensor:
        found = r1(discriminator, images)
        seen.append(found.item())
        return found

    monkeypatch.setattr(acgan.gan.r1, "r1", recording)
    extra = []
    for seed in range(4):
        loss, source, label, *_ = train_step(training, images_of(6, seed), labels, noise).tolist()
        extra.append(loss - source - label)
    assert len(seen) == 2
    assert min(seen) > 0
    assert extra == pytest.approx([4 * seen[0], 0, 4 * seen[1], 0], rel=1e-2, abs=1e-6)
