"""How the published CNN is trained; what it is stands in `acgan.evaluation.classifier`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FitConfig:
    """How the classifier is trained; the defaults are the published ones."""

    learning_rate: float = 1e-4
    epochs: int = 15
    batch_size: int = 64
