"""A study on disk: its identity and its trials' directories.

runs/<study>/study.json             what the study is, written once
             quality.json           floor, untrained value, the scoring CNN's accuracy
             start.json             what it was last started with that it does not consist of
             optuna.jsonl           the ledger of proposals
             lock.json              the driver at work, see `search.study.lock`
             mlflow.json            the trials that MLflow has, see `search.tracking.marks`
             scorer.safetensors     the scoring CNN
             reviews.jsonl          what people decided of finalists
             test-touches.jsonl     the looks at the test images
             selection/             picks and augmentation studies
             t0007/trial.json       one trial: its number and parameters
             t0007/end.json         how it ended, if it did; crash.txt, hang.txt
             t0007/config.json, epochs.jsonl, …  what `acgan.run.rundir` writes
"""

import contextlib
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from acgan.command import typed
from acgan.config import TrainConfig, user_path, validate
from acgan.data.dataset import Dataset
from acgan.data.pack import load_for
from acgan.data.source import DataSource
from acgan.errors import InputError
from acgan.files import Stored, StoredT, exclusive, file_sha256, read_json, write_json
from acgan.run.records import EpochRecord, Ranking, read_records
from acgan.streams import told_if_long
from search.settings import SearchConfig, Value
from search.study.lock import held_here
from search.study.store.objects import StoreError, is_address
from search.study.store.study_copy import StudyCopy, local_folder, shown_place

# Images of a class without which no generator of a study can be picked.
FEWEST_VALIDATION = 10
FEWEST_TRAINING = 22  # a nearest image, the next twenty, and the image itself

STUDY_FORMAT = 1
BASELINE = 0  # the number of the trial with the configuration's own values
_TRIAL_NAME = re.compile(r"t[0-9]{4,}(?P<repeat>r[0-9]+)?")


class Outcome(StrEnum):
    """How a trial ended; the last two do not count as asked and are tried again."""

    FINISHED = "finished"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    COLLAPSED = "collapsed"
    DISCRIMINATOR_WON = "discriminator won"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"

    @property
    def counts(self) -> bool:
        """Whether the trial counts as one of those asked for."""
        return self not in (Outcome.CRASHED, Outcome.INTERRUPTED)


class TrialEnd(Stored):
    """`end.json`: how a trial ended, why in one phrase, and when (seconds since 1970).

    epochs, value: of a trial that counts, how many it has and its best windowed objective, so
        that nobody has to read them all again; None where they were not at hand
    diversity: `val/diversity` in the window of that value; None where it is not known
    """

    outcome: Outcome
    reason: str = ""
    time: float
    epochs: int | None = None
    value: float | None = None
    diversity: float | None = None


class TrialInfo(Stored):
    """`trial.json`: what a trial was asked to be, written before it starts.

    `params` are the sampled fields of the training configuration; `origin` is "repeat" for a
    trial that trains another one (`repeats`) again with a further seed.
    """

    number: int
    params: dict[str, Value]
    seed: int
    origin: Literal["search", "repeat"] = "search"
    repeats: str | None = None


class Quality(Stored):
    """`quality.json`: what the quality score of this study means.

    floor: real training images against the validation images, as many as are validated.
    untrained: the score of the generator before its first update (epoch 0).
    classifier_accuracy: the scoring CNN's own accuracy on the validation images.
    scorer: the SHA-256 of the scoring CNN's file; empty in studies of an older version.
    """

    floor: float
    untrained: float
    classifier_accuracy: float
    scorer: str = ""


class LastStart(Stored):
    """`start.json`: what a study was last started with that is no part of its identity.

    source: "phantom", or the folder of the images; what identifies them is their fingerprint
    selection: the configuration's section `selection:`, as it was read
    plugins: the versions of plug-ins with which the study was begun, see `acgan.plugins.versions`
    """

    source: DataSource
    selection: dict[str, Any] = Field(default_factory=dict)
    plugins: dict[str, str] = Field(default_factory=dict)  # not there in earlier versions


class StudyInfo(Stored):
    """`study.json`: what a study is. All but `uuid`, `created` and `code_version` identify it."""

    format: int
    uuid: str = Field(pattern="^[0-9a-f]{32}$")
    name: str
    created: float
    code_version: str
    train: dict[str, Any]
    space: dict[str, Any]
    search: dict[str, Any]
    data_name: str
    classes: tuple[str, ...]
    fingerprint: str

    @property
    def ranking(self) -> Ranking:
        """The study's objective."""
        return SearchConfig.model_validate(self.search).ranking


class _Header(Stored):
    """What any version's `study.json` holds."""

    model_config = ConfigDict(extra="ignore")

    format: int
    code_version: str


def _read(model: type[StoredT], path: Path) -> StoredT | None:
    return read_json(model, path, remedy="restore it or start a new study")


def read_end(folder: Path) -> TrialEnd | None:
    """Return how the trial in a folder ended; None while it runs or waits."""
    return _read(TrialEnd, folder / "end.json")


@dataclass(frozen=True)
class Trial:
    """One trial's directory, read afresh at every call."""

    path: Path
    info: TrialInfo

    @property
    def name(self) -> str:
        """The trial's name, `t0007`, which is its directory's."""
        return self.path.name

    def records(self) -> list[EpochRecord]:
        """Return the epochs that are safely on disk."""
        return read_records(self.path / "epochs.jsonl")

    def end(self) -> TrialEnd | None:
        """Return how the trial ended; None while it runs or waits."""
        return read_end(self.path)


@dataclass(frozen=True)
class Study:
    """One study's directory."""

    path: Path
    info: StudyInfo

    @property
    def place(self) -> str:
        """Where the study is: its folder, or its address in an object store."""
        return shown_place(self.path)

    @property
    def ledger_path(self) -> Path:
        """The ledger of proposals."""
        return self.path / "optuna.jsonl"

    @property
    def scorer_path(self) -> Path:
        """The scoring CNN that all trials share."""
        return self.path / "scorer.safetensors"

    def trial(self, name: str) -> Trial:
        """Return the trial of this name; `InputError` if the study has none."""
        info = _read(TrialInfo, self.path / name / "trial.json") if is_trial(name) else None
        if info is None:
            there = [path.name for path in _trial_folders(self.path)]
            known = f"its trials are {there[0]} to {there[-1]}" if there else "it has none yet"
            raise InputError(f"the study at {self.path} has no trial {name!r}; {known}")
        return Trial(self.path / name, info)

    def trials(self) -> list[Trial]:
        """Return the trials in the order of their names, repeats behind their trial."""
        folders = _trial_folders(self.path)
        infos = ((path, _read(TrialInfo, path / "trial.json")) for path in folders)
        return [Trial(path, info) for path, info in infos if info is not None]

    def last_start(self) -> LastStart | None:
        """Return what the study was last started with; None for one of an older version."""
        return _read(LastStart, self.path / "start.json")

    def quality(self) -> Quality | None:
        """Return what the quality score means here; None before the scoring CNN is trained."""
        return _read(Quality, self.path / "quality.json")

    def scorer_is_whole(self, quality: Quality) -> bool:
        """Whether the scoring CNN's file is the one that the study began with."""
        if not self.scorer_path.is_file():
            return False
        return not quality.scorer or file_sha256(self.scorer_path) == quality.scorer


def write_end(study: Study, name: str, outcome: Outcome, reason: str, **known: Any) -> None:
    """Write how a trial ended, now; `known` are the further fields that are at hand."""
    end = TrialEnd(outcome=outcome, reason=reason, time=time.time(), **known)
    write_json(study.path / name / "end.json", end)


def _trial_folders(path: Path) -> list[Path]:
    """Return the folders of trials; those of other names are passed over."""
    return sorted(found for found in path.glob("t[0-9]*") if is_trial(found.name))


def trial_config(study: StudyInfo, trial: TrialInfo) -> TrainConfig:
    """Return a trial's configuration: the study's, with the trial's point and seed."""
    return validate(TrainConfig, "train", study.train | trial.params | {"seed": trial.seed})


def is_trial(name: str) -> bool:
    """Whether a folder of this name is a trial's, or a repeat's."""
    return _TRIAL_NAME.fullmatch(name) is not None


def is_searched(name: str) -> bool:
    """Whether a folder of this name is that of a trial in the ledger, which has no repeats."""
    match = _TRIAL_NAME.fullmatch(name)
    return match is not None and match["repeat"] is None


def trial_name(number: int) -> str:
    """Return `t0007` for 7."""
    return f"t{number:04d}"


def study_path(storage: str, name: str) -> Path:
    """Return a study's directory; of one in an object store its copy, as the store has it now.

    Raises `InputError` for what can be no place, a store that does not answer, and for a name that
    is no plain name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise InputError(
            f"--study {name!r} must be a plain name: letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return copied(storage, name) if is_address(storage) else user_path(storage) / name


def copied(address: str, name: str) -> Path:
    """Return the copy of a study of an object store, made what the store has now.

    A copy that a driver on this machine holds is that of the driver, and stays as it is.
    """
    path = local_folder(address, name)
    own = StudyCopy(path, address)
    with exclusive(path.with_name(f".{name}.lock")):
        if not (held_here(path) or held_here(path / "selection")):
            try:
                with told_if_long(f"waiting for {address} …"):
                    own.pull()
            except StoreError as error:
                raise InputError(str(error)) from error
    return path


def open_study(path: Path) -> Study:
    """Open a study that is there; `InputError` if it is not or has another format."""
    try:
        info: StudyInfo | _Header | None = _read(StudyInfo, path / "study.json")
    except InputError:  # of another version, or damaged
        info = _read(_Header, path / "study.json")
        if info is not None and info.format == STUDY_FORMAT:
            raise
    if info is None:
        raise InputError(
            f"there is no study at {path}; to make one of the images in DIR, type: "
            f"{typed(_search_words(path))}; for one that is elsewhere, see --storage-path"
        )
    if info.format != STUDY_FORMAT:
        raise InputError(
            f"the study at {path} was written by version {info.code_version} in format "
            f"{info.format}; this version reads {STUDY_FORMAT}: use that version, or start a new "
            "study"
        )
    assert isinstance(info, StudyInfo)
    return Study(path, info)


def _search_words(path: Path) -> list[str]:
    """Return the command of a search whose study would stand here."""
    words = ["python", "-m", "search.run", "--data", "DIR", "--num-samples", "8"]
    words += ["--study", path.name]
    if path.parent != Path("runs").absolute():
        words += ["--storage-path", str(path.parent)]
    return words


def study_images(study: Study, source: DataSource) -> Dataset:
    """Load the study's images; `InputError` if they are others."""
    config = validate(TrainConfig, "train", study.info.train)
    data = load_for(source, config, known=study.info.fingerprint)
    if data.fingerprint != study.info.fingerprint:
        raise InputError(
            f"the images at {source} are not those of the study (their fingerprint is "
            f"{data.fingerprint[:12]}, the study's {study.info.fingerprint[:12]}); name the "
            "study's with --data"
        )
    return data


def open_or_create(path: Path, wanted: StudyInfo) -> Study:
    """Open the study at `path`, or create it as `wanted`; refuse one that differs.

    The `InputError` names each difference as `key: there → wanted`. A study that has no trial
    yet, because its first start was given up, is no reason to refuse: it begins anew, as the same
    study in MLflow if it is asked for as it was.
    """
    if _has_trials(path):
        check_same(path, wanted)
        return open_study(path)
    path.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(InputError):  # damaged, or of another version
        begun = _read(StudyInfo, path / "study.json")
        there, asked = (info and _identity(_completed(info, path)) for info in (begun, wanted))
        if begun is not None and there == asked:
            wanted = wanted.model_copy(update={"uuid": begun.uuid, "created": begun.created})
    for name in ("optuna.jsonl", "scorer.safetensors", "quality.json"):
        (path / name).unlink(missing_ok=True)
    write_json(path / "study.json", wanted)
    return Study(path, wanted)


def begun_study(path: Path) -> StudyInfo | None:
    """Return what the study at `path` is; None where none has a trial, or it cannot be read."""
    with contextlib.suppress(InputError):
        return open_study(path).info if _has_trials(path) else None
    return None


def begun_with(path: Path, plugins: Mapping[str, str]) -> dict[str, str]:
    """Return the versions of these plug-ins with which the study at `path` was begun.

    Those of a study that has no trial yet, or does not say, are as given.
    """
    started = started_with(path)
    known = {} if started is None else started.plugins
    return {name: known.get(name, version) for name, version in plugins.items()}


def started_with(path: Path) -> LastStart | None:
    """Return what the study at `path` was last started with; None where none has a trial.

    None, too, where it does not say, or cannot be read: the next start writes it anew.
    """
    with contextlib.suppress(InputError):
        return _read(LastStart, path / "start.json") if _has_trials(path) else None
    return None


def _has_trials(path: Path) -> bool:
    return any((folder / "trial.json").exists() for folder in _trial_folders(path))


def check_same(path: Path, wanted: StudyInfo) -> None:
    """Raise `InputError` if there is a study at `path` that differs from `wanted`."""
    if not _has_trials(path):
        return
    there, asked = (_completed(info, path) for info in (open_study(path).info, wanted))
    different = [
        "other images, or packed otherwise" if line.startswith("fingerprint:") else line
        for line in differences(_identity(there), _identity(asked))
    ]
    if different:
        raise InputError(
            f"study {wanted.name!r} exists with another configuration ({'; '.join(different)}); "
            "go back to it, or name a new study with --study NAME"
        )


def _completed(info: StudyInfo, path: Path) -> StudyInfo:
    """Return what a study is with the settings that its version did not have, at their defaults.

    Raises `InputError` for a study of a version that has settings which this one does not know.
    """
    defaults = {"train": TrainConfig().model_dump(), "search": SearchConfig().model_dump()}
    completed = {name: values | getattr(info, name) for name, values in defaults.items()}
    for name, values in completed.items():
        for key in sorted(values.keys() - defaults[name].keys()):
            raise InputError(
                f"the study at {path} was written by version {info.code_version}, which has the "
                f"setting {f'{name}.{key}'!r} that this version does not know: use that version, "
                "or name a new study with --study NAME"
            )
    return info.model_copy(update=completed)


def _identity(info: StudyInfo) -> dict[str, Any]:
    return info.model_dump(
        mode="json", exclude={"uuid", "created", "code_version", "name", "data_name"}
    )


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Name each leaf in which two nested mappings differ as `a.b: there → wanted`."""
    found = []
    for key in sorted({*there, *wanted}):
        old, new = there.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old} → {new}")
    return found


def new_uuid() -> str:
    """Return a new study's uuid."""
    return uuid.uuid4().hex
