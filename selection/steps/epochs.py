"""Every recorded epoch of a study, as step 1 sees them."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from acgan.config import TrainConfig, cache_folder, derive_seed, nearest_name, validate
from acgan.data.dataset import ImageSet
from acgan.errors import InputError
from acgan.files import Stored, replace_text
from acgan.run.records import EpochRecord
from acgan.run.rundir import RunDir
from acgan.training import metric_names
from search.study.folder import Study
from search.study.store.study_copy import kept_weights
from selection.settings import SelectionConfig
from selection.steps.filter import Chance, Places, judge_epochs, places

LOOK_VERSION = 2  # a change has all trials read again
# Of the settings, those that decide what is taken of a trial.
SETTINGS = {
    *("per_trial", "dead_real_below", "dead_real_above", "class_margin", "require"),
    "collapsed_below",
}


class Records(Mapping[str, list[EpochRecord]]):
    """Every trial's epochs by its name, read at each look: not all of a large study fit in memory.

    A look raises `InputError` for a file that is damaged.

    image_seconds: of the trials that step 1 knows, the seconds that an image of each epoch took to
        train on, summed over the epochs
    """

    def __init__(self, study: Study) -> None:
        self._trials = {trial.name: trial for trial in study.trials()}
        self.image_seconds: dict[str, float] = {}

    def __getitem__(self, name: str) -> list[EpochRecord]:
        try:
            return self._trials[name].records()
        except ValueError as error:
            raise InputError(f"{error}; restore it, or remove the trial's folder") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    def training_seconds(self, images: int) -> float:
        """Return the seconds in which all trials were trained on so many images."""
        for name in self.keys() - self.image_seconds.keys():
            self.image_seconds[name] = _image_seconds(self[name])
        return images * math.fsum(self.image_seconds.values())


def _image_seconds(records: Sequence[EpochRecord]) -> float:
    rates = [record.metrics.get("perf/images_per_s", 0.0) for record in records]
    return sum(1 / rate for rate in rates if rate > 0)


class Row(Stored):
    """What was taken of a trial; stamp, weights: its file's size and time, the weights on disk."""

    stamp: tuple[int, int]
    weights: tuple[int, ...]
    places: Places
    image_seconds: float


class Looked(Stored):
    """What was taken of all trials; key: of the settings that decided it."""

    key: int
    trials: dict[str, Row]


class Looks:
    """Looks at trials, one after another; a trial that is as it was is not read again.

    What was taken is kept in the cache by `save`. Raises `InputError` where the settings require
    a number that the study does not record.
    """

    def __init__(
        self, study: Study, records: Records, val: ImageSet, settings: SelectionConfig
    ) -> None:
        recorded = metric_names(validate(TrainConfig, "train", study.info.train))
        for required in settings.required:
            if required.name not in recorded:
                raise InputError(
                    f"--require: {required.name!r} is not recorded in this study"
                    f"{nearest_name(required.name, recorded)}"
                )
        self._study, self._records, self._settings = study, records, settings
        self._chance = Chance.of(val.per_class(len(study.info.classes)))
        self._path = cache_folder() / "step1" / f"{study.info.uuid}.json"
        decided = settings.model_dump(include=SETTINGS)
        self._ranking = study.info.ranking
        self._key = derive_seed(LOOK_VERSION, sorted(decided.items()), self._chance, self._ranking)
        self._rows = self._read()
        self._is_new = False

    def _read(self) -> dict[str, Row]:
        try:
            found = Looked.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):  # not there, or damaged: all is read
            return {}
        return found.trials if found.key == self._key else {}

    def __call__(self, name: str) -> Places:
        """Return what step 1 takes of a trial; `InputError` for a damaged file."""
        folder = self._study.path / name
        stamp, kept = _stamp(RunDir(folder).epochs_path), tuple(sorted(kept_weights(folder)))
        known = self._rows.get(name)
        if known is not None and (known.stamp, known.weights) == (stamp, kept):
            self._records.image_seconds[name] = known.image_seconds
            return known.places
        records = self._records[name]
        epochs = judge_epochs(
            name,
            records,
            ranking=self._ranking,
            kept=kept,
            chance=self._chance,
            config=self._settings,
        )
        found = places(epochs, self._settings)
        seconds = self._records.image_seconds[name] = _image_seconds(records)
        self._rows[name] = Row.model_construct(
            stamp=stamp, weights=kept, places=found, image_seconds=seconds
        )
        self._is_new = True
        return found

    def save(self) -> None:
        """Keep what was taken for the next start, which takes longer where that cannot be."""
        if not self._is_new:
            return
        looked = Looked.model_construct(key=self._key, trials=self._rows)
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self._path, looked.model_dump_json())


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
