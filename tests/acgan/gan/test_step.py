"""One update of both networks is the published one, checked part by part and as a whole."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from acgan.config import TrainConfig
from acgan.gan.step import (
    METRICS,
    KerasAdam,
    Training,
    draw_inputs,
    train_step,
    update_discriminator,
    update_generator,
)
from tests.kit import tiny_config

CPU = torch.device("cpu")
Array = NDArray[np.float64]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(**changes: Any) -> Training:
    return Training(tiny_config(**changes), classes=3, device=CPU)


def real_batch(count: int, *, image_size: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw grey images in [-1, 1] and their labels, in the default dtype."""
    random = np.random.default_rng(seed)
    grey = random.uniform(-1, 1, (count, 1, image_size, image_size))
    images = torch.tensor(grey, dtype=torch.get_default_dtype()).expand(-1, 3, -1, -1)
    return images, torch.from_numpy(random.integers(0, 3, count))


def settled(**changes: Any) -> Training:
    """Return a training whose moving statistics are not the initial ones."""
    training = start(width=1 / 8, **changes)
    for seed in range(3):
        train_step(training, *real_batch(16, seed=seed), seeded(seed))
    return training


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    now = module.state_dict()
    return {name for name in before if not torch.equal(before[name], now[name])}


@dataclass
class Seen:
    """What one update gave to and got from the discriminator and the two losses."""

    images: list[Tensor] = field(default_factory=list)
    source: list[Tensor] = field(default_factory=list)
    label: list[Tensor] = field(default_factory=list)
    source_targets: list[Tensor] = field(default_factory=list)
    class_targets: list[Tensor] = field(default_factory=list)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Training], Seen]:
    """Return a function that records all later updates of a training."""

    def begin(training: Training) -> Seen:
        seen = Seen()

        def forward(module: nn.Module, inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
            seen.images.append(inputs[0].detach().clone())
            seen.source.append(outputs[0].detach().clone())
            seen.label.append(outputs[1].detach().clone())

        def recording(function: Callable[..., Tensor], targets: list[Tensor]) -> Any:
            def call(logits: Tensor, target: Tensor) -> Tensor:
                targets.append(target.clone())
                return function(logits, target)

            return call

        training.discriminator.register_forward_hook(forward)
        for name, targets in (
            ("binary_cross_entropy_with_logits", seen.source_targets),
            ("cross_entropy", seen.class_targets),
        ):
            monkeypatch.setattr(F, name, recording(getattr(F, name), targets))
        return seen

    return begin


# --- the optimizer ---------------------------------------------------------------------------


def keras_adam(weight: Array, gradients: Array, config: TrainConfig) -> Array:
    """Return the weight after all updates, as Keras 2.10's Adam computes them."""
    mean, square = np.zeros_like(weight), np.zeros_like(weight)
    for t, gradient in enumerate(gradients, start=1):
        mean = config.beta1 * mean + (1 - config.beta1) * gradient
        square = config.beta2 * square + (1 - config.beta2) * gradient**2
        rate = config.learning_rate * math.sqrt(1 - config.beta2**t) / (1 - config.beta1**t)
        weight = weight - rate * mean / (np.sqrt(square) + config.adam_epsilon)
    return weight


def gradients_of_all_sizes(updates: int) -> Array:
    random = np.random.default_rng(0)
    return random.normal(size=(updates, 3, 4)) * np.logspace(-9, 1, 12).reshape(3, 4)


def stepped(layer: nn.Linear, gradients: Array, update: Callable[[], Any]) -> Array:
    for gradient in gradients:
        layer.weight.grad = torch.from_numpy(gradient).to(layer.weight.dtype)
        update()
    return layer.weight.detach().double().numpy()


def linear(dtype: torch.dtype = torch.float64) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(4, 3, bias=False, dtype=dtype)


@pytest.mark.parametrize(
    "config",
    [TrainConfig(), TrainConfig(beta1=0.0, learning_rate=0.01), TrainConfig(adam_epsilon=1e-3)],
)
def test_optimizer_is_keras_adam_at_gradients_of_all_sizes(config: TrainConfig) -> None:
    layer, gradients = linear(), gradients_of_all_sizes(25)
    expected = keras_adam(layer.weight.detach().numpy().copy(), gradients, config)
    moved = stepped(layer, gradients, KerasAdam(layer, config).update)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-12)


def test_optimizer_is_keras_adam_in_float32_too() -> None:
    layer, gradients = linear(torch.float32), gradients_of_all_sizes(25)
    expected = keras_adam(layer.weight.detach().double().numpy(), gradients, TrainConfig())
    moved = stepped(layer, gradients, KerasAdam(layer, TrainConfig()).update)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-6)


def test_torch_adam_with_keras_epsilon_moves_tiny_gradients_further() -> None:
    config, gradients = TrainConfig(), np.full((25, 3, 4), 1e-8)
    layer, twin = linear(), linear()
    before = layer.weight.detach().numpy().copy()
    torch_adam = torch.optim.Adam(
        twin.parameters(), lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=1e-7
    )
    ours = np.abs(stepped(layer, gradients, KerasAdam(layer, config).update) - before)
    theirs = np.abs(stepped(twin, gradients, torch_adam.step) - before)
    assert (theirs > 5 * ours).all()


def test_optimizer_drops_the_gradients_it_has_used() -> None:
    layer = linear()
    stepped(layer, gradients_of_all_sizes(1), KerasAdam(layer, TrainConfig()).update)
    assert layer.weight.grad is None


def test_optimizer_continues_from_its_tensors_bit_for_bit() -> None:
    config, gradients = TrainConfig(), gradients_of_all_sizes(20)
    straight, first, second = (linear(torch.float32) for _ in range(3))
    expected = stepped(straight, gradients, KerasAdam(straight, config).update)
    adam = KerasAdam(first, config)
    stepped(first, gradients[:9], adam.update)
    second.load_state_dict(first.state_dict())
    continued = KerasAdam(second, config)
    continued.load_tensors(adam.tensors())
    stepped(first, gradients[9:], adam.update)  # the first's moments must be its own
    np.testing.assert_array_equal(stepped(second, gradients[9:], continued.update), expected)


def test_training_continues_from_its_tensors_bit_for_bit() -> None:
    straight, stopped, resumed = start(seed=1), start(seed=1), start(seed=2)
    for seed in range(4):
        train_step(straight, *real_batch(8, seed=seed), seeded(seed))
    for seed in range(2):
        train_step(stopped, *real_batch(8, seed=seed), seeded(seed))
    resumed.load_tensors({name: tensor.clone() for name, tensor in stopped.tensors().items()})
    for seed in range(2, 4):
        train_step(resumed, *real_batch(8, seed=seed), seeded(seed))
    expected, found = straight.tensors(), resumed.tensors()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


# --- what is drawn ---------------------------------------------------------------------------


def test_latents_are_uniform_between_minus_one_and_one_and_labels_over_the_classes() -> None:
    latents, labels = draw_inputs(start(), 20_000, seeded())
    assert latents.shape == (20_000, 6)
    assert labels.dtype == torch.int64
    assert stats.kstest(latents.flatten().double().numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert stats.chisquare(torch.bincount(labels, minlength=3).numpy()).pvalue > 1e-3


# --- the discriminator's update --------------------------------------------------------------


def test_discriminator_sees_one_batch_of_real_then_inference_mode_generated_images(
    watch: Callable[[Training], Seen],
) -> None:
    training, twin = settled(), settled()
    images, labels = real_batch(8, seed=1)
    latents, sampled = draw_inputs(twin, 8, seeded(2))
    with torch.no_grad():
        inferred = twin.generator.eval()(latents, sampled)
        in_batch_mode = twin.generator.train()(latents, sampled)
    seen = watch(training)
    update_discriminator(training, images, labels, seeded(2))
    (batch,) = seen.images
    assert torch.equal(batch, torch.cat([images, inferred]))
    assert (inferred - in_batch_mode).abs().max() > 0.01


def test_batch_norm_of_the_discriminator_sees_the_mix_of_real_and_generated(
    watch: Callable[[Training], Seen],
) -> None:
    training = start(width=1 / 8)
    first = training.discriminator.get_submodule("convolutions.0")
    weights = copied(first)
    seen = watch(training)
    update_discriminator(training, *real_batch(8), seeded())
    with torch.no_grad():
        x = F.conv2d(seen.images[0], weights["weight"], weights["bias"], padding=1)
    moved = training.discriminator.get_submodule("norms.0").state_dict()
    for part, equal in ((x, True), (x[:8], False), (x[8:], False)):
        mean, variance = 0.1 * part.mean(dim=(0, 2, 3)), 0.9 + 0.1 * part.var(dim=(0, 2, 3))
        same_mean = torch.allclose(moved["running_mean"], mean, atol=1e-6)
        same_variance = torch.allclose(moved["running_var"], variance, rtol=1e-6)
        assert (same_mean, same_variance) == (equal, equal)
    assert moved["num_batches_tracked"] == 1


def test_discriminator_update_leaves_the_generator_as_it_was() -> None:
    training = start()
    before = copied(training.generator)
    update_discriminator(training, *real_batch(8), seeded())
    assert changed(training.generator, before) == set()
    assert all(parameter.grad is None for parameter in training.generator.parameters())
    assert not training.generator_adam.state


def test_discriminator_update_moves_all_its_weights_and_moving_statistics() -> None:
    training = start(width=1 / 8)
    before = copied(training.discriminator)
    update_discriminator(training, *real_batch(8), seeded())
    assert changed(training.discriminator, before) == set(before)


def test_smoothing_is_random_two_sided_and_per_sample(
    watch: Callable[[Training], Seen],
) -> None:
    training = start(label_smoothing=0.2)
    seen = watch(training)
    update_discriminator(training, *real_batch(256), seeded())
    target = seen.source_targets[0].double().numpy()
    assert len(np.unique(target)) > 500
    assert stats.kstest(target[:256], stats.uniform(0.8, 0.2).cdf).pvalue > 1e-3
    assert stats.kstest(target[256:], stats.uniform(0, 0.2).cdf).pvalue > 1e-3
    assert target[:256].min() >= 0.8 - 1e-6
    assert 0 <= target[256:].min() < target[256:].max() <= 0.2
    assert abs(np.corrcoef(target[:256], target[256:])[0, 1]) < 5 / 16


def test_without_smoothing_source_labels_are_hard(watch: Callable[[Training], Seen]) -> None:
    training = start(label_smoothing=0.0)
    seen = watch(training)
    update_discriminator(training, *real_batch(5), seeded())
    assert seen.source_targets[0].tolist() == [1] * 5 + [0] * 5


def test_class_labels_are_the_real_ones_then_the_sampled_ones(
    watch: Callable[[Training], Seen],
) -> None:
    training = start()
    images, labels = real_batch(32)
    seen = watch(training)
    update_discriminator(training, images, labels, seeded(4))
    _, sampled = draw_inputs(training, 32, seeded(4))
    assert torch.equal(seen.class_targets[0], torch.cat([labels, sampled]))


def source_loss_by_hand(logits: Tensor, targets: Tensor) -> float:
    """Return the binary cross-entropy of the sigmoid."""
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    t = targets.double().numpy()
    return float(-(t * np.log(p) + (1 - t) * np.log(1 - p)).mean())


def class_loss_by_hand(logits: Tensor, labels: Tensor) -> float:
    """Return the cross-entropy of the softmax."""
    exponential = np.exp(logits.double().numpy())
    p = exponential / exponential.sum(axis=1, keepdims=True)
    return float(-np.log(p[np.arange(len(p)), labels.numpy()]).mean())


def test_losses_and_accuracies_are_the_formulas(watch: Callable[[Training], Seen]) -> None:
    training = start(width=1 / 8)
    images, labels = real_batch(16)
    seen = watch(training)
    values = train_step(training, images, labels, seeded())
    assert values.shape == (len(METRICS),)
    found = dict(zip(METRICS, values.tolist(), strict=True))
    (d_source, g_source), (d_label, g_label) = seen.source, seen.label
    d_target, g_target = seen.source_targets
    d_classes, g_classes = seen.class_targets
    says_real = d_source.numpy() > 0
    expected = {
        "d_loss_source": source_loss_by_hand(d_source, d_target),
        "d_loss_class": class_loss_by_hand(d_label, d_classes),
        "g_loss_source": source_loss_by_hand(g_source, g_target),
        "g_loss_class": class_loss_by_hand(g_label, g_classes),
        "acc_real": says_real[:16].mean(),
        "acc_generated": (~says_real[16:]).mean(),
        "acc_class": (d_label[:16].argmax(1) == labels).double().mean().item(),
    }
    expected["d_loss"] = expected["d_loss_source"] + expected["d_loss_class"]
    expected["g_loss"] = expected["g_loss_source"] + expected["g_loss_class"]
    assert found == pytest.approx(expected, abs=1e-5)


# --- the generator's update ------------------------------------------------------------------


def test_generator_learns_from_twice_the_batch_of_fresh_latents() -> None:
    training = start()
    calls: list[tuple[bool, Tensor]] = []
    training.generator.register_forward_hook(
        lambda module, inputs, output: calls.append((module.training, inputs[0].clone()))
    )
    train_step(training, *real_batch(7), seeded())
    (d_mode, d_latents), (g_mode, g_latents) = calls
    assert (d_mode, g_mode) == (False, True)
    assert (len(d_latents), len(g_latents)) == (7, 14)
    assert torch.cdist(d_latents, g_latents).min() > 0


def test_generator_update_wants_real_without_smoothing_and_the_sampled_classes(
    watch: Callable[[Training], Seen],
) -> None:
    training = start(label_smoothing=0.3)
    seen = watch(training)
    update_generator(training, 32, seeded(4))
    _, sampled = draw_inputs(training, 32, seeded(4))
    assert seen.source_targets[0].tolist() == [1] * 32
    assert torch.equal(seen.class_targets[0], sampled)


def test_generator_update_leaves_the_discriminator_as_it_was() -> None:
    training = start()
    train_step(training, *real_batch(8), seeded())
    before = copied(training.discriminator)
    moments = {k: v.clone() for k, v in training.discriminator_adam.tensors().items()}
    update_generator(training, 16, seeded())
    assert changed(training.discriminator, before) == set()
    assert all(torch.equal(moments[k], v) for k, v in training.discriminator_adam.tensors().items())


def test_no_gradient_stays_behind_and_the_discriminator_can_learn_again() -> None:
    training = start()
    train_step(training, *real_batch(8), seeded())
    for network in (training.generator, training.discriminator):
        for parameter in network.parameters():
            assert parameter.grad is None
            assert parameter.requires_grad


def test_generator_update_moves_all_its_weights_and_moving_statistics() -> None:
    training = start(width=1 / 8)
    before = copied(training.generator)
    update_generator(training, 16, seeded())
    assert changed(training.generator, before) == set(before)


def frozen_loss(training: Training, latents: Tensor, labels: Tensor, noise: Any) -> float:
    """Return the generator's loss with an inference-mode discriminator, dropout as `noise` says."""
    with torch.no_grad():
        images = training.generator.train()(latents, labels)
        source, label = training.discriminator.eval()(images, noise)
    return source_loss_by_hand(source, torch.ones(len(source))) + class_loss_by_hand(label, labels)


def test_generator_update_has_dropout_on_and_batch_norm_in_inference_mode() -> None:
    training, twin = settled(), settled()
    found = float(update_generator(training, 16, seeded(5))[0])
    noise = seeded(5)
    latents, labels = draw_inputs(twin, 16, noise)
    assert found == pytest.approx(frozen_loss(twin, latents, labels, noise), abs=1e-5)
    assert abs(found - frozen_loss(twin, latents, labels, None)) > 1e-4


@pytest.mark.parametrize(("dropout", "differ"), [(0.5, True), (0.0, False)])
def test_two_dropout_masks_give_two_generator_losses(
    monkeypatch: pytest.MonkeyPatch, dropout: float, differ: bool
) -> None:
    latents, labels = draw_inputs(start(), 16, seeded())
    monkeypatch.setattr("acgan.gan.step.draw_inputs", lambda *_: (latents, labels))
    losses = [
        torch.stack(update_generator(start(dropout=dropout), 16, seeded(seed))) for seed in (1, 2)
    ]
    assert torch.equal(*losses) != differ


# --- the whole step --------------------------------------------------------------------------


def test_the_same_seed_takes_the_same_step_and_leaves_the_global_random_state() -> None:
    before = torch.get_rng_state()
    first, again, other = (
        train_step(start(), *real_batch(8), seeded(seed)).tolist() for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("count", [1, 3])
def test_a_partial_last_batch_is_used(count: int) -> None:
    training = settled()
    before = copied(training.discriminator)
    assert train_step(training, *real_batch(count), seeded()).isfinite().all()
    assert changed(training.discriminator, before) == set(before)


@dataclass
class Draws:
    """The random numbers of one step, in the order in which a step draws them."""

    latents: Tensor
    labels: Tensor
    deviation: Tensor
    masks: list[Tensor]
    generator_latents: Tensor
    generator_labels: Tensor
    generator_masks: list[Tensor]

    @classmethod
    def of_step(cls, config: TrainConfig, count: int, noise: torch.Generator) -> "Draws":
        latents, labels = cls._inputs(config, count, noise)
        deviation = torch.rand(2 * count, generator=noise)
        masks = cls._masks(config, 2 * count, noise)
        more, more_labels = cls._inputs(config, 2 * count, noise)
        more_masks = cls._masks(config, 2 * count, noise)
        return cls(latents, labels, deviation, masks, more, more_labels, more_masks)

    @staticmethod
    def _inputs(config: TrainConfig, count: int, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        latents = torch.rand(count, config.latent_size, generator=noise)
        return latents * 2 - 1, torch.randint(3, (count,), generator=noise)

    @staticmethod
    def _masks(config: TrainConfig, count: int, noise: torch.Generator) -> list[Tensor]:
        size, masks = config.image_size, []
        for channels, stride in zip((32, 64, 128, 256, 512), (1, 2, 2, 2, 2), strict=True):
            size //= stride
            shape = (count, int(channels * config.width), size, size)
            words = torch.empty(-(-math.prod(shape) // 4), dtype=torch.int64)
            words.random_(-(2**63), None, generator=noise)
            bits = words.numpy().view(np.int16)[: math.prod(shape)].reshape(shape)
            masks.append(torch.from_numpy(bits < round((1 - config.dropout) * 2**16) - 2**15))
        return masks


class Reference:
    """The published step, written from its description and Keras' definitions in float64.

    Weights, moving statistics and moments are plain tensors by the names that the networks give
    them; nothing of a layer, loss or optimizer of PyTorch is used but valid convolutions and the
    derivatives of what is written here.
    """

    def __init__(self, training: Training) -> None:
        self.config = training.config
        self.generator = self._taken(training.generator)
        self.discriminator = self._taken(training.discriminator)
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}
        self.updates = 0

    @staticmethod
    def _taken(network: nn.Module) -> dict[str, Tensor]:
        tensors = network.state_dict().items()
        return {k: v.double().clone() for k, v in tensors if not k.endswith("num_batches_tracked")}

    def step(self, images: Tensor, labels: Tensor, draws: Draws) -> Array:
        """Update both networks; return the nine metrics."""
        self.updates += 1
        return np.array(
            [
                *self._update_discriminator(images.double(), labels, draws),
                *self._update_generator(draws),
            ]
        )

    def _update_discriminator(self, images: Tensor, labels: Tensor, draws: Draws) -> list[float]:
        count = len(images)
        with torch.no_grad():
            generated = self._generate(draws.latents.double(), draws.labels, batch_mode=False)
        weights = self._learnable(self.discriminator)
        source, classes = self._discriminate(
            torch.cat([images, generated]), draws.masks, batch_mode=True
        )
        smoothing = self.config.label_smoothing * draws.deviation.double()
        target = torch.cat([torch.ones(count), torch.zeros(count)]).double()
        target += torch.where(target > 0.5, -smoothing, smoothing)
        truth = torch.cat([labels, draws.labels])
        source_loss, class_loss = self._losses(source, classes, target, truth)
        self._adam("discriminator", self.discriminator, weights, source_loss + class_loss)
        return [
            (source_loss + class_loss).item(),
            source_loss.item(),
            class_loss.item(),
            (source[:count] > 0.5).double().mean().item(),
            (source[count:] <= 0.5).double().mean().item(),
            (classes[:count].argmax(dim=1) == labels).double().mean().item(),
        ]

    def _update_generator(self, draws: Draws) -> list[float]:
        weights = self._learnable(self.generator)
        images = self._generate(
            draws.generator_latents.double(), draws.generator_labels, batch_mode=True
        )
        source, classes = self._discriminate(images, draws.generator_masks, batch_mode=False)
        source_loss, class_loss = self._losses(
            source, classes, torch.ones(len(images)).double(), draws.generator_labels
        )
        self._adam("generator", self.generator, weights, source_loss + class_loss)
        return [(source_loss + class_loss).item(), source_loss.item(), class_loss.item()]

    @staticmethod
    def _learnable(network: dict[str, Tensor]) -> list[str]:
        names = [name for name in network if "running" not in name]
        for name in names:
            network[name].requires_grad_()
        return names

    @staticmethod
    def _losses(
        source: Tensor, classes: Tensor, target: Tensor, truth: Tensor
    ) -> tuple[Tensor, Tensor]:
        binary = target * source.log() + (1 - target) * (1 - source).log()
        return -binary.mean(), -classes[torch.arange(len(truth)), truth].log().mean()

    def _generate(self, latents: Tensor, labels: Tensor, *, batch_mode: bool) -> Tensor:
        net, side = self.generator, self.config.image_size // 16
        x = (latents @ net["latent.weight"].T + net["latent.bias"]).clamp(min=0)
        y = net["embedding.weight"][labels] @ net["label.weight"].T + net["label.bias"]
        grids = [part.reshape(len(latents), -1, side, side) for part in (x, y)]
        image = torch.cat(grids, dim=1)
        for block in range(3):
            image = self._transposed(net, f"blocks.{block}.0", image)
            image = self._normalise(net, f"blocks.{block}.1", image, batch_mode=batch_mode)
            image = image.clamp(min=0)
        return torch.tanh(self._transposed(net, "image", image))

    def _discriminate(
        self, images: Tensor, masks: list[Tensor], *, batch_mode: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the probability of being real [B] and those of the classes [B, 3]."""
        net, x = self.discriminator, images
        for layer, mask in enumerate(masks):
            x = self._convolution(net, f"convolutions.{layer}", x, stride=1 if layer == 0 else 2)
            x = self._normalise(net, f"norms.{layer}", x, batch_mode=batch_mode)
            x = (
                torch.maximum(x, 0.2 * x)
                * mask.double()
                * 2**16
                / round((1 - self.config.dropout) * 2**16)
            )
        x = x.reshape(len(x), -1)
        source = x @ net["source.weight"].T + net["source.bias"]
        exponential = (x @ net["label.weight"].T + net["label.bias"]).exp()
        return 1 / (1 + (-source[:, 0]).exp()), exponential / exponential.sum(dim=1, keepdim=True)

    @staticmethod
    def _convolution(net: dict[str, Tensor], name: str, x: Tensor, *, stride: int) -> Tensor:
        size = x.shape[-1]
        total = max((math.ceil(size / stride) - 1) * stride + 3 - size, 0)
        before = total // 2
        padded = torch.zeros(*x.shape[:2], size + total, size + total, dtype=x.dtype)
        padded[:, :, before : size + before, before : size + before] = x
        return F.conv2d(padded, net[f"{name}.weight"], net[f"{name}.bias"], stride=stride)

    @staticmethod
    def _transposed(net: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
        """Spread each pixel over 5×5 at stride 2, then crop to twice the size as "same" does."""
        size = 2 * x.shape[-1]
        full = F.conv_transpose2d(x, net[f"{name}.weight"], stride=2)  # [.., size + 3, size + 3]
        before = (full.shape[-1] - size) // 2
        cropped = full[:, :, before : before + size, before : before + size]
        return cropped + net[f"{name}.bias"][:, None, None]

    @staticmethod
    def _normalise(net: dict[str, Tensor], name: str, x: Tensor, *, batch_mode: bool) -> Tensor:
        mean, variance = net[f"{name}.running_mean"], net[f"{name}.running_var"]
        if batch_mode:
            count = x.numel() // x.shape[1]
            mean = x.mean(dim=(0, 2, 3))
            variance = ((x - mean[:, None, None]) ** 2).mean(dim=(0, 2, 3))
            unbiased = variance.detach() * count / (count - 1)  # what TensorFlow's fused one keeps
            for key, value in (("running_mean", mean.detach()), ("running_var", unbiased)):
                net[f"{name}.{key}"] = 0.9 * net[f"{name}.{key}"] + 0.1 * value
        scale = net[f"{name}.weight"] / (variance + 1e-3).sqrt()
        shift = net[f"{name}.bias"] - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]

    def _adam(self, part: str, network: dict[str, Tensor], names: list[str], loss: Tensor) -> None:
        config, t = self.config, self.updates
        rate = config.learning_rate * math.sqrt(1 - config.beta2**t) / (1 - config.beta1**t)
        gradients = torch.autograd.grad(loss, [network[name] for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            zero = torch.zeros_like(gradient)
            mean, square = self.moments.get(f"{part}.{name}", (zero, zero))
            mean = config.beta1 * mean + (1 - config.beta1) * gradient
            square = config.beta2 * square + (1 - config.beta2) * gradient**2
            self.moments[f"{part}.{name}"] = mean, square
            move = rate * mean / (square.sqrt() + config.adam_epsilon)
            network[name] = network[name].detach() - move


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Let everything be float64, in which Adam does not turn rounding into whole steps."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_size": 32, "width": 1 / 16},
        {"dropout": 0.1, "label_smoothing": 0.0, "learning_rate": 8e-4, "beta1": 0.0},
    ],
    ids=["baseline", "larger", "other settings"],
)
def test_three_steps_are_those_of_an_independent_reference(changes: dict[str, Any]) -> None:
    training = start(**changes)
    reference = Reference(training)
    config, noise, same_noise = training.config, seeded(3), seeded(3)
    for seed, count in enumerate((6, 6, 4)):  # the last batch is partial
        images, labels = real_batch(count, image_size=config.image_size, seed=seed)
        found = train_step(training, images, labels, noise)
        expected = reference.step(images, labels, Draws.of_step(config, count, same_noise))
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-7)
    for network, tensors in (
        (training.generator, reference.generator),
        (training.discriminator, reference.discriminator),
    ):
        state = network.state_dict()
        for name, tensor in tensors.items():
            np.testing.assert_allclose(
                state[name].numpy(), tensor.detach().numpy(), rtol=0, atol=1e-10, err_msg=name
            )
