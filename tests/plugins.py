"""A package with entry points, as pip would have installed it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install_plugin(folder: Path, group: str, entries: Mapping[str, str], code: str) -> None:
    """Write a module `my_plugin` and what makes its objects entry points into a folder.

    entries: names in the group, and which object of the module each is
    """
    info = folder / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    lines = "".join(f"{name} = my_plugin:{value}\n" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
    (folder / "my_plugin.py").write_text(code)
