from __future__ import annotations

from pathlib import Path

import pytest

from acgan.errors import InputError
from search.study.folder import Outcome
from search.study.objective import objective_value
from search.study.searched import SearchedStudy
from tests.studies import (
    by_distance,
    epoch_metrics,
    write_end,
    write_epochs,
    write_study,
    write_trial,
)


@pytest.fixture
def searched(tmp_path: Path) -> SearchedStudy:
    study = write_study(tmp_path / "runs" / "s", trials=2, epochs=3)
    under_way = write_trial(study, 2)
    write_epochs(under_way, [1, 2])
    return SearchedStudy(study, "sqlite:///mlflow.db")


def test_a_row_for_each_trial_says_what_it_was_given_and_how_it_ended(
    searched: SearchedStudy,
) -> None:
    table = searched.trials
    assert list(table.index) == ["t0000", "t0001", "t0002"]
    assert list(table["epochs"]) == [3, 3, 2]
    assert list(table["outcome"].dropna()) == ["finished", "finished"]
    assert table["outcome"].isna().tolist() == [False, False, True]
    for trial in searched.study.trials():
        row = table.loc[trial.name]
        assert row["seed"] == trial.info.seed
        assert {name: row[name] for name in trial.info.params} == trial.info.params
        assert row["value"] == objective_value(trial.records(), by_distance())
    finished = table[table["outcome"] == "finished"]
    assert searched.best == finished["value"].idxmin()
    assert f"best: {searched.best} with val/fd_cnn" in str(searched)


def test_a_row_for_each_epoch_has_every_recorded_number(searched: SearchedStudy) -> None:
    table = searched.epochs
    assert table.index.names == ["trial", "epoch"]
    assert len(table) == 3 + 3 + 2
    for trial, epoch in (("t0001", 2), ("t0002", 1)):
        recorded = epoch_metrics(int(trial[1:]), epoch)
        assert table.loc[(trial, epoch), list(recorded)].to_dict() == recorded


def test_tables_are_read_afresh(searched: SearchedStudy) -> None:
    trial = searched.study.trial("t0002")
    write_epochs(trial, [3])
    write_end(trial, Outcome.PRUNED, "behind")
    row = searched.trials.loc["t0002"]
    assert (row["epochs"], row["outcome"], row["reason"]) == (3, "pruned", "behind")


def test_the_sample_grid_is_that_of_an_epoch_else_the_last(searched: SearchedStudy) -> None:
    last = searched.samples("t0000")
    assert last.size == (24, 24)
    assert last.tobytes() == searched.samples("t0000", 3).tobytes()
    assert last.tobytes() != searched.samples("t0000", 1).tobytes()
    with pytest.raises(InputError, match=r"no sample grid of epoch 9; there are .*1, 2, 3"):
        searched.samples("t0000", 9)
    with pytest.raises(InputError, match="has no trial 't0007'"):
        searched.samples("t0007")


def test_a_study_without_trials_has_empty_tables(tmp_path: Path) -> None:
    empty = SearchedStudy(write_study(tmp_path / "s"), "sqlite:///mlflow.db")
    assert empty.trials.empty
    assert empty.epochs.empty
    assert empty.best is None
