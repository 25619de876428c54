"""Both ways of doubling a side, against PyTorch's own layers that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acgan.gan.models import Generator
from acgan.gan.upsampling import NearestConvolution, UpConvolution
from tests.kit import tiny_config

SHAPES = [(256, 32, 2), (257, 16, 7), (8, 3, 16), (300, 3, 8), (1, 1, 1)]


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def transposed(layer: UpConvolution, x: Tensor) -> Tensor:
    """Return what PyTorch's layer makes of x, cropped as Keras does."""
    return nn.ConvTranspose2d.forward(layer, x)[..., :-1, :-1]


def upsampled(layer: NearestConvolution, x: Tensor) -> Tensor:
    """Return the convolution of x, each of its pixels repeated twice in both directions."""
    kernel = layer.weight.transpose(0, 1).flip(2, 3)
    return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), kernel, layer.bias, padding=1)


Layer = UpConvolution | NearestConvolution


@pytest.mark.parametrize(
    ("kind", "reference"), [(UpConvolution, transposed), (NearestConvolution, upsampled)]
)
@pytest.mark.parametrize(("inputs", "outputs", "side"), SHAPES)
def test_a_layer_and_its_gradients_are_pytorchs_own(
    kind: type[Layer],
    reference: Callable[[Layer, Tensor], Tensor],
    inputs: int,
    outputs: int,
    side: int,
) -> None:
    layer = kind(inputs, outputs).double()
    x = torch.randn(3, inputs, side, side, dtype=torch.double, generator=noise())
    weights = torch.randn(3, outputs, 2 * side, 2 * side, dtype=torch.double, generator=noise(1))
    found = []
    forwards: tuple[Callable[[Any, Tensor], Tensor], ...] = (kind.forward, reference)
    for forward in forwards:
        own = x.clone().requires_grad_()
        images = forward(layer, own)
        images.backward(weights)
        found.append([images, own.grad, *(p.grad for p in layer.parameters())])
        layer.zero_grad()
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_layer_that_was_used_in_inference_mode_can_be_trained() -> None:
    layer, x = NearestConvolution(400, 5), torch.randn(2, 400, 5, 5, generator=noise())
    with torch.inference_mode():
        expected = layer(x)
    images = layer(x)
    images.sum().backward()
    assert torch.equal(images, expected)
    assert layer.weight.grad is not None


def shares(layer: Layer) -> Tensor:
    """Return by how many weights each inner output pixel is made, [n, n]: all weights are 1."""
    with torch.no_grad():
        layer.weight.fill_(1)
        assert layer.bias is not None
        layer.bias.zero_()
        images: Tensor = layer(torch.ones(1, 1, 6, 6))
    return images[0, 0, 3:-3, 3:-3]


def test_only_the_transposed_convolution_builds_in_a_checkerboard() -> None:
    assert shares(NearestConvolution(1, 1)).unique().tolist() == [9]
    assert shares(UpConvolution(1, 1)).unique().tolist() == [4, 6, 9]


def test_nearest_upsampling_keeps_a_generators_shapes_with_9_weights_in_place_of_25() -> None:
    config = tiny_config(width=1 / 8)
    plain, nearest = (
        Generator(config.model_copy(update={"upsampling": kind}))
        for kind in ("transposed", "nearest")
    )
    latents, labels = torch.zeros(2, 6), torch.zeros(2).long()
    assert nearest(latents, labels).shape == plain(latents, labels).shape == (2, 3, 16, 16)
    layers = [[*(block[0] for block in g.blocks), g.image] for g in (plain, nearest)]  # type: ignore[index]
    for ours, other in zip(*layers, strict=True):
        assert ours.weight.shape[:2] == other.weight.shape[:2]
        assert (ours.weight[0, 0].numel(), other.weight[0, 0].numel()) == (25, 9)
    stray = {name for name in nearest.state_dict() if "sums" in name}
    assert stray == set()  # a constant is no weight
