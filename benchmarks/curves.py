"""The epochs of many configurations in one small file, from which a search can be replayed.

The first line holds what all runs share, each further line one configuration:

    {"data": "covidx-mini", "images": 664, "train": {…}, "space": {…}, …}
    {"params": {"dropout": 0.5, …}, "metrics": {"val/fd_cnn": [1869.46, 1955.9, …], …}}
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from acgan.config import TrainConfig
from acgan.errors import InputError
from acgan.files import Stored, replace_bytes
from acgan.run.records import QUALITY, EpochRecord, grace_epochs
from search.settings import SearchConfig, Value
from search.study import space
from search.study.objective import objective_value

# What the stopping rules read beside all losses, and what trials are judged by.
JUDGED = SearchConfig(objective=QUALITY)  # by what these curves were trained for
READ_BY_RULES = (QUALITY, "val/diversity", "val/acc_real", "val/acc_generated")


class Curve(Stored):
    """One configuration's epochs: its point in the space, and each metric epoch by epoch."""

    params: dict[str, Value]
    metrics: dict[str, list[float]]


class Shared(Stored):
    """What all configurations of a file share.

    images: training images
    floor: `val/fd_cnn` of real training images against the validation images
    train: the fields of `TrainConfig`; space: the section `space:`
    """

    data: str
    images: int
    floor: float
    train: dict[str, Any]
    space: dict[str, Any]


class Curves:
    """All runs of a file, as epoch records; `ValueError` if one has not all its epochs."""

    def __init__(self, shared: Shared, curves: Sequence[Curve]) -> None:
        self.shared, self.curves = shared, tuple(curves)
        self.config = TrainConfig.model_validate(shared.train)
        self.space = space.read(shared.space, self.config)
        self.grace = grace_epochs(self.config, shared.images)
        self.records = [self._records(curve) for curve in self.curves]

    @property
    def epochs(self) -> int:
        """The epochs of each run."""
        return self.config.epochs

    def values(self, config: SearchConfig) -> list[float]:
        """Return what a search would judge each run by, had it come to its end."""
        return [objective_value(records, config) for records in self.records]

    def _records(self, curve: Curve) -> list[EpochRecord]:
        if any(len(values) != self.epochs for values in curve.metrics.values()):
            raise ValueError(f"every run must have {self.epochs} epochs")
        return [
            EpochRecord(
                epoch=epoch,
                time=float(epoch),
                metrics={name: values[epoch - 1] for name, values in curve.metrics.items()},
                young=epoch <= self.grace,
            )
            for epoch in range(1, self.epochs + 1)
        ]


def curve_of(params: dict[str, Value], records: Sequence[EpochRecord]) -> Curve:
    """Return what a replay needs of a run: the metrics that rules read, with six digits."""
    names = [n for n in records[0].metrics if "_loss" in n or n in READ_BY_RULES]
    return Curve(
        params=params,
        metrics={name: [float(f"{r.metrics[name]:.6g}") for r in records] for name in names},
    )


def write_curves(path: Path, curves: Curves) -> None:
    """Write a file whole or not at all; the same curves give the same bytes."""
    lines = [curves.shared, *curves.curves]
    content = "".join(f"{line.model_dump_json()}\n" for line in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_curves(path: Path) -> Curves:
    """Read what `write_curves` wrote; `InputError` for a file that is none of these."""
    try:
        content = path.read_bytes()
        head, *lines = (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()
        found = [Curve.model_validate_json(line) for line in lines]
        curves = Curves(Shared.model_validate_json(head), found)
    except (OSError, EOFError, ValueError, LookupError) as error:
        raise InputError(f"{path} holds no curves that can be read ({_first(error)})") from error
    if not curves.curves:
        raise InputError(f"{path} holds no curves")
    return curves


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"]
    return str(error).partition("\n")[0]
