"""What a metric of step 3 is, and the names under which its values are stored."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from selection.metrics.features import FeatureSet


class Part(Enum):
    """What a value is of, where it is of no class; no name of a class equals it."""

    WHOLE = "all"
    CLASS_MEAN = "class mean"
    DEVIATION = "deviation"

    def __str__(self) -> str:
        return self.value


WHOLE, CLASS_MEAN, DEVIATION = Part.WHOLE, Part.CLASS_MEAN, Part.DEVIATION
INTRA, STD = "intra_", "_std"  # in stored names: of a mean over classes, of a standard deviation


@dataclass(frozen=True)
class Metric:
    """A number that says how near generated images are to real ones, or how varied they are.

    name: one word of letters, with which stored names begin
    meaning: a phrase for a person, without the direction
    compute: from the features of generated and of real images; None for a metric of another kind
    of input, which `selection.metrics.reference` computes itself
    since: the version of step 3's stored results (from 1) in which it came or last changed
    elsewhere, meaning_elsewhere: what it is called in the features of other networks than
    Inception with its standard weights, where that differs
    """

    name: str
    better: Literal["lower", "higher"]
    meaning: str
    compute: Callable[[FeatureSet, FeatureSet], float] | None
    since: int = 1
    elsewhere: str = ""
    meaning_elsewhere: str = ""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a name by which stored values could not be told apart."""
        if not self.name.isalnum():
            raise ValueError(f"a metric's name must be one word of letters, got {self.name!r}")


@dataclass(frozen=True)
class Key:
    """What a stored value is of, for example `intra_kid_cnn3`, `kid_cnn3/normal` or `is_std`.

    network: of the features; "" for Inception with its standard weights
    part: or the name of a class, which may be "all", too
    """

    metric: Metric
    network: str = ""
    part: Part | str = WHOLE

    @property
    def table(self) -> str:
        """The stored name of the metric as a whole: all parts of one metric share it."""
        word = (self.network and self.metric.elsewhere) or self.metric.name
        return f"{word}_{self.network}" if self.network else word

    @property
    def of_class(self) -> bool:
        """Whether it is of one class alone."""
        return not isinstance(self.part, Part)

    @property
    def meaning(self) -> str:
        """What the metric says, and whether more of it is better."""
        own = self.metric.meaning
        if self.network and self.metric.elsewhere:
            own = self.metric.meaning_elsewhere
        return f"{own}; {self.metric.better} is better."

    def __str__(self) -> str:
        if self.part == CLASS_MEAN:
            return INTRA + self.table
        if self.part == DEVIATION:
            word = self.table.removesuffix(f"_{self.network}")
            return f"{word}{STD}_{self.network}" if self.network else word + STD
        return f"{self.table}/{self.part}" if self.of_class else self.table
