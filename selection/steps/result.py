"""What a pick leaves behind: `pick.json`, every number of it, from which the decision follows.

Images are named by their place in the validation set; patients by a number each, never by name.
"""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from acgan.evaluation.variety import ONE_PICTURE, is_one_picture
from acgan.files import Stored, read_json
from acgan.run.records import QUALITY
from search.study.folder import Study
from selection.extractors.base import ExtractorInfo
from selection.ledgers.reviews import Review
from selection.metrics.estimate import Estimate, Images
from selection.metrics.memorisation import CopyCheck

# 1: without the draw of generated images in step 3's intervals; 2: without diversity
PICK_FORMAT = 3
LAST_EPOCHS = 3  # of a CNN's fit; an image is hit by none to all of them


class Utility(Stored):
    """How CNNs that were trained on one set of images classify real ones, with intervals.

    hits: one string per CNN seed, one digit per image: how many of the fit's last three epochs
        classified it right
    recall: one per class
    """

    hits: list[str]
    accuracy: Estimate
    balanced_accuracy: Estimate
    recall: list[Estimate]


class Fidelity(Stored):
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
    memorisation: list[CopyCheck]
    memorised: list[str]

    @property
    def judged(self) -> int:
        """In how many spaces and classes there were images enough to look for copies."""
        return sum(check.share is not None for check in self.memorisation)

    @property
    def copies(self) -> str:
        """What the check for copies says: "failed: …", "passed", or that it could not judge."""
        if self.memorised:
            return f"failed: {'; '.join(self.memorised)}"
        if self.judged < len(self.memorisation):
            return "passed where it could judge" if self.judged else "not judged"
        return "passed"


class Candidate(Stored):
    """One epoch of one trial, how far it came, and why.

    quality: the epoch's own value of the study's objective, see `Pick.objective`
    diversity: the epoch's own `val/diversity`, see `acgan.evaluation.variety`; None where it is not
        known
    failed: why it could not be scored; it then counts as worst
    left_at: the rung (CNNs per candidate) at which it was told apart from the best
    competes: False for the baseline's best epoch where it is there for comparison only, and for
        one that a person rejected
    review: what people decided about one that step 1 chose
    """

    trial: str
    epoch: int
    weights: str
    params: dict[str, Any]
    quality: float
    diversity: float | None = None  # not there in picks of earlier versions
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


class FilterReport(Stored):
    """Step 1 in numbers.

    recorded, passed, kept: how many epochs there are, pass, and have weights on disk
    one_picture: how many of those that pass are one picture per class
    reasons: how many recorded epochs did not pass, by reason
    better_without_weights: epochs that pass and come before the last candidate of their trial in
        either order, but kept no weights
    over_per_trial, over_cap: epochs with weights that pass and were not taken, by the limit
    """

    trials: int
    recorded: int
    passed: int
    one_picture: int = 0  # not there in picks of earlier versions
    kept: int
    reasons: dict[str, int]
    better_without_weights: int
    over_per_trial: int
    over_cap: int


class Decision(Stored):
    """Which candidate won, by which rule, and who it could not be told from.

    Candidates are named by their places in `Pick.candidates`.
    tie_set: those that step 2 cannot tell from the best
    kept: those of them that passed the memorisation check, if any did, and that a person kept;
        where there are any, one of them wins
    varied: those of them, or of the kept ones where there are any, that are not one picture a
        class; where there are any, one of them wins
    tied: those of them that the rank metric cannot tell from the lowest
    """

    winner: int
    tie_set: list[int]
    tied: list[int]
    rank_metric: str
    rule: str
    memorisation_failed: bool
    kept: list[int] = Field(default_factory=list)
    varied: list[int] = Field(default_factory=list)


class Difference(Stored):
    """The winner's value minus the baseline's, paired by patient."""

    name: str
    winner: Estimate
    baseline: Estimate | None = None
    difference: Estimate | None = None


class LookAtTest(Stored):
    """The one look at the test images.

    number: which touch of this study's test images it was, from 1
    rows: scores of the winner and of the baseline's best epoch, overall, per class and source
    metrics: "winner" and "baseline", then by name
    hits, real: the winner's answers, see `Utility.hits`, and the images; for comparisons with
        later picks. Not there in picks of earlier versions
    ceiling: balanced accuracy of CNNs that were trained on the real training images; not there in
        picks of earlier versions
    """

    number: int
    time: float
    images: int
    rows: list[Difference]
    metrics: dict[str, dict[str, float]]
    hits: list[str] = Field(default_factory=list)
    real: Images | None = None
    ceiling: Estimate | None = None


class Pick(Stored):
    """`pick.json`.

    run_id: the MLflow run that was picked from, the study's or that of the trial which `scope`
        names; in picks of earlier versions always the study's
    objective: the study's, the recorded metric by which step 1 ranked epochs
    """

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
    objective: str = QUALITY  # not there in picks of earlier versions
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
    def flags(self) -> str:
        """What names the study to a command, or its one trial that was picked from."""
        named = ["--study", self.study] if self.scope == "study" else ["--run-id", self.run_id]
        return shlex.join(named)

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
        return utility is not None and self._is_chance(utility.balanced_accuracy)

    @property
    def at_chance_on_test(self) -> bool:
        """They cannot be told from it on the test images, where these were looked at."""
        rows = self.test.rows if self.test is not None else []
        return bool(rows) and self._is_chance(rows[0].winner)

    def _is_chance(self, score: Estimate) -> bool:
        return score.low <= 1 / len(self.classes)

    def is_one_picture(self, candidate: Candidate) -> bool:
        """Return whether a candidate's images are one picture per class."""
        return is_one_picture(candidate.diversity, self.settings["collapsed_below"])

    @property
    def one_picture(self) -> bool:
        """The winner's images are one picture per class."""
        return self.is_one_picture(self.winner)

    @property
    def none_varies(self) -> bool:
        """All that competed are one picture per class."""
        return all(self.is_one_picture(c) for c in self.candidates if c.competes)

    @property
    def variety(self) -> str:
        """What the winner's images are called: "one picture per class", "varied", "not known"."""
        if self.winner.diversity is None:
            return "not known"
        return ONE_PICTURE if self.one_picture else "varied"

    @property
    def baseline(self) -> Candidate | None:
        """The baseline's best epoch; None if none kept weights."""
        return next((c for c in self.candidates if c.baseline), None)


def read_pick(path: Path) -> Pick | None:
    """Read a `pick.json`; None if there is none, `InputError` if it is damaged."""
    return read_json(Pick, path, remedy="delete it and pick again")


def read_picks(study: Study) -> list[Pick]:
    """Return the study's picks; those that came with a copied folder are passed over."""
    paths = sorted((study.path / "selection").glob("*/pick.json"))
    found = [pick for path in paths if (pick := read_pick(path)) is not None]
    return [pick for pick in found if pick.study_id == study.info.uuid]


def as_shares(hits: list[str]) -> NDArray[np.float64]:
    """Return hits as shares of the last epochs, [seeds, images] in [0, 1]."""
    rows = [np.frombuffer(row.encode(), np.uint8) for row in hits]
    return (np.stack(rows).astype(np.float64) - ord("0")) / LAST_EPOCHS
