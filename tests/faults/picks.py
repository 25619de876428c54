"""A pick whose command or workers are killed or interrupted at random moments."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Literal

import psutil

from selection.ledgers.looks import touches
from selection.steps.result import Pick, read_pick
from tests.faults.lab import Findings, Lab
from tests.picks import Place, pick_here, send, train_study, type_pick, write_covidx
from tests.searches import wait_for

Stop = signal.Signals | Literal["worker"]
STOPS: tuple[Stop, ...] = ("worker", signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def stopped(lab: Lab, rng: random.Random, *, stops: Sequence[Stop] = STOPS) -> Findings:
    """Kill a worker or the command, interrupt it, and let it come to its end; twice the same."""
    found = Findings(times=0)
    place = _study(lab)
    # After the loss of a worker alone the command comes to its end.
    for stop in sorted(rng.sample(stops, len(stops)), key=lambda stop: stop == "worker"):
        process = type_pick(place.folder, *place.options())
        _wait_for_more(place, process, rng)
        before = {path: path.stat().st_mtime_ns for path in place.store.glob("[!.]*.json")}
        if process.poll() is not None:
            process.communicate()
            break
        _stop(process, stop, rng)
        output, _ = process.communicate(timeout=1500)
        found.times += 1
        expected = {"worker": 0, signal.SIGKILL: -9}.get(stop, 130)
        found.expect(
            process.returncode in (expected, 0),
            f"{stop}: exit {process.returncode}: {output[-1500:]}",
        )
        found.lost += sum(path.stat().st_mtime_ns != when for path, when in before.items())
    process = type_pick(place.folder, *place.options())
    output, _ = process.communicate(timeout=1500)
    found.expect(process.returncode == 0, output[-2000:])
    _compare(lab, place, found)
    shutil.rmtree(place.folder)
    return found


def _study(lab: Lab) -> Place:
    """Return a trained study of its own, a copy of the lab's."""
    home = lab.folder / "picks"
    os.environ["ACGAN_CACHE"] = str(home / "cache")
    if not (home / "whole").exists():
        write_covidx(home / "images")
        place = Place(home / "half")
        place.folder.mkdir()
        send(train_study(place.folder / "runs" / "tiny", home / "images"), place.uri)
        pick_here(place.options())  # the pick as nothing disturbs it
        place.folder.rename(home / "whole")
    copy = Place(lab.new_folder())
    ignore = shutil.ignore_patterns("selection", "test-touches.jsonl", "mlflow.db*", "mlartifacts")
    shutil.copytree(home / "whole", copy.folder, dirs_exist_ok=True, ignore=ignore)
    send(copy.study, copy.uri)
    return copy


def _wait_for_more(place: Place, process: subprocess.Popen[str], rng: random.Random) -> None:
    wanted = len(list(place.store.glob("[!.]*.json"))) + rng.randint(0, 3)
    wait_for(
        lambda: process.poll() is not None or len(list(place.store.glob("[!.]*.json"))) >= wanted,
        f"{wanted} results",
        seconds=400,
    )
    time.sleep(rng.uniform(0, 3))


def _stop(process: subprocess.Popen[str], stop: Stop, rng: random.Random) -> None:
    if stop != "worker":
        process.send_signal(stop)
        return
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if "ray::_run" in " ".join(child.cmdline())]
    if workers:
        rng.choice(workers).kill()


def _compare(lab: Lab, place: Place, found: Findings) -> None:
    """Compare the pick with the one that nothing disturbed."""
    picks = [_pick(Place(lab.folder / "picks" / "whole")), _pick(place)]
    decisions = [pick.decision for pick in picks]
    found.expect(decisions[0] == decisions[1], f"another decision: {decisions}")
    scores = [[c.utility and c.utility.hits for c in pick.candidates] for pick in picks]
    found.expect(scores[0] == scores[1], "other scores")
    looks = len(touches(place.study))
    found.doubled += looks > 1 + found.times  # each look is entered before it happens


def _pick(place: Place) -> Pick:
    (path,) = place.study.path.glob("selection/*/pick.json")
    pick = read_pick(path)
    assert pick is not None
    return pick
