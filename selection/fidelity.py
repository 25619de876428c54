"""Step 3: how near a candidate's images are to real ones, and whether they are copies.

Each image passes an extractor once; every metric is computed from the features it gives, against
two reference sets: the validation images, by which candidates are ranked, and the training images,
reported beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from acgan.config import derive_seed
from selection.extractors import Extractor, View
from selection.metrics import (
    FeatureSet,
    by_class,
    frechet,
    frechet_influence,
    frechet_values,
    in_image_order,
    inception_score,
    kid,
    kid_influence,
    kid_values,
    neighbourhood_scores,
)

ENOUGH_FOR_IS = 5000
ENOUGH_FOR_FID = 2048  # images of each class in the reference set: Inception has as many features

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Reference:
    """Real images as the extractor sees them: all of them and by class, one of each a view."""

    labels: Labels
    whole: tuple[FeatureSet, ...]
    classes: tuple[tuple[FeatureSet, ...], ...]

    @property
    def enough_for_fid(self) -> bool:
        """Whether every class has enough images for a Fréchet distance to order candidates."""
        return int(np.bincount(self.labels).min()) >= ENOUGH_FOR_FID


def reference(
    views: Sequence[Tensor], labels: Labels, *, classes: int, limit: int | None = None
) -> Reference:
    """Return a reference set of real images, of at most `limit` of a class.

    views: their features [N, D] as each network of the extractor gives them
    """
    chosen = np.arange(len(labels)) if limit is None else at_most(labels, limit)
    own = [features[chosen] for features in views]
    return Reference(
        labels=labels[chosen],
        whole=tuple(FeatureSet(features) for features in own),
        classes=tuple(by_class(features, labels[chosen], classes) for features in own),
    )


def at_most(labels: Labels, limit: int) -> NDArray[np.int64]:
    """Return the places of at most `limit` images of each class, drawn once for all, in order."""
    random = np.random.default_rng(derive_seed("reference images", limit))
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([random.permutation(own)[:limit] for own in places]))


def in_the_mix_of(labels: Labels, real: Labels, classes: int) -> NDArray[np.int64]:
    """Return places of generated images, as many as possible, in the class mix of real ones.

    labels: of the generated images, equally many of each class
    """
    counts = np.bincount(real, minlength=classes)
    per_class = np.bincount(labels, minlength=classes).min()
    wanted = np.maximum(np.round(per_class * counts / counts.max()).astype(int), 2)
    return np.concatenate([np.flatnonzero(labels == c)[: wanted[c]] for c in range(classes)])


def metrics(
    extractor: Extractor,
    views: Sequence[Tensor],
    labels: Labels,
    real: Reference,
    names: Sequence[str],
) -> dict[str, float]:
    """Return all metrics of generated images against a reference set, means over the views.

    views: features of the generated images, equally many of each class. Overall metrics are taken
    of as many of them as fit the reference set's class mix, those of a class (`kid/normal`) of all
    its images, `intra_…` is the mean over classes. Raises `ValueError` for features that are not
    finite.
    """
    found: dict[str, list[float]] = {}
    chosen = in_the_mix_of(labels, real.labels, len(names))
    for features, whole, classes in zip(views, real.whole, real.classes, strict=True):
        overall = _compared(FeatureSet(features[chosen]), whole)
        for metric, value in overall.items():
            found.setdefault(extractor.metric_name(metric), []).append(value)
        own = by_class(features, labels, len(names))
        per_class = [_compared(a, b) for a, b in zip(own, classes, strict=True)]
        for metric in overall:
            values = [scores[metric] for scores in per_class]
            for name, value in zip(names, values, strict=True):
                found.setdefault(f"{extractor.metric_name(metric)}/{name}", []).append(value)
            intra = extractor.metric_name(f"intra_{metric}")
            found.setdefault(intra, []).append(float(np.mean(values)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _compared(generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
    near = neighbourhood_scores(generated, real)
    return {
        "fid": frechet(generated, real),
        "kid": kid(generated, real),
        "precision": near.precision,
        "recall": near.recall,
        "density": near.density,
        "coverage": near.coverage,
    }


def inception_scores(extractor: Extractor, views: Sequence[View]) -> dict[str, float]:
    """Return mean and standard deviation over ten splits of the inception score.

    Means over the views; nothing for fewer than 5,000 images, whose score is too low.
    """
    if len(views[0].logits) < ENOUGH_FOR_IS:
        return {}
    scores = np.mean([inception_score(view.logits) for view in views], axis=0)
    names = (extractor.metric_name("is"), extractor.metric_name("is_std"))
    return dict(zip(names, scores.tolist(), strict=True))


def rank_metric(extractor: Extractor, real: Reference) -> str:
    """Return the name of the metric that ranks candidates; smaller is better."""
    return extractor.metric_name("intra_fid" if real.enough_for_fid else "intra_kid")


def rank_values(views: Sequence[Tensor], labels: Labels, real: Reference) -> Array:
    """Return each real image's part in the metric that ranks candidates, [M].

    Their mean over each class, then over classes, is that metric; differences between candidates
    are resampled by patient from these.
    """
    part: Callable[[FeatureSet, FeatureSet], Array]
    part = frechet_values if real.enough_for_fid else kid_values
    of_views = [
        in_image_order(_parts(part, features, labels, classes), real.labels)
        for features, classes in zip(views, real.classes, strict=True)
    ]
    mean: Array = np.mean(of_views, axis=0)
    return mean


def rank_variance(views: Sequence[Tensor], labels: Labels, real: Reference) -> float:
    """Return the variance of the metric that ranks candidates over the draw of generated images.

    Without it two samples of one generator would be told apart: what they differ by is nearly the
    same for every real image, so that no resampling of patients shows it.
    """
    influence: Callable[[FeatureSet, FeatureSet], Array]
    influence = frechet_influence if real.enough_for_fid else kid_influence
    of_views = [
        _parts(influence, features, labels, classes)
        for features, classes in zip(views, real.classes, strict=True)
    ]
    means = [np.mean(of_class, axis=0) for of_class in zip(*of_views, strict=True)]
    return float(sum(own.var(ddof=1) / len(own) for own in means)) / len(means) ** 2


def _parts(
    part: Callable[[FeatureSet, FeatureSet], Array],
    features: Tensor,
    labels: Labels,
    real: Sequence[FeatureSet],
) -> list[Array]:
    own = by_class(features, labels, len(real))
    return [part(a, b) for a, b in zip(own, real, strict=True)]
