"""What is measured after each epoch: held-out losses, accuracies, quality score, sample grid.

The quality score `val/fd_cnn` is the Fréchet distance between the validation images and generated
ones in features of the published CNN trained on the real training images. It is not FID.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from acgan.classifier import Classifier, FitConfig, Images, embed, fit, predict
from acgan.config import TrainConfig, cache_folder, derive_seed
from acgan.dataset import Dataset, ImageSet
from acgan.errors import InputError
from acgan.files import replace_bytes
from acgan.grids import GRID_COLUMNS, grid, to_uint8
from acgan.models import Discriminator, Generator, draw_latents
from acgan.rundir import read_weights, weights_bytes

COMPONENTS = 32
SHRINKAGE = 1e-3
FAINT = 0.1  # a channel below a tenth of its usual activation counts as silent
SMALLEST_POOL = 1024
SCORER_VERSION = 2
BATCH = 256

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
    "val/diversity",
)

Array = NDArray[np.float64]


def moments(features: Array) -> tuple[Array, Array]:
    """Return the mean [D] and covariance [D, D] of features [N, D], shrunk a little.

    The fixed shrinkage towards the mean variance keeps the covariance of few images regular.
    """
    mean = features.mean(axis=0)
    covariance = np.atleast_2d(np.cov(features, rowvar=False))
    scale = np.trace(covariance) / len(covariance)
    return mean, (1 - SHRINKAGE) * covariance + SHRINKAGE * scale * np.eye(len(covariance))


def frechet_distance(a: tuple[Array, Array], b: tuple[Array, Array]) -> float:
    """Return the squared Fréchet distance of two Gaussians (mean, covariance); `inf`, never NaN.

    |μa − μb|² + tr(Σa + Σb − 2 (Σa^½ Σb Σa^½)^½), in float64.
    """
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    if not all(np.isfinite(part).all() for part in (mean_a, cov_a, mean_b, cov_b)):
        return math.inf
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ cov_b @ root)
    cross = np.sqrt(product.clip(min=0)).sum()
    shift = np.square(mean_a - mean_b).sum()
    return max(float(shift + np.trace(cov_a) + np.trace(cov_b) - 2 * cross), 0.0)


def spread(features: Array, labels: NDArray[np.int64], classes: int) -> Array:
    """Return each class's root-mean-square distance from its mean, [classes]; NaN of one image."""
    per_class = [features[labels == c] for c in range(classes)]
    return np.array([math.sqrt(f.var(axis=0).sum()) if len(f) > 1 else math.nan for f in per_class])


class Scorer:
    """The scoring CNN and the projection of its features to 32 principal components.

    A feature is the logarithm of a channel's mean activation over its mean on the real training
    images: a pattern that such images lack can excite a channel a hundredfold, and in plain
    activations one such channel outweighs all that is right.

    classifier: the published CNN, trained on the real training images
    level, mean, scale [192], axes [192, 32]: the channels' mean activations, the features' means
    and deviations, and their principal axes on the real training images, float64
    """

    def __init__(
        self, classifier: Classifier, *, level: Array, mean: Array, scale: Array, axes: Array
    ) -> None:
        self.classifier = classifier
        self.level, self.mean, self.scale, self.axes = level, mean, scale, axes

    def project(self, images: Images) -> Array:
        """Map uint8 images [N, H, W] or [N, 3, H, W] to components [N, 32], float64."""
        return self.components(_pooled(self.classifier, images))

    def components(self, pooled: Array) -> Array:
        """Map channels' mean activations [N, 192] to components [N, 32]."""
        features = _log_activations(pooled, self.level)
        return ((features - self.mean) / self.scale) @ self.axes

    @classmethod
    def train(cls, data: Dataset, config: TrainConfig, device: torch.device) -> Scorer:
        """Train the CNN on the training images and find their principal components."""
        classifier = fit(
            data.train.images,
            data.train.labels,
            config=scorer_fit(len(data.train)),
            classes=len(data.classes),
            seed=derive_seed(config.evaluation_seed, "scoring CNN"),
            device=device,
        )
        pooled = _pooled(classifier, data.train.images)
        level = pooled.mean(axis=0)
        level[level == 0] = np.inf  # a dead channel says nothing
        features = _log_activations(pooled, level)
        mean, scale = features.mean(axis=0), features.std(axis=0)
        scale[scale == 0] = np.inf
        _, vectors = np.linalg.eigh(np.cov((features - mean) / scale, rowvar=False))
        axes = vectors[:, ::-1][:, :COMPONENTS].copy()
        return cls(classifier, level=level, mean=mean, scale=scale, axes=axes)

    def save(self, path: Path) -> None:
        """Write the scorer as one safetensors file; `InputError` where that cannot be."""
        tensors = {f"cnn.{k}": v for k, v in self.classifier.state_dict().items()}
        for name in ("level", "mean", "scale", "axes"):
            tensors[name] = torch.from_numpy(getattr(self, name))
        content = weights_bytes(tensors, {"version": str(SCORER_VERSION)})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_bytes(path, content)
        except OSError as error:
            raise InputError(
                f"cannot write {path} ({error.strerror}); name another folder in ACGAN_CACHE"
            ) from error

    @classmethod
    def load(cls, path: Path, *, classes: int, image_size: int, device: torch.device) -> Scorer:
        """Read a scorer that `save` wrote; `InputError` for any other file."""
        with torch.random.fork_rng(devices=[]):  # initial weights, which are then replaced
            classifier = Classifier(classes=classes, image_size=image_size).to(device)
        try:
            tensors, _ = read_weights(path)
            arrays = {
                name: tensors.pop(name).numpy() for name in ("level", "mean", "scale", "axes")
            }
            classifier.load_state_dict({k.removeprefix("cnn."): v for k, v in tensors.items()})
        except (SafetensorError, KeyError, RuntimeError, TypeError) as error:
            raise InputError(
                f"{path} is not the scoring CNN of these images; delete it to have it made again"
            ) from error
        return cls(classifier, **arrays)


def _pooled(classifier: Classifier, images: Images) -> Array:
    features: Array = embed(classifier, images, batch_size=BATCH).cpu().double().numpy()
    return features


def _log_activations(pooled: Array, level: Array) -> Array:
    features: Array = np.log(FAINT + pooled / level)
    return features


def scorer_fit(images: int) -> FitConfig:
    """Return how the scoring CNN is trained: the published 15 epochs, faster on few images."""
    return FitConfig(learning_rate=5e-4, epochs=15, batch_size=16 if images < 5000 else 64)


def cached_scorer(data: Dataset, config: TrainConfig, device: torch.device) -> Path:
    """Return the file of this data set's scorer, training it if it is not in the cache."""
    path = cache_folder() / "scorers" / scorer_name(data, config)
    if not path.exists():
        Scorer.train(data, config, device).save(path)
    return path


def scorer_name(data: Dataset, config: TrainConfig) -> str:
    """Return the file name of a data set's scorer, which tells all that decides it."""
    seed = derive_seed(SCORER_VERSION, data.fingerprint, config.image_size, config.evaluation_seed)
    return f"{seed:016x}.safetensors"


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


class Evaluation:
    """Measures the networks of one run on the validation images, the same way at every epoch."""

    def __init__(
        self, data: Dataset, config: TrainConfig, scorer: Scorer, device: torch.device
    ) -> None:
        self.classes = len(data.classes)
        self.scorer = scorer
        self.device = device
        self.val = data.val
        self.pool = make_pool(config, data.val, self.classes)
        real = scorer.project(data.val.images)
        self.real_moments = moments(real)
        self.real_spread = spread(real, data.val.labels, self.classes)
        random = torch.Generator().manual_seed(derive_seed(config.evaluation_seed, "sample grid"))
        row = draw_latents(GRID_COLUMNS, config.latent_size, random)
        self.grid_latents = row.repeat(self.classes, 1).to(device)
        self.grid_labels = torch.arange(self.classes).repeat_interleave(GRID_COLUMNS).to(device)

    @torch.no_grad()
    def measure(self, generator: Generator, discriminator: Discriminator) -> dict[str, float]:
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
        }

    def _on_generated(
        self, generator: Generator, discriminator: Discriminator
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

    def _on_real(self, discriminator: Discriminator) -> dict[str, float]:
        totals: dict[str, float] = {}
        answers = []
        for images, labels in batches(self.val):
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
            return {"val/fd_cnn": math.inf, "val/diversity": math.nan}
        features = self.scorer.project(images)
        ratio = spread(features, self.pool.labels.numpy(), self.classes) / self.real_spread
        distance = frechet_distance(moments(features), self.real_moments)
        return {"val/fd_cnn": distance, "val/diversity": float(np.nanmin(ratio))}

    @torch.no_grad()
    def sample_grid(self, generator: Generator) -> bytes:
        """Return a PNG of generated images: one row a class, the same eight latents in each."""
        generator.eval()
        images = to_uint8(generator(self.grid_latents, self.grid_labels)).cpu().numpy()
        return grid(images)

    def floor(self, data: Dataset, config: TrainConfig) -> float:
        """Return the score of real training images, as many as there are validation images."""
        random = np.random.default_rng(derive_seed(config.evaluation_seed, "floor"))
        count = min(len(self.val), len(data.train))
        chosen = np.sort(random.choice(len(data.train), count, replace=False))
        features = self.scorer.project(data.train.images[chosen])
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


def batches(images: ImageSet, size: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield uint8 images [B, H, W] and labels [B] in their order."""
    for start in range(0, len(images), size):
        chosen = slice(start, start + size)
        yield torch.tensor(images.images[chosen]), torch.tensor(images.labels[chosen])


def to_signed_rgb(images: Tensor) -> Tensor:
    """Map grey uint8 images [B, H, W] to [B, 3, H, W] in [-1, 1]."""
    return images.float().div(127.5).sub(1).unsqueeze(1).expand(-1, 3, -1, -1)
