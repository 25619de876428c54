"""Trials that go wrong by themselves: they diverge, hang, or take more memory than there is."""

from __future__ import annotations

import os
import random

import psutil

from search.study.folder import Outcome
from tests.faults.lab import Findings, Lab, check_nothing_runs, check_whole
from tests.searches import CONFIG, Search

TRIALS = 3
THRESHOLD = "RAY_memory_usage_threshold"


def diverges(lab: Lab, rng: random.Random) -> Findings:
    """Give one of three trials a learning rate of 10, which no network survives."""
    found = Findings()
    config = CONFIG.replace(
        "learning_rate: {low: 5.0e-5, high: 8.0e-4, log: true}",
        "learning_rate: {choices: [2.0e-4, 10.0]}",
    )
    with lab.search(config=config) as search:
        output = search.run("--num-samples", str(TRIALS), "--seed", str(rng.randrange(10**6)))
        ends = {t.info.params["learning_rate"]: t.end() for t in search.study.trials()}
        wild = ends.get(10.0)
        if wild is not None:
            found.expect(wild.outcome is Outcome.DIVERGED, f"{wild}: {output[-1500:]}")
            found.expect("_loss is " in wild.reason, wild.reason)
        check_whole(search, TRIALS, found)
        check_nothing_runs(search, found)
    return found


def hangs(lab: Lab, rng: random.Random) -> Findings:
    """Let a trial wait for ever for its configuration, a pipe that nobody writes to."""
    found = Findings()
    with lab.search() as search:
        name = f"t000{rng.randrange(TRIALS)}"
        pipe = search.path / name / "config.json"
        pipe.parent.mkdir(parents=True)
        os.mkfifo(pipe)
        limit = ("--hang-after-s", "45", "--max-retries", "0")
        output = search.run("--num-samples", str(TRIALS), *limit, code=1)
        found.expect(f"crashed: it hung; {name}/hang.txt says where" in output, output[-2500:])
        text = (pipe.parent / "hang.txt").read_text()
        found.expect("rundir.py" in text and "_read_config" in text, text)
        _others_ended(search, name, found)
        pipe.unlink()
        search.run("--num-samples", str(TRIALS))
        check_whole(search, TRIALS, found)
        check_nothing_runs(search, found)
    return found


def out_of_memory(lab: Lab, rng: random.Random) -> Findings:
    """Give a trial networks that are larger than the memory that Ray lets it have."""
    found = Findings()
    config = CONFIG.replace("space:", "space:\n  width: {choices: [0.0625, 3.0]}")
    memory = psutil.virtual_memory()
    limit = (memory.total - memory.available + 2.2e9) / memory.total
    os.environ[THRESHOLD] = f"{limit:.3f}"
    try:
        with lab.search(config=config) as search:
            options = ("--num-samples", str(TRIALS), "--sampler", "qmc", "--max-retries", "0")
            seed = ("--seed", str(rng.randrange(4)))
            process = search.start(*options, *seed)
            output, _ = process.communicate(timeout=1500)
            large = [t for t in search.study.trials() if t.info.params["width"] == 3.0]
            found.expect(process.returncode == (1 if large else 0), output[-2500:])
            for trial in large:
                end = trial.end()
                reason = end.reason if end else ""
                found.expect("memory" in reason, f"{trial.name} {end}: {output[-2500:]}")
                _others_ended(search, trial.name, found)
            check_nothing_runs(search, found)
    finally:
        del os.environ[THRESHOLD]
    return found


def _others_ended(search: Search, name: str, found: Findings) -> None:
    for trial in search.study.trials():
        end = trial.end()
        crashed = end is not None and end.outcome is Outcome.CRASHED
        found.expect(crashed == (trial.name == name) or crashed, f"{trial.name}: {end}")
        if trial.name != name and not crashed:
            found.expect(end is not None and end.outcome is Outcome.FINISHED, f"{trial}: {end}")
