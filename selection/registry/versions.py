"""MLflow's model registry: the generator that selection picked, by name and alias.

    cxr-acgan-generator@champion     the last pick that nothing spoke against
    cxr-acgan-generator@challenger   the champion before it

A version is a model from code (`selection/registry/model.py`) with its weights as safetensors,
what is known of them as JSON, and the package `acgan`, so that whoever loads it needs no other.
"""

import importlib.metadata
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import save_model
from mlflow.types import ColSpec, Schema, TensorSpec

import acgan
from acgan.config import cache_folder
from acgan.errors import InputError
from acgan.files import file_sha256
from acgan.generation.generator import LoadedGenerator, load_generator
from search.tracking import connection, uris

NAME = "cxr-acgan-generator"
CHAMPION = "champion"
CHALLENGER = "challenger"
CHAMPION_URI = f"models:/{NAME}@{CHAMPION}"
# What a registered model needs where it is loaded.
REQUIREMENTS = ("mlflow", "numpy", "Pillow", "pydantic", "PyYAML", "safetensors", "torch", "tqdm")

_WEIGHTS = "generator.safetensors"
_REGISTERED = "registered"  # the tag that is set last
_HELD_BACK = "held_back"  # the tag that says why a version was not made the champion
_URI = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/([1-9]\d*))")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class About:
    """What a person reads of a version: Markdown at most 5,000 characters long, and files of it.

    cards: texts by file name, which stand beside the model
    """

    description: str
    cards: Mapping[str, str]


@dataclass(frozen=True)
class Standing:
    """What a version is in the registry.

    champion: the version that has the alias; None where none has
    held_back: why this one was not made the champion, "" where it was, or is
    """

    version: int
    champion: int | None
    held_back: str

    @property
    def is_champion(self) -> bool:
        """Whether this version has the alias."""
        return self.champion == self.version

    @property
    def uri(self) -> str:
        """What the version is loaded by: by its alias, if it is the champion."""
        return CHAMPION_URI if self.is_champion else f"models:/{NAME}/{self.version}"


def usage(class_name: str, uri: str = CHAMPION_URI) -> str:
    """Return three lines of Python that load a model and make eight images of a class."""
    label = json.dumps(class_name, ensure_ascii=False)
    return (
        "import mlflow\n"
        f'model = mlflow.pyfunc.load_model("{uri}")\n'
        f'images = model.predict([{{"label": {label}, "index": i}} for i in range(8)])\n'
    )


def register(
    client: connection.Client,
    *,
    run_id: str,
    pick: str,
    weights: Path,
    tags: Mapping[str, object],
    about: About | None = None,
    held_back: str = "",
) -> int:
    """Make the weights a new version under the run, and the champion; return its number.

    What was the champion becomes the challenger. held_back: why no alias is to move. A pick has
    one version: again, for the same pick, this only completes what a crash left undone, and then
    changes nothing. Raises `InputError` for weights that cannot be loaded, and MLflow's errors.
    """
    loaded = load_generator(weights, device=torch.device("cpu"))
    there = client.search_model_versions(f"name = '{NAME}'")
    version = next((known for known in there if known.tags.get("pick") == pick), None)
    if version is None:
        known = {**tags, "pick": pick, "weights_sha256": loaded.sha256}
        texts = {key: str(value) for key, value in known.items()}
        about = about or About("", {})
        version = _create_version(client, run_id, weights, loaded, texts, about)
    if _REGISTERED not in version.tags:
        if held_back:
            client.set_model_version_tag(NAME, version.version, _HELD_BACK, held_back)
        else:
            promote(client, int(version.version))
        client.set_model_version_tag(NAME, version.version, _REGISTERED, "true")
    return int(version.version)


def promote(client: connection.Client, number: int) -> None:
    """Make a version the champion, and what was it the challenger; again, this changes nothing."""
    version = client.get_model_version(NAME, str(number))
    before = client.get_registered_model(NAME).aliases.get(CHAMPION)
    if before != version.version:
        weights = version.tags["weights_sha256"]
        if before and client.get_model_version(NAME, before).tags.get("weights_sha256") != weights:
            client.set_registered_model_alias(NAME, CHALLENGER, before)
        client.set_registered_model_alias(NAME, CHAMPION, version.version)
    if _HELD_BACK in version.tags:
        client.delete_model_version_tag(NAME, version.version, _HELD_BACK)


def champion(client: connection.Client) -> ModelVersion | None:
    """Return the version that has the alias; None where none has, or nothing is registered."""
    return connection.if_known(lambda: client.get_model_version_by_alias(NAME, CHAMPION))


def standing(client: connection.Client, number: int) -> Standing:
    """Return what a version is in the registry now."""
    first = champion(client)
    alias = int(first.version) if first else None
    tags: dict[str, str] = client.get_model_version(NAME, str(number)).tags
    # Somebody may have moved the alias by hand since.
    return Standing(number, alias, "" if alias == number else tags.get(_HELD_BACK, ""))


def file_of(
    client: connection.Client, version: ModelVersion, path: str, folder: Path
) -> Path | None:
    """Download the file of this path of a version's run into a folder; None where it has none."""
    run_id = version.run_id
    if run_id is None:
        return None
    with connection.transfer():
        # None: its run was deleted for good.
        there = connection.if_known(lambda: client.list_artifacts(run_id, path.rpartition("/")[0]))
        if path not in {file.path for file in there or ()}:
            return None
        return Path(client.download_artifacts(run_id, path, str(folder)))


def _create_version(
    client: connection.Client,
    run_id: str,
    weights: Path,
    loaded: LoadedGenerator,
    tags: dict[str, str],
    about: About,
) -> ModelVersion:
    folder = f"generator-{loaded.sha256[:16]}"  # other weights of the run are not overwritten
    with tempfile.TemporaryDirectory() as temporary:
        model = _save(Path(temporary), weights, loaded, tags)
        for name, text in about.cards.items():
            (model / name).write_text(text, encoding="utf-8")
        with connection.transfer():
            client.log_artifacts(run_id, str(model), artifact_path=folder)
    try:
        client.create_registered_model(NAME)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/{folder}"
    return client.create_model_version(
        NAME, source, run_id=run_id, tags=tags, description=about.description or None
    )


def _save(folder: Path, weights: Path, loaded: LoadedGenerator, tags: Mapping[str, str]) -> Path:
    """Write the model as MLflow stores it; return its folder. No run and no server is involved."""
    shutil.copyfile(weights, folder / _WEIGHTS)
    facts = {
        "weights_sha256": loaded.sha256,
        "run": loaded.run,
        "epoch": loaded.epoch,
        "classes": loaded.classes,
        "image_size": loaded.config.image_size,
        "tags": tags,
    }
    (folder / "generator.json").write_text(json.dumps(facts, indent=1) + "\n")
    package = Path(acgan.__file__).parent
    code = folder / package.name
    for path in package.rglob("*.py"):
        copy = code / path.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    # A build's name is left out: torch 2.13.0+cpu is 2.13.0.
    installed = {name: importlib.metadata.version(name).partition("+")[0] for name in REQUIREMENTS}
    save_model(
        folder / "model",
        python_model=str(Path(__file__).with_name("model.py")),
        artifacts={"weights": str(folder / _WEIGHTS), "facts": str(folder / "generator.json")},
        code_paths=[str(code)],
        signature=_signature(loaded.config.image_size),
        input_example=[{"label": loaded.classes[0], "index": 0, "seed": 0}],
        pip_requirements=[f"{name}=={version}" for name, version in installed.items()],
    )
    _forget_folders(folder / "model")
    return folder / "model"


def _forget_folders(folder: Path) -> None:
    """Take out of a saved model where its files were on this machine: loading does not need it."""
    model = Model.load(folder)
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(folder / "MLmodel")


def _signature(image_size: int) -> ModelSignature:
    label, index = ColSpec("string", "label"), ColSpec("long", "index")
    seed = ColSpec("long", "seed", required=False)
    images = TensorSpec(np.dtype(np.uint8), (-1, image_size, image_size, 3))
    return ModelSignature(inputs=Schema([label, index, seed]), outputs=Schema([images]))


def resolve_version(client: connection.Client, uri: str) -> Path:
    """Return a local copy of a registered generator's weights, by its hash in the cache.

    `uri` is models:/NAME@ALIAS or models:/NAME/VERSION. Raises `InputError` for one that the
    registry does not have, for a model of another kind, and for weights that are not those that
    were registered; and MLflow's errors.
    """
    version = _find(client, uri)
    sha256 = version.tags.get("weights_sha256", "")
    if not _SHA256.fullmatch(sha256):
        raise InputError(f"{uri} was not registered by selection; name a version of {NAME}")
    path = cache_folder() / "generators" / f"{sha256}.safetensors"
    if path.is_file() and file_sha256(path) == sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        source = f"{version.source}/artifacts/{_WEIGHTS}"
        with connection.transfer():
            uri = client.tracking_uri
            found = Path(download_artifacts(source, dst_path=temporary, tracking_uri=uri))
        if file_sha256(found) != sha256:
            raise InputError(f"the weights of {uri} are not those that were registered")
        os.replace(found, path)
    return path


def _find(client: connection.Client, uri: str) -> ModelVersion:
    match = _URI.fullmatch(uri)
    if match is None:
        raise InputError(f"{uri!r} names no model; give {CHAMPION_URI} or models:/{NAME}/VERSION")
    name, alias, number = match.groups()
    if alias is not None:
        version = connection.if_known(lambda: client.get_model_version_by_alias(name, alias))
    else:
        version = connection.if_known(lambda: client.get_model_version(name, number))
    if version is None:
        raise InputError(
            f"MLflow at {uris.shown(client.tracking_uri)} has no {uri!r}; see --model and "
            "--tracking-uri"
        )
    return version
