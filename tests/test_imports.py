"""Which module may import which: the design's arrows, and nothing across them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.kit import ROOT

PACKAGES = ("acgan", "search", "selection")

# What a package may import of those below it: whole packages, or single modules.
BELOW = {
    "acgan": (),
    "search": ("acgan",),
    "selection": (
        "acgan",
        "search.api",
        "search.study",
        "search.tracking",
        "search.nodes.cluster",
        "search.nodes.sees",
        "search.flags",
    ),
}
ACGAN_NEEDS = {"PIL", "numpy", "pydantic", "safetensors", "torch", "tqdm", "yaml"}
# The only modules that may import a library.
HOMES = {
    "ray": {
        "search.nodes.cluster",
        "search.tune",
        "search.tune.driver",
        "search.nodes.probe",
        "search.tune.searcher",
        "search.tune.trial",
        "selection.jobs.workers",
    },
    "optuna": {
        "search.commands.dashboard",
        "search.tracking.pictures",
        "search.study.optuna_ledger",
        "search.tune.stopping",
    },
    "optuna_dashboard": {"search.commands.dashboard"},
    "fsspec": {"search.study.store.objects"},
    "pydicom": {"acgan.data.dicom"},
    "mlflow": {
        "search.tracking.mirror",
        "search.tracking.check",
        "search.tracking.study_runs",
        "search.tracking.connection",
        "search.tracking.find",
        "search.tracking.marks",
        "search.tracking.notes",
        "selection.registry.publish",
        "selection.registry.model",
        "selection.registry.versions",
        "selection.augmentation.publish",
    },
    "torch_fidelity": {"selection.extractors.inception"},
}

Imports = dict[str, set[str]]


def imports(root: Path) -> Imports:
    """Return what each module of the packages imports, wherever in it, by full names."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    names = {".".join(path.relative_to(root).with_suffix("").parts): path for path in paths}
    modules = {name.removesuffix(".__init__") for name in names}
    return {
        name.removesuffix(".__init__"): set(_imported(path, modules))
        for name, path in names.items()
    }


def _imported(path: Path, modules: set[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules else str(node.module)


def forbidden(found: Imports) -> list[str]:
    """Name every import that goes against the design, a cycle as one."""
    wrong = [
        f"{module} imports {name}"
        for module, names in sorted(found.items())
        for name in sorted(names)
        if not _allowed(module, name)
    ]
    own = {module: {n for n in names if n in found} for module, names in found.items()}
    wrong += _cycle(own)
    if len(wrong) == 0:
        wrong += _cycle(by_room(own))
    return wrong


def by_room(found: Imports) -> Imports:
    """Return the imports between rooms: a folder of a package is one, and so is each file above."""
    rooms: Imports = {}
    for module, names in found.items():
        own = rooms.setdefault(room_of(module), set())
        own |= {room_of(name) for name in names} - {room_of(module)}
    return rooms


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _cycle(found: Imports) -> list[str]:
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return ["cycle: " + " imports ".join(reversed(error.args[1]))]
    return []


def _allowed(module: str, name: str) -> bool:
    package, library = module.partition(".")[0], name.partition(".")[0]
    if library in PACKAGES:
        known = (package, *BELOW[package])
        return any(name == below or name.startswith(f"{below}.") for below in known)
    if library in HOMES:
        return module in HOMES[library]
    return package != "acgan" or library in ACGAN_NEEDS | sys.stdlib_module_names


def test_imports_go_the_designs_way_only() -> None:
    found = imports(ROOT)
    assert {"acgan.train", "search.run", "search.study"} <= found.keys()
    assert "acgan.config" in found["acgan.train"]
    assert forbidden(found) == []


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("acgan/a.py", "import ray", "acgan.a imports ray"),
        ("acgan/a.py", "from optuna.samplers import TPESampler", "acgan.a imports optuna.samplers"),
        ("acgan/a.py", "def f():\n    import mlflow.client", "acgan.a imports mlflow.client"),
        ("acgan/a.py", "import pandas as pd", "acgan.a imports pandas"),
        ("acgan/a.py", "from search.study import folder", "acgan.a imports search.study.folder"),
        ("acgan/a.py", "import selection", "acgan.a imports selection"),
        ("search/a.py", "from selection.pick import x", "search.a imports selection.pick"),
        ("search/a.py", "import ray.tune", "search.a imports ray.tune"),
        ("search/a.py", "from mlflow import MlflowClient", "search.a imports mlflow"),
        ("search/tune/stopping.py", "import mlflow", "search.tune.stopping imports mlflow"),
        ("selection/a.py", "from search import run", "selection.a imports search.run"),
        ("selection/a.py", "import search", "selection.a imports search"),
        ("selection/a.py", "import torch_fidelity", "selection.a imports torch_fidelity"),
        ("acgan/b.py", "from acgan import c", "cycle: acgan.b imports acgan.c imports acgan.b"),
        (
            "search/study/lock.py",
            "from search.tune.driver import x",
            "cycle: search.study imports search.tune imports search.study",
        ),
    ],
)
def test_a_planted_violation_is_caught(
    tmp_path: Path, module: str, line: str, complaint: str
) -> None:
    planted = {
        "acgan/c.py": "import os, torch\nfrom acgan.b import x",
        "acgan/b.py": "from PIL import Image",
        "search/study/folder.py": "import acgan.b\nimport scipy",
        "search/run.py": "import search.flags",
        "search/tune/searcher.py": "from ray import tune\nfrom search.study import folder",
        "search/tune/driver.py": "from search.study import folder",
        "selection/pick.py": "from search.study.folder import x\nimport search.tracking.find",
    }
    write_tree(tmp_path, planted)
    assert forbidden(imports(tmp_path)) == []
    write_tree(tmp_path, {module: line})
    assert forbidden(imports(tmp_path)) == [complaint]


def test_a_package_is_seen_at_a_glance() -> None:
    for package, most in {"acgan": 17, "search": 14, "selection": 18}.items():
        names = {path.stem for path in (ROOT / package).iterdir()}
        names -= {"__init__", "__pycache__", "py"}
        assert len(names) <= most, f"{package}: {sorted(names)}"


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_a_relative_import_is_caught(tmp_path: Path) -> None:
    write_tree(tmp_path, {"acgan/a.py": "from . import b"})
    with pytest.raises(AssertionError, match="relative import"):
        imports(tmp_path)


@pytest.mark.process
def test_training_loads_neither_ray_nor_optuna_nor_mlflow() -> None:
    names = sorted({*HOMES, "search", "selection"})
    program = f"import sys, acgan.training; print([n for n in {names} if n in sys.modules])"
    run = [sys.executable, "-c", program]
    assert subprocess.check_output(run, cwd=ROOT, text=True) == "[]\n"


COMMANDS = (
    *("acgan.train", "acgan.generate"),
    *("search.run", "search.sync", "search.doctor", "search.dashboard", "search.reproduce"),
    *("selection.pick", "selection.study", "selection.review", "selection.generate"),
)


@pytest.mark.parametrize("module", COMMANDS)
def test_a_command_answers_before_what_takes_long_is_loaded(module: str) -> None:
    program = f"""
import sys
from {module} import parser
slow = {{"torch", "ray", "mlflow", "optuna", "pandas", "scipy", "matplotlib"}}
help = parser().format_help()
print(sorted(slow & set(sys.modules)), "usage:" in help)
"""
    run = [sys.executable, "-c", program]
    assert subprocess.check_output(run, cwd=ROOT, text=True) == "[] True\n"


@pytest.mark.process
@pytest.mark.parametrize(
    ("module", "later"),
    [
        ("search.commands.run", ["mlflow", "ray"]),  # a plan comes first
        ("search.tracking.mirror", ["sklearn"]),  # importances alone need it
        # What the driver alone needs; pandas is Ray Tune's own.
        ("search.tune.trial", ["matplotlib", "mlflow", "optuna", "scipy", "sklearn"]),
    ],
)
def test_what_is_not_needed_yet_is_not_loaded(module: str, later: list[str]) -> None:
    program = f"import sys, {module}; print([n for n in {later} if n in sys.modules])"
    run = [sys.executable, "-c", program]
    assert subprocess.check_output(run, cwd=ROOT, text=True) == "[]\n"
