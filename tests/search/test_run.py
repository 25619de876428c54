"""The command as it is typed: a real Ray, a real Optuna journal, a real MLflow store.

A start of it takes long. So a study of one trial is searched once, and tests go on with copies.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from acgan.run.records import RANKING
from search import run
from search.plan import SearchRequest, make_search_plan
from search.study import estimate
from search.study.folder import Outcome, open_or_create
from tests.searches import Search, wait_for, write_images

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("cache")]

pytest_plugins = ["tests.mlflow_stores"]
EPOCHS = 6


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


@pytest.fixture
def search(tmp_path: Path, images: Path, database: Path, cache: Path) -> Iterator[Search]:
    """A study that is not there yet."""
    search = Search(tmp_path, images, database)
    search.cache = cache
    yield search
    search.stop()


@dataclass(frozen=True)
class First:
    """A first search, for one trial, and what it printed."""

    search: Search
    output: str


@pytest.fixture(scope="module")
def first(
    tmp_path_factory: pytest.TempPathFactory, images: Path, migrated_database: Path, cache: Path
) -> First:
    folder = tmp_path_factory.mktemp("first")
    search = Search(folder, images, Path(shutil.copy(migrated_database, folder / "mlflow.db")))
    search.cache = cache
    return First(search, search.run("--num-samples", "1"))


@pytest.fixture
def begun(first: First, search: Search) -> Search:
    """A copy of the study of one trial."""
    shutil.copytree(first.search.path, search.path)
    shutil.copy(first.search.database, search.database)
    return search


def mlflow_runs(search: Search) -> tuple[Run, dict[str, Run]]:
    """Return the parent run and the trials' runs by name; fail if a name stands twice."""
    client = MlflowClient(search.uri)
    experiment = client.get_experiment_by_name("acgan-search")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [found for found in runs if "trial" not in found.data.tags]
    children = [found for found in runs if "trial" in found.data.tags]
    by_name = {found.data.tags["trial"]: found for found in children}
    assert len(by_name) == len(children)
    assert all(r.data.tags["mlflow.parentRunId"] == parent.info.run_id for r in children)
    return parent, by_name


def assert_whole(search: Search, count: int) -> None:
    """Assert that exactly `count` trials are there, each once, on disk and in MLflow."""
    client = MlflowClient(search.uri)
    trials = search.study.trials()
    assert [trial.name for trial in trials] == [f"t{number:04d}" for number in range(count)]
    points = {tuple(sorted(trial.info.params.items())) for trial in trials}
    assert len(points) == count, "two trials have the same parameters"
    _, runs = mlflow_runs(search)
    assert set(runs) == {trial.name for trial in trials}
    for trial in trials:
        end = trial.end()
        assert end is not None
        assert end.outcome is Outcome.FINISHED
        records = trial.records()
        assert (end.epochs, end.value) == (EPOCHS, records[-1].metrics[RANKING.best])
        assert [record.epoch for record in records] == list(range(1, EPOCHS + 1))
        history = client.get_metric_history(runs[trial.name].info.run_id, "val/g_loss")
        stored = [(point.step, point.value) for point in history]
        assert stored == [(r.epoch, r.metrics["val/g_loss"]) for r in records]
        assert runs[trial.name].info.status == "FINISHED"


def test_a_search_trains_what_is_asked_for_says_when_all_is_there_and_grows(
    first: First,
    begun: Search,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "t0000" in first.output
    look, pick = first.output.splitlines()[-2:]
    assert "mlflow ui --backend-store-uri" in look
    assert "-m selection.pick --study" in pick
    assert_whole(first.search, 1)
    assert begun.study.trial("t0000").info.params == {"learning_rate": 2e-4, "dropout": 0.5}
    parent, _ = mlflow_runs(begun)
    files = {path: path.stat().st_mtime_ns for path in begun.folder.glob("runs/tiny/t*/*.jsonl")}
    assert files
    starts_of_ray = list((begun.path / "ray").iterdir())

    monkeypatch.chdir(begun.folder)
    assert run.main([*begun.options, "--num-samples", "1"]) == 0
    assert "all 1 trials asked for are there" in capsys.readouterr().out
    assert list((begun.path / "ray").iterdir()) == starts_of_ray

    output = begun.run("--num-samples", "4")
    assert "t0003" in output
    assert_whole(begun, 4)
    assert mlflow_runs(begun)[0].info.run_id == parent.info.run_id
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_an_interrupted_search_says_how_to_go_on(search: Search) -> None:
    assert interrupted(search)["t0000"] == "KILLED"
    search.run("--num-samples", "3")
    assert_whole(search, 3)


def interrupted(search: Search) -> dict[str, str]:
    """Search until there is an epoch, and interrupt that; return what MLflow says of each trial."""
    process = search.start("--num-samples", "3")
    wait_for(lambda: recorded(search) > 0, "an epoch")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=1500)
    assert process.returncode == 130, output
    assert re.search(r"^to continue: \S*python -m search.run --config tiny.yaml", output, re.M)
    ends = {trial.name: trial.end() for trial in search.study.trials()}
    finished = {name for name, end in ends.items() if end and end.outcome is Outcome.FINISHED}
    _, runs = mlflow_runs(search)
    found = {name: found_run.info.status for name, found_run in runs.items()}
    assert found == {name: "FINISHED" if name in finished else "KILLED" for name in runs}
    return found


def recorded(search: Search) -> int:
    """Return how many epochs are on disk."""
    return sum(len(search.epochs(path.parent.name)) for path in search.path.glob("t*/epochs.jsonl"))


def test_a_trial_that_crashes_out_of_its_retries_is_tried_again(begun: Search) -> None:
    blocked = begun.folder / "runs" / "tiny" / "t0001" / "config.json"
    blocked.parent.mkdir()
    blocked.write_text("no configuration")
    output = begun.run("--num-samples", "2", "--max-retries", "0", code=1)
    assert "still missing: 1 of 2 trials; crashed: t0001" in output
    end = begun.study.trial("t0001").end()
    assert end is not None
    assert end.outcome is Outcome.CRASHED
    assert "config.json" in end.reason
    assert mlflow_runs(begun)[1]["t0001"].info.status == "FAILED"

    blocked.unlink()
    begun.run("--num-samples", "2")
    assert_whole(begun, 2)


def test_a_last_epoch_whose_line_a_crash_kept_back_still_ends_the_trial(begun: Search) -> None:
    trial = begun.study.trial("t0000")
    lines = (trial.path / "epochs.jsonl").read_bytes().splitlines(keepends=True)
    (trial.path / "epochs.jsonl").write_bytes(b"".join(lines[:-1]))
    (trial.path / "end.json").unlink()
    ledger = begun.study.ledger_path.read_bytes().splitlines(keepends=True)
    kept = [line for line in ledger if b'"op_code": 6' not in line and b'"op_code":6' not in line]
    assert len(kept) == len(ledger) - 1, "the end of a trial is one line of Optuna's journal"
    begun.study.ledger_path.write_bytes(b"".join(kept))
    begun.run("--num-samples", "1")
    assert_whole(begun, 1)


def test_a_spent_time_budget_says_what_is_missing_and_repeats_compare(search: Search) -> None:
    output = search.run("--num-samples", "9", "--time-budget", "4s")
    assert "still missing:" in output
    assert "to continue: " in output
    ends = [trial.end() for trial in search.study.trials()]
    ended = sum(end is not None and end.outcome is Outcome.FINISHED for end in ends)
    output = search.run("--num-samples", str(max(ended, 2)), "--repeats", "2")
    found = {trial.name for trial in search.study.trials() if trial.info.origin == "repeat"}
    assert {"t0000r1", "t0000r2"} <= found
    assert "Over fresh seeds" in output or "the baseline itself" in output


def _replace(file: Path, change: str) -> None:
    """Apply a change written as `old→new`."""
    old, new = change.split("→")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("options", "edit", "message"),
    [
        ([], "width: 0.0625→widht: 0.0625", "did you mean 'width'?"),
        ([], "dropout: {low→drop: {low", "did you mean 'dropout'?"),
        ([], "high: 0.6→high: 1.6", "dropout"),
        (["--learning-rate", "0"], "", "learning_rate"),
        (["--learning-rate", "1"], "", "lies outside of"),
        (["--image-size", "40"], "", "multiple of 16"),
        (["--batch-size", "500"], "", "larger than the"),
        (["--objective", "val/fid"], "", "is not recorded"),
        (["--data", "nowhere"], "", "nowhere"),
        (["--data", ""], "", "give --data DIR"),
        (["--storage-path", "tiny.yaml"], "", "name another folder with --storage-path"),
        (["--config", "nowhere.yaml"], "", "cannot read the configuration"),
        (["--study", "../other"], "", "must be a plain name"),
        (["--storage-path", "s3://me:it@bucket"], "", "must be a plain address"),
        (["--tracking-uri", "./mlruns"], "", "sqlite:///"),
        ([], "epochs: 6→epochs: 6, seed: 3", "search.seed"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    search: Search,
    options: list[str],
    edit: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(search.folder)
    if edit:
        _replace(search.folder / "tiny.yaml", edit)
    assert run.main([*search.options, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (search.folder / "runs").exists()


def test_an_existing_study_refuses_another_configuration(
    begun: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(begun.folder)
    assert run.main([*begun.options, "--num-samples", "1", "--width", "0.125"]) == 2
    assert "train.width: 0.0625 → 0.125" in capsys.readouterr().err


def test_too_little_disk_is_said_before_training(
    search: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(estimate, "disk", lambda *_: 10**18)
    monkeypatch.chdir(search.folder)
    assert run.main(search.options) == 2
    assert "name another with --storage-path" in capsys.readouterr().err


def test_a_dry_run_shows_the_plan_and_starts_nothing(
    search: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(search.folder)
    assert run.main([*search.options, "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "t0000: learning_rate 0.0002, dropout 0.5" in output
    assert "disk: " in output
    assert "nothing was started" in output
    assert "32 of 32 are to be trained" in output
    assert not (search.folder / "runs").exists()


def test_a_dry_run_says_what_an_epoch_sends_to_an_object_store(
    search: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(search.folder)
    bucket = search.folder / "bucket"
    options = ("--storage-path", f"file://{bucket}", "--state-every", "3", "--dry-run")
    assert run.main([*search.options, *options]) == 0
    output = capsys.readouterr().out
    assert f"study: file://{bucket}/tiny" in output
    assert re.search(
        r"an epoch sends up to \d+ MB in 5 uploads \(the state once in 3 epochs\)", output
    )
    assert not bucket.exists()


def test_a_dry_run_of_a_study_that_is_there_speaks_of_what_is_missing(
    search: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(search.folder)
    asked = run.parser().parse_args(search.options)
    plan = make_search_plan(SearchRequest.of(asked))
    study = open_or_create(plan.folder, plan.info)
    ledger = plan.ledger(study.ledger_path)
    ledger.propose()
    second = ledger.propose()
    ledger.tell(0, Outcome.FINISHED, value=1.0)
    before = study.ledger_path.read_bytes()
    capsys.readouterr()
    assert (
        run.main([*search.options, "--num-samples", "4", "--max-concurrent", "1", "--dry-run"]) == 0
    )
    output = capsys.readouterr().out
    assert "trials: 3 of 4 are to be trained" in output
    assert [line.split(":")[0].strip() for line in output.splitlines() if "  t0" in line] == [
        *("t0001", "t0002", "t0003")
    ]
    assert f"t0001: learning_rate {second.params['learning_rate']:.3g}" in output
    assert "one after another" in output
    assert study.ledger_path.read_bytes() == before


def test_a_dry_run_with_nothing_left_says_so_and_counts_the_repeats_that_are_missing(
    search: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(search.folder)
    plan = make_search_plan(SearchRequest.of(run.parser().parse_args(search.options)))
    study = open_or_create(plan.folder, plan.info)
    ledger = plan.ledger(study.ledger_path)
    ledger.propose()
    ledger.tell(0, Outcome.FINISHED, value=1.0)
    options = [*search.options, "--num-samples", "1", "--dry-run"]
    assert run.main(options) == 0
    output = capsys.readouterr().out
    assert "trials: all 1 asked for are there, so nothing is left to train" in output
    assert "disk: " not in output
    assert run.main([*options, "--repeats", "3"]) == 0
    output = capsys.readouterr().out
    assert "trials: 0 of 1 are to be trained, then 3 repeats" in output
    assert "disk: " in output


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--epochs", "2"], "all 2 epochs of a trial are young"),
        (["--grace-updates", "0", "--grace-fraction", "0"], None),
    ],
)
def test_a_search_of_which_nothing_can_be_picked_says_so_before_it_starts(
    flags: list[str],
    said: str | None,
    search: Search,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(search.folder)
    assert run.main([*search.options, *flags, "--dry-run"]) == 0
    warned = [line for line in capsys.readouterr().out.splitlines() if "young" in line]
    assert len(warned) == (said is not None)
    assert all(f"warning: {said}" in line for line in warned)
