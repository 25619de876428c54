"""The registered generator: its versions and aliases, and what whoever loads one gets."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn, cast

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
from numpy.typing import NDArray

import acgan
from acgan.errors import InputError
from acgan.generation.generator import generate, load_generator
from search.tracking import connection
from selection.registry.versions import (
    CHAMPION_URI,
    NAME,
    Standing,
    champion,
    promote,
    register,
    resolve_version,
    standing,
    usage,
)
from tests.acgan.test_generate import write_weights
from tests.mlflow_server import Server

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]
SITE_PACKAGES = str(Path(mlflow.__file__).parents[1])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two generators."""
    folder = tmp_path_factory.mktemp("weights")
    paths = [write_weights(folder / f"{seed}.safetensors", seed=seed) for seed in range(2)]
    return paths[0], paths[1]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in an empty folder, with a run id and a store in the environment that must not matter."""
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


def new_run(client: MlflowClient, location: str | None = None) -> str:
    """Create a run whose artifacts stand where the store, or `location`, says; return its id."""
    experiment = client.get_experiment_by_name("chests")
    number = (
        client.create_experiment("chests", artifact_location=location)
        if experiment is None
        else experiment.experiment_id
    )
    return str(client.create_run(number).info.run_id)


@pytest.fixture
def run_id(client: MlflowClient, tmp_path: Path) -> str:
    return new_run(client, (tmp_path / "artifacts").as_uri())


def aliases(client: MlflowClient) -> dict[str, int]:
    found = client.get_registered_model(NAME).aliases
    return {alias: int(version) for alias, version in found.items()}


def test_the_first_pick_is_the_champion_and_the_next_makes_it_the_challenger(
    client: MlflowClient, run_id: str, weights: tuple[Path, Path]
) -> None:
    tags = {"trial": "t0003", "epoch": 7, "val/balanced_accuracy": 0.5}
    assert register(client, run_id=run_id, pick="a", weights=weights[0], tags=tags) == 1
    assert aliases(client) == {"champion": 1}
    found = client.get_model_version(NAME, "1")
    assert found.run_id == run_id
    assert found.tags.items() >= {"pick": "a", "epoch": "7", "val/balanced_accuracy": "0.5"}.items()
    assert register(client, run_id=run_id, pick="b", weights=weights[1], tags=tags) == 2
    assert aliases(client) == {"champion": 2, "challenger": 1}
    assert register(client, run_id=run_id, pick="c", weights=weights[0], tags=tags) == 3
    assert aliases(client) == {"champion": 3, "challenger": 2}


def test_the_same_weights_picked_again_are_not_their_own_challenger(
    client: MlflowClient, run_id: str, weights: tuple[Path, Path]
) -> None:
    for pick, own in (("a", weights[1]), ("b", weights[0]), ("c", weights[0])):
        register(client, run_id=run_id, pick=pick, weights=own, tags={})
    assert aliases(client) == {"champion": 3, "challenger": 1}


def test_the_same_pick_again_changes_nothing(
    client: MlflowClient, run_id: str, weights: tuple[Path, Path]
) -> None:
    for pick in ("a", "b"):
        register(client, run_id=run_id, pick=pick, weights=weights[0], tags={})
    client.set_registered_model_alias(NAME, "champion", "1")  # someone thought better of it
    client.set_registered_model_alias(NAME, "challenger", "2")
    assert register(client, run_id=run_id, pick="b", weights=weights[0], tags={}) == 2
    assert register(client, run_id=run_id, pick="a", weights=weights[0], tags={}) == 1
    assert aliases(client) == {"champion": 1, "challenger": 2}
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 2


def test_a_version_that_is_held_back_moves_no_alias_until_it_is_promoted(
    client: MlflowClient, run_id: str, weights: tuple[Path, Path]
) -> None:
    common: dict[str, Any] = {"run_id": run_id, "tags": {}}
    why = "its images are one picture per class"
    held: dict[str, Any] = {**common, "pick": "a", "weights": weights[0], "held_back": why}
    assert register(client, **held) == 1
    assert aliases(client) == {}
    assert standing(client, 1) == Standing(1, None, why)
    assert standing(client, 1).uri == f"models:/{NAME}/1"
    assert resolve_version(client, standing(client, 1).uri).read_bytes() == weights[0].read_bytes()
    assert register(client, **common, pick="b", weights=weights[1]) == 2
    assert standing(client, 1) == Standing(1, 2, why)
    assert register(client, **{**held, "held_back": ""}) == 1  # the same pick again
    assert (aliases(client), standing(client, 1).held_back) == ({"champion": 2}, why)
    for _ in range(2):
        promote(client, 1)
        assert aliases(client) == {"champion": 1, "challenger": 2}
        assert standing(client, 1) == Standing(1, 1, "")
    assert standing(client, 1).uri == CHAMPION_URI
    assert standing(client, 2) == Standing(2, 1, "")


def test_no_champion_is_none(client: MlflowClient) -> None:
    assert champion(client) is None
    client.create_registered_model(NAME)
    assert champion(client) is None


class Killed(BaseException):
    """The process ends here."""


WRITES = (
    "log_artifacts",
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
    "set_model_version_tag",
)


class Dying:
    """A client whose process ends once it has made so many calls that write."""

    def __init__(self, client: MlflowClient, writes: int) -> None:
        self._client, self._left = client, writes

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        if name not in WRITES:
            return call
        if self._left == 0:
            raise Killed
        self._left -= 1
        return call


def test_a_crash_between_any_two_calls_is_repaired_by_the_next_start(
    client: MlflowClient, run_id: str, weights: tuple[Path, Path]
) -> None:
    before: dict[str, int] = {}
    for writes in itertools.count():
        own = weights[writes % 2]  # other weights than the champion's
        pick: dict[str, Any] = {"run_id": run_id, "pick": f"pick {writes}", "weights": own}
        try:
            register(cast(MlflowClient, Dying(client, writes)), **pick, tags={})
        except Killed:
            version = register(client, **pick, tags={})
            former = {"challenger": before["champion"]} if before else {}
            assert aliases(client) == {"champion": version, **former}
            assert version == len(client.search_model_versions(f"name = '{NAME}'"))
            before = aliases(client)
            continue
        break
    assert writes == 6


def test_what_is_stored_can_be_used_without_this_project_and_holds_no_pickle(
    client: MlflowClient, run_id: str, weights: tuple[Path, Path], tmp_path: Path
) -> None:
    version = register(client, run_id=run_id, pick="a", weights=weights[0], tags={"trial": "t"})
    (model,) = (tmp_path / "artifacts" / run_id / "artifacts").iterdir()
    assert client.get_model_version(NAME, str(version)).source == model.as_uri()
    names = {str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()}
    package = Path(acgan.__file__).parent
    code = {f"code/acgan/{path.relative_to(package)}" for path in package.rglob("*.py")}
    assert names == code | {
        "MLmodel",
        "artifacts/generator.json",
        "artifacts/generator.safetensors",
        "conda.yaml",
        "input_example.json",
        "python_env.yaml",
        "model.py",
        "requirements.txt",
        "serving_input_example.json",
    }
    assert (model / "artifacts/generator.safetensors").read_bytes() == weights[0].read_bytes()
    facts = json.loads((model / "artifacts/generator.json").read_bytes())
    assert facts["classes"] == ["COVID-19", "normal", "pneumonia"]
    assert facts["image_size"] == 16
    assert facts["tags"].items() >= {"trial": "t", "pick": "a"}.items()
    requirements = (model / "requirements.txt").read_text().splitlines()
    assert f"mlflow=={mlflow.__version__}" in requirements
    assert all("+" not in line and "==" in line for line in requirements)


def predicted(client: MlflowClient, folder: Path, more: str) -> dict[str, NDArray[Any]]:
    """Run the report's lines, then more, in a fresh interpreter without the project.

    Its folder is empty and so is its path, but for the installed packages; a project that is
    installed in editable mode is not among them. Return what the lines called `saved`.
    """
    isolated = f"import sys; sys.path.append({SITE_PACKAGES!r})\n"
    absent = "import importlib.util; assert importlib.util.find_spec('acgan') is None\n"
    lines = isolated + absent + usage("normal") + more
    lines += f"\nimport numpy; numpy.savez({str(folder / 'saved.npz')!r}, **saved)\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", lines],
        env={**os.environ, "MLFLOW_TRACKING_URI": client.tracking_uri},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "saved.npz") as saved:
        return dict(saved)


MORE = """
import pandas, acgan
assert "/code/acgan/" in acgan.__file__
rows = pandas.DataFrame({"label": ["pneumonia", "normal", "pneumonia"], "index": [70, 0, 3]})
rows["seed"] = [5, 0, -1]
def error(row):
    try:
        model.predict([row])
    except ValueError as error:
        return str(error)
saved = {
    "images": images,
    "mixed": model.predict(rows),
    "unknown": error({"label": "norml", "index": 0}),
    "negative": error({"label": "normal", "index": -1}),
}
"""


def hwc(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images.transpose(0, 2, 3, 1)


def test_three_lines_in_a_fresh_interpreter_give_the_images_of_generate(
    client: MlflowClient,
    run_id: str,
    weights: tuple[Path, Path],
    tmp_path: Path,
    surroundings: Path,
) -> None:
    before = mlflow.get_tracking_uri()
    register(client, run_id=run_id, pick="a", weights=weights[1], tags={})
    assert len(usage("normal").splitlines()) == 3
    saved = predicted(client, tmp_path, MORE)
    loaded = load_generator(weights[1], device=torch.device("cpu"))
    assert saved["images"].dtype == np.uint8
    np.testing.assert_array_equal(saved["images"], hwc(generate(loaded, 1, count=8, seed=0)))
    expected = [
        generate(loaded, 2, count=1, seed=5, start=70),
        generate(loaded, 1, count=1, seed=0),
        generate(loaded, 2, count=1, seed=-1, start=3),
    ]
    np.testing.assert_array_equal(saved["mixed"], hwc(np.concatenate(expected)))
    assert saved["unknown"] == "there is no class 'norml'; did you mean 'normal'?"
    assert saved["negative"] == "an index counts the images of a class: it must be 0 or more"
    assert list(surroundings.iterdir()) == []
    assert mlflow.get_tracking_uri() == before


def test_a_server_takes_the_artifacts_and_gives_them_back(
    server: Server, weights: tuple[Path, Path], surroundings: Path
) -> None:
    server.start()
    client = connection.connect(server.uri)
    run_id = new_run(client)
    assert register(client, run_id=run_id, pick="a", weights=weights[0], tags={}) == 1
    assert register(client, run_id=run_id, pick="b", weights=weights[1], tags={}) == 2
    assert register(client, run_id=run_id, pick="a", weights=weights[0], tags={}) == 1
    assert aliases(client) == {"champion": 2, "challenger": 1}
    assert str(client.get_model_version(NAME, "1").source).startswith("mlflow-artifacts:/")
    assert resolve_version(client, f"models:/{NAME}/1").read_bytes() == weights[0].read_bytes()
    assert resolve_version(client, CHAMPION_URI).read_bytes() == weights[1].read_bytes()
    assert list(surroundings.iterdir()) == []


class Bucket(ArtifactRepository):
    """A storage whose library raises errors of its own, as botocore does."""

    def _refuse(self) -> NoReturn:
        try:
            raise ConnectionRefusedError
        except OSError:
            raise LookupError("no bucket of that name")  # noqa: B904

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        self._refuse()

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        self._refuse()

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        self._refuse()

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._refuse()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a place in such a storage."""
    monkeypatch.setitem(_artifact_repository_registry._registry, "bucket", Bucket)
    return "bucket://chests"


def test_what_the_library_of_a_storage_raises_is_an_error_of_mlflow(
    client: MlflowClient, bucket: str, weights: tuple[Path, Path]
) -> None:
    known = {"weights_sha256": load_generator(weights[0], device=torch.device("cpu")).sha256}
    client.create_registered_model(NAME)
    client.create_model_version(NAME, bucket, tags=known)
    with pytest.raises(connection.FAILURES) as down:
        resolve_version(client, f"models:/{NAME}/1")
    run_id = new_run(client, bucket)
    with pytest.raises(connection.FAILURES) as up:
        register(client, run_id=run_id, pick="a", weights=weights[0], tags={})
    said = "LookupError: no bucket of that name"
    assert [connection.one_line(raised.value) for raised in (down, up)] == [said, said]


def stored_weights(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "artifacts").rglob("generator.safetensors")
    return path


def test_resolved_weights_are_kept_and_a_damaged_copy_is_fetched_again(
    client: MlflowClient, run_id: str, weights: tuple[Path, Path], tmp_path: Path
) -> None:
    register(client, run_id=run_id, pick="a", weights=weights[0], tags={})
    path = resolve_version(client, CHAMPION_URI)
    assert path.is_relative_to(tmp_path / "cache")
    path.write_bytes(b"damaged")
    assert resolve_version(client, CHAMPION_URI).read_bytes() == weights[0].read_bytes()
    stored_weights(tmp_path).unlink()
    assert resolve_version(client, f"models:/{NAME}/1") == path
    assert [*path.parent.iterdir()] == [path]


def test_weights_other_than_those_registered_are_refused(
    client: MlflowClient, run_id: str, weights: tuple[Path, Path], tmp_path: Path
) -> None:
    register(client, run_id=run_id, pick="a", weights=weights[0], tags={})
    stored_weights(tmp_path).write_bytes(weights[1].read_bytes())
    with pytest.raises(InputError, match="are not those that were registered"):
        resolve_version(client, CHAMPION_URI)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (f"models:/{NAME}@nobody", "has no 'models:/cxr-acgan-generator@nobody"),
        (f"models:/{NAME}/7", "has no 'models:/cxr-acgan-generator/7"),
        ("models:/other@champion", "has no 'models:/other@champion"),
        (NAME, "names no model"),
        (f"models:/{NAME}", "names no model"),
        (f"models:/{NAME}/latest", "names no model"),
        ("runs:/0123/model", "names no model"),
        ("models:/foreign/1", "was not registered by selection"),
        ("models:/path/1", "was not registered by selection"),
    ],
)
def test_a_model_that_is_not_there_or_is_none_of_ours_is_refused(
    client: MlflowClient, run_id: str, weights: tuple[Path, Path], model: str, reason: str
) -> None:
    register(client, run_id=run_id, pick="a", weights=weights[0], tags={})
    for name, tags in (("foreign", {}), ("path", {"weights_sha256": "../../x"})):
        client.create_registered_model(name)
        client.create_model_version(name, "file:///nowhere", tags=tags)
    with pytest.raises(InputError, match=reason):
        resolve_version(client, model)


def test_weights_that_cannot_be_loaded_are_not_registered(
    client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    (tmp_path / "broken").write_bytes(b"broken")
    with pytest.raises(InputError, match="is no safetensors file"):
        register(client, run_id=run_id, pick="a", weights=tmp_path / "broken", tags={})
    assert client.search_registered_models() == []
