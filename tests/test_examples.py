"""The examples of CONTRIBUTING.md that are packages of one's own, used in one study.

A search and a pick on a cluster of two Ray nodes, as a user types them: with networks, a number of
an epoch that is the objective and is required, a layout of data, and an extractor.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image

from acgan.plugins import EXTRACTORS, LAYOUTS, NETWORKS, NUMBERS
from acgan.run.rundir import RunDir
from selection.steps.result import Pick, read_pick
from tests.clusters import ClusterSearch, RayNode, differences, ray_head, ray_node, trials_on
from tests.kit import CLASSES, ROOT, tiny_images
from tests.picks import SELECTION
from tests.plugins import write_plugin
from tests.searches import wait_for

pytestmark = pytest.mark.process
pytest_plugins = ["tests.mlflow_stores"]

EPOCHS = 40  # longer than one node may take to start a worker after the other
CONFIG = {
    "train": {
        "image_size": 16,
        "batch_size": 32,
        "epochs": EPOCHS,
        "latent_size": 8,
        "grace_fraction": 0.0,
        "grace_updates": 1,
    },
    "space": {"learning_rate": {"low": 5e-5, "high": 8e-3, "log": True}},
    "search": {"stop_pruned": False, "stop_collapsed": False, "stop_discriminator_won": False},
    "selection": SELECTION | {"per_trial": 1, "max_candidates": 2, "extractor": "means"},
}
PARTS = ("--networks", "mine", "--numbers", "sharpness", "--objective", "val/sharpness")
USED = {"networks mine", "numbers sharpness", "layouts by-name"}


def examples() -> tuple[dict[str, dict[str, str]], str]:
    """Return the entry points of the examples, and the code of all in one module."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    codes = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    groups: dict[str, dict[str, str]] = {}
    for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        for group, entries in tomllib.loads(block)["project"]["entry-points"].items():
            groups[group] = {
                name: value.removeprefix("my_package:") for name, value in entries.items()
            }
    return groups, "\n".join(codes)


def write_by_name(folder: Path) -> None:
    """Write grey ramps in the example's layout; a patient has two images."""
    (folder / "images").mkdir(parents=True)
    (folder / "by-name").touch()
    found = tiny_images(300)
    for index, (pixels, label) in enumerate(zip(found.images, found.labels, strict=True)):
        name = f"{CLASSES[label]}-{index // 6}-{index}.png"
        Image.fromarray(pixels).save(folder / "images" / name)


@dataclass(frozen=True)
class Place:
    """A cluster with the examples installed, and a study on it."""

    installed: Path
    search: ClusterSearch
    worker: RayNode

    def pick(self, *options: str) -> str:
        """Type the pick, wait, and return what it printed."""
        command = [sys.executable, "-m", "selection.pick", "--study", "tiny", "--no-test"]
        command += ["--tracking-uri", self.search.uri, "--address", self.search.head.address]
        done = subprocess.run(
            [*command, *options],
            cwd=self.search.folder,
            env=self.search.environment(),
            check=False,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install(self, version: str) -> None:
        """Put the examples where all processes of the place find them."""
        write_plugin(self.installed, *examples(), version=version, module="my_package")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    write_by_name(folder / "data")
    shutil.copy(migrated_database, folder / "mlflow.db")
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        found = [str(folder / "installed"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, found)))
        patch.setenv("ACGAN_CACHE", str(folder / "c"))
        token = secrets.token_hex(16)
        head = stack.enter_context(ray_head(token, cpus=1))
        worker = stack.enter_context(ray_node(head.address, token, cpus=1))
        search = ClusterSearch(folder, folder / "data", folder / "mlflow.db", head)
        (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
        stack.callback(search.stop)
        found_place = Place(folder / "installed", search, worker)
        found_place.install("1.0")
        yield found_place


@dataclass(frozen=True)
class Searched:
    """What the search printed, and which trials were seen on each node."""

    place: Place
    output: str
    seen: tuple[set[str], set[str]]


@pytest.fixture(scope="module")
def searched(place: Place) -> Searched:
    seen: tuple[set[str], set[str]] = (set(), set())
    process = place.search.start(*PARTS, "--num-samples", "2")

    def both_have_worked() -> bool:
        for trials, node in zip(seen, (place.search.head, place.worker), strict=True):
            trials.update(trials_on(place.search.path, node))
        return all(seen) or process.poll() is not None

    wait_for(both_have_worked, "a trial on each node", seconds=400)
    output, _ = process.communicate(timeout=1500)
    assert process.returncode == 0, output
    return Searched(place, output, seen)


@dataclass(frozen=True)
class Picked:
    """What the pick printed and left, and what it required."""

    output: str
    pick: Pick
    bound: float


@pytest.fixture(scope="module")
def picked(searched: Searched) -> Picked:
    study = searched.place.search.study
    with_weights = [
        record.metrics["val/sharpness"]
        for trial in study.trials()
        for record in trial.records()
        if record.epoch in RunDir(trial.path).kept_weights()
    ]
    bound = statistics.median_low(with_weights)
    output = searched.place.pick("--require", f"val/sharpness>={bound!r}")
    (file,) = study.path.glob("selection/*/pick.json")
    found = read_pick(file)
    assert found is not None
    return Picked(output, found, bound)


def test_there_is_an_example_of_each_kind() -> None:
    groups, code = examples()
    assert groups.keys() == {NETWORKS, NUMBERS, LAYOUTS, EXTRACTORS}
    compile(code, "CONTRIBUTING.md", "exec")


def test_a_search_on_two_nodes_takes_all_that_is_ones_own(searched: Searched) -> None:
    first, second = searched.seen
    assert first
    assert second
    study = searched.place.search.study
    info = study.info
    assert (info.train["networks"], info.train["numbers"]) == ("mine", ["sharpness"])
    assert (info.search["objective"], info.search["direction"]) == ("val/sharpness", "maximize")
    assert info.classes == CLASSES
    for trial in study.trials():
        end, records = trial.end(), trial.records()
        assert len(records) == EPOCHS
        values = [record.metrics["val/sharpness"] for record in records]
        assert np.isfinite(values).all()
        assert end is not None
        grown = [value for record, value in zip(records, values, strict=True) if not record.young]
        medians = [statistics.median(grown[max(i - 2, 0) : i + 1]) for i in range(len(grown))]
        assert end.value == max(medians)
    assert differences(study, searched.place.search.uri) == []


def test_the_study_and_mlflow_know_the_versions(searched: Searched) -> None:
    study = searched.place.search.study
    started = study.last_start()
    assert started is not None
    assert started.plugins == dict.fromkeys(USED, "plugin 1.0")
    client = MlflowClient(searched.place.search.uri)
    numbers = [found.experiment_id for found in client.search_experiments()]
    condition = f"tags.study_id = '{study.info.uuid}' and tags.stage = 'search'"
    (run,) = client.search_runs(numbers, condition)
    assert set(run.data.tags["plugins"].split("; ")) == {f"{name}: plugin 1.0" for name in USED}


def test_a_pick_on_two_nodes_requires_the_number_and_measures_by_the_extractor(
    picked: Picked, searched: Searched
) -> None:
    pick = picked.pick
    assert (pick.extractor.name, pick.extractor.independent) == ("means", True)
    records = {trial.name: trial.records() for trial in searched.place.search.study.trials()}
    for candidate in pick.candidates:
        own = records[candidate.trial][candidate.epoch - 1]
        assert own.metrics["val/sharpness"] >= picked.bound
    (fidelity,) = {c.fidelity.rank_metric for c in pick.candidates if c.fidelity is not None}
    assert "means" in fidelity
    (reason,) = (name for name in pick.filter.reasons if name.startswith("without "))
    assert reason.startswith("without val/sharpness >= ")
    assert f"{pick.filter.reasons[reason]} {reason}" in picked.output
    below = [
        record
        for own in records.values()
        for record in own
        if record.metrics["val/sharpness"] < picked.bound and not record.young
    ]
    assert 0 < pick.filter.reasons[reason] <= len(below)


@pytest.mark.usefixtures("picked")
def test_another_version_is_told_by_a_search_and_by_a_pick(searched: Searched) -> None:
    place = searched.place
    asked = (*PARTS, "--num-samples", "2", "--dry-run")
    told = "are of plugin 1.1 here, and the study was begun with plugin 1.0"
    assert told not in place.search.run(*asked)
    place.install("1.1")
    try:
        assert place.search.run(*asked).count(told) == len(USED)
        assert place.pick("--dry-run").count(told) == len(USED)
    finally:
        place.install("1.0")
