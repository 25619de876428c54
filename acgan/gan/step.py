"""One discriminator and one generator update, as published: the numerical reference.

What a configuration asks for beyond that stands in `acgan.gan.options`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from acgan.config import TrainConfig
from acgan.gan.adam import Adam
from acgan.gan.ema import Ema
from acgan.gan.interface import GeneratorNetwork
from acgan.gan.mode_seeking import pair_labels
from acgan.gan.models import draw_latents
from acgan.gan.networks import build_discriminator, build_generator
from acgan.gan.options import compose
from acgan.gan.precision import computing, lay_out, widened


class DiscriminatorUpdate(NamedTuple):
    """Losses of one update, and accuracies on its batch: all scalars on the device."""

    loss: Tensor
    loss_source: Tensor
    loss_class: Tensor
    acc_real: Tensor
    acc_generated: Tensor
    acc_class: Tensor  # of real images


class GeneratorUpdate(NamedTuple):
    """Losses of one update: all scalars on the device."""

    loss: Tensor
    loss_source: Tensor
    loss_class: Tensor


METRICS = (
    *(name if name.startswith("acc") else f"d_{name}" for name in DiscriminatorUpdate._fields),
    *(f"g_{name}" for name in GeneratorUpdate._fields),
)


class KerasAdam(Adam):
    """Adam whose epsilon is added before bias correction, as Keras does.

    Keras moves a weight by lr·√(1−β2ᵗ)/(1−β1ᵗ) · m/(√v + ε); PyTorch's form equals it when its
    own epsilon is ε/√(1−β2ᵗ). The step size is the configuration's times `rate`. Weights that a
    network has frozen (`requires_grad`) are left alone.
    """

    def __init__(self, module: nn.Module, config: TrainConfig, *, rate: float = 1.0) -> None:
        learned = {n: own for n, own in module.named_parameters() if own.requires_grad}
        self._names = list(learned)
        self._keras_epsilon = config.adam_epsilon
        self._beta2 = config.beta2
        self.updates = 0
        super().__init__(
            learned.values(),
            learning_rate=config.learning_rate * rate,
            betas=(config.beta1, config.beta2),
            fused=True,
        )

    def update(self) -> None:
        """Move the weights by their gradients once, and drop the gradients."""
        self.updates += 1  # w ← w − lr · √(1 − β2ᵗ) / (1 − β1ᵗ) · m / (√v + ε)
        self.epsilon = self._keras_epsilon / math.sqrt(1 - self._beta2**self.updates)
        self.step()
        self.zero_grad()

    def require_gradients(self, wanted: bool) -> None:
        """Have the weights take part in gradients, or not."""
        for parameter in self.parameters:
            parameter.requires_grad_(wanted)

    def tensors(self) -> dict[str, Tensor]:
        """Return the moments by the parameter's name, and the number of updates."""
        found = {"updates": torch.tensor(self.updates)}
        for name, parameter in zip(self._names, self.parameters, strict=True):
            own = self.state.get(parameter) or self.begin(parameter)  # one that no loss reaches
            found[f"{name}.mean"], found[f"{name}.square"] = own["exp_avg"], own["exp_avg_sq"]
        return found

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` returned; `KeyError` or `ValueError` for anything else."""
        self.updates = int(tensors["updates"])
        for name, parameter in zip(self._names, self.parameters, strict=True):
            moments = [tensors[f"{name}.{moment}"] for moment in ("mean", "square")]
            for moment in moments:
                if (moment.shape, moment.dtype) != (parameter.shape, parameter.dtype):
                    raise ValueError(f"the moments of {name} have another shape or type")
            own = self.begin(parameter, self.updates)
            own["exp_avg"].copy_(moments[0])
            own["exp_avg_sq"].copy_(moments[1])


class Training:
    """All mutable state of one run: both networks, both optimizers, and the generator's average.

    The discriminator may learn at another rate (Heusel et al. 2017, "GANs Trained by a Two
    Time-Scale Update Rule Converge to a Local Nash Equilibrium").
    """

    def __init__(self, config: TrainConfig, *, classes: int, device: torch.device) -> None:
        self.config = config
        self.classes = classes
        self.device = device
        self.generator = build_generator(config, classes).to(device)
        self.discriminator = build_discriminator(config, classes).to(device)
        for network in (self.generator, self.discriminator):
            lay_out(network, config)
        self.generator_adam = KerasAdam(self.generator, config)
        self.discriminator_adam = KerasAdam(
            self.discriminator, config, rate=config.discriminator_rate
        )
        self.ema = Ema(self.generator, decay=config.ema_decay) if config.ema_decay else None
        self.options = compose(config, self.discriminator)

    @property
    def candidate(self) -> GeneratorNetwork:
        """The generator that records, samples and kept weights speak of: the average, if any."""
        return self.generator if self.ema is None else self.ema.generator

    def generate(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Return the trained generator's images [B, 3, H, W] in a step."""
        with computing(self.config, self.device):
            images: Tensor = self.generator(latents, labels)
        return widened(images)

    def judge(self, images: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return what the discriminator gives for images in a step, with dropout."""
        with computing(self.config, self.device):
            source, label = self.discriminator(images, noise)
        return widened(source), widened(label)

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole state by name."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "generator_adam": self.generator_adam.tensors(),
            "discriminator_adam": self.discriminator_adam.tensors(),
        }
        if self.ema is not None:
            parts["ema"] = self.ema.tensors()
        return {f"{part}/{k}": v for part, found in parts.items() for k, v in found.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` returned.

        Raises `KeyError`, `ValueError` or `RuntimeError` for what is no state of these networks.
        """

        def part(name: str) -> dict[str, Tensor]:
            prefix = name + "/"
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.generator.load_state_dict(part("generator"))
        self.discriminator.load_state_dict(part("discriminator"))
        self.generator_adam.load_tensors(part("generator_adam"))
        self.discriminator_adam.load_tensors(part("discriminator_adam"))
        if self.ema is not None:
            self.ema.load_tensors(part("ema"))


def draw_inputs(training: Training, count: int, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw latents ~ U(-1, 1) [count, latent_size] and uniform labels [count]."""
    latents = draw_latents(count, training.config.latent_size, noise)
    labels = torch.randint(training.classes, (count,), generator=noise, device=noise.device)
    return latents, labels


def update_discriminator(
    training: Training, images: Tensor, labels: Tensor, noise: torch.Generator
) -> DiscriminatorUpdate:
    """Train the discriminator on one batch of real and as many generated images.

    images [B, 3, H, W] in [-1, 1]; labels int64 [B].
    """
    count = len(images)
    latents, generated_labels = draw_inputs(training, count, noise)
    training.generator.eval()  # this step's images come from its moving statistics
    with torch.no_grad():
        generated = training.generate(latents, generated_labels)

    deviation = training.config.label_smoothing * torch.rand(
        2 * count, generator=noise, device=images.device
    )
    target = torch.cat([1 - deviation[:count], deviation[count:]])  # 1 − U(0, s), U(0, s)
    training.discriminator.train()  # BatchNorm sees real and generated images together
    batch = training.options.augment(torch.cat([images, generated]), noise)
    source, label = training.judge(batch, noise)
    # published: −[t · log D(x) + (1 − t) · log(1 − D(x))], the mean over both halves
    source_loss = training.options.discriminator_source_loss(source, target)
    # published: −log P(c | x), likewise
    class_loss = training.options.discriminator_class_loss(
        label, torch.cat([labels, generated_labels])
    )
    logits = training.discriminator.class_logits(label.detach()[:count])
    loss = source_loss + class_loss
    adam = training.discriminator_adam
    penalty = training.options.penalty(training.discriminator, images, adam.updates)
    if penalty is not None:
        loss = loss + penalty
    loss.backward()
    adam.update()

    says_real = (source.detach() > 0).float()
    correct = (logits.argmax(1) == labels).float()
    return DiscriminatorUpdate(
        loss.detach(),
        source_loss.detach(),
        class_loss.detach(),
        acc_real=says_real[:count].mean(),
        acc_generated=1 - says_real[count:].mean(),
        acc_class=correct.mean(),
    )


def update_generator(
    training: Training, count: int, noise: torch.Generator, *, reach: Tensor | None = None
) -> GeneratorUpdate:
    """Train the generator on `count` fresh latents to be taken for real images of their class.

    The discriminator is frozen: its weights stay, its BatchNorm uses the moving statistics, and
    its dropout is on. `reach` asks for images that vary so far (`acgan.gan.mode_seeking`).
    """
    latents, labels = draw_inputs(training, count, noise)
    if reach is not None:
        labels = pair_labels(labels)
    training.generator.train()
    training.discriminator.eval()
    training.discriminator_adam.require_gradients(False)
    images = training.generate(latents, labels)
    source, label = training.judge(training.options.augment(images, noise), noise)
    # published: −log D(G(z, c)) and −log P(c | G(z, c))
    source_loss = training.options.generator_source_loss(source, torch.ones_like(source))
    class_loss = training.options.generator_class_loss(label, labels)
    loss = source_loss + training.options.generator_class_weight * class_loss
    if reach is not None:
        loss = loss + training.options.variety(images, latents, reach)
    loss.backward()
    training.discriminator_adam.require_gradients(True)
    training.generator_adam.update()
    if training.ema is not None:
        training.ema.update(training.generator)
    return GeneratorUpdate(loss.detach(), source_loss.detach(), class_loss.detach())


def train_step(
    training: Training, images: Tensor, labels: Tensor, noise: torch.Generator
) -> Tensor:
    """Update both networks once on a batch of real images; return `METRICS` as one tensor [9].

    images [B, 3, H, W] in [-1, 1]; labels int64 [B]. The generator learns from 2·B latents.
    """
    discriminator = update_discriminator(training, images, labels, noise)
    reach = training.options.reach(images, labels)
    generator = update_generator(training, 2 * len(images), noise, reach=reach)
    return torch.stack([*discriminator, *generator])
