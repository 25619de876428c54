"""Features of a set of images, and what of them is computed once."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acgan.evaluation.frechet import square_root
from acgan.evaluation.neighbours import SMALLEST_SET, nearest
from selection.metrics.kernel import kernel, kernel_with_itself

BLOCK = 1024  # rows of a matrix of distances or similarities that are in memory at a time
SILENT = 1e-7  # directions below this share of the largest deviation are rounding errors

Array = NDArray[np.float64]


class FeatureSet:
    """The features of one set of images, and what metrics need of them alone.

    features: [N, D], kept as float64 on their device, which then computes
    Raises `ValueError` for fewer than two images and for features that are not finite.
    """

    def __init__(self, features: Tensor | NDArray[np.floating]) -> None:
        self.features = torch.as_tensor(features).double()
        if self.features.ndim != 2 or len(self) < 2:
            shape = tuple(self.features.shape)
            raise ValueError(f"a metric needs features [N, D] of two or more images, got {shape}")
        if not self.features.isfinite().all():
            raise ValueError("a metric needs features that are finite numbers")

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def mean(self) -> Array:
        """The mean, [D]."""
        return as_array(self.features.mean(dim=0))

    @cached_property
    def covariance(self) -> Array:
        """The unbiased covariance, [D, D]."""
        return as_array(torch.atleast_2d(self.features.T.cov()))

    @cached_property
    def root(self) -> Array:
        """The symmetric square root of the covariance, [D, D]."""
        return square_root(self.covariance)

    @cached_property
    def similarities(self) -> Tensor:
        """The mean of KID's kernel of each image with all others, [N]."""
        x = self.features
        total = torch.cat([kernel(block, x).sum(dim=1) for block in x.split(BLOCK)])
        return (total - kernel_with_itself(x)) / (len(x) - 1)

    @property
    def similarity(self) -> float:
        """The mean of KID's kernel over all pairs of different images."""
        return float(self.similarities.mean())

    @cached_property
    def nearest(self) -> Tensor:
        """The distances to the five nearest others, [N, 5], sorted; `ValueError` for N < 6."""
        if len(self) < SMALLEST_SET:
            raise ValueError(f"neighbours need >= {SMALLEST_SET} images, got {len(self)}")
        return nearest(self.features)


def as_array(tensor: Tensor) -> Array:
    """Return a tensor's numbers, on the CPU."""
    array: Array = tensor.cpu().numpy()
    return array


def mean_distance(images: FeatureSet) -> float:
    """Return the mean Euclidean distance over all pairs of different images: how varied they are.

    0 for copies of one image.
    """
    x, count = images.features, len(images)
    exact = "donot_use_mm_for_euclid_dist"  # a matrix product leaves rounding errors at distance 0
    total = sum(float(torch.cdist(b, x, compute_mode=exact).sum()) for b in x.split(BLOCK))
    return total / (count * (count - 1))


def by_class(features: Tensor, labels: NDArray[np.int64], classes: int) -> tuple[FeatureSet, ...]:
    """Split features [N, D] by their labels [N], for metrics of one class (intra-FID, -KID).

    Raises `ValueError` as `FeatureSet` does.
    """
    return tuple(FeatureSet(features[torch.from_numpy(labels == c)]) for c in range(classes))


def in_image_order(per_class: Sequence[Array], labels: NDArray[np.int64]) -> Array:
    """Put the values of each class's real images, in its order, into the order of `labels` [M]."""
    values = np.empty(len(labels))
    for label, own in enumerate(per_class):
        values[labels == label] = own
    return values
