from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from acgan.run.records import RANKING, EpochRecord, read_records
from acgan.run.rundir import RunDir
from acgan.run.weights import read_weights
from acgan.training import train
from search.study.store.objects import ObjectStore
from search.study.store.runs import DamagedError, StoredRun, commit_names, in_store, read_commit
from tests.kit import tiny_config, tiny_dataset
from tests.s3_server import S3Server
from tests.search.study.store.conftest import new_place

pytestmark = pytest.mark.process

CONFIG = tiny_config(epochs=4)


def quiet() -> None:
    """Do nothing that says that a process is alive."""


def train_in_store(
    address: str, work: Path, *, until: int, see: Callable[[Path], None] = lambda _: None
) -> tuple[list[EpochRecord], list[str], list[str]]:
    """Go on with a trial up to an epoch; return the records, the commits and the notes."""
    notes: list[str] = []
    store = ObjectStore(address, on_outage=notes.append)
    with StoredRun(store, "t0000", work, ranking=RANKING, notes=notes) as stored:
        run = RunDir(stored.folder)
        found, names = [], []
        records = train(CONFIG, tiny_dataset(), run, repeat_last=True)
        for record, name in in_store(records, stored, quiet):
            found.append(record)
            names.append(name)
            if record.epoch == until:
                break
        see(stored.folder)
        return found, names, notes


def numbers(record: EpochRecord) -> dict[str, float]:
    return {k: v for k, v in record.metrics.items() if not k.startswith("perf/")}


def objects_named(address: str) -> set[str]:
    """Return the objects that the commits which are kept name."""
    store = ObjectStore(address)
    commits = [read_commit(store, "t0000", name) for name in commit_names(store, "t0000")]
    return {part.key for commit in commits for part in commit.parts.values()}


def test_a_run_goes_on_elsewhere_as_if_it_had_not_been_interrupted(
    address: str, tmp_path: Path
) -> None:
    plain = RunDir(tmp_path / "plain")
    whole = list(train(CONFIG, tiny_dataset(), plain))
    first, names, _ = train_in_store(address, tmp_path / "one", until=2)
    assert names == ["a0001-e00001", "a0001-e00002"]

    def see(folder: Path) -> None:
        shutil.copytree(folder, tmp_path / "end")

    second, names, notes = train_in_store(address, tmp_path / "other", until=4, see=see)
    assert names == ["a0002-e00002", "a0002-e00003", "a0002-e00004"]
    assert notes == []
    assert [numbers(r) for r in (*first, *second[1:])] == [numbers(r) for r in whole]
    state, _ = read_weights(tmp_path / "end" / "state.safetensors")
    expected, _ = read_weights(plain.state_path)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    commit = read_commit(ObjectStore(address), "t0000", "a0002-e00004")
    kept = {f"weights/epoch-{epoch:04d}.safetensors" for epoch in plain.kept_weights()}
    grids = {f"samples/epoch-{epoch:04d}.png" for epoch in range(5)}
    files = {"config.json", "machines.jsonl", "epochs.jsonl", "state.safetensors"}
    assert commit.parts.keys() == kept | grids | files


def test_no_object_stays_that_no_commit_names(any_address: str, tmp_path: Path) -> None:
    for until in (2, 4):
        train_in_store(any_address, tmp_path / "work", until=until)
    store = ObjectStore(any_address)
    assert commit_names(store, "t0000") == ["a0002-e00003", "a0002-e00004"]
    assert set(store.list("runs/")) == objects_named(any_address)
    assert not any((tmp_path / "work").glob("*/"))


@pytest.mark.parametrize("harm", ["truncated", "flipped", "gone"])
def test_a_damaged_state_gives_way_to_the_commit_before(
    harm: str, address: str, tmp_path: Path
) -> None:
    train_in_store(address, tmp_path / "work", until=3)
    store = ObjectStore(address)
    store.write("runs/t0000/a0001/e00004/state.safetensors", b"of an attempt that was killed")
    key = read_commit(store, "t0000", "a0001-e00003").parts["state.safetensors"].key
    content = store.read(key)
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    store.delete([key])
    if harm != "gone":
        store.write(key, flipped if harm == "flipped" else content[:-100])
    again, _, notes = train_in_store(address, tmp_path / "work", until=4)
    assert [record.epoch for record in again] == [2, 3, 4]
    assert len(notes) == 1
    assert notes[0].endswith("so epoch 3 is trained again")
    assert set(store.list("runs/")) == objects_named(address)


def test_a_commit_with_a_flipped_bit_or_cut_short_is_none(tmp_path: Path) -> None:
    address = f"file://{tmp_path / 'store'}"
    _, names, _ = train_in_store(address, tmp_path / "work", until=1)
    store, key = ObjectStore(address), f"commits/t0000/{names[0]}.json"
    whole, commit = store.read(key), read_commit(ObjectStore(address), "t0000", names[0])
    flipped = (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole)))
    cut = (whole[:at] for at in range(len(whole)))
    accepted = []
    for content in itertools.chain(flipped, cut):
        store.write(key, content)
        with contextlib.suppress(DamagedError):
            accepted.append(read_commit(store, "t0000", names[0]))
    assert accepted == [commit] * 2  # without its checksum it is whole


def test_an_attempt_that_dies_slowly_harms_none_that_follows(address: str, tmp_path: Path) -> None:
    store = ObjectStore(address)
    with StoredRun(store, "t0000", tmp_path / "slow", ranking=RANKING, notes=[]) as slow:
        records = train(CONFIG, tiny_dataset(), RunDir(slow.folder))
        sending = in_store(records, slow, quiet)
        next(sending)
        train_in_store(address, tmp_path / "next", until=3)
        assert [record.epoch for record, _ in sending] == [2, 3, 4]
    again, names, _ = train_in_store(address, tmp_path / "last", until=4)
    assert [record.epoch for record in again] == [3, 4]
    assert names == ["a0003-e00003", "a0003-e00004"]


def test_a_run_of_a_process_that_is_gone_is_removed_and_one_at_work_is_not(
    address: str, tmp_path: Path
) -> None:
    store = ObjectStore(address)
    with StoredRun(store, "t0001", tmp_path, ranking=RANKING, notes=[]) as at_work:
        gone = tmp_path / "a0001-t0007"
        (gone / "t0007").mkdir(parents=True)
        gone.with_suffix(".lock").touch()
        with StoredRun(store, "t0000", tmp_path, ranking=RANKING, notes=[]) as own:
            assert own.folder.is_dir()
            assert at_work.folder.is_dir()
            assert not gone.exists()


def test_an_epoch_is_sent_while_the_next_is_trained(address: str, tmp_path: Path) -> None:
    events: list[str] = []
    with StoredRun(ObjectStore(address), "t0000", tmp_path, ranking=RANKING, notes=[]) as stored:
        send = stored.send

        def noted(snapshot: object) -> str:
            name = send(snapshot)  # type: ignore[arg-type]
            events.append(f"{name} is there")
            return name

        stored.send = noted  # type: ignore[method-assign]
        for record, _ in in_store(
            train(CONFIG, tiny_dataset(), RunDir(stored.folder)), stored, quiet
        ):
            on_disk = len(read_records(stored.folder / "epochs.jsonl"))
            events.append(f"epoch {record.epoch} is told with {on_disk} trained")
    assert events == [
        *("a0001-e00001 is there", "epoch 1 is told with 2 trained"),
        *("a0001-e00002 is there", "epoch 2 is told with 3 trained"),
        *("a0001-e00003 is there", "epoch 3 is told with 4 trained"),
        *("a0001-e00004 is there", "epoch 4 is told with 4 trained"),
    ]


def test_an_outage_pauses_the_commits_is_said_and_loses_nothing(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = ["e00002/state.safetensors", "a0001-e00003.json"]

    def fault(environ: dict[str, str]) -> str:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] == "PUT" and refused and path.endswith(refused[0]):
            refused.pop(0)
            return "expired"
        return ""

    monkeypatch.setattr(server, "fault", fault)
    address = new_place(server.address)
    records, names, notes = train_in_store(address, tmp_path, until=4)
    assert [record.epoch for record in records] == [1, 2, 3, 4]
    assert names[-1] == "a0001-e00004"
    assert ["token has expired" in note for note in notes] == [True, False, True, False]
    assert notes[1] == notes[3] == f"{address} answers again"
    assert set(ObjectStore(address).list("runs/")) == objects_named(address)


def test_a_store_that_is_busy_slow_or_loses_answers_harms_nothing(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = itertools.cycle(["busy", "", "0.2", "lost", "", ""])
    monkeypatch.setattr(server, "fault", lambda environ: next(faults))
    address = new_place(server.address)
    for until in (2, 4):
        _, names, notes = train_in_store(address, tmp_path, until=until)
        assert notes == []
    assert names == ["a0002-e00002", "a0002-e00003", "a0002-e00004"]
    monkeypatch.setattr(server, "fault", lambda environ: "")
    assert set(ObjectStore(address).list("runs/")) == objects_named(address)
