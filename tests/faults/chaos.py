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
from tests.faults import disks, kills, picks, studies, surroundings, trials
from tests.faults.lab import Fault, Findings, Lab, check_no_agent_runs

OFTEN, SOME = 20, 3
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if a fault had findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/chaos"))
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--only", nargs="*", choices=sorted(FAULTS), default=sorted(FAULTS))
    parser.add_argument("--out", type=Path, help="the page whose table is written anew")
    options = parser.parse_args(argv)
    deadline = time.monotonic() + 60 * options.minutes
    log = options.folder / "done.jsonl"
    lab = Lab(options.folder.absolute())
    os.environ["ACGAN_CACHE"] = str(lab.cache)  # of nodes
    while (name := _next(log, options.only)) and time.monotonic() < deadline:
        _do(lab, name, log)
    check_no_agent_runs()
    table = "\n".join(_table(_done(log)))
    print(table)
    if options.out is not None:
        replace_section(options.out, "chaos", table)
    return int(any(found.problems for found in _done(log).values()))


def _next(log: Path, names: Sequence[str]) -> str | None:
    """Return the fault that is furthest from its number; None if all are done."""
    done = _done(log)
    share = {name: done[name].times / FAULTS[name][2] for name in names}
    name = min(share, key=lambda each: share[each])
    return name if share[name] < 1 else None


def _do(lab: Lab, name: str, log: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    started = time.monotonic()
    try:
        found = FAULTS[name][1](lab, random.Random(seed))
    except AssertionError as error:  # a command that ended otherwise than it must, or never
        found = Findings(problems=[str(error)[-3000:]])
    seconds = time.monotonic() - started
    line = {"fault": name, "seed": seed, "seconds": round(seconds, 1), **asdict(found)}
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")
    said = f"problems: {found.problems}" if found.problems else "nothing found"
    print(f"{name}, seed {seed}: {found.times} times in {seconds:.0f} s, {said}", flush=True)


def _done(log: Path) -> dict[str, Findings]:
    total = {name: Findings(times=0) for name in FAULTS}
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
            rows.append(f"| {FAULTS[name][0]} | not done | | | | | |")
            continue
        cells = (found.times, found.lost, found.doubled, found.redone, found.differing)
        numbers = " | ".join(map(str, cells))
        rows.append(f"| {FAULTS[name][0]} | {numbers} | {len(found.problems)} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
