from __future__ import annotations

import gc
import math
import pickle
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.pruners import SuccessiveHalvingPruner
from optuna.trial import TrialState

from acgan.config import TrainConfig
from acgan.run.records import EpochRecord, Ranking
from acgan.run.rundir import RunDir
from acgan.training import train
from search.study import space
from search.study.folder import Outcome, trial_name
from search.study.objective import Ended, judged_diversity, objective_value
from search.study.optuna_ledger import Ledger
from search.tune.driver import ReportWatch
from search.tune.progress import Progress
from search.tune.stopping import RepeatStopper, TrialStopper, decide_stop, rung_epochs
from tests.kit import tiny_config, tiny_dataset
from tests.studies import by_distance

BASELINE = TrainConfig()
SPACE = space.read({"dropout": {"low": 0.1, "high": 0.6}}, BASELINE)
GRACE = 4

pytestmark = pytest.mark.filterwarnings("error")

HEALTHY = {
    "train/d_loss": 1.2,
    "train/g_loss": 2.0,
    "val/g_loss_source": 0.9,
    "val/acc_real": 0.8,
    "val/acc_generated": 0.6,
    "val/diversity": 0.7,
}


def records_of(epochs: int, **changed: Callable[[int], float]) -> list[EpochRecord]:
    """Return a healthy run in which the quality improves, but for the metrics in `changed`."""
    columns: dict[str, Callable[[int], float]] = {"val/fd_cnn": lambda epoch: 10 - 0.1 * epoch}
    columns |= {name.replace("__", "/"): function for name, function in changed.items()}
    return [
        EpochRecord(
            epoch=epoch,
            time=float(epoch),
            metrics=HEALTHY | {name: function(epoch) for name, function in columns.items()},
        )
        for epoch in range(1, epochs + 1)
    ]


def first_end(
    records: Sequence[EpochRecord], *, others_vary: bool = True, **settings: Any
) -> tuple[int, Outcome] | None:
    """Return the epoch at which the rules end a trial, and how."""
    config, epochs = by_distance(**settings), len(records)
    for end in range(1, len(records) + 1):
        found = decide_stop(records[:end], config, GRACE, epochs=epochs, others_vary=others_vary)
        outcome = found.outcome
        if outcome is not None:
            return end, outcome
    return None


def test_a_healthy_run_goes_on() -> None:
    assert first_end(records_of(50)) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1000.1])
@pytest.mark.parametrize("epoch", [1, 3, 7])
def test_a_loss_that_is_absurd_or_not_finite_ends_a_trial_at_once(value: float, epoch: int) -> None:
    records = records_of(9, train__g_loss=lambda e: value if e == epoch else 1.0)
    assert first_end(records) == (epoch, Outcome.DIVERGED)
    found = decide_stop(records[:epoch], by_distance(), GRACE, epochs=9, others_vary=True)
    assert "train/g_loss is" in found.reason
    assert first_end(records, stop_diverged=False) is None


def test_real_networks_at_a_learning_rate_of_ten_diverge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    config = tiny_config(learning_rate=10.0, epochs=4)
    steps = train(config, tiny_dataset(), RunDir(tmp_path / "run"), device=torch.device("cpu"))
    found = first_end(list(steps), stop_discriminator_won=False, stop_collapsed=False)
    assert found is not None
    assert found[1] is Outcome.DIVERGED


def test_a_quality_score_that_is_not_finite_is_no_divergence() -> None:
    assert first_end(records_of(9, val__fd_cnn=lambda _: math.inf)) is None


@pytest.mark.parametrize("value", [math.nan, 1e9])
def test_a_plug_ins_number_that_is_called_a_loss_is_no_divergence(value: float) -> None:
    assert first_end(records_of(9, val__perceptual_loss=lambda _: value)) is None


def test_one_picture_a_class_ends_a_trial_in_its_second_half_after_patience() -> None:
    records = records_of(30, val__diversity=lambda _: 0.07)
    assert first_end(records, patience=3) == (18, Outcome.COLLAPSED)
    assert first_end(records, patience=5) == (20, Outcome.COLLAPSED)
    assert first_end(records, stop_collapsed=False) is None
    assert first_end(records, others_vary=False) is None
    assert decide_stop(records[:18], by_distance(), GRACE, epochs=30, others_vary=True).reason == (
        "one picture per class, while others vary (val/diversity below 0.3 in epochs 16 to 18)"
    )


def test_a_short_trial_is_not_called_collapsed_before_grace_and_patience() -> None:
    records = records_of(8, val__diversity=lambda _: 0.07)
    assert first_end(records, patience=2) == (GRACE + 2, Outcome.COLLAPSED)


def test_with_its_last_epoch_a_trial_is_finished_whatever_it_draws() -> None:
    records = records_of(12, val__diversity=lambda epoch: 1.0 if epoch < 10 else 0.07)
    assert first_end(records, patience=3) is None


@pytest.mark.parametrize(
    "diversity",
    [
        lambda epoch: 0.07 if epoch <= 17 else 0.3,  # leaves the state late
        lambda epoch: 0.07 if epoch % 3 else 0.3,  # never three in a row
        lambda epoch: 0.3,  # at the bound
        lambda epoch: math.nan,  # not known
    ],
)
def test_what_may_yet_recover_has_not_collapsed(diversity: Callable[[int], float]) -> None:
    assert first_end(records_of(30, val__diversity=diversity), patience=3) is None


def test_a_discriminator_that_is_always_right_and_teaches_nothing_ends_a_trial() -> None:
    records = records_of(
        12,
        val__acc_real=lambda _: 1.0,
        val__acc_generated=lambda _: 1.0,
        val__fd_cnn=lambda epoch: max(10.0 - epoch, 4.0),
    )
    # The windowed objective is best from epoch 7 on: 8, 9 and 10 bring nothing.
    assert first_end(records, patience=3) == (10, Outcome.DISCRIMINATOR_WON)
    assert first_end(records, stop_discriminator_won=False) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"val__acc_generated": lambda _: 0.99},  # not always right on generated images
        {"val__acc_real": lambda _: 0.99},  # nor on real ones
        {"val__acc_real": lambda epoch: 0.99 if epoch % 3 == 0 else 1.0},  # never three in a row
        {"val__fd_cnn": lambda epoch: 10.0 - 0.1 * epoch},  # still learning
        {"val__acc_real": lambda _: math.nan},  # not known
    ],
)
def test_a_discriminator_that_errs_or_still_teaches_has_not_won(
    changed: dict[str, Callable[[int], float]],
) -> None:
    won: dict[str, Callable[[int], float]] = {
        "val__acc_real": lambda _: 1.0,
        "val__acc_generated": lambda _: 1.0,
        "val__fd_cnn": lambda _: 5.0,
    }
    assert first_end(records_of(30, **won), patience=3) is not None
    assert first_end(records_of(30, **won | changed), patience=3) is None


@pytest.mark.parametrize("grace", [1, 2, 5, 39])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_rungs_are_where_optunas_pruner_compares_if_it_is_told_every_epoch(
    grace: int, factor: int
) -> None:
    study = optuna.create_study(
        pruner=SuccessiveHalvingPruner(min_resource=grace, reduction_factor=factor)
    )
    trial = study.ask()
    compared = []
    for epoch in range(1, 100):
        trial.report(1.0, epoch)
        before = len(study.trials[0].system_attrs)
        trial.should_prune()
        if len(study.trials[0].system_attrs) > before:
            compared.append(epoch)
    assert compared == rung_epochs(100, grace, by_distance(reduction_factor=factor))


def test_no_rung_lies_at_or_behind_the_last_epoch() -> None:
    config = by_distance(reduction_factor=3)
    assert rung_epochs(9, 3, config) == [3]
    assert rung_epochs(10, 3, config) == [3, 9]
    assert rung_epochs(5, 6, config) == []


def test_a_trial_is_judged_by_its_best_window_in_both_directions() -> None:
    values = [5.0, 3.0, math.nan, 4.0, 9.0, 9.0]
    records = records_of(6, val__fd_cnn=lambda epoch: values[epoch - 1])
    assert objective_value(records, by_distance()) == 4.0  # medians 5, 4, 4, 4, 9
    assert objective_value(records, by_distance(direction="maximize")) == 9.0
    nothing = records_of(2, val__fd_cnn=lambda _: math.nan)
    assert objective_value(nothing, by_distance()) == math.inf
    assert objective_value(nothing, by_distance(direction="maximize")) == -math.inf


def test_how_images_vary_is_told_of_the_window_that_a_trial_is_judged_by() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        values = rng.uniform(1, 9, 12).tolist()
        values[seed % 12] = math.inf
        config = by_distance(direction="maximize" if seed % 2 else "minimize")
        # With the objective itself in its place, the window's median is the objective's.
        columns = {
            name: (lambda epoch, values=values: values[epoch - 1])
            for name in ("val__fd_cnn", "val__diversity")
        }
        records = records_of(12, **columns)
        assert judged_diversity(records, config) == objective_value(records, config)


def test_nothing_is_said_of_images_that_are_young_or_whose_variety_is_not_known() -> None:
    config = by_distance()
    young = [record.model_copy(update={"young": True}) for record in records_of(3)]
    assert judged_diversity([], config) is None
    assert judged_diversity(young, config) is None
    assert judged_diversity([*young, *records_of(5)[3:]], config) == 0.7
    assert judged_diversity(records_of(3, val__diversity=lambda _: math.nan), config) is None
    assert judged_diversity(records_of(3, val__fd_cnn=lambda _: math.inf), config) is None


class Driver:
    """Reports trials' records to a stopper on a real journal."""

    def __init__(self, path: Path | None, epochs: int, grace: int = GRACE, **settings: Any) -> None:
        self.config = by_distance(**settings)
        self.ledger = Ledger(path, SPACE, start=space.baseline(SPACE, BASELINE), config=self.config)
        self.disk: dict[str, list[EpochRecord]] = {}
        self.reads: list[str] = []
        self.ends: dict[str, Ended] = {}
        self.stopper = TrialStopper(
            self.ledger,
            self.config,
            epochs=epochs,
            grace=grace,
            records_of=self._read,
            on_end=self.ends.__setitem__,
        )

    def _read(self, name: str) -> list[EpochRecord]:
        self.reads.append(name)
        return self.disk[name]

    def report(self, name: str, record: EpochRecord) -> bool:
        return self.stopper(name, record)

    def run(
        self, number: int, values: Sequence[float], start: int = 1, diversity: float = 0.7
    ) -> int:
        """Run one trial; return the number of epochs that it was given."""
        name = trial_name(number)
        if number == len(self.ledger.rows()):
            self.ledger.propose()
        self.disk[name] = records_of(
            len(values),
            val__fd_cnn=lambda epoch: values[epoch - 1],
            val__diversity=lambda _: diversity,
        )
        for record in self.disk[name][start - 1 :]:
            if self.report(name, record):
                return record.epoch
        return len(values)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "optuna.jsonl"


def test_a_trial_that_reaches_its_last_epoch_is_finished_with_its_best_value(path: Path) -> None:
    driver = Driver(path, epochs=6)
    assert driver.run(0, [6, 5, 4, 3, 2, 9]) == 6
    row = driver.ledger.rows()[0]
    assert (row.outcome, row.value) == (Outcome.FINISHED, 3.0)
    assert {name: end.outcome for name, end in driver.ends.items()} == {"t0000": Outcome.FINISHED}
    assert driver.reads == []


def test_a_trial_behind_at_a_rung_ends_there_and_the_best_passes(path: Path) -> None:
    driver = Driver(path, epochs=12, reduction_factor=2)
    lengths = [driver.run(n, [quality] * 12) for n, quality in enumerate([5, 6, 7, 4, 8, 3])]
    assert rung_epochs(12, GRACE, driver.config) == [4, 8]
    assert lengths == [12, 4, 4, 12, 4, 12]
    states = [trial.state for trial in driver.ledger._trials()]
    ended = [TrialState.COMPLETE if n == 12 else TrialState.PRUNED for n in lengths]
    assert states == ended
    assert "after 4 epochs" in driver.ledger.rows()[1].reason
    assert driver.ledger.rows()[1].value == 6.0


def test_pruning_can_be_switched_off(path: Path) -> None:
    driver = Driver(path, epochs=12, stop_pruned=False)
    assert [driver.run(n, [float(n)] * 12) for n in range(6)] == [12] * 6


def test_a_larger_value_is_better_where_the_objective_is_maximized(path: Path) -> None:
    driver = Driver(path, epochs=6, direction="maximize", reduction_factor=2)
    assert [driver.run(n, [q] * 6) for n, q in enumerate([5, 4, 6, 3])] == [6, 4, 6, 4]


def test_too_few_trials_at_a_rung_end_nobody(path: Path) -> None:
    driver = Driver(path, epochs=6, reduction_factor=3)
    assert [driver.run(n, [float(n)] * 6) for n in range(4)] == [6, 6, 4, 4]


def test_the_baseline_is_compared_but_never_pruned(path: Path) -> None:
    driver = Driver(path, epochs=12, reduction_factor=2)
    for _ in range(3):
        driver.ledger.propose()
    assert driver.run(1, [5.0] * 12) == 12
    assert driver.run(2, [4.0] * 12) == 12
    assert driver.run(0, [9.0] * 12) == 12
    assert set(driver.ledger._trials()[0].intermediate_values) == {4, 8}


def test_rungs_count_the_trials_of_earlier_starts(path: Path) -> None:
    first = Driver(path, epochs=6, reduction_factor=2)
    assert [first.run(n, [q] * 6) for n, q in enumerate([5, 4])] == [6, 6]
    second = Driver(path, epochs=6, reduction_factor=2)
    assert second.run(2, [6.0] * 6) == 4


def test_a_restarted_trial_goes_on_with_what_is_on_disk(path: Path) -> None:
    straight = Driver(path, epochs=12)
    straight.run(0, [12.0 - epoch for epoch in range(12)])
    value = straight.ledger.rows()[0].value

    path.unlink()
    values = [12.0 - epoch for epoch in range(12)]
    Driver(path, epochs=12).run(0, values[:7])
    restarted = Driver(path, epochs=12)
    restarted.run(0, values, start=7)
    assert restarted.reads == ["t0000"]
    assert restarted.ledger.rows()[0].value == value


def test_a_rung_passed_while_no_driver_watched_is_made_up_for(path: Path) -> None:
    driver = Driver(path, epochs=12, reduction_factor=2)
    for number, quality in enumerate([5.0, 4.0]):
        driver.run(number, [quality] * 12)
    assert driver.run(2, [9.0] * 12, start=7) == 7
    assert driver.ledger._trials()[2].intermediate_values == {4: 9.0}


def test_a_trial_with_all_its_epochs_is_finished_even_if_it_was_behind(path: Path) -> None:
    driver = Driver(path, epochs=12, reduction_factor=2)
    for number, quality in enumerate([5.0, 4.0]):
        driver.run(number, [quality] * 12)
    assert driver.run(2, [9.0] * 12, start=12) == 12
    assert driver.ledger.rows()[2].outcome is Outcome.FINISHED
    assert driver.ledger.reported(8) == {0, 1, 2}


def test_an_epoch_that_is_reported_again_does_not_count_twice(path: Path) -> None:
    driver = Driver(path, epochs=12, patience=2)
    assert driver.run(0, [5.0] * 12) == 12  # its images vary
    driver.ledger.propose()
    records = records_of(12, val__diversity=lambda epoch: 0.01 if epoch == 7 else 1.0)
    driver.disk["t0001"] = records
    for record in records[:7]:
        assert not driver.report("t0001", record)
    for _ in range(3):
        assert not driver.report("t0001", records[6])
        assert not driver.report("t0001", records[2])
    for record in records[7:]:
        assert not driver.report("t0001", record)
    assert not driver.report("t0001", records[-1])  # Tune repeats a trial's last result
    assert driver.ends["t0001"].outcome is Outcome.FINISHED


def test_epochs_that_were_trained_again_replace_those_that_are_gone(path: Path) -> None:
    driver = Driver(path, epochs=12)
    driver.ledger.propose()
    first = records_of(12, val__fd_cnn=lambda epoch: 5.0 if epoch < 6 else 2.0)
    for record in first[:9]:
        assert not driver.report("t0000", record)
    again = records_of(12, val__fd_cnn=lambda epoch: 5.0 + 0.01 * epoch)
    for record in again[5:]:
        assert not driver.report("t0000", record)
    assert {name: end.outcome for name, end in driver.ends.items()} == {"t0000": Outcome.FINISHED}
    assert driver.ledger.rows()[0].value == 5.0


def test_a_trial_whose_file_lacks_an_epoch_goes_on(path: Path) -> None:
    driver = Driver(path, epochs=12)
    driver.ledger.propose()
    records = records_of(12)
    driver.disk["t0000"] = [*records[:2], *records[3:]]
    for record in (records[6], records[6], records[4], *records[7:]):
        assert not driver.report("t0000", record)
    assert {name: end.outcome for name, end in driver.ends.items()} == {"t0000": Outcome.FINISHED}


def test_where_no_image_varies_every_trial_comes_to_its_end(path: Path) -> None:
    driver = Driver(path, epochs=12, stop_pruned=False)
    assert [driver.run(n, [5.0] * 12, diversity=0.07) for n in range(4)] == [12] * 4


def test_once_another_trials_images_vary_one_picture_a_class_ends_a_trial(path: Path) -> None:
    driver = Driver(path, epochs=12, stop_pruned=False)
    lengths = [driver.run(n, [5.0] * 12, diversity=d) for n, d in enumerate((0.07, 0.3, 0.07))]
    assert lengths == [12, 12, 9]
    assert driver.ends["t0002"].outcome is Outcome.COLLAPSED


def test_trials_that_varied_in_an_earlier_start_are_known_but_never_a_trial_itself(
    path: Path,
) -> None:
    first = Driver(path, epochs=12, stop_pruned=False)
    assert first.run(0, [5.0] * 12, diversity=0.07) == 12
    first.ledger.propose()
    collapsing = records_of(12, val__diversity=lambda epoch: 0.7 if epoch < 8 else 0.07)
    assert not any(first.report("t0001", record) for record in collapsing)  # itself alone varied
    assert first.ledger.varied() == {1}
    second = Driver(path, epochs=12, stop_pruned=False)
    assert second.run(2, [5.0] * 12, diversity=0.07) == 9


def test_the_baseline_is_never_ended_for_one_picture_a_class(path: Path) -> None:
    driver = Driver(path, epochs=12, stop_pruned=False)
    for _ in range(2):
        driver.ledger.propose()
    assert driver.run(1, [5.0] * 12, diversity=1.0) == 12
    assert driver.run(0, [5.0] * 12, diversity=0.07) == 12


def test_a_rule_ends_a_trial_and_the_ledger_knows_why(path: Path) -> None:
    driver = Driver(path, epochs=12)
    driver.ledger.propose()
    for record in records_of(12, train__d_loss=lambda epoch: math.nan if epoch == 2 else 1.0):
        if driver.report("t0000", record):
            break
    row = driver.ledger.rows()[0]
    assert (record.epoch, row.outcome, row.value) == (2, Outcome.DIVERGED, None)
    assert row.reason == "train/d_loss is nan in epoch 2"


def test_nothing_of_the_rules_is_pickled_with_what_tune_pickles(path: Path) -> None:
    stopper = Driver(path, epochs=12).stopper
    progress = Progress(asked=1, ended=0, epochs=12, ranking=Ranking("val/fd_cnn", 1))
    watch = ReportWatch(progress, by_distance(), stopper, records_of=lambda _name: [])
    assert b"stopping" not in pickle.dumps(watch)


def test_pruning_saves_epochs_and_seldom_loses_the_best() -> None:
    # 32 trials of 10 epochs, grace 6; noisy curves that cross.
    saved, lost = [], 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        driver = Driver(None, epochs=10, grace=6)
        curves = [_curve(rng, 10) for _ in range(32)]
        given = [driver.run(number, curve) for number, curve in enumerate(curves)]
        saved.append(1 - sum(given) / 320)
        ended = [row for row in driver.ledger.rows() if row.outcome is Outcome.FINISHED]
        best = min(row.value for row in ended if row.value is not None)
        config = by_distance()
        finals = [
            objective_value(records_of(10, val__fd_cnn=lambda e, c=c: c[e - 1]), config)  # type: ignore[misc]
            for c in curves
        ]
        lost += best > min(finals)
    assert 0.2 < float(np.mean(saved)) < 0.3
    assert lost <= 2


def _curve(rng: np.random.Generator, epochs: int) -> list[float]:
    floor = math.exp(rng.normal(0, 0.4))
    speed = 3 / epochs * floor**0.3 * math.exp(rng.normal(0, 0.5))
    epoch = np.arange(1, epochs + 1)
    values = (floor + 8 * np.exp(-speed * epoch)) * np.exp(rng.normal(0, 0.12, epochs))
    return [float(value) for value in values]


def test_of_a_trial_that_has_ended_no_record_is_held(path: Path) -> None:
    def held() -> int:
        gc.collect()
        return sum(type(found) is EpochRecord for found in gc.get_objects())

    driver = Driver(path, epochs=9)
    before = held()
    for number in range(3):
        driver.run(number, [5.0] * (9 if number < 2 else 8))
    driver.disk.clear()
    assert held() - before == 8, "but for those of the trial under way"
    assert not driver.report("t0000", records_of(9)[-1]), "Tune's last word"
    assert list(driver.ends) == ["t0000", "t0001"]


def test_the_ledger_is_looked_through_at_rungs_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    reported = Ledger.reported

    def noted(ledger: Ledger, rung: int) -> Set[int]:
        looks.append(rung)
        return reported(ledger, rung)

    monkeypatch.setattr(Ledger, "reported", noted)
    driver = Driver(path, epochs=60)
    driver.run(0, [5.0] * 60)
    assert set(looks) == {4, 12, 36}
    assert len(looks) == 9


@pytest.mark.parametrize(
    ("switched_on", "end"), [(True, Outcome.DIVERGED), (False, Outcome.FINISHED)]
)
def test_a_repeat_ends_where_it_diverges_unless_that_is_switched_off(
    switched_on: bool, end: Outcome
) -> None:
    ends: dict[str, Ended] = {}
    config = by_distance(stop_diverged=switched_on)
    records = records_of(2, **{"val/g_loss": lambda _: 5000.0})
    stopper = RepeatStopper(config, epochs=2, records_of=lambda _: records, on_end=ends.__setitem__)
    for record in records:
        if stopper("r0", record):
            break
    assert ends["r0"].outcome is end
    assert (ends["r0"].epochs, ends["r0"].value) == (2, objective_value(records, config))
