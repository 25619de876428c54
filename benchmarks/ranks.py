"""How well one number of a generator orders generators by another one: rank correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

REPLICATES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def spearman(a: Sequence[float], b: Sequence[float], *, runs: Sequence[object]) -> Correlation:
    """Return the rank correlation of two numbers of the same generators.

    runs: which run each generator is of. Runs are resampled with all their generators (percentile
    bootstrap): epochs of one run resemble each other. More is better in both: an infinite value
    ranks by its sign, and NaN lowest.
    """
    values = np.array([a, b], dtype=float)
    values[np.isnan(values)] = -np.inf
    value = _rho(values)
    if np.isnan(value):
        return Correlation(value, value, value)
    groups = [np.flatnonzero([own == run for own in runs]) for run in dict.fromkeys(runs)]
    random = np.random.default_rng(0)
    found = [
        _rho(values[:, np.concatenate([groups[i] for i in chosen])])
        for chosen in random.integers(len(groups), size=(REPLICATES, len(groups)))
    ]
    low, high = np.nanquantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Correlation(value, float(low), float(high))


def _rho(values: NDArray[np.float64]) -> float:
    """Return the correlation of the ranks of values [2, N]; NaN where all of a row are equal."""
    ranks = rankdata(values, axis=1)
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    norm = float(np.sqrt((centred**2).sum(axis=1).prod()))
    return float((centred[0] * centred[1]).sum() / norm) if norm else float("nan")


def correlations(
    numbers: Mapping[str, Sequence[float]], target: Sequence[float], *, runs: Sequence[object]
) -> dict[str, Correlation]:
    """Return each number's rank correlation with the target."""
    return {name: spearman(values, target, runs=runs) for name, values in numbers.items()}
