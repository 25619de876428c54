"""What a node says of itself, and how all are asked."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import psutil
import pytest
import ray

from acgan.data.source import DataSource
from acgan.errors import InputError
from search.nodes import probe
from search.nodes.cluster import Node
from search.nodes.probe import Found, NodeQuestion
from tests.kit import tiny_config
from tests.searches import write_images

pytestmark = pytest.mark.process

MARK = "a mark"


def node() -> Node:
    (found,) = ray.nodes()
    return Node(cpus=2, gpus=0, id=found["NodeID"], name="here")


def number_of_node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def stay() -> None:
    time.sleep(600)


def fail() -> None:
    raise ValueError("no such number")


def test_a_function_runs_on_the_node_and_its_failure_is_told(ray_local: None) -> None:
    here = node()
    assert probe.ask([here], number_of_node) == ({here: here.id}, {})
    answers, problems = probe.ask([here], fail)
    assert answers == {}
    assert problems == {here: "ValueError: no such number"}


def test_a_node_without_room_is_not_waited_for_for_ever(ray_local: None) -> None:
    here, aside = node(), {"cpu": 1.0, "gpu": 0.0}
    running = ray.remote(num_cpus=2)(stay).remote()
    answers, problems = probe.ask([here], number_of_node, resources=aside, wait_s=2)
    ray.cancel(running, force=True)
    assert answers == {}
    assert problems == {here: "no answer within 2 s"}


def test_without_nodes_nobody_is_asked() -> None:
    assert probe.ask([], fail) == ({}, {})


def test_a_node_that_sees_the_folder_writes_where_all_read(tmp_path: Path) -> None:
    with probe.shared_folder(tmp_path / "runs", MARK) as shared:
        found = probe.answer_for_node(NodeQuestion(shared, MARK, None, None)).shared
        assert found.problem == ""
        assert probe.unseen(shared, [found.value, "never written"]) == ["never written"]
        assert (
            "another folder"
            in probe.answer_for_node(NodeQuestion(shared, "other", None, None)).shared.problem
        )
    there = probe.answer_for_node(NodeQuestion(shared, MARK, None, None)).shared
    assert "another folder there, or none" in there.problem
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_and_what_others_put_there_stays(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with probe.shared_folder(tmp_path / "old" / "new" / "newer", MARK) as shared:
        (shared.parents[1] / "study").touch()
    assert {path.name for path in tmp_path.rglob("*")} == {"old", "new", "study"}


def test_a_folder_that_cannot_be_made_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"cannot write in .*name another folder"),
        probe.shared_folder(tmp_path / "file" / "runs", MARK),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_data_are_the_same_by_labels_names_and_sizes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_images(one, train=9, test=3)
    shutil.copytree(one, two)
    for path in two.rglob("*.png"):
        os.utime(path, (1, 1))
    assert probe.data_hash(DataSource(folder=str(one))) == probe.data_hash(
        DataSource(folder=str(two))
    )
    asked = NodeQuestion(None, MARK, DataSource(folder=str(two)), None)
    assert probe.answer_for_node(asked).data == Found(probe.data_hash(DataSource(folder=str(one))))

    image = next(two.rglob("*.png"))
    image.write_bytes(image.read_bytes() + b"\0")
    assert probe.data_hash(DataSource(folder=str(one))) != probe.data_hash(
        DataSource(folder=str(two))
    )
    shutil.rmtree(two)
    assert str(two) in probe.answer_for_node(asked).data.problem


def test_a_weights_file_is_known_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.touch()
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    asked = NodeQuestion(None, MARK, None, (path, empty))
    assert probe.answer_for_node(asked).inception == Found(empty)
    path.write_text("other")
    assert "its SHA-256 is" in probe.answer_for_node(asked).inception.problem


def test_a_node_tells_the_packages_that_this_one_needs_its_memory_and_its_token_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = NodeQuestion(None, MARK, None, None)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    answer = probe.answer_for_node(asked)
    assert not answer.token
    assert {"acgan-search", "python", "ray", "torch", "optuna", "Jinja2"} <= answer.versions.keys()
    assert not {"mypy", "ruff"} & answer.versions.keys()
    assert answer.versions["ray"] == ray.__version__
    available = psutil.virtual_memory().available
    assert abs(answer.free_memory - available) < 0.2 * available
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert probe.answer_for_node(asked).token


def test_a_trials_device_is_tried() -> None:
    device = probe.try_device([tiny_config()], 48, False)
    assert (device.name, device.problem) == ("the CPU", "")
    assert device.seconds > 0


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="this machine has a GPU")
def test_a_gpu_that_pytorch_cannot_use_is_a_problem() -> None:
    assert (
        "PyTorch does not; install its build" in probe.try_device([tiny_config()], 48, True).problem
    )
