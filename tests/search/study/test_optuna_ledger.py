"""The ledger of a study: what it proposes, and what its journal keeps through any crash."""

from __future__ import annotations

import copy
import json
import math
import os
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import NopPruner
from optuna.samplers import QMCSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from acgan.config import TrainConfig
from acgan.errors import InputError
from search.study import space
from search.study.folder import BASELINE, Outcome
from search.study.optuna_ledger import STUDY, Ledger, distributions
from tests.studies import by_distance

CONFIG = TrainConfig()
SPACE = space.read(
    {
        "learning_rate": {"low": 5e-5, "high": 8e-4, "log": True},
        "label_smoothing": {"low": 0.0, "high": 0.3},
        "dropout": {"low": 0.1, "high": 0.6},
    },
    CONFIG,
)
SMALL = space.read(
    {"batch_size": {"choices": [32, 64, 128]}, "latent_size": {"low": 100, "high": 101}}, CONFIG
)
SAMPLERS = ["tpe", "gp", "random", "qmc"]

pytestmark = pytest.mark.filterwarnings("error")


def open_ledger(path: Path | None, where: space.Space = SPACE, **settings: Any) -> Ledger:
    start = space.baseline(where, CONFIG)
    return Ledger(path, where, start=start, config=by_distance(**settings))


def hardness(params: dict[str, Any]) -> float:
    """Return a value to minimize, smallest at a learning rate of 4e-4 and a dropout of 0.3."""
    rate, dropout = float(params["learning_rate"]), float(params["dropout"])
    return 1 + math.log(rate / 4e-4) ** 2 + (dropout - 0.3) ** 2


def optuna_trials(path: Path) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name=STUDY, storage=storage).trials


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "optuna.jsonl"


def test_trial_0_is_the_baseline_and_only_trial_0(path: Path) -> None:
    ledger = open_ledger(path)
    rows = [ledger.propose() for _ in range(3)]
    assert [row.name for row in rows] == ["t0000", "t0001", "t0002"]
    assert rows[BASELINE].params == space.baseline(SPACE, CONFIG)
    assert open_ledger(path).propose().params != rows[BASELINE].params


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_point_is_proposed_twice_over_three_restarts(path: Path, sampler: str) -> None:
    for _ in range(4):
        ledger = open_ledger(path, sampler=sampler)
        for _ in range(3):
            row = ledger.propose()
            ledger.tell(row.number, Outcome.FINISHED, value=hardness(row.params))
        ledger.propose()  # left open, as a kill leaves it
    points = [tuple(row.params.values()) for row in ledger.rows()]
    assert len(points) == 16
    assert len(set(points)) == 16


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_restart_proposes_what_one_start_would_have(path: Path, sampler: str) -> None:
    straight = open_ledger(None, sampler=sampler)
    for _ in range(10):
        restarted = open_ledger(path, sampler=sampler)
        for ledger in (straight, restarted):
            row = ledger.propose()
            ledger.tell(row.number, Outcome.FINISHED, value=hardness(row.params))
    assert restarted.rows() == straight.rows()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_small_space_is_used_up_without_a_repetition(path: Path, sampler: str) -> None:
    for _ in range(6):
        ledger = open_ledger(path, SMALL, sampler=sampler)
        row = ledger.propose()
        ledger.tell(row.number, Outcome.FINISHED, value=float(row.params["batch_size"]))
    points = {(row.params["batch_size"], row.params["latent_size"]) for row in ledger.rows()}
    assert points == {(batch, size) for batch in (32, 64, 128) for size in (100, 101)}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_grid_is_used_up_without_a_repetition(sampler: str) -> None:
    # A Gaussian process draws the points after the eighth, and takes long to find the last.
    low = 0.5 if sampler == "gp" else 0.1
    steps = {
        "dropout": {"low": low, "high": 0.6, "step": 0.1},
        "label_smoothing": {"low": 0.0, "high": 0.4, "step": 0.1},
    }
    count = 5 * round(10 * (0.7 - low))
    ledger = open_ledger(None, space.read(steps, CONFIG), sampler=sampler)
    for _ in range(count):
        row = ledger.propose()
        assert all(0 <= float(v) < 1 for v in row.params.values())
        ledger.tell(row.number, Outcome.FINISHED, value=float(row.params["dropout"]))
    rounded = [tuple(round(float(v), 6) for v in row.params.values()) for row in ledger.rows()]
    assert len(set(rounded)) == count
    assert {smoothing for _, smoothing in rounded} == {0.0, 0.1, 0.2, 0.3, 0.4}
    assert min(float(row.params["label_smoothing"]) for row in ledger.rows()) == 0


def test_a_sobol_sequence_goes_on_where_it_was_and_is_not_gone_through_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = open_ledger(None, sampler="qmc")
    points = [ledger.propose().params for _ in range(12)]
    anew = open_ledger(None, sampler="qmc")
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        whole = QMCSampler(seed=anew._seed(), scramble=True)
        monkeypatch.setattr(anew, "_sampler", lambda _: whole)
        assert [anew.propose().params for _ in range(12)] == points
    asked = []
    find = QMCSampler._find_sample_id

    def counted(*own: Any) -> int:
        asked.append(own)
        return find(*own)

    monkeypatch.setattr(QMCSampler, "_find_sample_id", counted)
    ledger.propose()
    assert len(asked) == 1


def test_another_seed_proposes_other_points() -> None:
    one, other = open_ledger(None, seed=1), open_ledger(None, seed=2)
    assert one.propose() == other.propose()
    assert one.propose() != other.propose()


def test_quasi_random_points_fill_every_eighth_of_each_axis() -> None:
    ledger = open_ledger(None, sampler="qmc")
    rows = [ledger.propose() for _ in range(9)][1:]
    for low, high, name in [(0.0, 0.3, "label_smoothing"), (0.1, 0.6, "dropout")]:
        eighths = {int(8 * (float(row.params[name]) - low) / (high - low)) for row in rows}
        assert eighths == set(range(8))


def test_tpe_learns_where_random_does_not() -> None:
    means = {}
    for sampler in ("tpe", "random"):
        ledger = open_ledger(None, sampler=sampler)
        for _ in range(32):
            row = ledger.propose()
            ledger.tell(row.number, Outcome.FINISHED, value=hardness(row.params))
        last = [row.value or math.inf for row in ledger.rows()[16:]]
        means[sampler] = sum(last) / len(last)
    assert means["tpe"] < means["random"] - 0.1


@pytest.mark.parametrize(
    ("outcome", "value", "state", "told"),
    [
        (Outcome.FINISHED, 2.5, TrialState.COMPLETE, 2.5),
        (Outcome.FINISHED, math.inf, TrialState.FAIL, None),
        (Outcome.PRUNED, 2.5, TrialState.PRUNED, 3.0),
        (Outcome.DIVERGED, 2.5, TrialState.FAIL, None),
        (Outcome.COLLAPSED, 2.5, TrialState.FAIL, None),
        (Outcome.DISCRIMINATOR_WON, 2.5, TrialState.FAIL, None),
    ],
)
def test_an_end_is_in_the_journal_as_the_design_says(
    path: Path, outcome: Outcome, value: float, state: TrialState, told: float | None
) -> None:
    ledger = open_ledger(path)
    number = ledger.propose().number
    ledger.report(number, 6, 3.0, pruner=NopPruner())
    ledger.tell(number, outcome, value=value, reason="because")
    assert optuna_trials(path)[number].state is state
    again = open_ledger(path)
    row = again.rows()[number]
    assert (row.outcome, row.reason, row.value) == (outcome, "because", told)
    assert (again.ended(), again.open_rows()) == (1, [])


@pytest.mark.parametrize("outcome", [Outcome.CRASHED, Outcome.INTERRUPTED])
def test_a_crashed_or_interrupted_trial_stays_open(path: Path, outcome: Outcome) -> None:
    ledger = open_ledger(path)
    row = ledger.propose()
    ledger.tell(row.number, outcome, value=1.0)
    again = open_ledger(path)
    assert (again.ended(), again.open_rows()) == (0, [row])


def test_an_end_that_was_cut_short_is_no_end(path: Path) -> None:
    ledger = open_ledger(path)
    row = ledger.propose()
    ledger.tell(row.number, Outcome.DIVERGED, value=1.0, reason="because")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert open_ledger(path).open_rows() == [row]


def test_a_torn_last_line_is_cut_wherever_it_is_torn(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.tell(ledger.propose().number, Outcome.FINISHED, value=1.0)
    kept, before = path.read_bytes(), ledger.rows()
    ledger.propose()
    last = path.read_bytes()[len(kept) :]
    for length in range(1, len(last), 25):
        path.write_bytes(kept + last[:length])
        again = open_ledger(path)
        assert path.read_bytes() == kept
        assert again.rows() == before
    assert again.propose().number == 1


def test_a_proposal_is_one_line_so_that_no_crash_leaves_half_of_it(path: Path) -> None:
    ledger = open_ledger(path)
    for _ in range(3):
        lines = len(path.read_bytes().splitlines())
        ledger.propose()
        assert len(path.read_bytes().splitlines()) == lines + 1


@pytest.mark.parametrize(
    "damage", [b"{\n", b"\0\0\n", b"[1]\n", b"{}\n", b'\xff"\n', b"[" * 10**5 + b"\n"]
)
def test_a_damaged_line_is_named(path: Path, damage: bytes) -> None:
    open_ledger(path).propose()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], damage, *lines[1:]]))
    with pytest.raises(InputError, match="line 2 is damaged"):
        open_ledger(path)


JUNK: dict[str, dict[str, Any]] = {
    "an unknown operation": {"op_code": 99},
    "an operation that is no number": {"op_code": {}},
    "a study without a name": {"op_code": 0},
    "directions that are none": {"op_code": 0, "study_name": "x", "directions": 7},
    "a trial without a begin": {"op_code": 4, "study_id": 0},
    "parameters without a space": {
        **{"op_code": 4, "study_id": 0, "datetime_start": None, "params": {"x": 1}}
    },
    "a state that is none": {"op_code": 6, "trial_id": 0, "state": 77},
    "notes that are none": {"op_code": 8, "trial_id": 0, "user_attr": []},
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_a_line_that_is_json_and_no_operation_is_named(path: Path, junk: dict[str, Any]) -> None:
    open_ledger(path).propose()
    with path.open("a") as file:
        print(json.dumps({"worker_id": "x", **junk}), file=file)
    with pytest.raises(InputError, match="line 3 is damaged; restore the file or start a new"):
        open_ledger(path)


@pytest.mark.parametrize("notes", [{}, {"outcome": "famous", "reason": ""}, ["outcome"]])
def test_a_trial_whose_end_cannot_be_read_is_damage(path: Path, notes: object) -> None:
    open_ledger(path)
    trial = {"op_code": 4, "study_id": 0, "state": TrialState.FAIL, "user_attrs": notes}
    with path.open("a") as file:
        print(json.dumps({"worker_id": "x", "datetime_start": None, **trial}), file=file)
    with pytest.raises(InputError, match="is damaged"):
        open_ledger(path)


def test_a_ledger_that_is_no_file_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(InputError, match="is no file; restore it or start a new study"):
        open_ledger(path)


def test_the_lock_of_a_killed_process_does_not_hold_up_the_next(path: Path) -> None:
    open_ledger(path).propose()
    os.symlink(path, path.with_name("optuna.jsonl.lock"))
    began = time.monotonic()
    open_ledger(path).propose()
    assert time.monotonic() - began < 25  # Optuna's own patience is 30 s


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_a_proposal_is_what_copies_of_the_trials_lead_to_and_changes_none(sampler: str) -> None:
    ledger = open_ledger(None, sampler=sampler)
    for number in range(10):
        ledger.tell(number, Outcome.FINISHED, value=hardness(ledger.propose().params))
    open_trial = ledger.propose()
    before = copy.deepcopy(ledger._trials())
    draft = optuna.create_study(sampler=ledger._sampler(11))
    draft.add_trials(before)
    expected = draft.ask(distributions(SPACE)).params
    assert ledger.propose().params == expected
    assert ledger._trials()[:11] == before
    assert ledger.rows()[10] == open_trial
