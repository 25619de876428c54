"""Differences between candidates, resampled by patient."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from acgan.config import derive_seed
from selection.metrics.features import Array

REPLICATES = 2000
NORMAL_95 = 1.96
REPLICATES_AT_A_TIME = 100


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
    labels alike: one metric over all images); patients: one name or number per image; variance: of
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
