"""The searcher that hands a study's trials to Ray Tune, by itself and with a real Ray."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune.search import Searcher

from acgan.run.records import EpochRecord
from search.study.folder import Outcome
from search.study.objective import Ended
from search.study.optuna_ledger import Proposal
from search.tune.driver import ReportWatch
from search.tune.progress import Progress
from search.tune.searcher import StudySearcher
from search.tune.stopping import TrialStopper
from search.tune.trial import report_epoch
from tests.search.study.test_optuna_ledger import open_ledger
from tests.studies import by_distance

pytestmark = pytest.mark.filterwarnings("error")


class Search:
    """One study folder that is searched by one start after another, by real Ray Tune."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "optuna.jsonl"
        self.proposed: list[Proposal] = []
        self.crashed: list[str] = []
        self.ends: dict[str, Ended] = {}

    def start(
        self, trainable: Callable[[dict[str, Any]], None], num_samples: int
    ) -> list[Proposal]:
        settings = by_distance(patience=2, num_samples=num_samples)
        ledger = open_ledger(self.path)
        self.proposed = []
        searcher = StudySearcher(
            ledger, num_samples, on_proposal=self.proposed.append, on_crash=self.crashed.append
        )
        stopper = TrialStopper(
            ledger,
            settings,
            epochs=6,
            grace=2,
            records_of=lambda _: [],
            on_end=self.ends.__setitem__,
        )
        progress = Progress(
            asked=num_samples, ended=ledger.ended(), epochs=6, ranking=settings.ranking
        )
        watch = ReportWatch(progress, settings, stopper, records_of=lambda _name: [])
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=num_samples - ledger.ended(), reuse_actors=True
            ),
            run_config=tune.RunConfig(storage_path=str(self.folder), verbose=0, stop=watch),
        ).fit()
        return open_ledger(self.path).rows()


def simulation(crashes: str = "") -> Callable[[dict[str, Any]], None]:
    """Return a trainable of six epochs; Ray's workers need not import this file for it."""

    def train(config: dict[str, Any]) -> None:
        if config["trial"] == crashes:
            raise RuntimeError("planted")
        number = int(config["trial"][1:])
        for epoch in range(1, 7):
            metrics = {
                "train/g_loss": math.nan if (number, epoch) == (2, 3) else 1.0,
                "val/diversity": 0.001 if number == 3 else 1.0,
                "val/fd_cnn": 5.0 - epoch - [0, 1, 1, 1, -9][number],
            }
            record = EpochRecord(epoch=epoch, time=epoch, metrics=metrics)
            report_epoch(config["trial"], record, [])

    return train


@pytest.mark.process
@pytest.mark.filterwarnings("default")
def test_a_search_goes_on_where_it_was_and_grows(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "0")  # a snapshot at every step
    search = Search(tmp_path)
    interrupted = open_ledger(search.path).propose()

    first = search.start(simulation(crashes="t0001"), 2)
    assert search.proposed[0] == interrupted
    assert search.crashed == ["t0001"]
    assert [row.outcome for row in first] == [Outcome.FINISHED, None]

    second = search.start(simulation(), 5)
    assert search.proposed[0] == first[1]
    assert [row.name for row in search.proposed] == ["t0001", "t0002", "t0003", "t0004"]
    assert second[0] == first[0]
    assert [row.value for row in second[:2]] == [0.0, -1.0]
    assert {name: decision.outcome for name, decision in search.ends.items()} == {
        "t0000": Outcome.FINISHED,
        "t0001": Outcome.FINISHED,
        "t0002": Outcome.DIVERGED,
        "t0003": Outcome.COLLAPSED,
        "t0004": Outcome.PRUNED,
    }
    assert [row.outcome for row in second] == [search.ends[row.name].outcome for row in second]


def test_no_more_trials_are_handed_out_than_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "optuna.jsonl"
    ledger = open_ledger(path)
    for _ in range(3):
        ledger.propose()
    ledger.tell(1, Outcome.PRUNED, value=1.0)
    for asked, names in [(1, []), (2, ["t0000"]), (4, ["t0000", "t0002", "t0003"])]:
        proposed: list[Proposal] = []
        searcher = StudySearcher(
            open_ledger(path), asked, on_proposal=proposed.append, on_crash=lambda _: None
        )
        suggested = [searcher.suggest(str(index)) for index in range(len(names) + 1)]
        assert suggested == [*({"trial": name} for name in names), Searcher.FINISHED]
        recorded = {row.name: row for row in open_ledger(path).rows()}
        assert proposed == [recorded[name] for name in names]
