"""A folder of images of a registered generator, by the command."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

import acgan.generation.folder
from search.tracking import connection
from selection.generate import main
from selection.registry.versions import NAME, register
from tests.acgan.test_generate import content, write_weights

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def client(uri: str, tmp_path: Path) -> MlflowClient:
    """A registry with two versions; their weights have the seeds 1 and 2."""
    client = connection.connect(uri)
    location = (tmp_path / "artifacts").as_uri()
    run = client.create_run(client.create_experiment("chests", artifact_location=location))
    for seed in (1, 2):
        path = write_weights(tmp_path / f"{seed}.safetensors", seed=seed)
        register(client, run_id=run.info.run_id, pick=str(seed), weights=path, tags={})
    return client


def test_the_champions_images_are_those_of_its_weights_file(
    client: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--per-class", "3", "--seed", "5"]
    assert main([*flags, "--out", "a"]) == 0  # ./mlflow.db is the default
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a holds all 9 images; 9 are new"
    assert lines[1].endswith("python -m acgan.covidx a")
    assert acgan.generate.main(["--weights", "2.safetensors", *flags, "--out", "b"]) == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_version_is_named_by_its_number_and_typed_again_it_continues(
    client: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--model", f"models:/{NAME}/1", "--tracking-uri", client.tracking_uri, "--out", "a"]
    assert main([*command, "--per-class", "2"]) == 0
    assert main([*command, "--per-class", "4"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "a holds all 12 images; 6 are new"
    arguments = ["--weights", "1.safetensors", "--per-class", "4", "--out", "b"]
    assert acgan.generate.main(arguments) == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--model", f"models:/{NAME}@nobody"], f"has no 'models:/{NAME}@nobody"),
        (["--model", f"models:/{NAME}/9"], f"has no 'models:/{NAME}/9"),
        (["--model", "models:/other@champion"], "has no 'models:/other@champion"),
        (["--model", NAME], "names no model"),
        (["--tracking-uri", "sqlite:///none.db"], "there is no MLflow database"),
        (["--tracking-uri", "mlruns"], "is no place for MLflow"),
        (["--per-class", "0"], "--per-class must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    client: MlflowClient, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    assert main(["--per-class", "1", "--out", "out", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert reason in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_a_server_that_is_away_is_one_sentence_and_exit_code_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--tracking-uri", "http://127.0.0.1:9", "--per-class", "1", "--out", "out"]
    assert main(flags) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: cannot get the model from MLflow at http://127.0.0.1:9: ")
    assert error.count("\n") == 1


def test_artifacts_that_are_gone_are_one_sentence_and_exit_code_1(
    client: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path / "artifacts").rglob("generator.safetensors"):
        path.unlink()
    assert main(["--per-class", "1", "--out", "out"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: cannot get the model from MLflow at {client.tracking_uri}: ")
    assert error.count("\n") == 1
