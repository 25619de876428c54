"""Class-conditional BatchNorm, against BatchNorm and a loop over the images."""

from __future__ import annotations

import torch

from acgan.gan.conditioning import ConditionalNorm
from acgan.gan.models import Generator, batch_norm
from tests.kit import tiny_config


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conditional() -> ConditionalNorm:
    layer = ConditionalNorm(batch_norm(4), classes=3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise()))
    return layer


def test_at_first_it_is_the_published_batch_norm() -> None:
    x, labels = torch.randn(6, 4, 5, 5, generator=noise()), torch.arange(6) % 3
    torch.testing.assert_close(ConditionalNorm(batch_norm(4), 3)(x, labels), batch_norm(4)(x))


def test_each_image_has_its_classs_scale_and_shift() -> None:
    layer = conditional()
    x, labels = torch.randn(6, 4, 5, 5, generator=noise(1)), torch.tensor([0, 2, 1, 1, 0, 2])
    found, normed = layer(x, labels), layer.norm(x)
    for image, label in enumerate(labels.tolist()):
        for channel in range(4):
            scale, shift = 1 + layer.scale[label, channel], layer.shift[label, channel]
            expected = normed[image, channel] * scale + shift
            torch.testing.assert_close(found[image, channel], expected)


def test_the_statistics_are_of_the_whole_batch_whatever_its_classes() -> None:
    layer, x = conditional(), torch.randn(6, 4, 5, 5, generator=noise(1))
    layer(x, torch.arange(6) % 3)
    first = layer.norm.running_mean
    assert first is not None
    other = conditional()
    other(x, torch.zeros(6).long())
    torch.testing.assert_close(other.norm.running_mean, first)


def test_a_generators_classes_reach_every_channel_of_every_block() -> None:
    """The published label map is one channel of a thousand; here all channels know the class."""
    generator = Generator(tiny_config(width=1 / 8, conditional_norm=True))
    latents, labels = torch.rand(8, 6, generator=noise()), torch.arange(8) % 3
    loss = generator(latents, labels).square().sum()
    loss.backward()
    norms = [m for m in generator.modules() if isinstance(m, ConditionalNorm)]
    assert len(norms) == 3
    for norm in norms:
        for parameter in (norm.scale, norm.shift):
            assert parameter.grad is not None
            assert (parameter.grad != 0).any(dim=0).float().mean() > 0.9
