"""Precision, recall, density and coverage: how the neighbourhoods of two sets overlap."""

import functools

from acgan.evaluation.neighbours import NeighbourhoodScores, overlap
from selection.metrics.features import FeatureSet
from selection.metrics.metric import Metric


@functools.lru_cache(maxsize=1)  # four metrics follow from it
def neighbourhood_scores(generated: FeatureSet, real: FeatureSet) -> NeighbourhoodScores:
    """Return how the sets' neighbourhoods overlap; `ValueError` for fewer than six images."""
    return overlap(
        generated.features, real.features, near_generated=generated.nearest, near_real=real.nearest
    )


def _metric(name: str, meaning: str) -> Metric:
    """Return the metric that is the score of this name."""
    return Metric(name, "higher", meaning, lambda a, b: getattr(neighbourhood_scores(a, b), name))


PRECISION = _metric("precision", "Share of the generated images that lie among the real ones")
RECALL = _metric("recall", "Share of the real images that lie among the generated ones")
DENSITY = _metric("density", "As precision, but outliers count little; can exceed 1")
COVERAGE = _metric("coverage", "Share of the real images with a generated one close by")
