"""Processes that are killed, and commands that are interrupted, at random moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from tests.faults.lab import (
    Findings,
    Lab,
    Moment,
    check_nothing_runs,
    check_whole,
    moment,
    redone,
    wait_for_epochs,
)
from tests.searches import MARK, Search

TRIALS = 4
RETRIES = ("--max-retries", "100")
OPTIONS = ("--num-samples", str(TRIALS), *RETRIES)

Stop = tuple[Callable[[subprocess.Popen[str]], None], int]  # what is done, and the exit code then


def trial_process(lab: Lab, rng: random.Random, *, times: int = 5) -> Findings:
    """Kill -9 a random trial's process again and again."""
    found, moments = Findings(times=0), list[Moment]()
    with lab.search() as search:
        process = search.start(*OPTIONS, "--epochs", "12")
        while found.times < times and process.poll() is None:
            wait_for_epochs(search, process, search.epochs_kept() + 1)
            time.sleep(rng.uniform(0, 1))
            running = search.owners()
            if not running:
                continue
            name = rng.choice(sorted(running))
            os.kill(running[name], signal.SIGKILL)
            moments.append(Moment({name: search.records()[name]}, {name}))
            found.times += 1
            wait_for_epochs(search, process, search.epochs_kept() + 2)
        output, _ = process.communicate(timeout=1500)
        found.expect(process.returncode == 0, f"exit {process.returncode}: {output[-2000:]}")
        found.redone = redone(moments, search)
        check_whole(search, TRIALS, found)
        check_nothing_runs(search, found)
    return found


def driver(lab: Lab, rng: random.Random, *, times: int = 5) -> Findings:
    """Kill -9 the driver, and type the same command again at once."""
    return _stopped(lab, rng, [_KILL] * times)


def ctrl_c(lab: Lab, rng: random.Random, *, times: int = 5) -> Findings:
    """Ctrl-C in the terminal: all processes of the command get it."""
    return _stopped(lab, rng, [_CTRL_C] * times)


def ctrl_c_twice(lab: Lab, rng: random.Random, *, times: int = 5) -> Findings:
    """Ctrl-C, and again within the time that the command takes to end."""
    return _stopped(lab, rng, [_twice(rng)] * times)


def terminated(lab: Lab, rng: random.Random, *, times: int = 5) -> Findings:
    """SIGTERM to the command, as on a node that is taken away."""
    return _stopped(lab, rng, [_TERMINATE] * times)


def in_turn(lab: Lab, rng: random.Random) -> Findings:
    """Stop one search in each of these ways, one after another."""
    stops = [_KILL, _CTRL_C, _twice(rng), _TERMINATE]
    rng.shuffle(stops)
    return _stopped(lab, rng, stops)


def _to_all(number: signal.Signals) -> Callable[[subprocess.Popen[str]], None]:
    return lambda process: os.killpg(process.pid, number)


def _twice(rng: random.Random) -> Stop:
    def stop(process: subprocess.Popen[str]) -> None:
        _to_all(signal.SIGINT)(process)
        time.sleep(rng.uniform(0.05, 2))
        if process.poll() is None:
            _to_all(signal.SIGINT)(process)

    return stop, 130


_KILL: Stop = (lambda process: process.kill(), -signal.SIGKILL)
_CTRL_C: Stop = (_to_all(signal.SIGINT), 130)
_TERMINATE: Stop = (lambda process: process.terminate(), 130)


def _stopped(lab: Lab, rng: random.Random, stops: Sequence[Stop]) -> Findings:
    """Start a search and stop it at a random moment, again and again; then let it end.

    Where it has come to its end before it is stopped, one trial more is asked for.
    """
    found, asked = Findings(times=0), TRIALS
    moments, ended = list[Moment](), dict[str, str]()
    with lab.search() as search:
        for stop, code in stops:
            process = search.start("--num-samples", str(asked), *RETRIES)
            while not _wait_a_while(search, process, rng):
                asked += 1
                process = search.start("--num-samples", str(asked), *RETRIES)
            ended.update(search.ended_files())
            moments.append(moment(search))
            stop(process)
            found.times += 1
            _check_end(process, code, found)
        search.run("--num-samples", str(asked), *RETRIES)
        now = search.ended_files()
        found.redone = redone(moments, search)
        found.expect(
            ended.items() <= now.items(), "files of trials that had ended were written again"
        )
        check_whole(search, asked, found)
        check_nothing_runs(search, found)
    return found


def _wait_a_while(search: Search, process: subprocess.Popen[str], rng: random.Random) -> bool:
    """Wait for a random moment of a search; return whether it is still at work then."""
    if rng.random() < 0.25:
        time.sleep(rng.uniform(1, 15))
    else:
        wait_for_epochs(search, process, search.epochs_kept() + rng.randint(1, 4))
        time.sleep(rng.uniform(0, 1))
    if process.poll() is not None:
        process.communicate()
        return False
    return True


def _check_end(process: subprocess.Popen[str], code: int, found: Findings) -> None:
    output, _ = process.communicate(timeout=1500)
    if "to train" not in output or (process.returncode == 0 and "to pick one" in output):
        return  # while Python imported, or the last trial had just ended
    found.expect(process.returncode == code, f"exit {process.returncode}: {output[-1500:]}")
    if code == 130:
        found.expect("to continue" in output, f"no command printed: {output[-1500:]}")


def slow_death(lab: Lab, rng: random.Random) -> Findings:
    """Stop a run's process at a random moment, let another finish the run, wake the first."""
    found = Findings()
    with lab.search() as search:
        folder = search.folder / "runs" / "alone"
        command = [sys.executable, "-m", "acgan.train", "--config", "tiny.yaml", "--epochs", "12"]
        command += ["--data", str(lab.images), "--run", str(folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACGAN_CACHE": str(search.cache)}
        environment |= {MARK: str(search.folder)}

        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(
                command,
                cwd=search.folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

        first = start()
        lines = folder / "epochs.jsonl"
        deadline = time.monotonic() + 400
        while not (lines.exists() and lines.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        os.kill(first.pid, signal.SIGSTOP)
        second = start()
        output, _ = second.communicate(timeout=1500)
        found.expect(second.returncode == 0, output)
        before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*.*")}
        os.kill(first.pid, signal.SIGCONT)
        output, _ = first.communicate(timeout=1500)
        found.expect(first.returncode == 1, f"exit {first.returncode}: {output}")
        found.expect("was taken over by process" in output, output)
        after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*.*")}
        found.expect(
            before == after, f"written to: {sorted(map(str, before.keys() ^ after.keys()))}"
        )
    return found
