"""Every recorded epoch of a study, as step 1 sees them."""

from collections.abc import Callable, Iterator, Mapping

from acgan.config import TrainConfig, nearest_name, validate
from acgan.data.dataset import ImageSet
from acgan.errors import InputError
from acgan.run.records import EpochRecord
from acgan.training import metric_names
from search.study.folder import Study
from search.study.store.study_copy import kept_weights
from selection.settings import SelectionConfig
from selection.steps.filter import Chance, Epoch, judge_epochs


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


def judging(
    study: Study, records: Records, val: ImageSet, settings: SelectionConfig
) -> Callable[[str], list[Epoch]]:
    """Return what judges a trial's epochs as step 1 sees them, by its name.

    Raises `InputError` where the settings require a number that the study does not record.
    """
    recorded = metric_names(validate(TrainConfig, "train", study.info.train))
    for required in settings.required:
        if required.name not in recorded:
            raise InputError(
                f"--require: {required.name!r} is not recorded in this study"
                f"{nearest_name(required.name, recorded)}"
            )
    ranking = study.info.ranking
    chance = Chance.of(val.per_class(len(study.info.classes)))

    def judge(name: str) -> list[Epoch]:
        kept = kept_weights(study.path / name)
        return judge_epochs(
            name, records[name], ranking=ranking, kept=kept, chance=chance, config=settings
        )

    return judge
