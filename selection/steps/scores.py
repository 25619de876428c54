"""Scores of CNNs on real images: overall, of each class and of each source, with intervals."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from selection.metrics.estimate import Images
from selection.metrics.intervals import Measure, difference, interval
from selection.metrics.wording import counted
from selection.steps.result import Difference, as_shares

Array = NDArray[np.float64]

BALANCED = "balanced accuracy"


def measures(classes: Sequence[str]) -> dict[str, Measure]:
    """Return what is measured on all images, by name."""
    found: dict[str, Measure] = {BALANCED: "balanced_accuracy", "accuracy": "accuracy"}
    return found | {f"recall of {name}": label for label, name in enumerate(classes)}


def places_by_source(sources: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return the places of each source's images, by `accuracy on 36 images of source cohen`."""
    found = {}
    for source in sorted(set(sources)):
        places = np.flatnonzero(np.array(sources) == source)
        found[f"accuracy on {counted(len(places), 'image')} of source {source}"] = places
    return found


def rows(
    hits: list[str],
    baseline: list[str] | None,
    images: Images,
    *,
    sources: Sequence[str],
    classes: Sequence[str],
) -> list[Difference]:
    """Return scores overall, of each class that has images, and of each source.

    hits, baseline: see `Utility.hits`; None where there is nothing to compare with
    """
    own, other = as_shares(hits), None if baseline is None else as_shares(baseline)
    found = [_row(name, own, other, images, each) for name, each in measures(classes).items()]
    for name, places in places_by_source(sources).items():
        beside = None if other is None else other[:, places]
        found.append(_row(name, own[:, places], beside, images.only(places), "accuracy"))
    return [row for row in found if row is not None]


def _row(
    name: str, own: Array, other: Array | None, images: Images, measure: Measure
) -> Difference | None:
    value = interval(own, images, measure)
    if value is None:
        return None
    if other is None:
        return Difference(name=name, winner=value)
    return Difference(
        name=name,
        winner=value,
        baseline=interval(other, images, measure),
        difference=difference(own, other, images, measure),
    )
