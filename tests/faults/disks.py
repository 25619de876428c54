"""Disks that fill up or cannot be written, and files that are damaged, at random moments."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.kills import OPTIONS, TRIALS
from tests.faults.lab import (
    LEAVES_S,
    Findings,
    Lab,
    check_nothing_runs,
    check_whole,
    moment,
    redone,
    wait_for_epochs,
)
from tests.searches import Search

DISK_BYTES = 400_000_000


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[None]:
    """Have a file system mounted; skip a test where that is not allowed."""
    done = subprocess.run(["mount", *options, str(path)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting is not allowed here ({done.stderr.decode().strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def small_disk(path: Path, size: int = DISK_BYTES) -> Iterator[None]:
    """Have a disk of its own at a folder."""
    path.mkdir(exist_ok=True)
    with mounted(path, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        yield


def make_read_only(mount: Path) -> None:
    """Mount it again read-only, which is busy while a trial of a killed search writes a file."""
    deadline = time.monotonic() + LEAVES_S
    command = ["mount", "-o", "remount,bind,ro", str(mount)]
    while (done := subprocess.run(command, capture_output=True, check=False)).returncode:
        assert time.monotonic() < deadline, done.stderr.decode()
        time.sleep(0.05)


def fill(folder: Path, left: int) -> Path:
    """Fill a disk up to so many bytes; return the file that does it."""
    filler = folder / "filler"
    descriptor = os.open(filler, os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(descriptor, bytes(65536))
    except OSError:
        os.truncate(filler, max(os.fstat(descriptor).st_size - left, 0))
    finally:
        os.close(descriptor)
    return filler


def full(lab: Lab, rng: random.Random) -> Findings:
    """Fill the disk during a search, so that a state, a record or the ledger does not fit."""
    found = Findings()
    with lab.search() as search, small_disk(search.folder / "runs"):
        process = search.start(*OPTIONS, "--epochs", "14")
        wait_for_epochs(search, process, rng.randint(0, 30))
        filler = fill(search.folder / "runs", left=rng.choice([0, 0, 4096, 16384, 100_000]))
        before = moment(search)
        output, _ = process.communicate(timeout=1500)
        found.expect(process.returncode == 1, f"exit {process.returncode}: {output[-2500:]}")
        found.expect("error: No space left on device" in output, output[-2500:])
        found.expect("type: " in output, output[-2500:])
        found.expect("Traceback" not in output, output[-2500:])
        filler.unlink()
        search.run(*OPTIONS, "--epochs", "14")
        found.redone = redone([before], search)
        check_whole(search, TRIALS, found)
        check_nothing_runs(search, found)
    return found


def full_ledger(lab: Lab, rng: random.Random) -> Findings:
    """Let the ledger alone lie on a disk that fills up."""
    found = Findings()
    with lab.search() as search, small_disk(search.folder / "small", 2_000_000):
        lab.kill_driver(search, rng.randint(1, 8), *OPTIONS)
        ledger = search.study.ledger_path
        copy = search.folder / "small" / "ledger"
        copy.write_bytes(ledger.read_bytes())
        with mounted(ledger, "--bind", str(copy)):
            process = search.start(*OPTIONS)
            wait_for_epochs(search, process, search.epochs_kept() + rng.randint(0, 5))
            fill(search.folder / "small", left=0)
            output, _ = process.communicate(timeout=1500)
            found.expect(process.returncode == 1, f"exit {process.returncode}: {output[-2500:]}")
            found.expect("error: No space left on device" in output, output[-2500:])
            found.expect("Traceback" not in output, output[-2500:])
            (search.folder / "small" / "filler").unlink()
            before = moment(search)
            search.run(*OPTIONS)
        found.redone = redone([before], search)
        check_whole_with(ledger, copy, search, found)
    return found


def check_whole_with(ledger: Path, copy: Path, search: Search, found: Findings) -> None:
    """Put the ledger back where it belongs, and check the study."""
    ledger.write_bytes(copy.read_bytes())
    check_whole(search, TRIALS, found)
    check_nothing_runs(search, found)


def read_only(lab: Lab, rng: random.Random) -> Findings:
    """Start a search whose folder is read-only, new or begun."""
    found = Findings()
    with lab.search() as search:
        runs = search.folder / "runs"
        runs.mkdir()
        if rng.random() < 0.7:
            lab.kill_driver(search, rng.randint(1, 8), *OPTIONS)
        before = moment(search)
        with mounted(runs, "--bind", str(runs)):
            make_read_only(runs)
            process = search.start(*OPTIONS)
            output, _ = process.communicate(timeout=1500)
        found.expect(process.returncode in (1, 2), f"exit {process.returncode}: {output}")
        found.expect("Traceback" not in output and "error: " in output, output)
        search.run(*OPTIONS)
        found.redone = redone([before], search)
        check_whole(search, TRIALS, found)
        check_nothing_runs(search, found)
    return found


def damaged(lab: Lab, rng: random.Random) -> Findings:
    """Damage one file of a search that was killed; the same command must say so and go on."""
    found = Findings()
    with lab.search() as search:
        lab.kill_driver(search, rng.randint(2, 20), *OPTIONS)
        check_nothing_runs(search, found)
        before = moment(search)
        what, said = damage(search, rng)
        output = search.run(*OPTIONS)
        found.expect(said in output, f"{what}, not said: {output[-2500:]}")
        found.problems += [] if said in output else [what]
        found.redone = redone([before], search)
        check_whole(search, TRIALS, found, latest_only=True)  # epochs may be trained again
        check_nothing_runs(search, found)
    return found


def damage(search: Search, rng: random.Random) -> tuple[str, str]:
    """Damage a random file as a bad disk does; return what was done, and what must be said."""
    study = search.folder / "runs" / "tiny"
    states = sorted(study.glob("t*/state.safetensors"))
    lines = [path for path in sorted(study.glob("t*/epochs.jsonl")) if path.stat().st_size]
    kinds = ["torn line", "truncated state", "bit flip", "empty file", "missing sample"]
    kind = rng.choice(kinds)
    if kind == "torn line":
        path = rng.choice(lines)
        path.write_bytes(path.read_bytes()[: -rng.randint(2, 60)])
        return f"{kind}: {path}", ""  # the state holds the record: nothing is lost to speak of
    if kind in ("truncated state", "bit flip"):
        path = rng.choice(states)
        content = bytearray(path.read_bytes())
        if kind == "bit flip":
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            content = content[: rng.randrange(len(content))]
        path.write_bytes(content)
        return f"{kind}: {path}", _said_of(path, "is damaged")
    if kind == "missing sample":
        path = rng.choice(sorted(study.glob("t*/samples/*.png")))
        path.unlink()
        return f"{kind}: {path}", ""  # said if MLflow does not have it yet
    names = ["trial.json", "end.json", "config.json", "epochs.jsonl", "state.safetensors"]
    files = [path for name in names for path in sorted(study.glob(f"t*/{name}"))]
    path = rng.choice([*files, study / "quality.json", study / "scorer.safetensors"])
    path.write_bytes(b"")
    return f"{kind}: {path}", _said_of(path, "damaged" if path.name != "epochs.jsonl" else "")


def _said_of(path: Path, said: str) -> str:
    """Return what must be said; of a trial that has ended nothing is read again but its end."""
    ended = (path.parent / "end.json").exists()
    if ended and path.name == "epochs.jsonl":
        return "is damaged, though its trial has ended"
    return "" if ended and path.name in ("state.safetensors", "config.json") else said
