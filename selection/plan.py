"""What a pick was asked for: found, checked and filtered (step 1) before any long work."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from acgan.command import typed
from acgan.config import (
    derive_seed,
    find_file,
    read_file,
    resolve,
)
from acgan.data import named_source
from acgan.dataset import Dataset, ImageSet
from acgan.errors import InputError
from acgan.files import file_sha256
from acgan.generator import load_generator
from acgan.records import EpochRecord
from acgan.rundir import RunDir
from search import tracking
from search.lock import driver_at_work
from search.study import (
    BASELINE,
    LastStart,
    Study,
    study_images,
    trial_name,
)
from selection.candidates import Chance, Epoch, Filtered, choose, judge, quality_order
from selection.confounding import DataFacts
from selection.extractors import check_request, check_weights, plugin_version, settled
from selection.metrics import SMALLEST_SET
from selection.result import FORMAT
from selection.reviews import Review, read_reviews, standing
from selection.settings import PLACEMENT, SelectionConfig
from selection.work import without_test

FEWEST_VALIDATION = 10  # of a class
FEWEST_TRAINING = 22  # of a class: a nearest image, the next twenty, and the image itself


@dataclass(frozen=True)
class Chosen:
    """A candidate's weights, whose hash was checked, and what step 1 and people know of them."""

    epoch: Epoch
    weights: Path
    sha256: str
    competes: bool
    baseline: bool
    review: Review = ""


@dataclass(frozen=True)
class Plan:
    """All that was asked for, checked.

    parent_id: the MLflow run of the study; scope: "study", or the trial that was asked for
    records: every trial's epochs
    candidates: step 1's, and the baseline's best epoch, the last if it is for comparison only
    facts: counted from labels, the test images' among them, whose pixels nobody has looked at
    """

    settings: SelectionConfig
    study: Study
    parent_id: str
    scope: str
    source: str
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
    def trials(self) -> int:
        """Of how many trials the epochs are."""
        return len(self.records) if self.scope == "study" else 1

    @property
    def id(self) -> str:
        """The pick's name: the same request over the same candidates has the same."""
        settings = self.settings.model_dump(mode="json", exclude=PLACEMENT)
        # As long as nobody has decided anything, the name is that of a pick without people.
        weights = [
            (c.sha256, c.competes, *([c.review] if c.review else [])) for c in self.candidates
        ]
        parts = (FORMAT, self.study.info.uuid, self.scope, sorted(settings.items()), weights)
        extractor = (self.inception_sha256, plugin_version(self.settings.extractor))
        return f"{derive_seed(*parts, self.look_at_test, *extractor):016x}"[-8:]

    @property
    def folder(self) -> Path:
        """Where the pick leaves its files."""
        return self.study.path / "selection" / self.id


def add_study_options(
    parser: argparse.ArgumentParser, *, settings: str = "the search's settings"
) -> None:
    """Add the options by which a command of selection finds a study, its images and MLflow.

    settings: what holds where no configuration is named
    """
    named = parser.add_mutually_exclusive_group(required=True)
    named.add_argument("--run-id", metavar="ID", help="MLflow run of a study, or of one trial")
    named.add_argument("--study", metavar="NAME", help="name of a study, instead of --run-id")
    parser.add_argument("--config", type=Path, help=f"YAML file (default: {settings})")
    parser.add_argument("--data", help="folder of the study's images (default: where they were)")
    parser.add_argument("--storage-path", metavar="DIR", help=tracking.STORAGE_HELP)
    tracking.add_uri_option(parser)


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Find and check all that was asked for; `InputError` says what is wrong."""
    uri, study, parent_id, trial = find_run(arguments)
    require_idle(study)
    settings, source = request(study, arguments)
    weights = arguments.inception_weights
    inception = _inception(weights, settings)
    settings = settings.model_copy(update={"extractor": settled(settings.extractor, weights)})
    data = load_data(study, source, test=arguments.test)
    records, filtered, candidates = step_1(study, trial, data.val, settings)
    if not any(chosen.competes for chosen in candidates):
        review = typed(["python", "-m", "selection.review", *tracking.naming(study, uri)])
        raise InputError(
            f"people rejected all {len(filtered.chosen)} candidates; take a rejection back "
            f"({review}), or ask for more candidates with --per-trial and --max-candidates"
        )
    return Plan(
        settings=settings,
        study=study,
        parent_id=parent_id,
        scope=trial or "study",
        source=source,
        data=without_test(data),
        facts=DataFacts.of(data),
        test_images=len(data.test.labels),
        look_at_test=arguments.test,
        records=records,
        filtered=filtered,
        candidates=candidates,
        tracking_uri=uri,
        address=arguments.address,
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
    judged = Judged(study, records, val, settings)
    filtered = _choose(judged, trial, settings)
    # A pick of another trial has not looked at the baseline.
    baseline = [epoch for epoch in filtered.kept if epoch.trial == trial_name(BASELINE)]
    return (
        records,
        filtered,
        _candidates(study, baseline or judged.get(trial_name(BASELINE), []), filtered),
    )


def require_idle(study: Study) -> None:
    """Raise `InputError` while the study is being searched."""
    if driver_at_work(study.path):
        raise InputError(
            f"the study at {study.path} is being searched; wait for its end, or interrupt it: "
            "trials under way still replace their weights"
        )


def request(
    study: Study, arguments: argparse.Namespace, *, picked: dict[str, Any] | None = None
) -> tuple[SelectionConfig, str]:
    """Return the settings and where the images are: the search's, unless told otherwise.

    picked: settings of a pick, which come before the search's
    """
    content = read_file(find_file(arguments.config)) if arguments.config else {}
    started = study.last_start() or LastStart(source="")
    section = started.selection | (picked or {}) | (content.get("selection") or {})
    settings = resolve(SelectionConfig, "selection", section, vars(arguments))
    source = arguments.data or content.get("data") or started.source
    return settings, named_source(source, {})


def _inception(path: Path | None, settings: SelectionConfig) -> str:
    """Check what was asked for as an extractor; return the weights file's hash, "" without one."""
    check_request(settings.extractor, path)
    return "" if path is None else check_weights(path, settings.inception_sha256)


def find_run(arguments: argparse.Namespace) -> tuple[str, Study, str, str | None]:
    """Return MLflow's address, and there the study, its run, and the trial if it is one's run.

    Raises `InputError` for what is not there.
    """
    uri = tracking.resolve_uri(arguments.tracking_uri)
    tracking.check_there(uri)
    try:
        return uri, *_find_run(tracking.connect(uri), arguments)
    except tracking.FAILURES as error:
        raise tracking.unanswered(uri, error) from error


def _find_run(
    client: tracking.Client, arguments: argparse.Namespace
) -> tuple[Study, str, str | None]:
    """Return the study, its MLflow run, and the trial if only one was asked for."""
    if arguments.run_id is None:
        study, _ = tracking.find_study(arguments)
        parent = tracking.find_parent(client, study)
        if parent is None:
            sync = ["python", "-m", "search.sync", *tracking.naming(study, client.tracking_uri)]
            raise InputError(
                f"MLflow at {tracking.shown(client.tracking_uri)} does not have the study; name it "
                f"with --tracking-uri, or send the study there: {typed(sync)}"
            )
        return study, parent.info.run_id, None
    found = tracking.study_by_run_id(client, arguments.run_id)
    study = tracking.open_study_of(found, arguments.storage_path)
    return study, found.parent_id, found.trial


def load_data(study: Study, source: str, *, test: bool) -> Dataset:
    """Load the study's images; `InputError` if they are others, or too few to measure on."""
    data = study_images(study, source)
    more = "search on more images, or with another --val-fraction"
    _check_counts(data, data.val, FEWEST_VALIDATION, f"validation images; {more}")
    _check_counts(data, data.train, FEWEST_TRAINING, f"training images; {more}")
    if test and len(data.test):
        _check_counts(data, data.test, SMALLEST_SET, "test images; leave them alone with --no-test")
    return data


def _check_counts(data: Dataset, images: ImageSet, least: int, what: str) -> None:
    """Raise `InputError` if a class has fewer images than the metrics need."""
    for name, count in zip(data.classes, images.per_class(len(data.classes)), strict=True):
        if count < least:
            raise InputError(f"class {name} has {count} of the {least} or more {what}")


class Records(Mapping[str, list[EpochRecord]]):
    """Every trial's epochs by its name, read at each look: not all of a large study fit in memory.

    A look raises `InputError` for a file that is damaged.
    """

    def __init__(self, study: Study) -> None:
        self._trials = {trial.name: trial for trial in study.trials()}

    def __getitem__(self, name: str) -> list[EpochRecord]:
        try:
            return self._trials[name].records()
        except ValueError as error:
            raise InputError(f"{error}; restore it, or remove the trial's folder") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)


class Judged(Mapping[str, list[Epoch]]):
    """Every trial's epochs as step 1 sees them, judged at each look."""

    def __init__(
        self, study: Study, records: Records, val: ImageSet, settings: SelectionConfig
    ) -> None:
        self._study, self._records, self._settings = study, records, settings
        self._chance = Chance.of(val.per_class(len(study.info.classes)))

    def __getitem__(self, name: str) -> list[Epoch]:
        return judge(
            name,
            self._records[name],
            kept=RunDir(self._study.path / name).kept_weights(),
            chance=self._chance,
            config=self._settings,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


def _choose(
    judged: Mapping[str, list[Epoch]], trial: str | None, settings: SelectionConfig
) -> Filtered:
    """Filter the epochs of all trials, or of one; `InputError` if none is left."""
    asked = (epochs for name, epochs in judged.items() if trial in (None, name))
    filtered = choose(asked, settings)
    what = "the study" if trial is None else f"trial {trial}"
    if not filtered.kept:
        raise InputError(f"no epoch of {what} has kept weights; search again, or name another run")
    if not filtered.chosen:
        reasons = ", ".join(f"{count} {reason}" for reason, count in filtered.reasons.items())
        raise InputError(
            f"none of the {len(filtered.kept)} epochs of {what} with weights passes the filter "
            f"(of all {filtered.recorded} epochs: {reasons}); train longer, or loosen it under "
            "'selection:'"
        )
    return filtered


def _candidates(study: Study, baseline: Sequence[Epoch], filtered: Filtered) -> tuple[Chosen, ...]:
    """Check the weights of step 1's candidates; add the baseline's best epoch to compare with."""
    epochs = {(epoch.trial, epoch.epoch): epoch for epoch in filtered.chosen}
    competing = set(epochs)
    best = baseline_epoch(baseline)
    compared = None if best is None else (best.trial, best.epoch)
    if best is not None:
        epochs.setdefault((best.trial, best.epoch), best)
    decided = standing(read_reviews(study))
    chosen = [
        _checked(study, epoch, competes=key in competing, baseline=key == compared)
        for key, epoch in epochs.items()
    ]
    return tuple(_reviewed(each, decided.get(each.sha256, "")) for each in chosen)


def _reviewed(chosen: Chosen, review: Review) -> Chosen:
    """Return a candidate with what people decided about it; it says nothing of a comparison."""
    if not chosen.competes:
        return chosen
    return dataclasses.replace(chosen, review=review, competes=review != "rejected")


def baseline_epoch(epochs: Sequence[Epoch]) -> Epoch | None:
    """Return the baseline trial's best epoch with weights; None if it has none that passes."""
    usable = [epoch for epoch in epochs if epoch.kept and not epoch.reason]
    return min(usable, key=quality_order, default=None)


def weights_path(study: Study, trial: str, epoch: int) -> Path:
    """Return where the weights of an epoch are."""
    return RunDir(study.path / trial).weights_path(epoch)


def _checked(study: Study, epoch: Epoch, *, competes: bool, baseline: bool) -> Chosen:
    path = weights_path(study, epoch.trial, epoch.epoch)
    sha256 = file_sha256(path)
    if epoch.record.weights not in (None, sha256):
        raise InputError(
            f"the weights {path} are not those that were recorded (SHA-256 {sha256[:12]} instead "
            f"of {str(epoch.record.weights)[:12]}); restore the file, or delete it to go without"
        )
    load_generator(
        path, device=torch.device("cpu"), sha256=sha256
    )  # now, rather than after an hour
    return Chosen(epoch, path, sha256, competes, baseline)
