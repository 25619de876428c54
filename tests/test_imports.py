"""Which module may import which: the design's arrows, and nothing across them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("acgan", "search", "selection")

# What a package may import of those below it: whole packages, or single modules.
BELOW = {
    "acgan": (),
    "search": ("acgan",),
    "selection": (
        "acgan",
        "search.lock",
        "search.study",
        "search.tracking",
        "search.cluster",
        "search.node",
        "search.estimate",
    ),
}
ACGAN_NEEDS = {"PIL", "numpy", "pydantic", "safetensors", "torch", "tqdm", "yaml"}
# The only modules that may import a library.
HOMES = {
    "ray": {
        "search.cluster",
        "search.driver",
        "search.probe",
        "search.run",
        "search.searcher",
        "search.trial",
        "selection.workers",
    },
    "optuna": {
        "search.dashboard",
        "search.pictures",
        "search.searcher",
        "search.space",
        "search.stopping",
    },
    "optuna_dashboard": {"search.dashboard"},
    "pydicom": {"acgan.dicom"},
    "mlflow": {
        "search.recorder",
        "search.store",
        "search.study_runs",
        "search.tracking",
        "selection.publish",
        "selection.registered_model",
        "selection.registry",
        "selection.study_publish",
    },
    "torch_fidelity": {"selection.extractors"},
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
    try:
        TopologicalSorter(own).prepare()
    except CycleError as error:
        wrong.append("cycle: " + " imports ".join(reversed(error.args[1])))
    return wrong


def _allowed(module: str, name: str) -> bool:
    package, library = module.partition(".")[0], name.partition(".")[0]
    if library in PACKAGES:
        return library == package or name in BELOW[package] or library in BELOW[package]
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
        ("acgan/a.py", "from search import study", "acgan.a imports search.study"),
        ("acgan/a.py", "import selection", "acgan.a imports selection"),
        ("search/a.py", "from selection.pick import x", "search.a imports selection.pick"),
        ("search/a.py", "import ray.tune", "search.a imports ray.tune"),
        ("search/a.py", "from mlflow import MlflowClient", "search.a imports mlflow"),
        ("search/stopping.py", "import mlflow", "search.stopping imports mlflow"),
        ("selection/a.py", "from search import run", "selection.a imports search.run"),
        ("selection/a.py", "import search", "selection.a imports search"),
        ("selection/a.py", "import torch_fidelity", "selection.a imports torch_fidelity"),
        ("acgan/b.py", "from acgan import c", "cycle: acgan.b imports acgan.c imports acgan.b"),
    ],
)
def test_a_planted_violation_is_caught(
    tmp_path: Path, module: str, line: str, complaint: str
) -> None:
    planted = {
        "acgan/c.py": "import os, torch\nfrom acgan.b import x",
        "acgan/b.py": "from PIL import Image",
        "search/study.py": "import acgan.b\nimport scipy",
        "search/run.py": "from ray import tune\nfrom search import study",
        "selection/pick.py": "from search import study\nimport acgan, search.tracking",
    }
    write_tree(tmp_path, planted)
    assert forbidden(imports(tmp_path)) == []
    write_tree(tmp_path, {module: line})
    assert forbidden(imports(tmp_path)) == [complaint]


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content)


def test_a_relative_import_is_caught(tmp_path: Path) -> None:
    write_tree(tmp_path, {"acgan/a.py": "from . import b"})
    with pytest.raises(AssertionError, match="relative import"):
        imports(tmp_path)


def test_training_loads_neither_ray_nor_optuna_nor_mlflow() -> None:
    names = sorted({*HOMES, "search", "selection"})
    program = f"import sys, acgan.train; print([n for n in {names} if n in sys.modules])"
    run = [sys.executable, "-c", program]
    assert subprocess.check_output(run, cwd=ROOT, text=True) == "[]\n"


def test_a_trials_process_loads_no_matplotlib() -> None:
    program = "import sys, search.trial; print('matplotlib' in sys.modules)"
    run = [sys.executable, "-c", program]
    assert subprocess.check_output(run, cwd=ROOT, text=True) == "False\n"
