"""How much class and source of a data set are one: what can be told from labels alone.

Where they are, whatever tells the classes apart, a CNN or a score, may only tell the hospitals
apart. Pure functions of labels and sources; no pixel is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats.contingency import association

from acgan.data.dataset import Dataset, ImageSet
from acgan.data.table import GENERATED

UNKNOWN = "unknown"

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class SplitFacts:
    """One split: its patients, and its images by class and source, [classes, sources]."""

    patients: int
    counts: Counts


@dataclass(frozen=True)
class DataFacts:
    """What is known of a data set without its pixels.

    sources: the columns of every split's counts; splits: by name, those that have images
    validation_sources: one a validation image; in_colour: whether the images have three channels
    layout: as which their folder was read, "" for none
    """

    classes: tuple[str, ...]
    sources: tuple[str, ...]
    splits: dict[str, SplitFacts]
    validation_sources: tuple[str, ...]
    in_colour: bool = False
    layout: str = ""

    @classmethod
    def of(cls, data: Dataset) -> Self:
        """Count the images of a data set."""
        sets = {"training": data.train, "validation": data.val, "test": data.test}
        sources = tuple(sorted({name for images in sets.values() for name in images.sources}))
        splits = {
            name: SplitFacts(
                len(set(images.patients)), count(images, sources, classes=len(data.classes))
            )
            for name, images in sets.items()
            if len(images)
        }
        return cls(
            classes=data.classes,
            sources=sources,
            splits=splits,
            validation_sources=data.val.sources,
            in_colour=data.train.in_colour,
            layout=data.layout,
        )


def count(images: ImageSet, sources: Sequence[str], *, classes: int) -> Counts:
    """Return the number of images by class and source, [classes, sources]."""
    counts = np.zeros((classes, len(sources)), np.int64)
    columns = np.array([sources.index(name) for name in images.sources], np.int64)
    np.add.at(counts, (images.labels, columns), 1)
    return counts


def of_known_source(counts: Counts, sources: Sequence[str]) -> Counts:
    """Return the counts without the columns of images that are generated or of unknown source."""
    return counts[:, [i for i, name in enumerate(sources) if name not in (UNKNOWN, GENERATED)]]


def cramers_v(counts: Counts) -> float | None:
    """Return Cramér's V of class and source: 0 independent, 1 where one tells the other.

    √(χ² / (n · (min(classes, sources) − 1))), Cramér 1946, Mathematical Methods of Statistics,
    of the classes and sources that have images; None where there are fewer than two of either.
    """
    there = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    return float(association(there, method="cramer")) if min(there.shape) >= 2 else None


def each_against_the_rest(counts: Counts) -> list[float | None]:
    """Return Cramér's V of belonging to each class or not, and source, [classes]."""
    return [cramers_v(np.stack([own, counts.sum(axis=0) - own])) for own in counts]


def right_by_source(counts: Counts) -> float | None:
    """Return how many are right who guess each source's most frequent class; None of no image."""
    total = counts.sum()
    return float(counts.max(axis=0, initial=0).sum() / total) if total else None


def right_by_frequency(counts: Counts) -> float | None:
    """Return how many are right who always guess the most frequent class; None of no image."""
    total = counts.sum()
    return float(counts.sum(axis=1).max() / total) if total else None
