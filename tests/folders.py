"""Data folders of files that nothing decodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from acgan.data.table import Table


def make_class_folders(
    folder: Path, names: tuple[str, ...] = ("covid", "NORMAL", "pneumonia")
) -> Path:
    """Write train/ and test/ with a folder of one image for each class."""
    paths = (f"{split}/{name}/1.png" for split in ("train", "test") for name in names)
    return make_files(folder, dict.fromkeys(paths, ""))


def make_files(folder: Path, files: Mapping[str, str] | Iterable[str]) -> Path:
    """Write files below a folder: their texts, or an own content each."""
    texts = files if isinstance(files, Mapping) else dict.fromkeys(files, "")
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text or path)
    return folder


def placed(table: Table) -> dict[str, tuple[str, str]]:
    """Return split and class of each row by its path."""
    return {row.path: (row.split, row.class_name) for row in table.rows}
