"""What a pick is asked for: found, checked and filtered (step 1) before any long work."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from acgan.command import typed
from acgan.config import TrainConfig, derive_seed, validate
from acgan.data.dataset import Dataset, ImageSet
from acgan.data.source import DataSource
from acgan.errors import InputError
from acgan.generation.generator import load_generator
from acgan.plugins import EXTRACTORS, origin, other_versions, versions
from search.study.folder import BASELINE, Study, trial_name
from selection.extractors.choose import check_request, check_weights, settled
from selection.jobs.results import Weights, without_test
from selection.ledgers.reviews import Review, read_reviews, review_standing
from selection.metrics.confounding import DataFacts
from selection.metrics.registry import VERSION
from selection.settings import PLACEMENT, SelectionConfig
from selection.steps.epochs import Looks, Records
from selection.steps.filter import Epoch, Filtered, Places, choose, objective_order
from selection.steps.request import (
    Request,
    find_run,
    load_data,
    naming,
    require_idle,
    settle,
    weights_path,
)
from selection.steps.result import PICK_FORMAT


@dataclass(frozen=True, kw_only=True)
class PickRequest(Request):
    """What a pick is asked for besides.

    inception_weights: torch-fidelity's file, None: where PyTorch keeps it, if it is there
    test: whether the test images are looked at, once
    """

    inception_weights: Path | None = None
    test: bool = True


@dataclass(frozen=True)
class Chosen:
    """A candidate's weights, whose hash was checked, and what step 1 and people know of them."""

    epoch: Epoch
    weights: Weights
    competes: bool
    baseline: bool
    review: Review = ""


@dataclass(frozen=True)
class PickPlan:
    """All that was asked for, checked.

    parent_id: the MLflow run of the study; scope: "study", or the trial that was asked for
    trial_run: this trial's MLflow run; None for the study
    records: every trial's epochs
    candidates: step 1's, and the baseline's best epoch, the last if it is for comparison only
    facts: counted from labels, the test images' among them, whose pixels nobody has looked at
    """

    settings: SelectionConfig
    study: Study
    parent_id: str
    scope: str
    trial_run: str | None
    source: DataSource
    data: Dataset
    facts: DataFacts
    records: Records
    filtered: Filtered
    candidates: tuple[Chosen, ...]
    test_images: int
    look_at_test: bool
    tracking_uri: str
    address: str | None
    inception_weights: Path | None
    inception_sha256: str

    @property
    def warnings(self) -> list[str]:
        """What a person should know before the pick starts."""
        started = self.study.last_start()
        config = validate(TrainConfig, "train", self.study.info.train)
        now = versions(config, layout=self.data.layout)
        others = other_versions(started.plugins, now) if started else []
        return [*self.data.warnings, *others]

    @property
    def id(self) -> str:
        """The pick's name: the same request over the same candidates has the same."""
        # Without a requirement it is that of a pick of an earlier version.
        left_out = PLACEMENT if self.settings.require else PLACEMENT | {"require"}
        settings = self.settings.model_dump(mode="json", exclude=left_out)
        # As long as nobody has decided anything, the name is that of a pick without people.
        weights = [
            (c.weights.sha256, c.competes, *([c.review] if c.review else []))
            for c in self.candidates
        ]
        # A metric that is new or changed makes a pick anew; versions 1 and 2 did not count here.
        version = PICK_FORMAT if VERSION <= 2 else (PICK_FORMAT, VERSION)
        parts = (version, self.study.info.uuid, self.scope, sorted(settings.items()), weights)
        extractor = (self.inception_sha256, origin(EXTRACTORS, self.settings.extractor))
        return f"{derive_seed(*parts, self.look_at_test, *extractor):016x}"[-8:]

    @property
    def folder(self) -> Path:
        """Where the pick leaves its files."""
        return self.study.path / "selection" / self.id


def make_pick_plan(request: PickRequest) -> PickPlan:
    """Find and check all that was asked for; `InputError` says what is wrong."""
    uri, study, parent_id, trial = find_run(request.named)
    trial_run = request.named.run_id if trial else None
    require_idle(study)
    settings, source = settle(request, study)
    weights = request.inception_weights
    check_request(settings.extractor, weights)
    inception = check_weights(weights, settings.inception_sha256) if weights else ""
    settings = settings.model_copy(update={"extractor": settled(settings.extractor, weights)})
    data = load_data(study, source, test=request.test)
    records, filtered, candidates = step_1(study, trial, data.val, settings)
    if not any(chosen.competes for chosen in candidates):
        review = typed(["python", "-m", "selection.review", *naming(study, uri, trial_run)])
        raise InputError(
            f"people rejected all {len(filtered.chosen)} candidates; take a rejection back "
            f"({review}), or ask for more candidates with --per-trial and --max-candidates"
        )
    return PickPlan(
        settings=settings,
        study=study,
        parent_id=parent_id,
        scope=trial or "study",
        trial_run=trial_run,
        source=source,
        data=without_test(data),
        facts=DataFacts.of(data),
        test_images=len(data.test.labels),
        look_at_test=request.test,
        records=records,
        filtered=filtered,
        candidates=candidates,
        tracking_uri=uri,
        address=request.address,
        inception_weights=weights and weights.absolute(),
        inception_sha256=inception,
    )


def step_1(
    study: Study, trial: str | None, val: ImageSet, settings: SelectionConfig
) -> tuple[Records, Filtered, tuple[Chosen, ...]]:
    """Return all trials' epochs, what the filter says of them, and the candidates.

    The last candidate is the baseline's best epoch if it is there for comparison only. A place
    that a rejected one leaves is not filled: another epoch of that trial would cost hours and is
    seldom better. Raises `InputError` if none is left.
    """
    records = Records(study)
    look = Looks(study, records, val, settings)
    filtered = _choose((look(name) for name in records if trial in (None, name)), trial, settings)
    name = trial_name(BASELINE)
    baseline = look(name).kept if name in records else ()  # a pick of one trial lacks it
    look.save()
    return records, filtered, _candidates(study, baseline, filtered)


def _choose(looks: Iterable[Places], trial: str | None, settings: SelectionConfig) -> Filtered:
    """Filter the epochs of all trials, or of one; `InputError` if none is left."""
    filtered = choose(looks, settings)
    what = "the study" if trial is None else f"trial {trial}"
    if not filtered.kept:
        raise InputError(f"no epoch of {what} has kept weights; search again, or name another run")
    if not filtered.chosen:
        found = filtered.report.reasons.items()
        reasons = ", ".join(f"{count} {reason}" for reason, count in found)
        raise InputError(
            f"none of the {len(filtered.kept)} epochs of {what} with weights passes the filter "
            f"(of all {filtered.report.recorded} epochs: {reasons}); train longer, or loosen it "
            "under 'selection:'"
        )
    return filtered


def _candidates(study: Study, baseline: Sequence[Epoch], filtered: Filtered) -> tuple[Chosen, ...]:
    """Check the weights of step 1's candidates; add the baseline's best epoch to compare with."""
    best = baseline_epoch(baseline)
    added = [] if best is None or best in filtered.chosen else [best]
    decided = review_standing(read_reviews(study))
    return tuple(
        _checked(study, each, decided, competes=each in filtered.chosen, baseline=each == best)
        for each in (*filtered.chosen, *added)
    )


def baseline_epoch(epochs: Sequence[Epoch]) -> Epoch | None:
    """Return the baseline trial's best epoch with weights; None if it has none that passes."""
    usable = [epoch for epoch in epochs if epoch.kept and not epoch.reason]
    return min(usable, key=objective_order, default=None)


def _checked(
    study: Study, epoch: Epoch, decided: Mapping[str, Review], *, competes: bool, baseline: bool
) -> Chosen:
    """Return an epoch whose weights are whole; decided: by people, which concerns candidates."""
    path = weights_path(study, epoch.trial, epoch.epoch)
    try:  # now, rather than after an hour
        loaded = load_generator(path, device=torch.device("cpu"), sha256=epoch.weights)
    except InputError as error:
        raise InputError(f"{error}, or delete it to go without") from error
    weights = Weights(f"{epoch.trial}, epoch {epoch.epoch}", path, loaded.sha256)
    review: Review = decided.get(loaded.sha256, "") if competes else ""
    return Chosen(epoch, weights, competes and review != "rejected", baseline, review)
