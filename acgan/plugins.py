"""What other packages add to this one by entry points, and the versions they come in.

A package names its object in one of four groups, and users name the object by its entry point:

    acgan_search.networks     acgan.gan.networks.Networks
    acgan_search.numbers      acgan.evaluation.numbers.Number
    acgan_search.layouts      acgan.data.layouts.Layout
    acgan_search.extractors   a callable, see selection.extractors.choose
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from acgan.config import TrainConfig, nearest_name
from acgan.errors import InputError

NETWORKS = "acgan_search.networks"
NUMBERS = "acgan_search.numbers"
LAYOUTS = "acgan_search.layouts"
EXTRACTORS = "acgan_search.extractors"

T = TypeVar("T")


def installed(group: str) -> dict[str, EntryPoint]:
    """Return the plug-ins of a group by name."""
    return dict(_installed(group, tuple(_changed(folder) for folder in sys.path)))


@functools.cache
def _installed(group: str, folders: tuple[tuple[str, int], ...]) -> dict[str, EntryPoint]:  # noqa: ARG001
    """Read what all packages say, anew where a package has come to a folder or gone from it."""
    return {plugin.name: plugin for plugin in entry_points(group=group)}


def _changed(folder: str) -> tuple[str, int]:
    try:
        return folder, os.stat(folder or ".").st_mtime_ns
    except OSError:
        return folder, 0


def find(group: str, name: str, kind: type[T], *, also: Iterable[str] = ()) -> T:
    """Return a plug-in by its name; `InputError` where no package has it, or it is no `kind`.

    also: names that need no plug-in
    """
    plugins = installed(group)
    if name not in plugins:
        raise InputError(
            f"{kind_of(group)} {name!r} are not installed here"
            f"{nearest_name(name, [*also, *plugins])}; install the package that has them, on "
            "every node"
        )
    return load(plugins[name], kind)


def load(plugin: EntryPoint, kind: type[T]) -> T:
    """Return what an entry point names; `InputError` where that fails or is no `kind`."""
    found = load_any(plugin)
    if not isinstance(found, kind):
        raise InputError(
            f"the entry point {plugin.name!r} of {plugin.group} must name an {kind.__module__}."
            f"{kind.__qualname__}; mend the package that has it"
        )
    return found


def load_any(plugin: EntryPoint) -> Any:
    """Return what an entry point names, whatever it is; `InputError` where that fails."""
    try:
        return plugin.load()
    except Exception as error:  # whatever another's code may raise
        raise InputError(
            f"the entry point {plugin.name!r} of {plugin.group} cannot be loaded "
            f"({reason(error)}); mend the package that has it"
        ) from error


def reason(error: Exception) -> str:
    """Return what another's code raised as one phrase: the type, and the first line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def kind_of(group: str) -> str:
    """Return what the plug-ins of a group are called: `networks`."""
    return group.rpartition(".")[2]


def origin(group: str, name: str) -> str:
    """Return package and version that a plug-in comes from; "" for what is none, or is unknown."""
    plugin = installed(group).get(name)
    dist = None if plugin is None else plugin.dist
    return "" if dist is None else f"{dist.name} {dist.version}"


def versions(config: TrainConfig, *, layout: str = "") -> dict[str, str]:
    """Return package and version of each plug-in that a training depends on: `networks mine`.

    layout: as which its data folder was read
    """
    numbers = ((NUMBERS, name) for name in config.numbers)
    used = [(NETWORKS, config.networks), *numbers, (LAYOUTS, layout)]
    found = {f"{kind_of(group)} {name}": origin(group, name) for group, name in used}
    return {name: version for name, version in found.items() if version}


def other_versions(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Name each plug-in that comes from another package or version than before, in a sentence."""
    return [
        f"{name} are of {now[name]} here, and the study was begun with {version}: what they give "
        "may differ; install that version, or name a new study with --study NAME"
        for name, version in before.items()
        if name in now and now[name] != version
    ]
