"""Faults at random moments, and the table of what they did: `python -m tests.faults.chaos`.

Each fault is done as often as `TIMES` says. What was done stands in a file of lines, so the same
command goes on where it was. `--out docs/reliability.md` puts the table into that page.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.report import replace_section
from tests.faults import buckets, disks, kills, picks, studies, surroundings, trainings, trials
from tests.faults.buckets import BucketFault
from tests.faults.lab import Fault, Findings, Lab, check_no_agent_runs

OFTEN, TEN, SOME = 20, 10, 3
FAULTS: dict[str, tuple[str, Fault, int]] = {
    "trial": ("kill -9 of a trial's process", kills.trial_process, OFTEN),
    "driver": ("kill -9 of the driver, the same command at once", kills.driver, OFTEN),
    "ctrl-c": ("Ctrl-C", kills.ctrl_c, OFTEN),
    "ctrl-c-twice": ("Ctrl-C twice", kills.ctrl_c_twice, OFTEN),
    "sigterm": ("SIGTERM", kills.terminated, OFTEN),
    "node": ("kill -9 of a node of a cluster", surroundings.node_is_killed, OFTEN),
    "node-taken": ("a node that is taken back", surroundings.node_is_taken, SOME),
    "node-joins": ("a node that joins", surroundings.node_comes, SOME),
    "head": ("kill -9 of the head, started again", surroundings.head_is_killed, SOME),
    "unshared": ("a node whose folder is another", surroundings.folder_is_not_shared, SOME),
    "slow-death": ("a process that wakes beside its successor", kills.slow_death, SOME),
    "server-killed": ("MLflow server killed, back later", surroundings.server_is_killed, SOME),
    "server-slow": ("MLflow server slow, 2 s a call", surroundings.server_is_slow, SOME),
    "server-500": ("MLflow server answers 500", surroundings.server_fails, SOME),
    "sqlite-locked": ("SQLite locked by another process", surroundings.file_is_locked, SOME),
    "postgres": ("PostgreSQL crashes, back later", surroundings.database_crashes, SOME),
    "disk-full": ("disk full, mended", disks.full, 6),
    "ledger-full": ("disk of the ledger full, mended", disks.full_ledger, SOME),
    "read-only": ("read-only folder, mended", disks.read_only, SOME),
    "damaged": ("torn, truncated, flipped, missing or empty file", disks.damaged, 10),
    "diverges": ("learning rate 10", trials.diverges, SOME),
    "hangs": ("a trial that hangs", trials.hangs, SOME),
    "memory": ("out of memory in one trial", trials.out_of_memory, SOME),
    "two-drivers": ("two drivers, a stale lock", studies.two_drivers, SOME),
    "moved": ("moved, renamed, another working directory", studies.moved, SOME),
    "version": ("two versions of the code", studies.other_version, SOME),
    "pick": ("selection: its command or a worker killed or interrupted", picks.stopped, 8),
}
BUCKET: dict[str, tuple[str, BucketFault, int]] = {
    "bucket-trial": ("kill -9 of a trial's process", kills.trial_process, TEN),
    "bucket-training": (
        "kill -9 of a process that trains without Ray, of a sound, busy, slow or late store",
        trainings.killed,
        100,
    ),
    "bucket-driver": ("kill -9 of the driver, go on from another disk", kills.driver, TEN),
    "bucket-node": ("kill -9 of a node", surroundings.node_is_killed, TEN),
    "bucket-head": ("kill -9 of the head, started again", surroundings.head_is_killed, TEN),
    "bucket-gone": ("the store's server ends, back later", buckets.outage(""), TEN),
    "bucket-slow": ("2 s a request", buckets.troubled("2.0", 1.0), TEN),
    "bucket-500": ("500 to each request for a while", buckets.outage("broken"), TEN),
    "bucket-busy": ("503 to half of the requests", buckets.troubled("busy", 0.5), TEN),
    "bucket-cut": ("a third of the uploads cut in the middle", buckets.troubled("cut", 0.3), TEN),
    "bucket-lost": ("a third of the answers to uploads lost", buckets.troubled("lost", 0.3), TEN),
    "bucket-behind": ("listings a second behind, kill -9 of the driver", buckets.behind, TEN),
    "bucket-expired": ("credentials expire, renewed later", buckets.outage("expired"), TEN),
    "bucket-drivers": ("two drivers, a stale lock", studies.two_drivers, TEN),
    "bucket-damaged": ("a truncated or flipped object", buckets.damaged, TEN),
}
IN_BUCKET: dict[str, tuple[str, Fault, int]] = {
    name: (what, buckets.in_bucket(fault), times) for name, (what, fault, times) in BUCKET.items()
}
ALL = FAULTS | IN_BUCKET


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if a fault had findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/chaos"))
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--only", nargs="*", choices=sorted(ALL), default=sorted(ALL))
    parser.add_argument("--out", type=Path, help="the page whose table is written anew")
    options = parser.parse_args(argv)
    deadline = time.monotonic() + 60 * options.minutes
    log = options.folder / "done.jsonl"
    lab = Lab(options.folder.absolute())
    os.environ["ACGAN_CACHE"] = str(lab.cache)  # of nodes
    while (name := _next(log, options.only)) and time.monotonic() < deadline:
        _do(lab, name, log)
    check_no_agent_runs()
    for section, faults in (("chaos", FAULTS), ("chaos in a bucket", IN_BUCKET)):
        done = {name: found for name, found in _done(log).items() if name in faults}
        if any(found.times for found in done.values()):
            table = "\n".join(_table(done))
            print(table)
            if options.out is not None:
                replace_section(options.out, section, table)
    return int(any(found.problems for found in _done(log).values()))


def _next(log: Path, names: Sequence[str]) -> str | None:
    """Return the fault that is furthest from its number; None if all are done."""
    done = _done(log)
    share = {name: done[name].times / ALL[name][2] for name in names}
    name = min(share, key=lambda each: share[each])
    return name if share[name] < 1 else None


def _do(lab: Lab, name: str, log: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    started = time.monotonic()
    try:
        found = ALL[name][1](lab, random.Random(seed))
    except AssertionError as error:  # a command that ended otherwise than it must, or never
        found = Findings(problems=[str(error)[-3000:]])
    seconds = time.monotonic() - started
    line = {"fault": name, "seed": seed, "seconds": round(seconds, 1), **asdict(found)}
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")
    said = f"problems: {found.problems}" if found.problems else "nothing found"
    print(f"{name}, seed {seed}: {found.times} times in {seconds:.0f} s, {said}", flush=True)


def _done(log: Path) -> dict[str, Findings]:
    total = {name: Findings(times=0) for name in ALL}
    for line in log.read_text().splitlines() if log.exists() else ():
        found = json.loads(line)
        one = total[found["fault"]]
        for key in ("times", "lost", "doubled", "differing"):
            setattr(one, key, getattr(one, key) + found[key])
        one.redone = max(one.redone, found["redone"])
        one.problems += found["problems"]
    return total


def _table(done: dict[str, Findings]) -> list[str]:
    rows = [
        "| fault | times | trials lost | trials doubled | epochs redone, at most | "
        "differing in MLflow | other findings |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in done.items():
        if not found.times:
            rows.append(f"| {ALL[name][0]} | not done | | | | | |")
            continue
        cells = (found.times, found.lost, found.doubled, found.redone, found.differing)
        numbers = " | ".join(map(str, cells))
        rows.append(f"| {ALL[name][0]} | {numbers} | {len(found.problems)} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
