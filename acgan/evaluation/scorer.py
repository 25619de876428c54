"""The scoring CNN: features of the published CNN trained on the real training images."""

from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from acgan.config import TrainConfig, cache_folder, derive_seed
from acgan.data.dataset import Dataset
from acgan.errors import InputError
from acgan.evaluation.classifier import Classifier, Images, embed, fit_last
from acgan.evaluation.fit import FitConfig
from acgan.files import write_cached
from acgan.run.weights import read_weights, weights_bytes

COMPONENTS = 32
FAINT = 0.1  # a channel below a tenth of its usual activation counts as silent
SCORER_VERSION = 2
BATCH = 256

Array = NDArray[np.float64]


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
    def train(cls, data: Dataset, config: TrainConfig, device: torch.device) -> Self:
        """Train the CNN on the training images and find their principal components."""
        (classifier,) = fit_last(
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
        write_cached(path, weights_bytes(tensors, {"version": str(SCORER_VERSION)}))

    @classmethod
    def load(cls, path: Path, *, classes: int, image_size: int, device: torch.device) -> Self:
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
    """Return the file of this data set's scorer, training it where the cache has no whole one."""
    path = cache_folder() / "scorers" / scorer_name(data, config)
    try:
        Scorer.load(path, classes=len(data.classes), image_size=config.image_size, device=device)
    except (FileNotFoundError, InputError):
        Scorer.train(data, config, device).save(path)
    return path


def scorer_name(data: Dataset, config: TrainConfig) -> str:
    """Return the file name of a data set's scorer, which tells all that decides it."""
    seed = derive_seed(SCORER_VERSION, data.fingerprint, config.image_size, config.evaluation_seed)
    return f"{seed:016x}.safetensors"
