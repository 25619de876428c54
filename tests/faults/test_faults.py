"""Each fault once, for real; `make chaos` does them at many random moments."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from tests.faults import buckets, kills, picks, trainings
from tests.faults.chaos import FAULTS
from tests.faults.lab import Fault, Lab, check_no_agent_runs

pytestmark = [pytest.mark.process, pytest.mark.faults]

pytest_plugins = ["tests.mlflow_stores"]

IN_TURN = {"driver", "ctrl-c", "ctrl-c-twice", "sigterm"}
ONCE: dict[str, Fault] = {
    "trial": partial(kills.trial_process, times=2),
    "in-turn": kills.in_turn,
    # The others happen to the pick of selection/test_pick.py.
    "pick": partial(picks.stopped, stops=("worker", signal.SIGTERM)),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield Lab(tmp_path_factory.mktemp("lab"), once=True)
    check_no_agent_runs()


ELSEWHERE = {name for name, fault in FAULTS.items() if fault[1].__module__.endswith("surroundings")}

# Real networks that diverge, and what Ray Tune makes of it, are search/tune/test_stopping.py's
# and test_searcher.py's.
HERE = sorted(FAULTS.keys() - ELSEWHERE - IN_TURN - {"diverges"} | ONCE.keys())


@pytest.mark.parametrize("name", HERE)
def test_a_fault_loses_and_doubles_nothing(lab: Lab, name: str) -> None:
    fault = ONCE[name] if name in ONCE else FAULTS[name][1]
    found = fault(lab, random.Random(name))
    assert found.problems == []
    assert (found.lost, found.doubled, found.differing) == (0, 0, 0)
    assert found.redone <= 1 or name == "damaged"  # whose state or records are gone
    assert found.times >= 1


def test_a_training_in_a_bucket_that_is_killed_goes_on(lab: Lab) -> None:
    fault = buckets.in_bucket(partial(trainings.killed, times=3))
    found = fault(lab, random.Random("in a bucket"))
    assert found.problems == []
    assert (found.times, found.lost, found.differing) == (3, 0, 0)
    assert found.redone <= 2  # one that was not yet sent, and the one under way
