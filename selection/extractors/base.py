"""What an extractor is: images in, features and logits out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from acgan.evaluation.classifier import Images
from acgan.files import Stored


@dataclass(frozen=True)
class View:
    """Images as one network sees them.

    features [N, D]; logits [N, C], for the inception score: logarithms of its classes'
    probabilities up to a constant; both on the CPU, wherever they were computed
    """

    features: Tensor
    logits: Tensor

    def __post_init__(self) -> None:
        for name in ("features", "logits"):
            object.__setattr__(self, name, getattr(self, name).detach().cpu())


class Extractor(ABC):
    """Turns images into features.

    name: as it stands in the names of metrics
    sha256: of the weights
    independent: whether it has never seen the data set's own images
    standard: whether these are torch-fidelity's Inception weights; never true for a plug-in
    """

    standard = False

    def __init__(self, name: str, sha256: str, *, independent: bool) -> None:
        self.name, self.sha256, self.independent = name, sha256, independent

    @abstractmethod
    def extract(self, images: Images) -> tuple[View, ...]:
        """Return one view of the images or several, over which metrics are averaged.

        images: uint8 [N, 3, H, W], or grey [N, H, W]
        """

    @property
    def suffix(self) -> str:
        """What the names of metrics add for it, see `selection.metrics.metric.Key`."""
        return "" if self.standard else self.name


class ExtractorInfo(Stored):
    """What turned images into features."""

    name: str
    sha256: str
    standard: bool
    independent: bool
