"""A study that two drivers want, that is moved, or that another version wrote."""

from __future__ import annotations

import json
import random
import shutil
import socket

from tests.faults.kills import OPTIONS, TRIALS
from tests.faults.lab import (
    Findings,
    Lab,
    check_nothing_runs,
    check_whole,
    moment,
    redone,
    wait_for_epochs,
)


def two_drivers(lab: Lab, rng: random.Random) -> Findings:
    """Start a second driver while the first is at work, and again when it was killed."""
    found = Findings()
    options = (*OPTIONS, "--epochs", "30")  # the first is at work until it is killed
    with lab.search() as search:
        first = search.start(*options)
        wait_for_epochs(search, first, rng.randint(1, 8))
        refusal = search.run(*options, code=2)
        for text in (str(first.pid), socket.gethostname(), "since 20"):
            found.expect(text in refusal, refusal)
        found.expect(first.poll() is None, "the first driver ended")
        first.kill()
        first.communicate()
        search.run(*options)  # at once: the lock of a dead process is stale
        check_whole(search, TRIALS, found)
        check_nothing_runs(search, found)
    return found


def moved(lab: Lab, rng: random.Random) -> Findings:
    """Kill the driver, move and rename the study, and go on from another working directory."""
    found = Findings()
    with lab.search() as search:
        lab.kill_driver(search, rng.randint(1, 8), *OPTIONS)
        check_nothing_runs(search, found)
        before = moment(search)
        elsewhere = search.folder / "else" / "where"
        elsewhere.mkdir(parents=True)
        shutil.move(search.folder / "runs" / "tiny", elsewhere / "renamed")
        search.options[1] = str(search.folder / "tiny.yaml")
        home, search.folder = search.folder, elsewhere.parent
        named = ("--storage-path", str(elsewhere), "--study", "renamed")
        search.run(*OPTIONS, *named)
        search.folder = home
        (home / "runs").rmdir()
        shutil.copytree(elsewhere / "renamed", home / "runs" / "tiny")
        found.redone = redone([before], search)
        check_whole(search, TRIALS, found)
    return found


def other_version(lab: Lab, rng: random.Random) -> Findings:
    """Let a study be one of a newer version, of a newer format, or of an older version."""
    found = Findings()
    with lab.search() as search:
        lab.kill_driver(search, rng.randint(1, 8), *OPTIONS)
        before = moment(search)
        path = search.folder / "runs" / "tiny" / "study.json"
        content = json.loads(path.read_text())
        newer = {**content, "code_version": "9.0", "format": 99}
        other = {**content, "code_version": "9.0", "train": {**content["train"], "swish": 1}}
        for refused in (newer, other):
            path.write_text(json.dumps(refused))
            output = search.run(*OPTIONS, code=2)
            found.expect("written by version 9.0" in output, output)
            found.expect("use that version" in output, output)
        older = {**content, "code_version": "0.0.1", "train": dict(content["train"])}
        del older["train"]["grace_fraction"]  # a setting that came later, at its default
        path.write_text(json.dumps(older))
        search.run(*OPTIONS)
        found.redone = redone([before], search)
        check_whole(search, TRIALS, found)
        check_nothing_runs(search, found)
    return found
