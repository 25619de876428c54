"""A study as Python code sees it: tables of its trials and epochs, and its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from acgan.errors import InputError
from acgan.evaluation.grids import read_grid, sample_grids
from search.settings import SearchConfig
from search.study import table
from search.study.folder import Study
from search.study.store.study_copy import kept_weights, run_file

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SearchedStudy:
    """A study that was searched, read afresh at every call.

    tracking_uri: of the MLflow that has it
    missing: trials and repeats asked for that the last call of `search.search` did not bring to an
        end, 0 for a study that was only loaded
    """

    study: Study
    tracking_uri: str
    missing: int = 0

    def __str__(self) -> str:
        """Return what may be said of the best trial against the baseline."""
        return table.comparison(self._lines(), self._config)

    @property
    def path(self) -> Path:
        """The study's folder."""
        return self.study.path

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of its images, in the order of their labels."""
        return self.study.info.classes

    @property
    def best(self) -> str | None:
        """The finished trial with the best value, `t0007`; None before one has finished."""
        found = table.best(self._lines(), self._config)
        return None if found is None else found.trial.name

    @property
    def trials(self) -> pd.DataFrame:
        """A row for each trial, by its name, the repeats too.

        Columns: the sampled parameters, seed, repeats (the trial that is repeated, if it is one),
        epochs, value (the best windowed objective), diversity (`val/diversity` there; NaN: not
        known), outcome (missing while it runs or waits) and reason.
        """
        import pandas as pd  # noqa: PLC0415 (half a second, for Python code alone)

        rows = [
            {
                "trial": line.trial.name,
                **line.trial.info.params,
                "seed": line.trial.info.seed,
                "repeats": line.trial.info.repeats,
                "epochs": line.epochs,
                "value": line.value,
                "diversity": line.diversity,
                "outcome": None if line.outcome is None else str(line.outcome),
                "reason": line.reason,
            }
            for line in self._lines()
        ]
        return pd.DataFrame(rows).set_index("trial") if rows else pd.DataFrame()

    @property
    def epochs(self) -> pd.DataFrame:
        """A row for each recorded epoch, by trial and epoch.

        Columns: young (before the grace period's end), kept (its weights are on disk), and every
        recorded number: `train/…`, `val/…`, `best/…`, `perf/…`.
        """
        import pandas as pd  # noqa: PLC0415 (half a second, for Python code alone)

        rows = list(self._epochs())
        return pd.DataFrame(rows).set_index(["trial", "epoch"]) if rows else pd.DataFrame()

    def _epochs(self) -> Iterator[dict[str, Any]]:
        for trial in self.study.trials():
            kept = set(kept_weights(trial.path))
            for record in trial.records():
                yield {
                    "trial": trial.name,
                    "epoch": record.epoch,
                    "young": record.young,
                    "kept": record.epoch in kept,
                    **record.metrics,
                }

    def samples(self, trial: str, epoch: int | None = None) -> Image.Image:
        """Return a trial's sample grid, a row of images for each class.

        epoch: default: the last that has one. Raises `InputError` where there is none.
        """
        found = self.study.trial(trial)
        grids = {record.epoch: path for record, path in sample_grids(found.path, found.records())}
        wanted = max(grids, default=0) if epoch is None else epoch
        if wanted not in grids:
            there = f"there are those of {', '.join(map(str, grids))}" if grids else "it has none"
            raise InputError(f"trial {trial} has no sample grid of epoch {wanted}; {there}")
        return read_grid(run_file(grids[wanted]))

    @property
    def _config(self) -> SearchConfig:
        return SearchConfig.model_validate(self.study.info.search)

    def _lines(self) -> list[table.Line]:
        return table.table_lines(self.study, self._config)
