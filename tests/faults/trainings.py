"""A trial's run in a bucket, trained by processes without Ray, which are killed at any moment.

A process is forked from one that has imported all, so a moment costs about a second.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

from acgan.run.records import RANKING, EpochRecord, read_records
from acgan.run.rundir import RunDir
from acgan.run.weights import read_weights
from acgan.training import train
from search.study.store.objects import ObjectStore
from search.study.store.runs import (
    StoredRun,
    all_commits,
    commit_names,
    fetch,
    in_store,
    read_commit,
)
from tests.faults.buckets import BucketLab, failing
from tests.faults.lab import Findings
from tests.kit import tiny_config, tiny_dataset

TRIAL = "t0000"
EPOCHS = 30
CONFIG = tiny_config(epochs=EPOCHS)
KINDS = ("", "", "busy", "lost", "cut", "behind", "0.2")
SHARES = {"busy": 0.5, "lost": 0.3, "cut": 0.3}


def killed(lab: BucketLab, rng: random.Random, *, times: int = 10) -> Findings:
    """Kill a process that trains, of a store that fares well or badly, and let another go on."""
    found = Findings(times=0)
    address = f"s3://studies/{lab.new_folder().name}-{rng.randrange(10**9)}/{TRIAL}"
    store, work = ObjectStore(address), lab.folder / "work"
    while found.times < times and _newest(store) < EPOCHS:
        kind, own = rng.choice(KINDS), random.Random(rng.random())
        with failing(lab.server, kind, partial(_falls, own, SHARES.get(kind, 1.0))):
            process = _start(address, work)
            wanted = _newest(store) + rng.randint(0, 2)
            while _newest(store) < wanted and process.is_alive():
                time.sleep(0.1)
            time.sleep(rng.uniform(0, 1.5))
            here = _trained(work)
            there = _records(store, lab.folder / "seen")
            process.kill()
            process.join()
        found.times += 1
        after = _records(store, lab.folder / "seen")
        # Trained and not there, and the one under way: none is while two wait to be brought there.
        missing = max(here - len(after), 0)
        found.redone = max(found.redone, missing, min(missing, 1) + 1)
        found.expect(after[: len(there)] == there, f"{kind}: epochs changed that were there")
    process = _start(address, work)
    process.join()
    found.expect(process.exitcode == 0, f"exit {process.exitcode}")
    _compare(store, lab, found)
    return found


def _falls(rng: random.Random, share: float) -> bool:
    return rng.random() < share


def _start(address: str, work: Path) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "s3fs"])
    process = context.Process(target=go_on, args=(address, work, dict(os.environ)))
    process.start()
    return process


def go_on(address: str, work: Path, environment: dict[str, str]) -> None:
    """Go on with the run to its end."""
    os.environ.update(environment)
    store = ObjectStore(address, on_outage=lambda _: None)
    with StoredRun(store, TRIAL, work, ranking=RANKING, notes=[]) as stored:
        records = train(CONFIG, tiny_dataset(), RunDir(stored.folder), repeat_last=True)
        for _ in in_store(records, stored, lambda: None):
            pass


def _newest(store: ObjectStore) -> int:
    return max((int(names[-1][-5:]) for names in all_commits(store).values()), default=0)


def _trained(work: Path) -> int:
    lines = work.glob(f"*/{TRIAL}/epochs.jsonl")
    return max((len(read_records(path)) for path in lines), default=0)


def _records(store: ObjectStore, folder: Path) -> list[EpochRecord]:
    """Return the epochs that the store has."""
    for name in reversed(commit_names(store, TRIAL)):
        fetch(store, read_commit(store, TRIAL, name).parts["epochs.jsonl"], folder / "epochs.jsonl")
        return read_records(folder / "epochs.jsonl")
    return []


def _compare(store: ObjectStore, lab: BucketLab, found: Findings) -> None:
    """Note what is not as in a run that nothing disturbed, and objects that nothing names."""
    plain = RunDir(lab.folder / "undisturbed")
    for _ in train(CONFIG, tiny_dataset(), plain):
        pass
    records = read_records(plain.path / "epochs.jsonl")
    there = _records(store, lab.folder / "seen")
    found.lost += EPOCHS - len(there)
    found.differing += sum(_numbers(a) != _numbers(b) for a, b in zip(records, there, strict=False))
    commits = [read_commit(store, TRIAL, name) for name in commit_names(store, TRIAL)]
    named = {part.key for commit in commits for part in commit.parts.values()}
    orphans = set(store.list("runs/")) - named
    found.expect(not orphans, f"objects that no commit names: {sorted(orphans)}")
    state = commits[-1].parts["state.safetensors"]
    fetch(store, state, lab.folder / "seen" / "state.safetensors")
    (here, _), (undisturbed, _) = (
        read_weights(path) for path in (lab.folder / "seen" / "state.safetensors", plain.state_path)
    )
    same = here.keys() == undisturbed.keys()
    same = same and all(torch.equal(here[name], undisturbed[name]) for name in here)
    found.expect(same, "another state at the end")


def _numbers(record: EpochRecord) -> dict[str, float]:
    return {key: value for key, value in record.metrics.items() if not key.startswith("perf/")}
