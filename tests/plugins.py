"""A package with entry points, as pip would have installed it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest


def write_plugin(
    folder: Path,
    groups: Mapping[str, Mapping[str, str]],
    code: str,
    *,
    version: str = "1.0",
    module: str = "my_plugin",
) -> None:
    """Write a package `plugin` with a module whose objects are entry points.

    groups: by group, names of entry points, and which object of the module each is. Another
    version that is there is replaced.
    """
    for old in folder.glob("plugin-*.dist-info"):
        shutil.rmtree(old)
    info = folder / f"plugin-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plugin\nVersion: {version}\n")
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{name} = {module}:{own}" for name, own in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (folder / f"{module}.py").write_text(code)


@contextmanager
def plugin_installed(
    folder: Path, group: str, entries: Mapping[str, str], code: str
) -> Iterator[None]:
    """Write a package with entry points of one group, and have Python find it."""
    write_plugin(folder, {group: entries}, code)
    with on_the_path(folder):
        yield


@contextmanager
def on_the_path(folder: Path) -> Iterator[None]:
    """Have Python find the module `my_plugin` of a folder.

    At the end Python forgets it, so that another test's `my_plugin` is read from its own file.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        try:
            yield
        finally:
            sys.modules.pop("my_plugin", None)
