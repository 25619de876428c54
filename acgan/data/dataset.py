"""Images in memory: what training, evaluation and selection are given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ImageSet:
    """The images of one split.

    images: uint8 [N, H, W] in grey or [N, 3, H, W] in colour, memory-mapped and read-only or not
    labels: int64 [N], an index into the data set's classes
    patients, sources: one string per image
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    patients: tuple[str, ...]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_colour(self) -> bool:
        """Whether the images have three channels."""
        return self.images.ndim == 4

    def where(self, chosen: NDArray[np.bool_]) -> ImageSet:
        """Return the images for which `chosen`, [N], is true, in their order."""
        rows = np.flatnonzero(chosen).tolist()
        return ImageSet(
            self.images[rows],
            self.labels[rows],
            tuple(self.patients[i] for i in rows),
            tuple(self.sources[i] for i in rows),
        )

    def per_class(self, classes: int) -> tuple[int, ...]:
        """Return how many images each class has."""
        return tuple(int(n) for n in np.bincount(self.labels, minlength=classes))


@dataclass(frozen=True)
class Dataset:
    """A data set ready for training.

    `train` trains; `val`, cut from the training images by patient, is all that search and
    selection may look at; `test` is for the final report. `fingerprint` is the SHA-256 of the
    pixels, labels, patients, sources, classes and splits. `warnings` belong into every report.
    `generated`: how many images of each class were generated and are left out beside real ones.
    `layout`: as which its folder was read, "" for none.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    val: ImageSet
    test: ImageSet
    fingerprint: str
    warnings: tuple[str, ...] = ()
    generated: tuple[int, ...] = ()
    layout: str = ""
