"""What a pick leaves behind: `pick.json`, every number of it, from which the decision follows.

Images are named by their place in the validation set; patients by a number each, never by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from acgan.dataset import ImageSet
from acgan.errors import InputError
from acgan.files import replace_text
from search.study import Study
from selection.reviews import Review

FORMAT = 2  # 1: without the draw of generated images in step 3's intervals
LAST_EPOCHS = 3  # of a CNN's fit; an image is hit by none to all of them


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Estimate(_File):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


class Images(_File):
    """Real images that CNNs were scored on: labels, and which are of one patient."""

    labels: list[int]
    patients: list[int]

    @classmethod
    def of(cls, images: ImageSet) -> Images:
        """Return labels and numbered patients of an image set."""
        numbers = {name: i for i, name in enumerate(dict.fromkeys(images.patients))}
        patients = [numbers[name] for name in images.patients]
        return cls(labels=images.labels.tolist(), patients=patients)

    def only(self, places: NDArray[np.int64]) -> Images:
        """Return the images at these places."""
        labels, patients = (np.array(own)[places].tolist() for own in (self.labels, self.patients))
        return Images(labels=labels, patients=patients)


class Utility(_File):
    """How CNNs that were trained on one set of images classify real ones, with intervals.

    hits: one string a CNN seed, one digit an image: how many of the fit's last three epochs
        classified it right
    recall: one a class
    """

    hits: list[str]
    accuracy: Estimate
    balanced_accuracy: Estimate
    recall: list[Estimate]


class Space(_File):
    """The memorisation check of one class in one space, "pixels" or "features".

    share: of the generated images that lie nearer to a training image than the held-out patients'
        5 % point, with its interval; None where there are too few real images to judge
    """

    label: int
    space: str
    share: Estimate | None
    not_judged: str = ""


class Fidelity(_File):
    """Step 3's numbers of one candidate.

    metrics: by reference set ("validation", "training", and "generated" for what needs none), then
        by name, for example "kid_cnn3" and "kid_cnn3/normal"
    rank_metric: the name of the one that ranks candidates, a mean over classes; smaller is better
    influence: one number a validation image: its part in the rank metric
    rank_variance: of the rank metric, over the draw of the generated images
    reverse: accuracy of CNNs trained on real images on the generated images of each class
    """

    metrics: dict[str, dict[str, float]]
    rank_metric: str
    influence: list[float]
    rank_variance: float = 0.0  # not there in picks of earlier versions
    reverse: list[float]
    memorisation: list[Space]
    memorised: list[str]


class Candidate(_File):
    """One epoch of one trial, how far it came, and why.

    quality: the epoch's own `val/fd_cnn`
    failed: why it could not be scored; it then counts as worst
    left_at: the rung (CNNs a candidate) at which it was told apart from the best
    competes: False for the baseline's best epoch where it is there for comparison only, and for
        one that a person rejected
    review: what people decided about one that step 1 chose
    """

    trial: str
    epoch: int
    weights: str
    params: dict[str, Any]
    quality: float
    filter_score: float
    competes: bool = True
    baseline: bool = False
    failed: str = ""
    utility: Utility | None = None
    left_at: int | None = None
    behind_best: Estimate | None = None
    fidelity: Fidelity | None = None
    verdict: str = ""
    review: Review = ""

    @property
    def name(self) -> str:
        """`t0007, epoch 288`."""
        return f"{self.trial}, epoch {self.epoch}"


class FilterReport(_File):
    """Step 1 in numbers, see `selection.candidates.Filtered`."""

    trials: int
    recorded: int
    passed: int
    kept: int
    reasons: dict[str, int]
    better_without_weights: int
    over_per_trial: int
    over_cap: int


class ExtractorInfo(_File):
    """What turned images into features."""

    name: str
    sha256: str
    standard: bool
    independent: bool


class Decision(_File):
    """Which candidate won, by which rule, and who it could not be told from.

    Candidates are named by their places in `Pick.candidates`.
    tie_set: those that step 2 cannot tell from the best
    kept: those of them that passed the memorisation check and that a person kept; where there are
        any, one of them wins
    tied: those of them that passed the memorisation check and that the rank metric cannot tell
        from the lowest
    """

    winner: int
    tie_set: list[int]
    tied: list[int]
    rank_metric: str
    rule: str
    memorisation_failed: bool
    kept: list[int] = []


class Difference(_File):
    """The winner's value minus the baseline's, paired by patient."""

    name: str
    winner: Estimate
    baseline: Estimate | None = None
    difference: Estimate | None = None


class LookAtTest(_File):
    """The one look at the test images.

    number: which touch of this study's test images it was, from 1
    rows: scores of the winner and of the baseline's best epoch, overall, per class and source
    metrics: "winner" and "baseline", then by name
    """

    number: int
    time: float
    images: int
    rows: list[Difference]
    metrics: dict[str, dict[str, float]]


class Pick(_File):
    """`pick.json`."""

    format: int
    id: str
    study: str
    study_id: str
    run_id: str
    scope: str
    created: float
    code_version: str
    versions: dict[str, str]
    settings: dict[str, Any]
    data_name: str
    fingerprint: str
    classes: list[str]
    warnings: list[str]
    train_images: list[int]
    validation: Images
    filter: FilterReport
    candidates: list[Candidate]
    ceiling: Utility
    extractor: ExtractorInfo
    decision: Decision
    against_baseline: Difference | None
    test: LookAtTest | None
    cost: dict[str, float]

    @property
    def winner(self) -> Candidate:
        """The candidate that won."""
        return self.candidates[self.decision.winner]

    @property
    def unjudged(self) -> dict[str, str]:
        """Classes that the winner's memorisation check could not judge, and why not."""
        found = self.winner.fidelity.memorisation if self.winner.fidelity else []
        return {self.classes[s.label]: s.not_judged for s in found if s.not_judged}

    @property
    def memorisation(self) -> str:
        """What the memorisation check says.

        "passed", "failed", "not judged: …" with the classes, or "not measured".
        """
        if self.winner.fidelity is None:
            return "not measured"
        if self.decision.memorisation_failed:
            return "failed"
        return f"not judged: {', '.join(self.unjudged)}" if self.unjudged else "passed"

    @property
    def at_chance(self) -> bool:
        """CNNs trained on the winner's images cannot be told from one constant answer."""
        utility = self.winner.utility
        return utility is not None and utility.balanced_accuracy.low <= 1 / len(self.classes)

    @property
    def baseline(self) -> Candidate | None:
        """The baseline's best epoch; None if none kept weights."""
        return next((c for c in self.candidates if c.baseline), None)


def read_pick(path: Path) -> Pick | None:
    """Read a `pick.json`; None if there is none, `InputError` if it is damaged."""
    try:
        return Pick.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise InputError(f"{path} is damaged; delete it and pick again") from error


def read_picks(study: Study) -> list[Pick]:
    """Return the study's picks; those that came with a copied folder are passed over."""
    paths = sorted((study.path / "selection").glob("*/pick.json"))
    found = [pick for path in paths if (pick := read_pick(path)) is not None]
    return [pick for pick in found if pick.study_id == study.info.uuid]


def write_json(path: Path, content: BaseModel) -> None:
    """Write a result so that it is there whole or not at all."""
    replace_text(path, content.model_dump_json(indent=1) + "\n")


def as_shares(hits: list[str]) -> NDArray[np.float64]:
    """Return hits as shares of the last epochs, [seeds, images] in [0, 1]."""
    rows = [np.frombuffer(row.encode(), np.uint8) for row in hits]
    return (np.stack(rows).astype(np.float64) - ord("0")) / LAST_EPOCHS
