"""The networks: counts, shapes, padding and initial weights are the published ones."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from acgan.config import TrainConfig
from acgan.gan.models import Discriminator, DownConvolution, Generator, dropout, scaled
from acgan.gan.upsampling import UpConvolution
from tests.kit import tiny_config

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def generator() -> Generator:
    """The published generator."""
    return Generator(TrainConfig())


@pytest.fixture(scope="module")
def discriminator() -> Discriminator:
    """The published discriminator."""
    return Discriminator(TrainConfig())


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trainable(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def moving_statistics(network: nn.Module) -> int:
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    return sum(b.numel() for m in norms for b in (m.running_mean, m.running_var) if b is not None)


def output_shapes(network: nn.Module, *inputs: Tensor) -> dict[str, tuple[int, ...]]:
    """Run the network once and return the shape that each of its leaf layers gives, but for B."""
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str) -> Any:
        return lambda module, arguments, output: shapes.update({name: tuple(output.shape[1:])})

    leaves = [(n, m) for n, m in network.named_modules() if not list(m.children())]
    hooks = [module.register_forward_hook(record(name)) for name, module in leaves]
    with torch.no_grad():
        network.eval()(*inputs)
    for hook in hooks:
        hook.remove()
    return shapes


def test_generator_has_the_published_number_of_parameters(generator: Generator) -> None:
    assert trainable(generator) == 22_301_316
    assert moving_statistics(generator) == 1_792


def test_discriminator_has_the_published_number_of_parameters(
    discriminator: Discriminator,
) -> None:
    assert trainable(discriminator) == 1_670_916
    assert moving_statistics(discriminator) == 1_984


def test_every_layer_of_the_generator_has_the_published_shape(generator: Generator) -> None:
    shapes = output_shapes(generator, torch.zeros(2, 100), torch.tensor([0, 2]))
    expected: dict[str, tuple[int, ...]] = {
        "latent": (7 * 7 * 1024,),
        "embedding": (100,),
        "label": (7 * 7,),
        "image": (3, 112, 112),
    }
    for index, (channels, side) in enumerate(((512, 14), (256, 28), (128, 56))):
        for layer in range(3):  # transposed convolution, BatchNorm, ReLU
            expected[f"blocks.{index}.{layer}"] = (channels, side, side)
    assert shapes == expected
    assert generator.blocks[0][0].in_channels == 1025  # type: ignore[index]


def test_every_layer_of_the_discriminator_has_the_published_shape(
    discriminator: Discriminator,
) -> None:
    shapes = output_shapes(discriminator, torch.zeros(2, 3, 112, 112))
    sides = ((32, 112), (64, 56), (128, 28), (256, 14), (512, 7))
    expected: dict[str, tuple[int, ...]] = {"source": (1,), "label": (3,)}
    for index, (channels, side) in enumerate(sides):
        expected[f"convolutions.{index}"] = (channels, side, side)
        expected[f"norms.{index}"] = (channels, side, side)
    assert shapes == expected


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return how many zeros Keras' "same" puts before and after."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def same_convolution(x: Array, kernel: Array, stride: int) -> Array:
    """Convolve x [C, n, n] with kernel [D, C, k, k] as Keras does: [D, ⌈n/s⌉, ⌈n/s⌉]."""
    size, k = x.shape[-1], kernel.shape[-1]
    x = np.pad(x, ((0, 0), *[same_padding(size, k, stride)] * 2))
    out = np.zeros((len(kernel), math.ceil(size / stride), math.ceil(size / stride)))
    for d, i, j in np.ndindex(*out.shape):
        patch = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
        out[d, i, j] = (patch * kernel[d]).sum()
    return out


def same_transposed_convolution(y: Array, kernel: Array, stride: int) -> Array:
    """Return the gradient of `same_convolution`, for output gradient y [D, n, n]: [C, s·n, s·n]."""
    size, k = y.shape[-1] * stride, kernel.shape[-1]
    before, after = same_padding(size, k, stride)
    padded = np.zeros((kernel.shape[1], size + before + after, size + before + after))
    for d, i, j in np.ndindex(*y.shape):
        patch = padded[:, i * stride : i * stride + k, j * stride : j * stride + k]
        patch += y[d, i, j] * kernel[d]
    return padded[:, before : before + size, before : before + size]


def applied(layer: nn.Module, x: Array) -> Array:
    with torch.no_grad():
        result: Array = layer.double()(torch.from_numpy(x)[None])[0].numpy()
    return result


def kernel_of(layer: nn.Conv2d | nn.ConvTranspose2d) -> Array:
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    kernel: Array = layer.weight.detach().double().numpy()
    return kernel


@pytest.mark.parametrize("size", [2, 4, 6, 14])
def test_strided_convolution_pads_as_keras(size: int) -> None:
    layer, x = DownConvolution(2, 3), np.random.default_rng(0).normal(size=(2, size, size))
    expected = same_convolution(x, kernel_of(layer), 2)
    np.testing.assert_allclose(applied(layer, x), expected, atol=1e-12)


def test_padding_on_both_sides_would_be_another_convolution() -> None:
    layer, x = DownConvolution(2, 3), np.random.default_rng(0).normal(size=(2, 6, 6))
    both_sides = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    both_sides.load_state_dict(layer.state_dict())
    assert np.abs(applied(both_sides, x) - applied(layer, x)).max() > 0.1


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_transposed_convolution_crops_as_keras(size: int) -> None:
    layer, x = UpConvolution(3, 2), np.random.default_rng(0).normal(size=(3, size, size))
    expected = same_transposed_convolution(x, kernel_of(layer), 2)
    np.testing.assert_allclose(applied(layer, x), expected, atol=1e-12)


def test_the_usual_transposed_convolution_is_the_mirror_image() -> None:
    layer, x = UpConvolution(3, 2), np.random.default_rng(0).normal(size=(3, 4, 4))
    usual = nn.ConvTranspose2d(3, 2, 5, stride=2, padding=2, output_padding=1)
    usual.load_state_dict(layer.state_dict())
    assert np.abs(applied(usual, x) - applied(layer, x)).max() > 0.1
    with torch.no_grad():
        usual.weight.copy_(layer.weight.flip(2, 3))
    mirrored = applied(usual, x[:, ::-1, ::-1].copy())[:, ::-1, ::-1]
    np.testing.assert_allclose(mirrored, applied(layer, x), atol=1e-12)


def test_first_convolution_of_the_discriminator_pads_as_keras() -> None:
    layer = Discriminator(tiny_config(width=1 / 8)).convolutions[0]
    assert isinstance(layer, nn.Conv2d)
    x = np.random.default_rng(0).normal(size=(3, 5, 5))
    expected = same_convolution(x, kernel_of(layer), 1)
    np.testing.assert_allclose(applied(layer, x), expected, atol=1e-12)


def fits(weight: Tensor, distribution: Any) -> bool:
    """Say whether (up to 50,000) weights look drawn from a distribution: Kolmogorov-Smirnov."""
    sample = weight.detach().flatten()[:50_000].double().numpy()
    return bool(stats.kstest(sample, distribution.cdf).pvalue > 1e-3)


def uniform(limit: float) -> Any:
    return stats.uniform(-limit, 2 * limit)


def test_convolutions_and_dense_inputs_begin_normal_with_deviation_002(
    generator: Generator, discriminator: Discriminator
) -> None:
    kinds = (nn.ConvTranspose2d, nn.Linear)
    layers = [m for m in generator.modules() if isinstance(m, kinds)]
    layers += [m for m in discriminator.modules() if isinstance(m, nn.Conv2d)]  # type: ignore[misc]
    assert len(layers) == 4 + 2 + 5
    for layer in layers:
        assert fits(layer.weight, stats.norm(0, 0.02)), layer
        assert layer.weight.std().item() == pytest.approx(0.02, rel=5 / math.sqrt(800))


@pytest.mark.parametrize(("name", "outputs"), [("source", 1), ("label", 3)])
def test_heads_begin_glorot_uniform(discriminator: Discriminator, name: str, outputs: int) -> None:
    weight = discriminator.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    limit = math.sqrt(6 / (7 * 7 * 512 + outputs))
    assert 0.99 * limit < weight.abs().max().item() <= limit
    assert fits(weight, uniform(limit))


def test_embedding_begins_uniform_within_005(generator: Generator) -> None:
    weight = generator.embedding.weight
    assert 0.04 < weight.abs().max().item() <= 0.05
    assert fits(weight, uniform(0.05))


def test_biases_begin_at_zero_and_batch_norms_at_the_identity(
    generator: Generator, discriminator: Discriminator
) -> None:
    for network in (Generator(tiny_config()), Discriminator(tiny_config())):
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any(), name
    modules = [*generator.modules(), *discriminator.modules()]
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 3 + 5
    for norm in norms:
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert norm.eps == 1e-3
        assert norm.momentum == 0.1


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_initial_weights_follow_from_the_seed_alone(
    network: type[Generator] | type[Discriminator],
) -> None:
    torch.manual_seed(1)
    first = network(tiny_config(seed=5)).state_dict()
    torch.manual_seed(2)
    again = network(tiny_config(seed=5)).state_dict()
    other = network(tiny_config(seed=6)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    changed = {name for name in first if not torch.equal(first[name], other[name])}
    assert changed == {n for n in first if n.endswith("weight") and (first[n] != 1).any()}


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_building_a_network_leaves_the_global_random_state(
    network: type[Generator] | type[Discriminator],
) -> None:
    before = torch.get_rng_state()
    network(tiny_config())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("image_size", [16, 48, 64])
@pytest.mark.parametrize(("width", "classes"), [(1 / 64, 2), (0.1, 3)])
def test_networks_fit_each_other_at_any_size_width_and_class_count(
    image_size: int, width: float, classes: int
) -> None:
    config = tiny_config(image_size=image_size, width=width)
    labels = torch.arange(4) % classes
    images = Generator(config, classes)(torch.rand(4, config.latent_size), labels)
    assert images.shape == (4, 3, image_size, image_size)
    assert images.abs().max() <= 1
    source, label = Discriminator(config, classes)(images)
    assert source.shape == (4,)
    assert label.shape == (4, classes)


def test_width_scales_every_hidden_channel_count() -> None:
    assert [scaled(512, w) for w in (1, 0.25, 0.001, 2)] == [512, 128, 1, 1024]
    generator = Generator(tiny_config(width=0.25))
    assert generator.image.weight.shape == (32, 3, 5, 5)
    assert [block[0].out_channels for block in generator.blocks] == [128, 64, 32]  # type: ignore[index]


def test_generated_images_depend_on_latents_and_labels() -> None:
    generator = Generator(tiny_config()).eval()
    latents = torch.rand(1, 6, generator=noise()).expand(3, -1)
    by_label = generator(latents, torch.tensor([0, 1, 2])).flatten(1)
    assert torch.pdist(by_label).min() > 0
    by_latent = generator(torch.rand(3, 6, generator=noise()), torch.zeros(3).long()).flatten(1)
    assert torch.pdist(by_latent).min() > 0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.6])
def test_dropout_drops_its_share_and_scales_the_rest(p: float) -> None:
    count = 200_000
    dropped = dropout(torch.full((count,), 3.0), p, noise())
    kept = dropped[dropped != 0]
    rounded = round((1 - p) * 2**16) / 2**16
    torch.testing.assert_close(kept, torch.full_like(kept, 3 / rounded))
    assert abs(len(kept) / count - (1 - p)) < 5 * math.sqrt(p * (1 - p) / count)


def test_dropout_of_next_to_nothing_or_everything_stays_what_it_is() -> None:
    x = torch.ones(10_000)
    assert dropout(x, 1e-6, noise()) is x
    assert 0.999 < dropout(x, 2e-5, noise()).mean() < 1.001
    assert (dropout(x, 1 - 1e-6, noise()) == 0).double().mean() > 0.999


def test_dropout_draws_a_new_mask_each_time_and_the_same_from_the_same_seed() -> None:
    x, random = torch.ones(1000), noise(1)
    first, second = dropout(x, 0.5, random), dropout(x, 0.5, random)
    assert not torch.equal(first, second)
    assert torch.equal(first, dropout(x, 0.5, noise(1)))


def test_without_noise_dropout_is_the_identity() -> None:
    x = torch.rand(10)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, noise()) is x


def test_dropout_scales_the_gradient_as_it_scales_the_value() -> None:
    x = torch.ones(1000, requires_grad=True)
    dropped = dropout(x, 0.3, noise())
    dropped.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, dropped.detach())


def settled_discriminator() -> Discriminator:
    """Return a discriminator whose moving statistics are not the initial ones."""
    discriminator = Discriminator(tiny_config(width=1 / 8))
    for norm in discriminator.norms:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.uniform_(-0.05, 0.05, generator=noise(3))
        norm.running_var.uniform_(0.5, 2, generator=noise(4))
    return discriminator


def by_hand(discriminator: Discriminator, images: Tensor, *, batch_mode: bool) -> Tensor:
    """Return the source logits without dropout, BatchNorm written out."""
    x = images
    for convolution, norm in zip(discriminator.convolutions, discriminator.norms, strict=True):
        assert isinstance(norm, nn.BatchNorm2d)
        x = convolution(x)
        mean, variance = norm.running_mean, norm.running_var
        if batch_mode:
            mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
        assert mean is not None
        assert variance is not None
        x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-3).sqrt()
        x = torch.where(x > 0, x, 0.2 * x)
    return F.linear(x.flatten(1), discriminator.source.weight)[:, 0]


@pytest.mark.parametrize("batch_mode", [True, False])
def test_mode_decides_which_statistics_normalise_and_dropout_is_off_without_noise(
    batch_mode: bool,
) -> None:
    discriminator = settled_discriminator().train(batch_mode)
    images = torch.rand(5, 3, 16, 16, generator=noise()) * 2 - 1
    with torch.no_grad():
        expected = by_hand(discriminator, images, batch_mode=batch_mode)
        torch.testing.assert_close(discriminator(images)[0], expected, atol=1e-6, rtol=1e-4)


def test_moving_statistics_move_by_a_tenth_in_training_mode_only() -> None:
    discriminator = settled_discriminator()
    images = torch.rand(5, 3, 16, 16, generator=noise()) * 2 - 1
    norm = discriminator.norms[0]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    with torch.no_grad():
        discriminator.eval()(images, noise())
        assert torch.equal(norm.running_mean, mean)
        x = discriminator.convolutions[0](images)
        discriminator.train()(images, noise())
    expected_mean = 0.9 * mean + 0.1 * x.mean(dim=(0, 2, 3))
    expected_variance = 0.9 * variance + 0.1 * x.var(dim=(0, 2, 3))  # Bessel's, as Keras' fused one
    torch.testing.assert_close(norm.running_mean, expected_mean)
    torch.testing.assert_close(norm.running_var, expected_variance)


@pytest.mark.parametrize("mode", [True, False])
def test_dropout_is_on_with_noise_in_either_mode(mode: bool) -> None:
    discriminator = settled_discriminator().train(mode)
    images = torch.rand(5, 3, 16, 16, generator=noise()) * 2 - 1
    with torch.no_grad():
        first, other, again = (discriminator(images, noise(seed))[0] for seed in (1, 2, 1))
        still = discriminator(images)[0]
    assert not torch.equal(first, other)
    assert not torch.equal(first, still)
    if not mode:
        assert torch.equal(first, again)
