"""What a run was computed with is noted, and forgotten with epochs that are redone."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
import torch

from acgan.config import TrainConfig
from acgan.plugins import NUMBERS
from acgan.run.machine import (
    FILE,
    Machine,
    Since,
    machine_at,
    note_machine,
    read_machines,
    this_machine,
    what_differs,
)
from tests.plugins import on_the_path, write_plugin

HERE = this_machine(torch.device("cpu"), TrainConfig())
OTHER = HERE.model_copy(update={"torch": "9.9.9", "threads": HERE.threads + 1})


def test_this_machine_is_what_python_and_pytorch_say() -> None:
    assert (HERE.python, HERE.numpy, HERE.torch) == (
        platform.python_version(),
        np.__version__,
        torch.__version__,
    )
    assert (HERE.device, HERE.threads) == ("cpu", torch.get_num_threads())
    assert len(HERE.code) == 12
    assert this_machine(torch.device("cpu"), TrainConfig()) == HERE
    assert HERE.processor


def test_the_same_machine_again_is_noted_once(tmp_path: Path) -> None:
    note_machine(tmp_path, 1, HERE)
    note_machine(tmp_path, 4, HERE)
    assert read_machines(tmp_path) == [Since(epoch=1, machine=HERE)]


def test_each_epoch_has_the_machine_that_computed_it(tmp_path: Path) -> None:
    note_machine(tmp_path, 1, HERE)
    note_machine(tmp_path, 4, OTHER)
    noted = read_machines(tmp_path)
    found = [machine_at(noted, epoch) for epoch in (1, 3, 4, 9)]
    assert found == [HERE, HERE, OTHER, OTHER]


def test_an_epoch_that_is_trained_again_elsewhere_has_the_later_machine(tmp_path: Path) -> None:
    note_machine(tmp_path, 1, HERE)
    note_machine(tmp_path, 4, OTHER)  # no epoch came of it
    note_machine(tmp_path, 3, OTHER)
    assert read_machines(tmp_path) == [
        Since(epoch=1, machine=HERE),
        Since(epoch=3, machine=OTHER),
    ]
    note_machine(tmp_path, 3, HERE)
    assert read_machines(tmp_path) == [Since(epoch=1, machine=HERE)]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b'{"epoch": 0}\n', b"[]\n"])
def test_a_damaged_note_is_as_none_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert read_machines(tmp_path) == []
    note_machine(tmp_path, 5, HERE)
    noted = read_machines(tmp_path)
    assert machine_at(noted, 4) is None
    assert machine_at(noted, 5) == HERE


def test_a_run_without_a_note_is_not_known(tmp_path: Path) -> None:
    assert machine_at(read_machines(tmp_path), 1) is None


def test_a_note_of_a_later_version_can_be_read() -> None:
    later = Machine.model_validate({**HERE.model_dump(), "weather": "fair"})
    assert later == HERE


def test_each_difference_is_named() -> None:
    assert what_differs(HERE, HERE) == []
    assert what_differs(HERE, OTHER) == [
        f"torch: {torch.__version__} → 9.9.9",
        f"threads: {HERE.threads} → {HERE.threads + 1}",
    ]


def test_a_plug_ins_version_is_part_of_what_computed_an_epoch(tmp_path: Path) -> None:
    groups = {NUMBERS: {"one": "one"}}
    config = TrainConfig(numbers=("one",))
    write_plugin(tmp_path, groups, "")
    with on_the_path(tmp_path):
        before = this_machine(torch.device("cpu"), config)
        assert this_machine(torch.device("cpu"), TrainConfig()) == HERE
        write_plugin(tmp_path, groups, "", version="1.1")
        after = this_machine(torch.device("cpu"), config)
    assert what_differs(before, after) == [
        "plugins: {'numbers one': 'plugin 1.0'} → {'numbers one': 'plugin 1.1'}"
    ]
    known = HERE.model_dump()
    del known["plugins"]  # as an earlier version noted it
    assert Machine.model_validate(known) == HERE
