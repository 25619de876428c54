from __future__ import annotations

import json
import logging
import math
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from acgan.config import TrainConfig
from acgan.errors import InputError
from acgan.run.records import (
    QUALITY,
    EpochRecord,
    best_epochs,
    kept_epochs,
    read_records,
)
from acgan.run.rundir import NotOwnerError, RunDir
from acgan.run.weights import (
    HEADER_LIMIT_BYTES,
    checksum,
    parse_weights,
    read_weights,
    weights_bytes,
)
from tests.kit import LEAST, tiny_config

CONFIG = TrainConfig()
CLASSES = ("COVID-19", "normal", "pneumonia")


class Killed(BaseException):
    """The process ends here."""


class DyingFile:
    """A file whose writer dies, if it dies, with half of its bytes on the disk."""

    def __init__(self, file: Any, step: Callable[[], None]) -> None:
        self._file, self._step = file, step

    def __enter__(self) -> DyingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, content: bytes) -> None:
        try:
            self._step()
        except Killed:
            self._file.write(content[: len(content) // 2])
            raise
        self._file.write(content)


class Faults:
    """Kills whoever makes the file system call after the first `calls` of them, and any later."""

    def __init__(self, patch: pytest.MonkeyPatch, calls: int) -> None:
        self.left = calls
        for owner, name in ((os, "replace"), (os, "fsync"), (os, "open"), (Path, "unlink")):
            patch.setattr(owner, name, self._dying(getattr(owner, name)))
        written = os.write
        patch.setattr(os, "write", lambda fd, content: self._half(written, fd, content))
        opened = Path.open
        patch.setattr(Path, "open", lambda *a, **k: DyingFile(self._dying(opened)(*a, **k), self))

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def _half(self, write: Callable[[int, bytes], int], fd: int, content: bytes) -> int:
        try:
            self()
        except Killed:
            write(fd, content[: len(content) // 2])
            raise
        return write(fd, content)

    def _dying(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*arguments: Any, **named: Any) -> Any:
            self()
            return call(*arguments, **named)

        return dying


def killed_at(calls: int, body: Callable[[], object]) -> bool:
    """Run `body` and kill it after so many file system calls; return whether it came to that."""
    with pytest.MonkeyPatch.context() as patch:
        Faults(patch, calls)
        try:
            body()
        except Killed:
            return True
    return False


def record_of(epoch: int) -> EpochRecord:
    metrics = {QUALITY: 10.0 / epoch, "val/g_loss": math.nan, "train/x": 1 / 3}
    return EpochRecord(epoch=epoch, time=1e9 + epoch / 7, metrics=metrics)


def records_to(epoch: int) -> list[str]:
    return [record_of(e).model_dump_json() for e in range(1, epoch + 1)]


def state_of(epoch: int) -> dict[str, Tensor]:
    values = torch.arange(6, dtype=torch.float32).view(2, 3) * epoch
    return {"generator/weight": values, "adam/updates": torch.tensor(epoch)}


def open_run(path: Path) -> RunDir:
    run = RunDir(path)
    run.claim(CONFIG, classes=CLASSES, fingerprint="f" * 64)
    return run


def add_epoch(run: RunDir, epoch: int, *, state_every: int = 1) -> None:
    """Do what training does with an epoch."""
    run.write_samples(epoch, b"a picture")
    run.write_weights(epoch, b"some weights")
    run.commit(record_of(epoch), state_of(epoch) if epoch % state_every == 0 else None)
    run.prune_weights([record_of(e) for e in range(1, epoch + 1)], LEAST)


def make_run(path: Path, epochs: int, *, state_every: int = 1) -> RunDir:
    run = open_run(path)
    for epoch in range(1, epochs + 1):
        add_epoch(run, epoch, state_every=state_every)
    return run


def reopen(path: Path) -> None:
    open_run(path).restore()


def reopen_and_add(path: Path, epoch: int) -> None:
    add_epoch(open_run(path), epoch)


def numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield 0, 1, 2, … and a path for each that is not there yet."""
    return ((number, folder / str(number)) for number in range(1000))


def restored_epoch(path: Path) -> int:
    """Open a run as a new process does; check that all is in accord, return its last epoch."""
    run = open_run(path)
    restored = run.restore()
    assert not list(path.rglob("*.tmp"))
    if restored is None:
        assert not run.epochs_path.read_bytes()
        return 0
    records, tensors = restored
    assert [record.model_dump_json() for record in records] == records_to(len(records))
    assert [r.model_dump_json() for r in read_records(run.epochs_path)] == records_to(len(records))
    expected = state_of(len(records))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    return len(records)


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the thousands of runs made here the wait for the disk; the calls still count."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def test_a_run_without_epochs_starts_anew(tmp_path: Path) -> None:
    assert restored_epoch(tmp_path / "run") == 0
    names = {"config.json", "owner.json", "epochs.jsonl"}
    assert set(tree(tmp_path / "run")) == names


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_what_was_committed_is_restored(tmp_path: Path, epochs: int) -> None:
    make_run(tmp_path, epochs)
    assert restored_epoch(tmp_path) == epochs
    before = tree(tmp_path)
    assert restored_epoch(tmp_path) == epochs
    assert {k: v for k, v in tree(tmp_path).items() if k != "owner.json"} == {
        k: v for k, v in before.items() if k != "owner.json"
    }


@pytest.mark.parametrize(("epochs", "state_every"), [(0, 1), (1, 1), (2, 1), (2, 2), (3, 2)])
def test_a_kill_at_any_file_system_call_of_an_epoch_leaves_the_old_or_the_new_one_whole(
    tmp_path: Path, epochs: int, state_every: int
) -> None:
    saved = epochs - epochs % state_every
    new = epochs + 1 if (epochs + 1) % state_every == 0 else saved
    found = []
    for calls, path in numbered(tmp_path):
        run = make_run(path, epochs, state_every=state_every)
        if not killed_at(calls, partial(add_epoch, run, epochs + 1, state_every=state_every)):
            break
        found.append(restored_epoch(path))
        for epoch in range(found[-1] + 1, epochs + 4):  # and it goes on
            add_epoch(open_run(path), epoch, state_every=1)
        assert restored_epoch(path) == epochs + 3
    assert len(found) > 10
    assert found == sorted(found)
    assert set(found) == {saved, new}


def test_a_kill_while_a_kill_is_mended_changes_nothing(tmp_path: Path) -> None:
    for calls, path in numbered(tmp_path):
        run = make_run(path, 2)
        if not killed_at(calls, partial(add_epoch, run, 3)):
            break
        for later in range(100):
            if not killed_at(later, partial(reopen, path)):
                break
        assert restored_epoch(path) in (2, 3)
    assert calls > 10


def test_a_kill_after_a_damaged_state_still_leaves_a_whole_one(tmp_path: Path) -> None:
    for calls, path in numbered(tmp_path):
        run = make_run(path, 3)
        run.state_path.write_bytes(run.state_path.read_bytes()[:-1])
        assert restored_epoch(path) == 2
        if not killed_at(calls, partial(reopen_and_add, path, 3)):
            break
        assert restored_epoch(path) in (2, 3)
    assert calls > 10


def test_a_kill_while_a_run_is_claimed_leaves_one_that_can_be_claimed(
    tmp_path: Path,
) -> None:
    for calls, path in numbered(tmp_path):
        if not killed_at(calls, partial(open_run, path)):
            break
        assert restored_epoch(path) == 0
    assert calls > 5


def test_a_kill_between_the_state_and_its_line_is_mended(tmp_path: Path) -> None:
    run = make_run(tmp_path, 3)
    run.epochs_path.write_text("".join(line + "\n" for line in records_to(2)))
    assert restored_epoch(tmp_path) == 3


def test_lines_beyond_the_state_are_dropped(tmp_path: Path) -> None:
    make_run(tmp_path, 5, state_every=3)
    assert restored_epoch(tmp_path) == 3


def test_a_torn_line_is_dropped(tmp_path: Path) -> None:
    run = make_run(tmp_path, 3)
    run.epochs_path.write_bytes(run.epochs_path.read_bytes()[:-5])
    assert restored_epoch(tmp_path) == 3
    run.epochs_path.write_bytes(run.epochs_path.read_bytes() + b'{"epoch": 4, "ti')
    assert restored_epoch(tmp_path) == 3


def test_a_torn_last_line_costs_no_whole_one_where_the_state_is_older(tmp_path: Path) -> None:
    run = make_run(tmp_path, 5, state_every=3)
    run.epochs_path.write_bytes(run.epochs_path.read_bytes()[:-5])
    assert not RunDir(tmp_path).complete_lines()
    assert [record.epoch for record in read_records(run.epochs_path)] == [1, 2, 3, 4]


def test_lines_without_any_state_start_again_and_this_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path, 2, state_every=3)
    assert restored_epoch(tmp_path) == 0
    assert "has no state that can be used: it starts again" in caplog.text


@pytest.mark.parametrize("lines", [b"", b"\n", b"no json\n", None])
def test_a_state_whose_earlier_lines_are_lost_starts_again_and_this_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: bytes | None
) -> None:
    run = make_run(tmp_path, 3)
    if lines is None:
        run.epochs_path.unlink()
    else:
        run.epochs_path.write_bytes(lines)
    assert restored_epoch(tmp_path) == 0
    assert "epochs.jsonl" in caplog.text


@pytest.mark.parametrize("epoch", [4, 10**10, 10**18, 10**30])
def test_a_state_of_an_epoch_far_beyond_the_records_gives_way_to_the_one_before(
    tmp_path: Path, epoch: int
) -> None:
    run = make_run(tmp_path, 2)
    record = record_of(1).model_copy(update={"epoch": epoch}).model_dump_json()
    metadata = {"record": record, "checksum": checksum(state_of(2), record)}
    run.state_path.write_bytes(weights_bytes(state_of(2), metadata))
    restored = run.restore()
    assert restored is not None
    assert restored[0][-1].epoch == 1
    assert run.notes == [f"{run.epochs_path} lacks records before epoch {epoch}"]


def damaged_copies(content: bytes) -> Iterator[bytes]:
    """Yield the file with one bit of each byte flipped, and cut off at each length."""
    choose = random.Random(0)
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= 1 << choose.randrange(8)
        yield bytes(damaged)
    for length in range(0, len(content), 7):
        yield content[:length]
    yield content + b"\0"


def test_a_damaged_state_gives_way_to_the_one_before_wherever_the_damage_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path, 3)
    last, previous = run.state_path.read_bytes(), run.previous_state_path.read_bytes()
    lines = run.epochs_path.read_bytes()
    for damaged in damaged_copies(last):
        run.state_path.write_bytes(damaged)
        run.previous_state_path.write_bytes(previous)
        run.epochs_path.write_bytes(lines)
        caplog.clear()
        restored = run.restore()
        assert restored is not None
        assert restored[0][-1].epoch == 2
        assert torch.equal(restored[1]["generator/weight"], state_of(2)["generator/weight"])
        assert "state.safetensors is damaged" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"{}", None])
def test_two_damaged_states_start_again_and_this_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    run = make_run(tmp_path, 3)
    for path in (run.state_path, run.previous_state_path):
        if content is None:
            path.write_bytes(path.read_bytes()[:-1])
        else:
            path.write_bytes(content)
    assert restored_epoch(tmp_path) == 0
    assert caplog.text.count("is damaged") == 2
    assert "starts again" in caplog.text
    add_epoch(open_run(tmp_path), 1)
    assert restored_epoch(tmp_path) == 1


def test_an_undamaged_run_is_opened_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path, 3)
    with caplog.at_level(logging.WARNING):
        assert restored_epoch(tmp_path) == 3
    assert not caplog.text


def test_what_crashes_leave_behind_does_not_pile_up(tmp_path: Path) -> None:
    make_run(tmp_path, 1)
    for calls in range(30):
        killed_at(calls, partial(reopen_and_add, tmp_path, 2))
        assert len(list(tmp_path.rglob("*.tmp"))) <= 2
        restored_epoch(tmp_path)


def test_a_run_that_was_taken_over_is_not_written_to(tmp_path: Path) -> None:
    first = make_run(tmp_path, 2)
    open_run(tmp_path)
    before = tree(tmp_path)
    for write in (
        lambda: first.commit(record_of(3), state_of(3)),
        lambda: first.commit(record_of(3), None),
        lambda: first.write_samples(3, b"new"),
        lambda: first.write_weights(3, b"new"),
    ):
        with pytest.raises(NotOwnerError, match=f"taken over by process {os.getpid()} on "):
            write()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("what", ["commit", "samples", "weights"])
def test_a_run_that_is_taken_over_while_a_file_is_written_is_left_as_it_is(
    tmp_path: Path, what: str
) -> None:
    first = make_run(tmp_path, 2)
    before = {name: content for name, content in tree(tmp_path).items() if name != "owner.json"}
    fsync = os.fsync
    with pytest.MonkeyPatch.context() as patch:

        def steal(descriptor: int) -> None:
            patch.undo()
            open_run(tmp_path)
            fsync(descriptor)

        patch.setattr(os, "fsync", steal)
        write: dict[str, Callable[[], object]] = {
            "commit": lambda: first.commit(record_of(3), state_of(3)),
            "samples": lambda: first.write_samples(2, b"new"),
            "weights": lambda: first.write_weights(2, b"new"),
        }
        with pytest.raises(NotOwnerError):
            write[what]()
    after = tree(tmp_path)
    assert after.keys() - {"owner.json"} == before.keys()
    assert before.items() <= after.items()
    assert restored_epoch(tmp_path) == 2


def test_a_late_line_of_a_former_owner_does_not_reach_the_records(tmp_path: Path) -> None:
    first = make_run(tmp_path, 2)
    second = open_run(tmp_path)
    second.restore()
    # As if the run were taken over between the former owner's last look and its line.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first, "check_owner", lambda: None)
        first.commit(record_of(3), None)
    assert restored_epoch(tmp_path) == 2
    assert [record.epoch for record in read_records(second.epochs_path)] == [1, 2]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"attempt": 1}'])
def test_a_damaged_owner_file_stops_the_writer_and_can_be_claimed(
    tmp_path: Path, content: bytes
) -> None:
    run = make_run(tmp_path, 1)
    (tmp_path / "owner.json").write_bytes(content)
    with pytest.raises(NotOwnerError, match=r"owner\.json is damaged"):
        run.commit(record_of(2), state_of(2))
    assert restored_epoch(tmp_path) == 1


def test_the_owner_is_known_by_host_and_process(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    owner = json.loads((tmp_path / "owner.json").read_text())
    assert owner["pid"] == os.getpid()
    run.check_owner()


def test_another_configuration_is_refused_naming_the_difference(tmp_path: Path) -> None:
    make_run(tmp_path, 1)
    before = tree(tmp_path)
    other = CONFIG.model_copy(update={"epochs": 5, "zoom": 0.25})
    with pytest.raises(InputError, match=r"\(epochs: 388 → 5; zoom: 0\.1 → 0\.25\)"):
        RunDir(tmp_path).claim(other, classes=CLASSES, fingerprint="f" * 64)
    assert tree(tmp_path) == before


def test_other_images_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path, 1)
    with pytest.raises(InputError, match="holds a run on other images"):
        RunDir(tmp_path).claim(CONFIG, classes=CLASSES, fingerprint="0" * 64)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"train": {}}'])
def test_a_damaged_configuration_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        open_run(tmp_path)


def test_records_that_are_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "epochs.jsonl").mkdir()
    with pytest.raises(InputError, match="it is no file; remove it"):
        open_run(tmp_path)


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match="cannot be the folder of a run"):
            open_run(path)


def test_every_part_of_a_state_counts_in_its_checksum() -> None:
    state = state_of(2)
    weight = state["generator/weight"]
    others: list[dict[str, Tensor]] = [
        state_of(3),
        {"generator/weight": weight},
        {**state, "more": torch.zeros(1)},
        {**state, "generator/weight": weight.view(3, 2)},
        {**state, "generator/weight": weight.view(torch.int32)},
        {"generator/bias": weight, "adam/updates": state["adam/updates"]},
    ]
    sums = {checksum(found, "{}") for found in (state, *others)} | {checksum(state, "{ }")}
    assert len(sums) == len(others) + 2
    assert checksum(dict(reversed(state.items())), "{}") == checksum(state, "{}")


def test_weights_that_are_views_are_written_as_they_look() -> None:
    base = torch.arange(6.0).view(2, 3)
    tensors = load_tensors(weights_bytes({"t": base.T, "row": base[1]}, {"epoch": "1"}))
    assert torch.equal(tensors["t"], base.T)
    assert torch.equal(tensors["row"], base[1])


def test_the_same_weights_are_the_same_bytes_each_time() -> None:
    texts = {name: "é" * count for count, name in enumerate("abcdefgh")}
    contents = {weights_bytes({"t": torch.ones(3), "s": torch.ones(2)}, texts) for _ in range(20)}
    assert len(contents) == 1


def test_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    tensors = {
        "float": torch.randn(3, 2),
        "scalar": torch.tensor(1.5, dtype=torch.float64),
        "none": torch.empty(0, 4),
        "whole": torch.arange(5),
        "truth": torch.tensor([True, False]),
    }
    (tmp_path / "w").write_bytes(weights_bytes(tensors, {"epoch": "1", "é": "😀"}))
    read, texts = read_weights(tmp_path / "w")
    assert texts == {"epoch": "1", "é": "😀"}
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read[name], tensor)
    assert parse_weights(weights_bytes({"a": tensors["whole"]}, {}))[1] == {}


def test_what_was_read_does_not_change_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(weights_bytes({"a": torch.ones(10_000)}, {}))
    tensors, _ = read_weights(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(tensors["a"], torch.ones(10_000))


def test_what_is_no_file_is_no_weights(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_weights(path)
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / "none")


def test_what_is_too_large_for_weights_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "weights").open("w") as file:
        file.truncate(10**12)
    with pytest.raises(OSError, match="File too large"):
        read_weights(tmp_path / "weights")


def as_weights(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(dtype: str, shape: list[int], size: int = 0) -> bytes:
    return as_weights(
        {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, b"x" * size
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        b"\xff" * 100,
        as_weights([]),
        as_weights({"__metadata__": {"a": 1}}),
        as_weights({"__metadata__": {"a": "b" * HEADER_LIMIT_BYTES}}),
        tensor("F4", [2], 1),
        tensor("F32", [0, 2**64 - 1]),
        tensor("F32", [0, 2**62, 8]),
        tensor("F32", [2], 4),
    ],
)
def test_any_other_bytes_are_no_weights(content: bytes) -> None:
    with pytest.raises(SafetensorError):
        parse_weights(content)


def test_weights_of_odd_names_are_passed_over_and_stay(tmp_path: Path) -> None:
    run = make_run(tmp_path, 2)
    odd = [
        run.path / "weights" / f"epoch-{name}.safetensors" for name in ("abc", "1", "00001", "٠٠٠٩")
    ]
    for path in odd:
        path.touch()
    run.weights_path(9).mkdir()
    assert sorted(run.kept_weights()) == [1, 2]
    run.prune_weights([], LEAST)
    assert run.kept_weights() == []
    assert all(path.exists() for path in odd)


SCORES = st.integers(0, 5).map(float) | st.just(math.inf) | st.just(math.nan)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=15))
def test_pruning_keeps_the_candidates_and_the_last_three_and_no_candidate_is_ever_missed(
    rows: list[tuple[float, float]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        (run.path / "weights").mkdir()
        records: list[EpochRecord] = []
        there: set[int] = set()
        for epoch, (quality, loss) in enumerate(rows, start=1):
            metrics = {QUALITY: quality, "val/g_loss": loss, "val/acc_generated": 0.5}
            records.append(EpochRecord(epoch=epoch, time=0, metrics=metrics))
            run.weights_path(epoch).touch()
            run.prune_weights(records, LEAST)
            finite = [r.epoch for r in records if math.isfinite(r.metrics[QUALITY])]
            there = (there | {epoch}) & (kept_epochs(records, LEAST) | set(finite[-3:]))
            assert {e for e in range(1, 16) if run.weights_path(e).exists()} == there
            assert set(best_epochs(records, LEAST, 3)) <= there


def test_a_run_tells_with_which_images_it_was_begun(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    assert run.fingerprint == ""
    run.claim(tiny_config(), classes=("a", "b"), fingerprint="f1")
    assert RunDir(tmp_path / "run").fingerprint == "f1"
    (tmp_path / "run" / "config.json").write_text("{")
    assert run.fingerprint == ""
