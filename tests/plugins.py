"""A package with entry points, as pip would have installed it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def plugin_installed(
    folder: Path, group: str, entries: Mapping[str, str], code: str
) -> Iterator[None]:
    """Write a module `my_plugin`, whose objects are entry points, and have Python find it.

    At the end Python forgets it, so that another test's `my_plugin` is read from its own file.

    entries: names in the group, and which object of the module each is
    """
    info = folder / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    lines = "".join(f"{name} = my_plugin:{value}\n" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
    (folder / "my_plugin.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        try:
            yield
        finally:
            sys.modules.pop("my_plugin", None)
