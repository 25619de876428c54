"""Real images that generated ones are compared with, and all metrics against them.

Each image passes an extractor once; every metric is computed from the features it gives, against
two reference sets: the validation images, by which candidates are ranked, and the training images,
reported beside them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from acgan.config import derive_seed
from selection.extractors.base import Extractor, View
from selection.metrics.features import FeatureSet, by_class, in_image_order
from selection.metrics.fid import FID, frechet_influence, frechet_values
from selection.metrics.inception_score import IS, inception_score
from selection.metrics.kid import KID, kid_influence, kid_values
from selection.metrics.metric import CLASS_MEAN, DEVIATION, WHOLE, Key
from selection.metrics.registry import METRICS

ENOUGH_FOR_IS = 5000
ENOUGH_FOR_FID = 2048  # images of each class in the reference set: Inception has as many features

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Part = Callable[[FeatureSet, FeatureSet], Array]


@dataclass(frozen=True)
class Reference:
    """Images as the extractor sees them: all of them and by class, one of each per view.

    What metrics need of a set alone, such as a covariance, is computed once for all that it is
    compared with.
    """

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
    """Return a set of images, real or generated, of at most `limit` of a class.

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
    extractor: Extractor, generated: Reference, real: Reference, names: Sequence[str]
) -> dict[str, float]:
    """Return all metrics of generated images against a reference set, means over the views.

    generated: equally many of each class. Overall metrics are taken of as many of them as fit the
    reference set's class mix, those of a class (`kid/normal`) of all its images, `intra_…` is the
    mean over classes.
    """
    values: dict[Key, list[float]] = {}
    chosen = in_the_mix_of(generated.labels, real.labels, len(names))
    for made, own, whole, classes in zip(
        generated.whole, generated.classes, real.whole, real.classes, strict=True
    ):
        overall = FeatureSet(made.features[chosen])
        pairs = list(zip(own, classes, strict=True))
        for metric in METRICS:
            if metric.compute is None:
                continue
            key = Key(metric, extractor.suffix)
            values.setdefault(key, []).append(metric.compute(overall, whole))
            per_class = [metric.compute(*pair) for pair in pairs]
            for name, value in zip(names, per_class, strict=True):
                values.setdefault(replace(key, part=name), []).append(value)
            mean = float(np.mean(per_class))
            values.setdefault(replace(key, part=CLASS_MEAN), []).append(mean)
    return {str(key): float(np.mean(of_views)) for key, of_views in values.items()}


def inception_scores(extractor: Extractor, views: Sequence[View]) -> dict[str, float]:
    """Return mean and standard deviation over ten splits of the inception score.

    Means over the views; nothing for fewer than 5,000 images, whose score is too low.
    """
    if len(views[0].logits) < ENOUGH_FOR_IS:
        return {}
    scores = np.mean([inception_score(view.logits) for view in views], axis=0)
    keys = (Key(IS, extractor.suffix, part) for part in (WHOLE, DEVIATION))
    return dict(zip(map(str, keys), scores.tolist(), strict=True))


def rank_metric(extractor: Extractor, real: Reference) -> str:
    """Return the name of the metric that ranks candidates; smaller is better."""
    return str(Key(FID if real.enough_for_fid else KID, extractor.suffix, CLASS_MEAN))


def rank_values(generated: Reference, real: Reference) -> Array:
    """Return each real image's part in the metric that ranks candidates, [M].

    Their mean over each class, then over classes, is that metric; differences between candidates
    are resampled by patient from these.
    """
    part: Part = frechet_values if real.enough_for_fid else kid_values
    of_views = [in_image_order(own, real.labels) for own in _parts(part, generated, real)]
    return np.asarray(np.mean(of_views, axis=0))


def rank_variance(generated: Reference, real: Reference) -> float:
    """Return the variance of the metric that ranks candidates over the draw of generated images.

    Without it two samples of one generator would be told apart: what they differ by is nearly the
    same for every real image, so that no resampling of patients shows it.
    """
    influence: Part = frechet_influence if real.enough_for_fid else kid_influence
    of_views = _parts(influence, generated, real)
    means = [np.mean(of_class, axis=0) for of_class in zip(*of_views, strict=True)]
    return float(sum(own.var(ddof=1) / len(own) for own in means)) / len(means) ** 2


def _parts(part: Part, generated: Reference, real: Reference) -> list[list[Array]]:
    """Return the values of each class's images, for each view."""
    views = zip(generated.classes, real.classes, strict=True)
    return [[part(*pair) for pair in zip(*of_view, strict=True)] for of_view in views]
