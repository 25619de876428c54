"""The published CNN that tells the classes of chest X-rays apart.

The per-epoch quality score takes its features, selection step 2 and the augmentation study its
accuracy. Architecture and settings follow "The step-2 CNN" of Carbone, Marconzini and Cavallaro
(2023), written there in Keras: channels, paddings and initial weights are those of Keras.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from acgan.errors import InputError
from acgan.evaluation.fit import FitConfig
from acgan.gan.adam import Adam

FEATURES = 64 + 128  # channels of the third and the fourth convolution
SMALLEST_IMAGE = 6  # its pools leave one pixel

Images = Tensor | NDArray[np.uint8]
"""uint8 [N, H, W] grey or [N, 3, H, W] colour."""


class Classifier(nn.Module):
    """The published CNN: 2,416,451 trainable parameters at 112 px and three classes.

    Raises `InputError` for an image size that its two pools would leave nothing of.
    """

    def __init__(self, *, classes: int = 3, image_size: int = 112) -> None:
        super().__init__()
        if image_size < SMALLEST_IMAGE:
            raise InputError(f"the classifier needs images of >= 6 px a side, got {image_size=}")
        side = (image_size // 3 - 2) // 3 + 1
        self.third = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            _batch_norm(16),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 3),
            nn.Dropout(0.2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            _batch_norm(64),
        )
        self.fourth = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)),  # Keras' "same" of an even kernel: right and bottom
            nn.Conv2d(64, 128, 2),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.MaxPool2d(2, 3),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(128 * side * side, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, classes),
        )
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Map images, float [N, 3, H, W] in [0, 1], to logits [N, classes]."""
        logits: Tensor = self.head(self.features(x)[1])
        return logits

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rectified maps of the third and fourth convolution, all >= 0.

        [N, 64, H/3, W/3] before BatchNorm, [N, 128, H/3, W/3] before the pool.
        """
        third = self.third[:-1](x)
        return third, self.fourth(self.third[-1](third))

    def pooled_features(self, x: Tensor) -> Tensor:
        """Return the spatial means of `features`, [N, 192]: what the quality score compares."""
        return _pooled(*self.features(x))

    def pooled_features_and_logits(self, x: Tensor) -> Tensor:
        """Return `pooled_features` and the logits side by side, [N, 192 + classes], in one pass."""
        third, fourth = self.features(x)
        return torch.cat([_pooled(third, fourth), self.head(fourth)], dim=1)


def _pooled(third: Tensor, fourth: Tensor) -> Tensor:
    return torch.cat([maps.mean(dim=(2, 3)) for maps in (third, fourth)], dim=1)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Conv2d):  # a fifth faster on one CPU thread
        module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


def fit_last(
    images: Images,
    labels: Tensor | NDArray[np.int64],
    *,
    config: FitConfig,
    classes: int,
    seed: int,
    device: torch.device | str = "cpu",
    count: int = 1,
) -> list[Classifier]:
    """Train a classifier with Adam and cross-entropy; return it after each of the last epochs.

    One fit's accuracy swings by several points from epoch to epoch: the mean of the last three is
    steadier than the last one, and honest, which the best one is not.

    labels: int64 [N]. Afterwards the BatchNorm statistics are recomputed, see
    `recompute_statistics`. Initial weights, order of the images and dropout depend on `seed`
    alone, and the global random state is left as it was. Raises `InputError` if there is no image
    or not one label per image.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise InputError(
            f"the classifier needs images and as many labels, got {len(images)} and {len(labels)}"
        )
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = Classifier(classes=classes, image_size=images.shape[-1]).to(device)
        pixels = _tensor(images).to(device)
        last = _train(model, pixels, _tensor(labels).to(device), config, count)
    for model in last:
        recompute_statistics(model, pixels, batch_size=config.batch_size)
    return last


def _train(
    model: Classifier, pixels: Tensor, labels: Tensor, config: FitConfig, count: int
) -> list[Classifier]:
    """Train `model` through all epochs; return copies of it after each of the last `count`."""
    optimizer = Adam(model.parameters(), learning_rate=config.learning_rate)
    model.train()
    last = []
    for epoch in range(config.epochs):
        order = torch.randperm(len(labels)).to(labels.device)  # drawn on the CPU: same everywhere
        for batch in order.split(config.batch_size):
            loss = functional.cross_entropy(model(to_rgb(pixels[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch >= config.epochs - count:
            last.append(copy.deepcopy(model).eval())
    return last


@torch.inference_mode()
def recompute_statistics(model: Classifier, images: Tensor, *, batch_size: int = 64) -> None:
    """Set every BatchNorm's statistics to the mean and variance of its input over all images.

    With Keras' momentum of 0.99 a few hundred steps leave them near their initial values. They
    are exact (float64 sums over all pixels, whatever the batches), taken layer by layer in
    inference mode, so that each layer sees what it will see when the model is used.
    """
    model.eval()
    for index, layer in enumerate(list(model.third)):
        if isinstance(layer, nn.BatchNorm2d):
            _set_statistics(layer, model.third[:index], images.split(batch_size))


def _set_statistics(norm: nn.BatchNorm2d, before: nn.Module, batches: tuple[Tensor, ...]) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    first = torch.zeros_like(norm.running_mean, dtype=torch.float64)
    second = torch.zeros_like(first)
    for batch in batches:
        variance, mean = torch.var_mean(before(to_rgb(batch)), dim=(0, 2, 3), correction=0)
        first += len(batch) * mean.double()
        second += len(batch) * (variance.double() + mean.double() ** 2)
    count = sum(len(batch) for batch in batches)
    norm.running_mean.copy_(first / count)
    norm.running_var.copy_((second / count - (first / count) ** 2).clamp_min(0))


def _tensor(values: Tensor | NDArray[Any]) -> Tensor:
    return values if isinstance(values, Tensor) else torch.tensor(values)  # read-only maps: copied


def to_rgb(images: Tensor) -> Tensor:
    """Turn uint8 images, [N, H, W] or [N, 3, H, W], into float32 [N, 3, H, W] in [0, 1]."""
    if images.ndim == 3:
        images = images[:, None].expand(-1, 3, -1, -1)
    return images.float() / 255


def predict(model: Classifier, images: Images, *, batch_size: int = 64) -> Tensor:
    """Return the probabilities of the classes, [N, classes], on the model's device."""
    return _map(model, images, lambda x: model(x).softmax(dim=1), batch_size)


def embed(model: Classifier, images: Images, *, batch_size: int = 64) -> Tensor:
    """Return `Classifier.pooled_features` of uint8 images, [N, 192], on the model's device."""
    return _map(model, images, model.pooled_features, batch_size)


def embed_and_classify(model: Classifier, images: Images) -> tuple[Tensor, Tensor]:
    """Return `embed`'s features [N, 192] and the logits [N, classes] in one pass."""
    both = _map(model, images, model.pooled_features_and_logits, 64)
    return both[:, :FEATURES], both[:, FEATURES:]


@torch.inference_mode()
def _map(
    model: Classifier, images: Images, function: Callable[[Tensor], Tensor], batch_size: int
) -> Tensor:
    """Apply a function of float images to all images by batches, in inference mode."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    batches = _tensor(images).split(batch_size)
    result = torch.cat([function(to_rgb(batch.to(device))) for batch in batches])
    model.train(was_training)
    return result
