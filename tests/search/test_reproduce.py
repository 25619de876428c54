"""A trial trained again, by the command, from real studies: equal, or told apart."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from acgan.data.pack import load
from acgan.evaluation.scorer import cached_scorer
from acgan.files import file_sha256, write_json
from acgan.run.machine import FILE, read_machines
from acgan.run.records import read_records
from search.commands.reproduce import COMPARISON
from search.reproduce import main
from search.study.folder import Quality, trial_config
from tests.picks import Place, send, train_study, write_covidx
from tests.searches import wait_for

pytest_plugins = ["tests.mlflow_stores"]

EPOCHS = 5


pytestmark = [pytest.mark.process, pytest.mark.usefixtures("cache")]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The command sets this process's threads."""
    before = torch.get_num_threads()
    with threadpool_limits():
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "images"
    write_covidx(folder, train=120, test=30)
    return folder


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, images: Path, migrated_database: Path
) -> Place:
    """A study of two trials with the scoring CNN it used, sent to MLflow."""
    place = Place(tmp_path_factory.mktemp("trained"))
    shutil.copy(migrated_database, place.database)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    study = train_study(place.folder / "runs" / "tiny", images, trials=2, epochs=EPOCHS)
    torch.set_num_threads(before)
    config = trial_config(study.info, study.trial("t0000").info)
    data = load(str(images), image_size=config.image_size)
    shutil.copy(cached_scorer(data, config, torch.device("cpu")), study.scorer_path)
    quality = Quality(
        floor=1.0, untrained=9.0, classifier_accuracy=0.9, scorer=file_sha256(study.scorer_path)
    )
    write_json(study.path / "quality.json", quality)
    send(study, place.uri)
    return place


@pytest.fixture
def place(trained: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The study copied to a folder of its own, which is the current one."""
    shutil.copytree(trained.folder / "runs", tmp_path / "runs")
    shutil.copy(trained.database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


def run_ids(place: Place) -> dict[str, str]:
    """Return MLflow's runs by the trial's name, the study's by "study"."""
    client = MlflowClient(place.uri)
    experiment = client.get_experiment_by_name("acgan-search")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return {run.data.tags.get("trial", "study"): run.info.run_id for run in runs}


def comparison(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / COMPARISON).read_bytes())
    return content


def test_a_trial_comes_out_the_same_bit_for_bit_and_the_study_is_only_read(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    before = place.files()
    assert main(["--study", "tiny", "--trial", "t0001"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "machine and versions are those of the trial: all must be equal"
    rows = [line.split() for line in lines[3 : 3 + EPOCHS]]
    assert [row[0] for row in rows] == [str(epoch) for epoch in range(1, EPOCHS + 1)]
    assert all(row[-1] == "identical" for row in rows)
    assert lines[3 + EPOCHS].startswith("the same: every number of 5 epochs is equal")
    assert place.files() == before
    out = place.folder / "reproduced" / "tiny-t0001"
    recorded, again = (
        [record.metrics | {"perf/images_per_s": 0} for record in read_records(path)]
        for path in (place.study.path / "t0001/epochs.jsonl", out / "t0001/epochs.jsonl")
    )
    assert recorded == again
    found = comparison(out)
    assert (found["verdict"], found["epochs"], found["differs"]) == ("identical", EPOCHS, [])
    assert found["fingerprint"] == place.study.info.fingerprint


def test_a_trial_is_named_by_its_run_and_typed_again_only_compares(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = run_ids(place)["t0000"]
    options = ["--run-id", run_id, "--storage-path", "runs", "--out", "again", "--epochs", "2"]
    assert main(options) == 0
    first = capsys.readouterr().out
    epochs = place.folder / "again" / "t0000" / "epochs.jsonl"
    assert [record.epoch for record in read_records(epochs)] == [1, 2]
    times = [record.time for record in read_records(epochs)]
    assert main(options) == 0
    assert capsys.readouterr().out == first
    assert [record.time for record in read_records(epochs)] == times
    assert main([*options[:-1], "4"]) == 0  # two more
    assert [record.time for record in read_records(epochs)][:2] == times
    assert "of 4 epochs is equal" in capsys.readouterr().out


def test_what_a_tampered_record_says_is_found(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place.study.path / "t0000" / "epochs.jsonl"
    records = read_records(path)
    metrics = records[2].metrics | {"val/fd_cnn": records[2].metrics["val/fd_cnn"] * 1.0001}
    records[2] = records[2].model_copy(update={"metrics": metrics})
    path.write_text("".join(record.model_dump_json() + "\n" for record in records))
    assert main(["--study", "tiny", "--trial", "t0000"]) == 1
    output = capsys.readouterr().out
    assert "different from epoch 3 on, on the trial's own machine and versions" in output
    assert comparison(place.folder / "reproduced" / "tiny-t0000")["verdict"] == "different"


def test_other_weights_under_the_same_numbers_are_found(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = place.study.path / "t0000" / "weights"
    shutil.copy(weights / f"epoch-{EPOCHS - 1:04d}.safetensors", weights / "epoch-0005.safetensors")
    assert main(["--study", "tiny", "--trial", "t0000"]) == 1
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("    5 ")]
    assert row.split()[-2:] == ["other", "different"]


def pretend_other_machine(place: Place, trial: str, **changes: object) -> None:
    path = place.study.path / trial / FILE
    noted = json.loads(path.read_text())
    noted["machine"] |= changes
    path.write_text(json.dumps(noted) + "\n")


@pytest.mark.parametrize(("tolerance", "code"), [("0.001", 0), ("0.00001", 1)])
def test_on_another_machine_a_tolerance_decides_and_what_differs_is_named(
    place: Place, capsys: pytest.CaptureFixture[str], tolerance: str, code: int
) -> None:
    pretend_other_machine(place, "t0000", torch="2.0.0", processor="an abacus")
    path = place.study.path / "t0000" / "epochs.jsonl"
    records = read_records(path)
    changed = {k: v * 1.0001 for k, v in records[0].metrics.items()}
    records[0] = records[0].model_copy(update={"metrics": changed})
    path.write_text("".join(record.model_dump_json() + "\n" for record in records))
    flags = ["--study", "tiny", "--trial", "t0000", "--epochs", "1", "--tolerance", tolerance]
    assert main(flags) == code
    output = capsys.readouterr().out
    assert "what differs from the trial: " in output
    assert f"torch: 2.0.0 → {torch.__version__}" in output
    assert "processor: an abacus → " in output
    assert ("the same within 0.001" in output) == (code == 0)


def test_a_trial_whose_machine_was_not_noted_is_compared_all_the_same(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.study.path / "t0000" / FILE).unlink()
    assert main(["--study", "tiny", "--trial", "t0000", "--epochs", "1"]) == 0
    output = capsys.readouterr().out
    assert "was not noted" in output
    assert "the same: every number of 1 epoch is equal" in output
    assert comparison(place.folder / "reproduced" / "tiny-t0000")["differs"] == ["not noted"]


def test_it_computes_on_as_many_threads_as_the_trial(place: Place) -> None:
    pretend_other_machine(place, "t0000", threads=2)
    flags = ["--study", "tiny", "--trial", "t0000", "--epochs", "1"]
    main(flags)  # trained on one thread, the numbers are others
    (since,) = read_machines(place.folder / "reproduced" / "tiny-t0000" / "t0000")
    assert since.machine.threads == 2
    assert main([*flags, "--threads", "1", "--out", "one"]) == 0  # other than noted: a tolerance
    (since,) = read_machines(place.folder / "one" / "t0000")
    assert since.machine.threads == 1


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(place: Place) -> None:
    words = [sys.executable, "-m", "search.reproduce", "--study", "tiny", "--trial", "t0001"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    epochs = place.folder / "reproduced" / "tiny-t0001" / "t0001" / "epochs.jsonl"
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: len(read_records(epochs)) > 0, "a first epoch")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=1500)
    there = len(read_records(epochs))
    if process.returncode != 0:  # five tiny epochs can be faster than a signal
        assert process.returncode == 130, errors
        assert "interrupted; to continue, type: " in errors
        assert "search.reproduce --study tiny --trial t0001" in errors
        assert there < EPOCHS
    assert main(words[3:]) == 0
    assert len(read_records(epochs)) == EPOCHS


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--study", "tiny"], "--study needs --trial NAME"),
        (["--study", "none", "--trial", "t0000"], "there is no study at "),
        (["--study", "tiny", "--trial", "t0009"], "'t0009'; its trials are t0000 to"),
        (["--study", "tiny", "--trial", "../t0000"], "has no trial '../t0000'"),
        (["--study", "tiny", "--trial", "t0000", "--epochs", "6"], "--epochs must be 1 to 5"),
        (["--study", "tiny", "--trial", "t0000", "--epochs", "0"], "--epochs must be 1 to 5"),
        (["--study", "tiny", "--trial", "t0000", "--out", "runs/tiny"], "the study's own folder"),
        (["--study", "tiny", "--trial", "t0000", "--out", "runs/tiny/x"], "the study's own folder"),
        (["--study", "tiny", "--trial", "t0000", "--out", "runs"], "holds other things (tiny)"),
        (["--study", "tiny", "--trial", "t0000", "--out", "mlflow.db"], "is no folder"),
        (
            ["--study", "tiny", "--trial", "t0000", "--data", "phantom"],
            "are not those of the study",
        ),
        (["--study", "tiny", "--trial", "t0000", "--device", "abacus"], "--device abacus cannot"),
        (["--study", "tiny", "--trial", "t0000", "--threads", "0"], "--threads must be at least 1"),
        (["--study", "tiny", "--trial", "t0000", "--tolerance", "-1"], "--tolerance must be"),
        (["--study", "tiny", "--trial", "t0000", "--tolerance", "nan"], "--tolerance must be"),
        (["--run-id", "{study}", "--storage-path", "runs"], "is a whole study's; name the run of"),
        (["--run-id", "0" * 32], "has no run"),
        (["--run-id", "{t0000}", "--storage-path", "elsewhere"], "is not in elsewhere"),
        (["--run-id", "{t0000}", "--trial", "t0000"], "--trial goes with --study"),
        (["--run-id", "{t0000}", "--tracking-uri", "sqlite:///no.db"], "no MLflow database"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(
    place: Place, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    names = run_ids(place)
    assert main([flag.format(**names) for flag in flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert reason in error
    assert error.count("\n") == 1
    assert not (place.folder / "reproduced").exists()


def test_a_study_without_its_scoring_cnn_is_refused(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.study.scorer_path.unlink()
    assert main(["--study", "tiny", "--trial", "t0000"]) == 2
    assert "without the study's scoring CNN" in capsys.readouterr().err


def test_a_trial_without_epochs_is_refused(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.study.path / "t0000" / "epochs.jsonl").unlink()
    assert main(["--study", "tiny", "--trial", "t0000"]) == 2
    assert "has no epoch yet" in capsys.readouterr().err
