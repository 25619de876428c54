"""The Fréchet distance of two sets of features, as Gaussians."""

import math

import numpy as np
from numpy.typing import NDArray

SHRINKAGE = 1e-3

Array = NDArray[np.float64]


def moments(features: Array) -> tuple[Array, Array]:
    """Return the mean [D] and covariance [D, D] of features [N, D], shrunk a little.

    The fixed shrinkage towards the mean variance keeps the covariance of few images regular.
    """
    mean = features.mean(axis=0)
    covariance = np.atleast_2d(np.cov(features, rowvar=False))
    scale = np.trace(covariance) / len(covariance)
    return mean, (1 - SHRINKAGE) * covariance + SHRINKAGE * scale * np.eye(len(covariance))


def square_root(covariance: Array) -> Array:
    """Return the symmetric square root of a covariance [D, D]."""
    values, vectors = np.linalg.eigh(covariance)
    root: Array = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


def frechet_distance(
    a: tuple[Array, Array], b: tuple[Array, Array], *, root_a: Array | None = None
) -> float:
    """Return the squared Fréchet distance of two Gaussians (mean, covariance); `inf`, never NaN.

    |μa − μb|² + tr(Σa + Σb − 2 (Σa^½ Σb Σa^½)^½), in float64.

    root_a: Σa^½, where it is known
    """
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    if not all(np.isfinite(part).all() for part in (mean_a, cov_a, mean_b, cov_b)):
        return math.inf
    root = square_root(cov_a) if root_a is None else root_a
    product = np.linalg.eigvalsh(root @ cov_b @ root)
    cross = np.sqrt(product.clip(min=0)).sum()
    shift = np.square(mean_a - mean_b).sum()
    return max(float(shift + np.trace(cov_a) + np.trace(cov_b) - 2 * cross), 0.0)
