"""A cluster whose nodes share no folder: studies in a bucket, from the search to the images."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image

from search.study.folder import Outcome, open_study, study_path
from search.study.store.objects import ObjectStore
from search.study.store.runs import all_commits, read_commit
from tests.clusters import ClusterSearch, RayNode, differences, ray_head, ray_node
from tests.picks import SELECTION, write_covidx
from tests.s3_server import S3Server, s3_server
from tests.searches import CONFIG, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(1200)]

pytest_plugins = ["tests.mlflow_stores"]

EPOCHS = 6
TRIALS = 2


class BucketSearch(ClusterSearch):
    """A search in a bucket, whose driver has a disk of its own, as every node has."""

    def __init__(self, folder: Path, images: Path, database: Path, head: RayNode) -> None:
        super().__init__(folder, images, database, head)
        config = yaml.safe_load(CONFIG) | {"selection": SELECTION}
        config["train"] |= {"epochs": EPOCHS, "grace_updates": 1}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(config))

    def command(self, module: str, *options: str) -> str:
        """Type a command with the driver's environment; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", module, *options, "--tracking-uri", self.uri],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server(monkeypatch) as server:
        yield server


def newest(store: ObjectStore) -> dict[str, int]:
    """Return the newest epoch that the store has of each trial."""
    return {trial: int(names[-1][-5:]) for trial, names in all_commits(store).items()}


def cluster(head: RayNode) -> tuple[str, str]:
    return "--address", head.address


def workers(node: RayNode) -> list[psutil.Process]:
    """Return the node's processes that compute something of the driver's."""
    found = []
    for process in node.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            name = "".join(process.cmdline())
            if name.startswith("ray::") and "IDLE" not in name and "Agent" not in name:
                found.append(process)
    return found


def truncate_state(store: ObjectStore) -> None:
    """Cut the newest state of the trial that is furthest but has not ended."""
    begun = {name: epoch for name, epoch in newest(store).items() if epoch < EPOCHS}
    trial = max(begun, key=lambda name: begun[name])
    commit = read_commit(store, trial, all_commits(store)[trial][-1])
    key = commit.parts["state.safetensors"].key
    store.write(key, store.read(key)[:-50])


def test_from_the_search_to_the_images_without_a_shared_folder(
    server: S3Server, tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_covidx(tmp_path / "images")
    store = ObjectStore(f"{server.address}/tiny")
    place = ["--study", "tiny", "--storage-path", server.address]
    with ExitStack() as stack:
        head = stack.enter_context(ray_head(secrets.token_hex(16), cpus=0))
        nodes = []
        for name in ("one", "two"):
            own = ("env", f"ACGAN_CACHE={tmp_path / name}")
            node = ray_node(head.address, head.token, cpus=1, prefix=own)
            nodes.append(stack.enter_context(node))
        search = BucketSearch(tmp_path, tmp_path / "images", database, head)
        options = (*place[2:], "--num-samples", str(TRIALS))

        checked = search.command("search.doctor", *search.options[:4], *options, *cluster(head))
        assert f"storage: {server.address} can be written from 3 nodes" in checked
        assert "it locks on a condition" in checked
        assert ObjectStore(server.address).list("tiny/") == {}

        process = search.start(*options)
        wait_for(lambda: max(newest(store).values(), default=0) >= 1, "an epoch in the bucket")
        next(worker for node in nodes for worker in workers(node)).kill()
        wait_for(lambda: any("a0002" in k for k in store.list("commits/")), "another attempt")
        wait_for(lambda: max(newest(store).values(), default=0) >= 2, "two epochs in the bucket")
        process.kill()
        process.communicate()
        wait_for(lambda: not any(map(workers, nodes)), "the end of the driver's workers")
        truncate_state(store)
        shutil.rmtree(search.cache)
        printed = search.run(*options)
        assert "is trained again" in printed
        assert f"to pick one: {sys.executable} -m selection.pick" in printed
        assert f"--storage-path {server.address}" in printed

        monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "third"))
        study = open_study(study_path(server.address, "tiny"))
        assert [trial.name for trial in study.trials()] == ["t0000", "t0001"]
        for trial in study.trials():
            assert [record.epoch for record in trial.records()] == list(range(1, EPOCHS + 1))
            end = trial.end()
            assert end is not None
            assert end.outcome is Outcome.FINISHED
        assert differences(study, search.uri, latest_only=True) == []
        worked = {name for name in ("one", "two") if list(tmp_path.glob(f"{name}/stores/*/work"))}
        assert worked == {"one", "two"}

        shutil.rmtree(search.cache)
        picked = search.command("selection.pick", *place, *cluster(head))
        assert "registered as version 1" in picked
        looks = open_study(study_path(server.address, "tiny")).path
        assert len((looks / "test-touches.jsonl").read_text().splitlines()) == 1
        assert list(looks.glob("selection/*/report.html"))

        shutil.rmtree(search.cache)
        reproduced = search.command("search.reproduce", *place, "--trial", "t0001", "--epochs", "1")
        assert "identical" in reproduced
        assert "sent 0 new runs, 0 epochs and 0" in search.command("search.sync", *place)
        model = [
            "--model",
            "models:/cxr-acgan-generator/1",
            "--per-class",
            "2",
            "--out",
            "generated",
        ]
        search.command("selection.generate", *model)
    images = list((tmp_path / "generated").rglob("*.png"))
    assert len(images) == 6
    with Image.open(images[0]) as image:
        assert image.size == (16, 16)
    for text in (checked, printed, picked, reproduced):
        assert "not-to-be-seen" not in text
    everything = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in everything if b"not-to-be-seen" in path.read_bytes()]
