from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest

from acgan.run.records import QUALITY, EpochRecord, Ranking, best_epochs, kept_epochs
from selection.settings import SelectionConfig
from selection.steps.filter import (
    Chance,
    Epoch,
    Filtered,
    choose,
    fault,
    judge_epochs,
    objective_order,
    places,
)
from tests.kit import LEAST

CONFIG = SelectionConfig()
CHANCE = Chance.of((10, 10, 10))
HEALTHY = {
    "val/g_loss": 1.0,
    "val/acc_generated": 0.6,
    "val/acc_real": 0.7,
    "val/acc_class": 0.8,
    "val/diversity": 0.5,
    QUALITY: 100.0,
}


def record(epoch: int, *, young: bool = False, **metrics: float) -> EpochRecord:
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return EpochRecord(epoch=epoch, time=0.0, metrics=HEALTHY | named, young=young)


def judged(
    name: str,
    records: list[EpochRecord],
    kept: set[int] | None = None,
    config: SelectionConfig = CONFIG,
) -> list[Epoch]:
    kept = {r.epoch for r in records} if kept is None else kept
    return judge_epochs(name, records, ranking=LEAST, kept=kept, chance=CHANCE, config=config)


def chosen_of(trials: Iterable[list[Epoch]], config: SelectionConfig) -> Filtered:
    return choose((places(epochs, config) for epochs in trials), config)


def names(epochs: tuple[Epoch, ...]) -> list[tuple[str, int]]:
    return [(epoch.trial, epoch.epoch) for epoch in epochs]


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({}, ""),
        ({"val/g_loss": math.nan}, "not finite"),
        ({QUALITY: math.inf}, "not finite"),
        ({"val/diversity": 0.0}, ""),
        ({"val/acc_real": 0.09}, "dead discriminator"),
        ({"val/acc_real": 0.995, "val/acc_generated": 0.005}, "dead discriminator"),
        ({"val/acc_real": 0.995, "val/acc_generated": 0.995}, ""),
        ({"val/acc_class": 0.34}, "class accuracy at chance"),
        ({"val/acc_class_balanced": 0.34}, "class accuracy at chance"),
        ({"val/acc_class_balanced": 0.36, "val/acc_class": 0.2}, ""),
    ],
)
def test_an_epoch_fails_for_the_planted_reason(metrics: dict[str, float], reason: str) -> None:
    found = EpochRecord(epoch=9, time=0.0, metrics=HEALTHY | metrics)
    assert fault(found, ranking=LEAST, chance=CHANCE, config=CONFIG) == reason


@pytest.mark.parametrize(
    ("recalls", "reason"),
    [
        ((0.95, 0.95), ""),
        ((0.985, 0.9), ""),
        ((1.0, 1.0), ""),
        ((1.0, 0.0), "class accuracy at chance"),
        ((0.0, 1.0), "class accuracy at chance"),
        ((0.54, 0.49), "class accuracy at chance"),
    ],
)
def test_of_uneven_classes_recalls_count_and_not_how_often_the_larger_is_right(
    recalls: tuple[float, float], reason: str
) -> None:
    counts = (981, 19)
    accuracy = sum(r * n for r, n in zip(recalls, counts, strict=True)) / 1000
    own = {"val/acc_class": accuracy, "val/acc_class_balanced": sum(recalls) / 2}
    found = EpochRecord(epoch=9, time=0.0, metrics=HEALTHY | own)
    assert fault(found, ranking=LEAST, chance=Chance.of(counts), config=CONFIG) == reason


def test_a_young_epoch_is_no_candidate() -> None:
    records = [record(1, young=True, val__fd_cnn=1.0), record(2)]
    found = chosen_of([judged("t0000", records)], CONFIG)
    assert names(found.chosen) == [("t0000", 2)]
    assert found.report.reasons == {"young": 1}
    assert (found.report.recorded, found.report.passed) == (2, 1)


def test_places_are_filled_by_turns_from_quality_and_from_losses() -> None:
    # Quality falls with the epoch, the generator's loss rises: the orders are opposite.
    records = [
        record(e, val__fd_cnn=100.0 - e, val__g_loss=float(e), val__acc_generated=0.1 * e)
        for e in range(1, 8)
    ]
    found = chosen_of([judged("t0000", records)], CONFIG)
    assert set(names(found.chosen)) == {("t0000", 7), ("t0000", 1), ("t0000", 6)}
    assert found.report.over_per_trial == 4
    assert found.report.better_without_weights == 0


def test_losses_of_different_trials_are_never_compared() -> None:
    """A trial whose losses are all a hundredfold gets the same places."""
    random = np.random.default_rng(0)
    values = random.uniform(0.1, 1, (20, 3))
    chosen = []
    for factor in (1.0, 100.0):
        records = [
            record(e, val__g_loss=factor * v[0], val__acc_generated=v[1], val__fd_cnn=v[2])
            for e, v in enumerate(values, start=1)
        ]
        chosen.append(names(chosen_of([judged("t0000", records)], CONFIG).chosen))
    assert chosen[0] == chosen[1]


def test_between_trials_objective_orders_and_the_cap_cuts_the_worst() -> None:
    trials = [
        judged(f"t{n:04d}", [record(5, val__fd_cnn=value)])
        for n, value in enumerate([30.0, 10.0, 20.0, 40.0])
    ]
    found = chosen_of(iter(trials), SelectionConfig(max_candidates=2))
    assert names(found.chosen) == [("t0001", 5), ("t0002", 5)]
    assert found.report.over_cap == 2


def test_epochs_of_one_picture_a_class_are_counted_and_come_after_those_that_vary() -> None:
    diversity = [0.07, 1.1, 0.3, 0.29, 0.5]
    records = [
        record(e, val__fd_cnn=float(e), val__g_loss=float(e), val__diversity=value)
        for e, value in enumerate(diversity, start=1)
    ]
    trials = [judged("t0000", records), judged("t0001", [record(9, val__diversity=0.1)])]
    found = chosen_of(iter(trials), SelectionConfig(per_trial=4))
    # Of the first trial those that vary, by turns, then its best other; the second one's is last.
    assert names(found.chosen) == [*(("t0000", e) for e in (2, 3, 5, 1)), ("t0001", 9)]
    assert [epoch.one_picture for epoch in found.chosen] == [False, False, False, True, True]
    assert (found.report.passed, found.report.one_picture) == (6, 3)
    cut = chosen_of(iter(trials), SelectionConfig(per_trial=4, max_candidates=2))
    assert names(cut.chosen) == [("t0000", 2), ("t0000", 3)]


def test_where_all_are_one_picture_a_class_the_candidates_are_those_of_a_study_where_all_vary() -> (
    None
):
    chosen = []
    for diversity in (0.07, 1.0, math.nan):
        records = [record(e, val__fd_cnn=9.0 - e, val__diversity=diversity) for e in range(1, 9)]
        chosen.append(names(chosen_of([judged("t0000", records)], CONFIG).chosen))
    assert chosen[0] == chosen[1] == chosen[2]
    assert len(chosen[0]) == CONFIG.per_trial


def test_an_epoch_that_fails_hides_none_that_passes_whatever_its_score() -> None:
    scores = {7: 244.0, 8: 150.0, 9: 168.0, 10: 185.0}  # 8 is the best of every window from it on
    records = [
        record(e, val__fd_cnn=score, val__acc_real=0.05 if e == 8 else 0.7)
        for e, score in scores.items()
    ]
    found = judged("t0000", records)
    assert [epoch.reason for epoch in found] == ["", "dead discriminator", "", ""]
    best = min((epoch for epoch in found if not epoch.reason), key=objective_order)
    assert best.epoch == 9
    assert names(chosen_of([found], SelectionConfig(per_trial=1)).chosen) == [("t0000", 9)]


def test_better_looking_epochs_without_weights_are_counted() -> None:
    records = [record(e, val__fd_cnn=float(e), val__g_loss=float(e)) for e in range(1, 9)]
    found = chosen_of([judged("t0000", records, kept={5, 8})], SelectionConfig(per_trial=1))
    assert names(found.chosen) == [("t0000", 5)]
    windows_before = [e for e in best_epochs(records, LEAST, 8) if e < 5]
    assert set(windows_before) == {1, 2, 3, 4}
    assert found.report.better_without_weights == 4


def test_no_more_than_per_trial_come_from_one_trial() -> None:
    random = np.random.default_rng(1)
    for per_trial in (1, 2, 5):
        config = SelectionConfig(per_trial=per_trial)
        trials = []
        for n in range(4):
            records = [
                record(e, val__fd_cnn=random.uniform(), val__g_loss=random.uniform())
                for e in range(1, 30)
            ]
            trials.append(judged(f"t{n:04d}", records, kept_epochs(records, LEAST), config))
        chosen = chosen_of(trials, config).chosen
        per = [sum(1 for e in chosen if e.trial == f"t{n:04d}") for n in range(4)]
        assert per == [per_trial] * 4
        assert len(set(names(chosen))) == len(chosen)
        assert [e.value for e in chosen] == sorted(e.value for e in chosen)


def test_where_more_is_better_the_largest_value_comes_first() -> None:
    most, kept = Ranking("val/coverage", sign=-1), {1, 2, 3}
    trials = [
        judge_epochs(
            name,
            [record(e, val__coverage=(best - e) / 10) for e in kept],
            ranking=most,
            kept=kept,
            chance=CHANCE,
            config=CONFIG,
        )
        for name, best in (("t0000", 5), ("t0001", 9))
    ]
    chosen = chosen_of(trials, SelectionConfig(per_trial=1)).chosen
    assert [(e.trial, e.epoch, e.value) for e in chosen] == [("t0001", 1, 0.8), ("t0000", 1, 0.4)]
    without = [record(1)]
    (epoch,) = judge_epochs("t0000", without, ranking=most, kept=kept, chance=CHANCE, config=CONFIG)
    assert epoch.reason == "not finite"


def test_a_study_of_nothing_passes_nothing() -> None:
    found = chosen_of([[], judged("t0001", [record(3, val__acc_real=0.0)])], CONFIG)
    assert found.chosen == ()
    assert found.report.reasons == {"dead discriminator": 1}


def test_an_epoch_without_a_required_number_does_not_pass_and_is_counted() -> None:
    config = SelectionConfig(require=("val/own > 0.2",))
    values = [0.1, 0.2, 0.3, math.nan]
    records = [record(epoch, val__own=value) for epoch, value in enumerate(values, start=1)]
    records += [record(5), record(6, young=True, val__own=0.1)]  # the fifth has none
    epochs = judged("t0000", records, config=config)
    without = "without val/own > 0.2"
    assert [epoch.reason for epoch in epochs] == [without, without, "", without, without, "young"]
    found = chosen_of([epochs], config)
    assert names(found.chosen) == [("t0000", 3)]
    assert found.report.reasons == {without: 4, "young": 1}
