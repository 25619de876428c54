"""What is measured after each epoch: held-out losses, accuracies, quality score, sample grid.

The quality score `val/fd_cnn` is the Fréchet distance between the validation images and generated
ones in features of the published CNN trained on the real training images. It is not FID.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from acgan.config import TrainConfig, derive_seed
from acgan.data.dataset import Dataset, ImageSet
from acgan.evaluation.classifier import predict
from acgan.evaluation.frechet import frechet_distance, moments
from acgan.evaluation.grids import GRID_COLUMNS, as_grey, grid, to_uint8
from acgan.evaluation.neighbours import nearest, overlap
from acgan.evaluation.numbers import Number, compute, find_number, recorded_name, unknown
from acgan.evaluation.scorer import BATCH, Scorer
from acgan.gan.interface import DiscriminatorNetwork, GeneratorNetwork
from acgan.gan.models import draw_latents

SMALLEST_POOL = 1024

VALIDATION_METRICS = (
    "val/d_loss",
    "val/d_loss_source",
    "val/d_loss_class",
    "val/g_loss",
    "val/g_loss_source",
    "val/g_loss_class",
    "val/acc_real",
    "val/acc_generated",
    "val/acc_overall",
    "val/acc_class",
    "val/acc_class_balanced",
    "val/fd_cnn",
    "val/intra_fd_cnn",
    "val/diversity",
    "val/recall",
    "val/coverage",
)

Array = NDArray[np.float64]


def find_numbers(config: TrainConfig) -> dict[str, Number]:
    """Return the plug-ins' numbers of a configuration; `InputError` as `find_number`."""
    return {name: find_number(name, VALIDATION_METRICS) for name in config.numbers}


def check_numbers(config: TrainConfig, data: Dataset) -> None:
    """Try the plug-ins' numbers, before any long work.

    Training images are in the place of generated ones, as many as there are validation images.
    Raises `InputError` as `find_number` and `compute`.
    """
    found = find_numbers(config)
    if not found:
        return
    real = _some_training(data, config)
    for name, number in found.items():
        compute(name, number, real.images, real.labels, data.val)


def _some_training(data: Dataset, config: TrainConfig) -> ImageSet:
    """Return training images, as many as there are validation images."""
    random = np.random.default_rng(derive_seed(config.evaluation_seed, "floor"))
    count = min(len(data.val), len(data.train))
    chosen = np.zeros(len(data.train), bool)
    chosen[random.choice(len(data.train), count, replace=False)] = True
    return data.train.where(chosen)


def class_spread(features: Array, labels: NDArray[np.int64], classes: int) -> Array:
    """Return each class's root-mean-square distance from its mean, [classes]; NaN of one image."""
    per_class = [features[labels == c] for c in range(classes)]
    return np.array([math.sqrt(f.var(axis=0).sum()) if len(f) > 1 else math.nan for f in per_class])


@dataclass(frozen=True)
class Pool:
    """The fixed latents and labels from which every evaluation generates.

    latents [N, latent_size] and labels int64 [N], ordered by class in the validation images' mix
    """

    latents: Tensor
    labels: Tensor


def class_mix(counts: tuple[int, ...], total: int) -> list[int]:
    """Split `total` over the classes in the proportion of `counts`, by largest remainders."""
    shares = [total * count / sum(counts) for count in counts]
    result = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(counts)), key=lambda c: result[c] - shares[c])
    for c in by_remainder[: total - sum(result)]:
        result[c] += 1
    return result


def make_pool(config: TrainConfig, val: ImageSet, classes: int) -> Pool:
    """Draw the pool: four times the validation images, at least 1,024, in their class mix."""
    total = max(4 * len(val), SMALLEST_POOL)
    labels = torch.tensor(
        [c for c, n in enumerate(class_mix(val.per_class(classes), total)) for _ in range(n)]
    )
    seed = derive_seed(config.evaluation_seed, "evaluation latents")
    random = torch.Generator().manual_seed(seed)
    return Pool(draw_latents(total, config.latent_size, random), labels)


@dataclass(frozen=True)
class RealClass:
    """What a class's generated images are compared with.

    features: of its validation images, [M, 32]; moments: their mean and covariance; nearest: the
        distances to their five nearest, [M, 5]
    """

    features: Tensor
    moments: tuple[Array, Array]
    nearest: Tensor

    @classmethod
    def of(cls, features: Array) -> Self:
        """Return it for features [M, 32] of two or more images."""
        tensor = torch.from_numpy(features)
        return cls(tensor, moments(features), nearest(tensor))


class Evaluation:
    """Measures the networks of one run on the validation images, the same way at every epoch."""

    def __init__(
        self, data: Dataset, config: TrainConfig, scorer: Scorer, device: torch.device
    ) -> None:
        self.scorer, self.device = scorer, device
        self.classes, self.val, self.numbers = len(data.classes), data.val, find_numbers(config)
        self.pool = make_pool(config, data.val, self.classes)
        real = scorer.project(data.val.images)
        self.real_moments = moments(real)
        self.real_spread = class_spread(real, data.val.labels, self.classes)
        by_class = {label: real[data.val.labels == label] for label in range(self.classes)}
        self.real_classes = {
            label: RealClass.of(own) for label, own in by_class.items() if len(own) > 1
        }
        random = torch.Generator().manual_seed(derive_seed(config.evaluation_seed, "sample grid"))
        row = draw_latents(GRID_COLUMNS, config.latent_size, random)
        self.grid_latents = row.repeat(self.classes, 1).to(device)
        self.grid_labels = torch.arange(self.classes).repeat_interleave(GRID_COLUMNS).to(device)

    @torch.no_grad()
    def measure(
        self, generator: GeneratorNetwork, discriminator: DiscriminatorNetwork
    ) -> dict[str, float]:
        """Return the `val/…` metrics of an epoch: inference mode, hard labels, no augmentation.

        The generator's loss is the mean over the pool; the discriminator's source loss and
        overall accuracy weigh real and generated images equally.
        """
        generator.eval()
        discriminator.eval()
        generated, images = self._on_generated(generator, discriminator)
        real = self._on_real(discriminator)
        d_source = (real["source"] + generated["source_as_generated"]) / 2
        d_class = (real["class"] + generated["class"]) / 2
        return {
            "val/d_loss": d_source + d_class,
            "val/d_loss_source": d_source,
            "val/d_loss_class": d_class,
            "val/g_loss": generated["source_as_real"] + generated["class"],
            "val/g_loss_source": generated["source_as_real"],
            "val/g_loss_class": generated["class"],
            "val/acc_real": real["says_real"],
            "val/acc_generated": 1 - generated["says_real"],
            "val/acc_overall": (real["says_real"] + 1 - generated["says_real"]) / 2,
            "val/acc_class": real["correct"],
            "val/acc_class_balanced": real["balanced"],
            **self._quality(images, finite=generated["finite"] == 1),
            **self._plugged(images, finite=generated["finite"] == 1),
        }

    def _on_generated(
        self, generator: GeneratorNetwork, discriminator: DiscriminatorNetwork
    ) -> tuple[dict[str, float], Tensor]:
        totals: dict[str, float] = {}
        images = []
        for chosen in torch.arange(len(self.pool.labels)).split(BATCH):
            labels = self.pool.labels[chosen].to(self.device)
            batch = generator(self.pool.latents[chosen].to(self.device), labels)
            source, label = discriminator(batch)
            _add(totals, _sums(source, discriminator.class_logits(label), labels))
            _add(totals, {"finite": float(batch.isfinite().all(dim=(1, 2, 3)).sum())})
            images.append(to_uint8(batch).cpu())
        return {k: v / len(self.pool.labels) for k, v in totals.items()}, torch.cat(images)

    def _on_real(self, discriminator: DiscriminatorNetwork) -> dict[str, float]:
        totals: dict[str, float] = {}
        answers = []
        for start in range(0, len(self.val), BATCH):
            own = slice(start, start + BATCH)
            images, labels = torch.tensor(self.val.images[own]), torch.tensor(self.val.labels[own])
            source, label = discriminator(to_signed_rgb(images.to(self.device)))
            logits = discriminator.class_logits(label)
            _add(totals, _sums(source, logits, labels.to(self.device)))
            answers.append(logits.argmax(1).cpu())
        means = {k: v / len(self.val) for k, v in totals.items()}
        right = torch.cat(answers).numpy() == self.val.labels
        recalls = [right[self.val.labels == label].mean() for label in np.unique(self.val.labels)]
        return {**means, "source": means["source_as_real"], "balanced": float(np.mean(recalls))}

    def _quality(self, images: Tensor, *, finite: bool) -> dict[str, float]:
        if not finite:  # NaN became some grey in uint8
            distances = dict.fromkeys(("val/fd_cnn", "val/intra_fd_cnn"), math.inf)
            return distances | dict.fromkeys(
                ("val/diversity", "val/recall", "val/coverage"), math.nan
            )
        features = self.scorer.project(images)
        ratio = class_spread(features, self.pool.labels.numpy(), self.classes) / self.real_spread
        return {
            "val/fd_cnn": frechet_distance(moments(features), self.real_moments),
            "val/diversity": float(np.nanmin(ratio)),
            **self._within_classes(features),
        }

    def _plugged(self, images: Tensor, *, finite: bool) -> dict[str, float]:
        """Return the plug-ins' numbers of the pool's images, in grey where the real ones are."""
        if not self.numbers or not finite:
            return unknown(self.numbers)
        shown, labels = images.numpy(), self.pool.labels.numpy()
        shown = shown if self.val.in_colour else as_grey(shown)
        return {
            recorded_name(name): compute(name, number, shown, labels, self.val)
            for name, number in self.numbers.items()
        }

    def _within_classes(self, features: Array) -> dict[str, float]:
        """Return the means over the classes of what compares a class's images with its real ones.

        features: [N, 32] of the pool. A class of fewer than two real images has no part.
        """
        rows = []
        for label, real in self.real_classes.items():
            own = features[self.pool.labels.numpy() == label]
            generated = torch.from_numpy(own)
            near = overlap(
                generated, real.features, near_generated=nearest(generated), near_real=real.nearest
            )
            distance = frechet_distance(moments(own), real.moments)
            rows.append((distance, near.recall, near.coverage))
        names = ("val/intra_fd_cnn", "val/recall", "val/coverage")
        means = np.mean(rows, axis=0) if rows else [math.nan] * len(names)
        return dict(zip(names, map(float, means), strict=True))

    @torch.no_grad()
    def sample_grid(self, generator: GeneratorNetwork) -> bytes:
        """Return a PNG of generated images: one row per class, the same eight latents in each."""
        generator.eval()
        images = to_uint8(generator(self.grid_latents, self.grid_labels)).cpu().numpy()
        return grid(images)

    def floor(self, data: Dataset, config: TrainConfig) -> float:
        """Return the score of real training images, as many as there are validation images."""
        features = self.scorer.project(_some_training(data, config).images)
        return frechet_distance(moments(features), self.real_moments)

    def classifier_accuracy(self) -> float:
        """Return the scoring CNN's accuracy on the validation images."""
        probabilities = predict(self.scorer.classifier, self.val.images)
        return float((probabilities.argmax(1).cpu().numpy() == self.val.labels).mean())


def _sums(source: Tensor, label: Tensor, labels: Tensor) -> dict[str, float]:
    return {
        "source_as_real": float(F.softplus(-source.double()).sum()),
        "source_as_generated": float(F.softplus(source.double()).sum()),
        "class": float(F.cross_entropy(label.double(), labels, reduction="sum")),
        "says_real": float((source > 0).sum()),
        "correct": float((label.argmax(1) == labels).sum()),
    }


def _add(totals: dict[str, float], more: dict[str, float]) -> None:
    for key, value in more.items():
        totals[key] = totals.get(key, 0.0) + value


def to_signed_rgb(images: Tensor) -> Tensor:
    """Map uint8 images, grey [B, H, W] or [B, 3, H, W], to [B, 3, H, W] in [-1, 1]."""
    signed = images.float().div(127.5).sub(1)
    return signed if signed.ndim == 4 else signed.unsqueeze(1).expand(-1, 3, -1, -1)
