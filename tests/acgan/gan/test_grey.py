"""Grey images: three equal channels, of which the discriminator looks at one."""

from __future__ import annotations

import torch
from torch import nn

from acgan.gan.models import Discriminator, Generator, GreyConvolution
from acgan.gan.options import compose
from acgan.gan.step import Training, train_step
from tests.kit import tiny_config


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_convolution_of_grey_images_is_that_of_all_three_channels() -> None:
    grey, plain = GreyConvolution(3, 5, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)
    plain.load_state_dict(grey.state_dict())
    images = torch.rand(4, 1, 8, 8, generator=noise())
    found = [layer(images.expand(-1, 3, -1, -1)) for layer in (grey, plain)]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(grey(images), found[0])  # one channel alone serves as well
    weights = torch.rand(found[0].shape, generator=noise(1))
    for images in found:
        (images * weights).sum().backward()
    torch.testing.assert_close(grey.weight.grad, plain.weight.grad)


def test_a_grey_generators_channels_are_equal_and_a_published_ones_are_not() -> None:
    latents, labels = torch.rand(4, 6, generator=noise()), torch.arange(4) % 3
    grey = Generator(tiny_config(grey=True))(latents, labels)
    assert grey.shape == (4, 3, 16, 16)
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])
    plain = Generator(tiny_config())(latents, labels)
    assert not torch.equal(plain[:, 0], plain[:, 1])


def test_the_grey_discriminator_is_the_published_one_on_grey_images() -> None:
    config = tiny_config()
    plain, grey = Discriminator(config), Discriminator(config.model_copy(update={"grey": True}))
    assert plain.state_dict().keys() == grey.state_dict().keys()
    images = torch.rand(4, 1, 16, 16, generator=noise()).expand(-1, 3, -1, -1)
    for ours, theirs in zip(grey(images), plain(images), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_with_everything_that_goes_through_images_a_grey_step_is_finite() -> None:
    config = tiny_config(grey=True, translation=0.125, cutout=0.5, r1_gamma=1.0, spectral_norm=True)
    training = Training(config, classes=3, device=torch.device("cpu"))
    images = torch.rand(8, 1, 16, 16, generator=noise()).expand(-1, 3, -1, -1)
    for _ in range(3):
        assert train_step(training, images, torch.arange(8) % 3, noise()).isfinite().all()


def test_variety_of_grey_images_is_that_of_all_three_channels() -> None:
    discriminator = Discriminator(tiny_config())
    plain, grey = (
        compose(tiny_config(mode_seeking=0.5, grey=grey), discriminator) for grey in (False, True)
    )
    images = torch.rand(8, 1, 16, 16, generator=noise()).expand(-1, 3, -1, -1)
    latents, labels = torch.rand(8, 6, generator=noise(1)), torch.arange(8) % 3
    bounds = [options.reach(images, labels) for options in (plain, grey)]
    assert bounds[0] is not None
    assert bounds[1] is not None
    torch.testing.assert_close(bounds[1], bounds[0])
    torch.testing.assert_close(*(o.variety(images, latents, bounds[0]) for o in (plain, grey)))
