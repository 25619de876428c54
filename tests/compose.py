"""The services of configs/cluster/compose.yaml, as they run on this machine without Docker."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.clusters import ray_environment
from tests.kit import ROOT

FILE = ROOT / "configs" / "cluster" / "compose.yaml"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?P<how>:[-?])?(?P<text>[^}]*)\}")


class Compose:
    """The file with its variables filled in, and with other places for hosts, ports and folders.

    places: what stands in the file → what stands for it here, such as "head:6379" → an address
    """

    def __init__(self, variables: Mapping[str, str], places: Mapping[str, str]) -> None:
        self._places = places
        self._pattern = re.compile("|".join(map(re.escape, places)))
        filled = _VARIABLE.sub(lambda found: _fill(found, variables), FILE.read_text())
        self._content: dict[str, Any] = yaml.safe_load(filled)

    def command(self, service: str) -> list[str]:
        """Return a service's command as its words."""
        return shlex.split(self._here(self._content["services"][service]["command"]))

    def environment(self, service: str) -> dict[str, str]:
        """Return a service's environment, on top of this process' without anything of Ray's."""
        own: dict[str, str] = self._content["services"][service]["environment"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        here = {name: self._here(value) for name, value in own.items()}
        return ray_environment(None) | {"PATH": path} | here

    def config(self, name: str) -> str:
        """Return the content of a file that the services get."""
        return self._here(self._content["configs"][name]["content"])

    def _here(self, text: str) -> str:
        return self._pattern.sub(lambda found: self._places[found[0]], text)


def _fill(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, how = found["name"], found["how"]
    if name in variables:
        return variables[name]
    assert how == ":-", f"{name} has no default"
    return found["text"]
