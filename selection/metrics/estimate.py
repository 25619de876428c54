"""Numbers with their intervals, and the real images that answers are about."""

from typing import Self

import numpy as np
from numpy.typing import NDArray

from acgan.data.dataset import ImageSet
from acgan.files import Stored


class Estimate(Stored):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


class Images(Stored):
    """Real images that CNNs were scored on: labels, and which are of one patient."""

    labels: list[int]
    patients: list[int]

    @classmethod
    def of(cls, images: ImageSet) -> Self:
        """Return labels and numbered patients of an image set."""
        numbers = {name: i for i, name in enumerate(dict.fromkeys(images.patients))}
        patients = [numbers[name] for name in images.patients]
        return cls(labels=images.labels.tolist(), patients=patients)

    def only(self, places: NDArray[np.int64]) -> Self:
        """Return the images at these places."""
        labels, patients = (np.array(own)[places].tolist() for own in (self.labels, self.patients))
        return type(self)(labels=labels, patients=patients)
