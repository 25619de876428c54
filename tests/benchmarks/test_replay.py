from __future__ import annotations

import math

import numpy as np
import pytest

from acgan.config import TrainConfig
from benchmarks.replay import RANDOM, SEARCHERS, Answers, replay, replay_all, running_values, unit
from search.study import space
from tests.planted import EPOCHS, GRACE, planted
from tests.studies import by_distance

pytestmark = pytest.mark.process

# The best one's cell reaches from 0.15 to 0.35, a fifth of the space.
FIVE = {0.8: 5.0, 0.05: 4.0, 0.25: 1.0, 0.45: 3.0, 0.65: 4.5}
BEST = 1.0 + 100 / (EPOCHS - 1)  # the middle one of the last three epochs
TPE_STOPPED, TPE, RANDOM_STOPPED, _ = SEARCHERS


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers(planted(FIVE))


def test_points_lie_in_the_unit_cube_by_their_logarithm_where_it_counts() -> None:
    section = {
        "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
        "dropout": {"low": 0.1, "high": 0.6},
    }
    searched = space.read(section, TrainConfig())
    assert unit(searched, {"learning_rate": 1e-4, "dropout": 0.2}) == pytest.approx([0.5, 0.2])
    choices = space.read({"batch_size": {"choices": [32, 64]}}, TrainConfig())
    with pytest.raises(ValueError, match="only ranges"):
        unit(choices, {"batch_size": 32})


def test_a_proposal_is_answered_by_its_nearest_configuration(answers: Answers) -> None:
    asked = {0.0: 1, 0.14: 1, 0.16: 2, 0.34: 2, 0.36: 3, 0.71: 4, 0.74: 0, 1.0: 0}
    assert {p: answers.nearest({"dropout": 0.1 + 0.5 * p}) for p in asked} == asked


def test_a_trial_has_no_value_while_it_is_young_and_then_its_best_window() -> None:
    records = planted({0.8: 0.0}, epochs=5).records[0]  # 100, 50, 33, 25, 20
    found = running_values(records, by_distance())
    assert found == pytest.approx([math.inf, 50.0, (50 + 100 / 3) / 2, 100 / 3, 25.0])


def test_random_search_finds_the_best_as_often_as_its_cell_is_hit(answers: Answers) -> None:
    seeds, trials = 150, 6  # the first is the baseline
    hits = sum(
        replay(answers, RANDOM, seed, workers=1, budget=trials * EPOCHS).best[-1] == BEST
        for seed in range(seeds)
    )
    expected = 1 - (1 - 0.2) ** (trials - 1)
    error = math.sqrt(expected * (1 - expected) / seeds)
    assert abs(hits / seeds - expected) < 3 * error


@pytest.mark.parametrize("searcher", SEARCHERS, ids=lambda searcher: searcher.name)
def test_a_seed_replays_the_same_and_the_best_only_improves(answers: Answers, searcher) -> None:  # type: ignore[no-untyped-def]
    budget = 10 * EPOCHS
    first, again = (replay(answers, searcher, 3, workers=3, budget=budget) for _ in range(2))
    assert np.array_equal(first.best, again.best)
    assert first.trials == again.trials
    assert len(first.best) == budget
    assert (np.diff(first.best[3 * GRACE :]) <= 0).all()
    assert np.isinf(first.best[: 3 * GRACE]).all()
    assert np.isfinite(first.best[3 * GRACE :]).all()


def test_without_early_stopping_all_trials_are_full(answers: Answers) -> None:
    for searcher in (TPE, RANDOM):
        assert replay(answers, searcher, 0, workers=2, budget=12 * EPOCHS).trials == 12


def test_early_stopping_begins_more_trials_for_the_same_epochs(answers: Answers) -> None:
    for searcher in (TPE_STOPPED, RANDOM_STOPPED):
        assert replay(answers, searcher, 0, workers=2, budget=12 * EPOCHS).trials > 14


def test_workers_advance_side_by_side(answers: Answers) -> None:
    for budget, begun in ((1, 1), (3, 3), (4, 3), (3 * EPOCHS, 3), (3 * EPOCHS + 1, 4)):
        assert replay(answers, RANDOM, 0, workers=3, budget=budget).trials == begun


def test_tpe_starts_with_the_proposals_of_random_search(answers: Answers) -> None:
    pair = [replay(answers, s, 5, workers=1, budget=9 * EPOCHS).best for s in (TPE, RANDOM)]
    assert np.array_equal(pair[0][: 8 * EPOCHS], pair[1][: 8 * EPOCHS])


def test_tpe_returns_to_where_it_was_good() -> None:
    # Along a smooth valley random search rarely comes as low as TPE.
    places = [0.8, *(k / 40 for k in range(40) if k != 32)]
    valley = Answers(planted({place: 400 * (place - 0.35) ** 2 for place in places}))
    finals = {
        searcher: [
            replay(valley, searcher, s, workers=1, budget=24 * EPOCHS).best[-1] for s in range(12)
        ]
        for searcher in (TPE, RANDOM)
    }
    assert np.mean(finals[TPE]) < np.mean(finals[RANDOM])


def test_processes_replay_what_this_one_replays(answers: Answers) -> None:
    found = replay_all(answers, seeds=2, workers=2, budget=3 * EPOCHS, jobs=2)
    assert list(found) == list(SEARCHERS)
    for searcher, replays in found.items():
        for seed, there in enumerate(replays):
            here = replay(answers, searcher, seed, workers=2, budget=3 * EPOCHS)
            assert np.array_equal(there.best, here.best)
