"""The `selection:` section of a configuration: thresholds, budgets and seeds of the three steps."""

import math
import operator
import re
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field, field_validator

from acgan.config import Cpus, Gpus, Section, Texts
from acgan.evaluation.fit import FitConfig
from acgan.evaluation.variety import ONE_PICTURE_BELOW

_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_REQUIREMENT = re.compile(r"([^\s<>=]+)\s*(<=|>=|<|>)\s*([^\s<>=]+)")


class Requirement(NamedTuple):
    """What a recorded number of an epoch must be: `val/recall > 0.1`."""

    name: str
    sign: str
    bound: float

    def __str__(self) -> str:
        """Return it as it may be typed."""
        return f"{self.name} {self.sign} {self.bound!r}".removesuffix(".0")

    def holds(self, value: float) -> bool:
        """Whether a value is as required, which one that is not finite never is."""
        return math.isfinite(value) and bool(_SIGNS[self.sign](value, self.bound))


def _requirement(text: str) -> Requirement:
    match = _REQUIREMENT.fullmatch(text)
    try:
        bound = float(match[3]) if match else math.nan
    except ValueError:
        bound = math.nan
    if match is None or not math.isfinite(bound):
        raise ValueError("must be numbers with a bound such as val/recall>0.1 (or <, <=, >=)")
    return Requirement(match[1], match[2], bound)


def _requirements(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return them in one form and order: they are part of a pick's name."""
    return tuple(sorted({str(_requirement(text)) for text in texts}))


class SelectionConfig(Section):
    """How one set of weights is picked; one flag of `selection.pick` for each field."""

    per_trial: int = Field(3, ge=1, description="step 1: most candidates of one trial")
    max_candidates: int = Field(24, ge=1, description="step 1: most candidates of all trials")
    dead_real_below: float = Field(
        0.1, ge=0, le=1, description="step 1: val/acc_real below: a dead discriminator"
    )
    dead_real_above: float = Field(
        0.99,
        ge=0,
        le=1,
        description="step 1: all called real above, with the opposite on generated",
    )
    class_margin: float = Field(
        0.02, ge=0, le=1, description="step 1: class accuracy this near to chance: dead"
    )
    require: Annotated[Texts, AfterValidator(_requirements)] = Field(
        (), description="step 1: what recorded numbers must be, such as 'val/recall>0.1'"
    )
    collapsed_below: float = Field(
        ONE_PICTURE_BELOW, ge=0, description="val/diversity below: one picture per class"
    )

    cnn_images: int = Field(6964, ge=8, description="step 2: generated images of each class")
    cnn_epochs: int = Field(15, ge=3, description="step 2: epochs of the CNN, the last three count")
    cnn_batch_size: int = Field(64, ge=2, description="step 2: batch size of the CNN")
    cnn_learning_rate: float = Field(1e-4, gt=0, description="step 2: Adam's step size")
    cnn_seeds: tuple[int, ...] = Field(
        (3, 5), description="step 2: CNNs of a candidate that is still in, rung by rung"
    )

    extractor: str = Field(
        "auto", description="step 3: auto, inception-v3-compat, cnn3, or a plug-in's name"
    )
    inception_sha256: str | None = Field(
        None, description="step 3: of --inception-weights, where it is not torch-fidelity's file"
    )
    fidelity_images: int = Field(2500, ge=32, description="step 3: generated images of each class")
    reference_limit: int = Field(
        5000, ge=32, description="step 3: most training images of a class in the reference set"
    )
    memorised_above: float = Field(
        0.1, gt=0, lt=1, description="step 3: share of near-copies that fails the check"
    )
    seed: int = Field(0, ge=0, description="of generated images, CNNs and resampling")

    cpus_per_task: Cpus = Field(
        1.0, description="CPU cores per task: a CNN, or a finalist of a pick's step 3"
    )
    gpus_per_task: Gpus = Field(None, description="GPUs per task; unset: 1 if there are any")

    @field_validator("cnn_seeds", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("cnn_seeds")
    @classmethod
    def _growing(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or value[0] < 3 or sorted(set(value)) != list(value):
            raise ValueError("must be growing numbers from 3 on, for example 3,5")
        return value

    @property
    def required(self) -> list[Requirement]:
        """What step 1 requires of an epoch's recorded numbers."""
        return [*map(_requirement, self.require)]

    @property
    def fit(self) -> FitConfig:
        """How the CNN of step 2 is trained."""
        return FitConfig(self.cnn_learning_rate, self.cnn_epochs, self.cnn_batch_size)


PLACEMENT = {"cpus_per_task", "gpus_per_task"}
"""Settings that say where the work is done, not what comes out."""

STUDY_SETTINGS = {"cnn_epochs", "cnn_batch_size", "cnn_learning_rate", "seed"} | PLACEMENT
"""What a study of augmentation uses of it: step 2's CNN, and where the work is done."""
