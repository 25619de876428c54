"""Fidelity and diversity of generated images: pure functions of features, in float64.

Nothing here knows of networks or files. A metric takes two `FeatureSet`s; whatever depends on one
of them alone is computed once and kept with it, so that a reference set serves many candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acgan.config import derive_seed
from acgan.evaluate import frechet_distance

PRECISION_NEIGHBOURS = 3  # Kynkäänniemi et al. 2019
DENSITY_NEIGHBOURS = 5  # Naeem et al. 2020
SMALLEST_SET = DENSITY_NEIGHBOURS + 1  # images, for `neighbourhood_scores`
SPLITS = 10
SHUFFLE_SEED = 2020  # torch-fidelity's
BLOCK = 1024  # rows of a matrix of distances or similarities that are in memory at a time
SILENT = 1e-7  # directions below this share of the largest deviation are rounding errors
REPLICATES = 2000
NORMAL_95 = 1.96
REPLICATES_AT_A_TIME = 100

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
        return _array(self.features.mean(dim=0))

    @cached_property
    def covariance(self) -> Array:
        """The unbiased covariance, [D, D]."""
        return _array(torch.atleast_2d(self.features.T.cov()))

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root of the covariance, [D, D]."""
        values, vectors = torch.linalg.eigh(torch.from_numpy(self.covariance).to(self.features))
        root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        return root

    @cached_property
    def similarities(self) -> Tensor:
        """The mean of KID's kernel of each image with all others, [N]."""
        x = self.features
        total = torch.cat([_kernel(block, x).sum(dim=1) for block in x.split(BLOCK)])
        return (total - _kernel_of((x * x).sum(dim=1), x.shape[1])) / (len(x) - 1)

    @property
    def similarity(self) -> float:
        """The mean of KID's kernel over all pairs of different images."""
        return float(self.similarities.mean())

    @cached_property
    def nearest(self) -> Tensor:
        """The distances of each image to its five nearest others, [N, 5], the smallest first."""
        if len(self) < SMALLEST_SET:
            raise ValueError(f"neighbours need >= {SMALLEST_SET} images, got {len(self)}")
        x = self.features
        near = [torch.cdist(b, x).topk(SMALLEST_SET, largest=False).values for b in x.split(BLOCK)]
        return torch.cat(near)[:, 1:]  # without the image itself

    def radii(self, neighbours: int) -> Tensor:
        """Return the distance of each image to its k-th nearest other, [N]."""
        return self.nearest[:, neighbours - 1]


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.cpu().numpy()
    return array


def _kernel_of(product: Tensor, dimensions: int) -> Tensor:
    return (product / dimensions + 1) ** 3


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return KID's kernel (x·y / D + 1)³ of all rows of `a` with all rows of `b`."""
    return _kernel_of(a @ b.T, a.shape[1])


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


def frechet(generated: FeatureSet, real: FeatureSet) -> float:
    """Return the Fréchet distance of the Gaussians fitted to two sets: FID in Inception's features.

    Heusel et al. 2017; plain unbiased covariances, as torch-fidelity takes them.
    """
    return frechet_distance((real.mean, real.covariance), (generated.mean, generated.covariance))


def frechet_values(generated: FeatureSet, real: FeatureSet) -> Array:
    """Return each real image's part in the Fréchet distance, [M]; their mean is the distance.

    The distance plus the image's influence on it: where real images are weighted anew, the
    weighted mean is the new distance to first order. With Y = (x − μr) Σg^½ / √(M − 1) the trace
    of (Σg^½ Σr Σg^½)^½ is that of (Y Yᵀ)^½, and its derivative by the weight of image i is M/2
    times the i-th diagonal element. That needs no inverse and so also holds for M < D.
    """
    images = len(real)
    centred = real.features - torch.from_numpy(real.mean).to(real.features)
    shift = torch.from_numpy(generated.mean - real.mean).to(real.features)
    y = centred @ generated.root / (images - 1) ** 0.5
    values, vectors = torch.linalg.eigh(y.T @ y)
    deviations = values.clamp_min(0).sqrt()
    kept = deviations > SILENT * deviations[-1]
    diagonal = ((y @ vectors[:, kept]).square() / deviations[kept]).sum(dim=1)
    own = centred.square().sum(dim=1) * images / (images - 1)
    influence = own - 2 * centred @ shift - images * diagonal
    return _array(influence - influence.mean()) + frechet(generated, real)


def frechet_influence(generated: FeatureSet, real: FeatureSet) -> Array:
    """Return each generated image's influence on the Fréchet distance, [N], of mean 0.

    Their variance over N is the distance's over the draw of the images, to first order. The
    distance is symmetric, so they are `frechet_values` with the sets exchanged.
    """
    values = frechet_values(real, generated)
    influence: Array = values - values.mean()
    return influence


def kid(generated: FeatureSet, real: FeatureSet) -> float:
    """Return the unbiased squared maximum mean discrepancy of two whole sets.

    Kernel (x·y / D + 1)³, no random subsets: Bińkowski et al. 2018. Near zero, of either sign,
    for sets of one distribution.
    """
    return float(kid_values(generated, real).mean())


def kid_values(generated: FeatureSet, real: FeatureSet) -> Array:
    """Return each real image's part in the KID, [M]; their mean is the KID.

    Between two candidates they differ by twice the image's mean similarity to the generated
    images (and a constant): the weighted mean of that difference is exactly the difference of the
    KIDs with real images weighted so.
    """
    return _array(generated.similarity + real.similarity - 2 * _across(real, generated))


def kid_influence(generated: FeatureSet, real: FeatureSet) -> Array:
    """Return each generated image's influence on the KID, [N], of mean 0.

    Their variance over N is the KID's over the draw of the images, to first order: Hoeffding's
    projection, twice the image's mean similarity to the other generated images less that to the
    real ones.
    """
    influence = 2 * (generated.similarities - _across(generated, real))
    return _array(influence - influence.mean())


def _across(images: FeatureSet, others: FeatureSet) -> Tensor:
    """Return the mean of KID's kernel of each image with all of another set, [N]."""
    blocks = images.features.split(BLOCK)
    return torch.cat([_kernel(block, others.features).mean(dim=1) for block in blocks])


def inception_score(logits: Tensor, *, splits: int = SPLITS) -> tuple[float, float]:
    """Return mean and standard deviation over splits of the inception score.

    exp(mean of KL(p(y|x) ‖ p(y))), Salimans et al. 2016. logits: [N, C]; logarithms of
    probabilities serve as well. The images are first brought into an order that is always the
    same, because those of a class stand together. Raises `ValueError` for fewer images than
    splits or two, and for logits that are not finite.
    """
    if len(logits) < max(splits, 2):
        raise ValueError(f"the inception score needs >= {max(splits, 2)} images, got {len(logits)}")
    if not logits.isfinite().all():
        raise ValueError("the inception score needs logits that are finite numbers")
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(logits))
    posteriors = logits.double()[torch.from_numpy(order)].softmax(dim=1)
    bounds = [i * len(logits) // splits for i in range(splits + 1)]
    scores = [_score(posteriors[low:high]) for low, high in pairwise(bounds)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(posteriors: Tensor) -> float:
    """Return exp(H(mean posterior) − mean H(posterior)), which is exp(mean KL)."""
    marginal = torch.special.entr(posteriors.mean(dim=0)).sum()
    return float((marginal - torch.special.entr(posteriors).sum(dim=1).mean()).exp())


@dataclass(frozen=True)
class NeighbourhoodScores:
    """How the sets' neighbourhoods overlap.

    precision: share of generated images within a real image's distance to its third neighbour
    recall: the reverse (Kynkäänniemi et al. 2019)
    density: how many real images have a generated one within their distance to their fifth
        neighbour, over five: outliers among the real images hardly count
    coverage: share of the real images that have any (Naeem et al. 2020)
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhood_scores(generated: FeatureSet, real: FeatureSet) -> NeighbourhoodScores:
    """Compare the sets' neighbourhoods in one pass over their distances.

    Raises `ValueError` for fewer than six images.
    """
    narrow, wide = real.radii(PRECISION_NEIGHBOURS), real.radii(DENSITY_NEIGHBOURS)
    recalled = torch.zeros_like(narrow, dtype=torch.bool)
    closest = torch.full_like(wide, torch.inf)
    precise = dense = 0
    radii = generated.radii(PRECISION_NEIGHBOURS).split(BLOCK)
    for block, own in zip(generated.features.split(BLOCK), radii, strict=True):
        distances = torch.cdist(block, real.features)  # [BLOCK, M]
        precise += int((distances <= narrow).any(dim=1).sum())
        dense += int((distances < wide).sum())
        recalled |= (distances <= own[:, None]).any(dim=0)
        closest = torch.minimum(closest, distances.amin(dim=0))
    return NeighbourhoodScores(
        precision=precise / len(generated),
        recall=float(recalled.double().mean()),
        density=dense / (DENSITY_NEIGHBOURS * len(generated)),
        coverage=float((closest < wide).double().mean()),
    )


def in_image_order(per_class: Sequence[Array], labels: NDArray[np.int64]) -> Array:
    """Put the values of each class's real images, in its order, into the order of `labels` [M]."""
    values = np.empty(len(labels))
    for label, own in enumerate(per_class):
        values[labels == label] = own
    return values


def difference_interval(
    a: Array,
    b: Array,
    *,
    labels: NDArray[np.int64],
    patients: Sequence[object],
    seed: int,
    variance: float = 0.0,
) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two candidates' metrics, a − b.

    a, b: each real image's part in the metric, [M], as `kid_values` or `frechet_values` of its
    class return it; labels [M]: the metric is the mean over classes of the classes' means (all
    labels alike: one metric over all images); patients: one name or number an image; variance: of
    the difference over the draw of the generated images.

    Patients are resampled with all their images. Symmetric bootstrap-t (Hall 1988, JRSS B 50,
    35-45): the observed difference ± its cluster-robust error times the 95 % point of a
    resample's absolute deviation in units of the resample's own error. The draw of the generated
    images, which no resampling of patients sees, is independent of it: its half width, 1.96
    standard deviations, adds in squares. Where a class has fewer than two patients nothing can be
    told, and the interval is infinite.
    """
    sums, counts = _by_patient(a - b, labels, patients)
    if (counts > 0).sum(axis=0).min() < 2:
        return -np.inf, np.inf
    people = len(sums)
    ((estimate,), (error,)) = _estimates(np.ones((1, people)), sums, counts)
    drawn_half = NORMAL_95 * variance**0.5
    if error == 0:
        return float(estimate - drawn_half), float(estimate + drawn_half)
    random = np.random.default_rng(derive_seed(seed, "patient bootstrap"))
    deviations = []
    for _ in range(REPLICATES // REPLICATES_AT_A_TIME):
        drawn = random.multinomial(people, np.full(people, 1 / people), REPLICATES_AT_A_TIME)
        whole = drawn[(drawn @ counts > 0).all(axis=1)]  # a class without patients has no mean
        centres, errors = _estimates(whole.astype(np.float64), sums, counts)
        away = np.abs(centres - estimate)
        deviations.append(np.divide(away, errors, where=errors > 0, out=np.full_like(away, np.inf)))
    half = error * np.quantile(np.concatenate(deviations), 0.95, method="higher")
    half = np.hypot(half, drawn_half)
    return float(estimate - half), float(estimate + half)


def _by_patient(
    values: Array, labels: NDArray[np.int64], patients: Sequence[object]
) -> tuple[Array, Array]:
    """Return the sum of values and the number of images by patient and class, each [P, C]."""
    _, person = np.unique(np.asarray(patients), return_inverse=True)
    _, label = np.unique(labels, return_inverse=True)
    sums = np.zeros((person.max() + 1, label.max() + 1))
    counts = np.zeros_like(sums)
    np.add.at(sums, (person, label), values)
    np.add.at(counts, (person, label), 1)
    return sums, counts


def _estimates(weights: Array, sums: Array, counts: Array) -> tuple[Array, Array]:
    """Return the mean of the classes' means and its standard error, each [R].

    weights [R, P]: how often a patient was drawn. The error is that of the linearised ratio of
    sums, with patients as clusters.
    """
    totals = weights @ counts  # [R, C]
    means = (weights @ sums) / totals
    parts = (sums - means[:, None] * counts) / totals[:, None]  # [R, P, C]
    people = weights.shape[1]
    variance = (weights * parts.mean(axis=2) ** 2).sum(axis=1) * people / (people - 1)
    return means.mean(axis=1), np.sqrt(variance)
