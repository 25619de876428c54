"""What a folder of generated images is asked to hold, checked before any image is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acgan.command import FromFlags
from acgan.config import user_path
from acgan.data.balance import merged_labels
from acgan.data.source import DataSource, named_source
from acgan.errors import InputError

SPLITS = ("train", "test")  # of COVIDx, and of a folder of generated images


@dataclass(frozen=True, kw_only=True)
class FolderRequest(FromFlags):
    """Which images a folder is to hold, see `acgan.generate.add_options`.

    out: the folder, as it was named
    per_class: images of each class; None: as many as the classes of the data folder `balance` lack
    values: what is said of that folder, by the names of `DataSource`
    classes: only these; None: all that the weights know
    device: as PyTorch names it
    other_data: whether `balance` may be other images than the generator was trained on
    merged_labels: whether its label file is written, too, with the new lines
    """

    out: str
    per_class: int | None
    balance: str | None
    values: Mapping[str, Any] = field(default_factory=dict)
    classes: Sequence[str] | None = None
    seed: int = 0
    device: str = "cpu"
    other_data: bool = False
    merged_labels: bool = False

    @property
    def source(self) -> DataSource:
        """The data folder whose classes are filled up."""
        return named_source({**self.values, "data": self.balance}, {})

    def check(self) -> None:
        """Raise `InputError` for what does not go together, and a place within a data folder."""
        for above in user_path(self.out).parents:
            if any(_has_split(above, name) for name in SPLITS):
                raise InputError(
                    f"--out {self.out} lies in the data folder {above}; name a folder beside it"
                )
        if self.balance is None:
            self._check_count()
        elif self.classes:
            raise InputError(
                "--balance finds itself which classes lack images; leave out --classes"
            )
        elif self.merged_labels:
            merged_labels(self.source, "")  # refused now, rather than after all images

    def _check_count(self) -> None:
        if self.per_class is None or self.per_class < 1:
            raise InputError(f"--per-class must be at least 1, got {self.per_class}")
        if self.merged_labels:
            raise InputError("--merged-labels needs --balance DATA, whose labels are merged")


def _has_split(folder: Path, name: str) -> bool:
    """Whether a folder has labels and images of a split; a test.txt alone may be anything."""
    return (folder / f"{name}.txt").is_file() and (folder / name).is_dir()
