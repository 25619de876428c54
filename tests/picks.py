"""Small studies with real weights, trained in this process, and picks of them as a user types."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from acgan.config import TrainConfig, validate
from acgan.data import load
from acgan.rundir import RunDir
from acgan.train import train
from search.recorder import sync_study
from search.settings import SearchConfig, identity
from search.study import (
    FORMAT,
    LastStart,
    Outcome,
    Study,
    StudyInfo,
    Trial,
    TrialEnd,
    TrialInfo,
    new_uuid,
    open_or_create,
    trial_name,
    write,
)
from tests.kit import CLASSES, tiny_config, tiny_images

SELECTION = {
    "per_trial": 2,
    "max_candidates": 4,
    "class_margin": 0,
    "dead_real_below": 0,
    "dead_real_above": 1,
    "collapsed_below": 0,
    "cnn_images": 32,
    "cnn_epochs": 3,
    "cnn_batch_size": 16,
    "cnn_learning_rate": 0.001,
    "cnn_seeds": [3],
    "extractor": "cnn3",
    "fidelity_images": 64,
}


def write_covidx(folder: Path, *, train: int = 240, test: int = 60) -> None:
    """Write grey ramps in the COVIDx layout; a patient has one to four images of one class."""
    random = np.random.default_rng(0)
    for split, count, seed in (("train", train, 0), ("test", test, 1)):
        (folder / split).mkdir(parents=True)
        images = tiny_images(count, seed=seed)
        lines = []
        for name, label in zip(CLASSES, range(3), strict=True):
            places = np.flatnonzero(images.labels == label).tolist()
            patient = 0
            while places:
                patient += 1
                for _ in range(min(int(random.integers(1, 5)), len(places))):
                    place = places.pop()
                    file = f"{split}-{place:03d}.png"
                    Image.fromarray(images.images[place]).save(folder / split / file)
                    source = "cohen" if patient % 2 else "fig1"
                    lines.append(f"{split}-{label}-{patient} {file} {name} {source}")
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")


def train_study(path: Path, images: Path, *, trials: int = 3, epochs: int = 5) -> Study:
    """Train a study of tiny networks; the images' pack goes to the cache."""
    config = tiny_config(epochs=epochs, batch_size=32, grace_fraction=0.0, grace_updates=1)
    data = load(str(images), image_size=config.image_size, split_seed=config.split_seed)
    info = StudyInfo(
        format=FORMAT,
        uuid=new_uuid(),
        name=path.name,
        created=1_700_000_000.0,
        code_version="0.1.0",
        train=config.model_dump(exclude={"seed"}),
        space={"learning_rate": {"low": 5e-5, "high": 8e-3, "log": True}},
        search=identity(SearchConfig()),
        data_name=data.name,
        classes=data.classes,
        fingerprint=data.fingerprint,
    )
    study = open_or_create(path, info)
    write(path / "start.json", LastStart(source=str(images), selection=SELECTION))
    for number in range(trials):
        params = {"learning_rate": 2e-4 * 10**number}
        trial = Trial(
            path / trial_name(number), TrialInfo(number=number, params=params, seed=number)
        )
        trial.path.mkdir()
        write(trial.path / "trial.json", trial.info)
        own = validate(TrainConfig, "train", info.train | params | {"seed": number})
        cpu = torch.device("cpu")
        for _ in train(own, data, RunDir(trial.path), device=cpu):
            pass
        end = TrialEnd(outcome=Outcome.FINISHED, time=1_700_000_100.0)
        write(trial.path / "end.json", end)
    return study


def send(study: Study, uri: str) -> None:
    """Bring a study to MLflow as a search does."""
    sync_study(study, uri=uri, experiment="acgan-search", driving=False)


def type_pick(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Type the command in a folder; the caller waits for it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-m", "selection.pick", *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
