"""Small studies with real weights, trained in this process, and picks of them as a user types."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

import selection.pick as pick
from acgan.config import TrainConfig, validate
from acgan.data.pack import load
from acgan.data.source import DataSource
from acgan.files import write_json
from acgan.run.rundir import RunDir
from acgan.run.weights import weights_bytes
from acgan.training import train
from search.settings import identity
from search.study.folder import (
    STUDY_FORMAT,
    LastStart,
    Outcome,
    Study,
    StudyInfo,
    Trial,
    TrialEnd,
    TrialInfo,
    new_uuid,
    open_or_create,
    open_study,
    trial_name,
)
from search.tracking.mirror import sync_study
from selection.jobs.results import Result, StoredJob
from selection.jobs.workers import Workers
from selection.steps.funnel import Funnel
from selection.steps.plan import PickPlan, PickRequest, make_pick_plan
from selection.steps.result import Pick
from tests.kit import CLASSES, tiny_config, tiny_images
from tests.studies import by_distance

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
        format=STUDY_FORMAT,
        uuid=new_uuid(),
        name=path.name,
        created=1_700_000_000.0,
        code_version="0.1.0",
        train=config.model_dump(exclude={"seed"}),
        space={"learning_rate": {"low": 5e-5, "high": 8e-3, "log": True}},
        search=identity(by_distance()),
        data_name=data.name,
        classes=data.classes,
        fingerprint=data.fingerprint,
    )
    study = open_or_create(path, info)
    write_json(
        path / "start.json", LastStart(source=DataSource(folder=str(images)), selection=SELECTION)
    )
    for number in range(trials):
        params = {"learning_rate": 2e-4 * 10**number}
        trial = Trial(
            path / trial_name(number), TrialInfo(number=number, params=params, seed=number)
        )
        trial.path.mkdir()
        write_json(trial.path / "trial.json", trial.info)
        own = validate(TrainConfig, "train", info.train | params | {"seed": number})
        cpu = torch.device("cpu")
        for _ in train(own, data, RunDir(trial.path), ranking=info.ranking, device=cpu):
            pass
        end = TrialEnd(outcome=Outcome.FINISHED, time=1_700_000_100.0)
        write_json(trial.path / "end.json", end)
    return study


def send(study: Study, uri: str) -> None:
    """Bring a study to MLflow as a search does."""
    sync_study(study, uri=uri, experiment="acgan-search", driving=False)


def type_pick(folder: Path, *options: str, module: str = "selection.pick") -> subprocess.Popen[str]:
    """Type the command in a folder; the caller waits for it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-m", module, *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@dataclass(frozen=True)
class Place:
    """A study and its MLflow in a folder of their own."""

    folder: Path

    @property
    def study(self) -> Study:
        """The study, read afresh."""
        return open_study(self.folder / "runs" / "tiny")

    @property
    def database(self) -> Path:
        """MLflow's file."""
        return self.folder / "mlflow.db"

    @property
    def uri(self) -> str:
        """MLflow's address."""
        return f"sqlite:///{self.database}"

    @property
    def store(self) -> Path:
        """Where jobs leave their results."""
        return self.study.path / "selection" / "store"

    def options(self, *more: str) -> list[str]:
        """Return what names the study, by its name, and more."""
        storage = ["--storage-path", str(self.folder / "runs"), "--tracking-uri", self.uri]
        return ["--study", "tiny", *storage, *more]

    def files(self) -> dict[str, bytes]:
        """Return all files of the studies' folder by their names, but for the lock."""
        root = self.folder / "runs"
        found = (path for path in root.rglob("*") if path.is_file() and path.name != "lock.json")
        return {str(path.relative_to(root)): path.read_bytes() for path in found}


class Here(Workers):
    """Does the jobs in this process one after another, each on one thread as Ray's tasks are."""

    def run(self, jobs: Sequence[StoredJob[Result]], what: str, *, there: int) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for job in jobs:
                job.run(gpu=False)
        finally:
            torch.set_num_threads(threads)


def plan_of(options: Sequence[str]) -> PickPlan:
    """Return the plan of a command with these options."""
    return make_pick_plan(PickRequest.of(pick.parser().parse_args(options)))


def pick_here(options: Sequence[str]) -> Pick:
    """Do all the work of a command with these options in this process, save for MLflow's part."""
    plan = plan_of(options)
    return Funnel(plan, Here(plan.settings, address=None, verbose=False)).run()


def plant(trial: Trial, epoch: int, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the kept weights of an epoch, and their hash in its record."""
    path = RunDir(trial.path).weights_path(epoch)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors)
    content = weights_bytes(tensors, metadata)
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    lines = [
        record.model_copy(update={"weights": sha256}) if record.epoch == epoch else record
        for record in trial.records()
    ]
    text = "".join(line.model_dump_json() + "\n" for line in lines)
    (trial.path / "epochs.jsonl").write_text(text)


def make_nan(tensors: dict[str, Tensor]) -> None:
    """Let a generator make pixels that are not finite."""
    tensors["image.bias"].fill_(float("nan"))


def make_constant(tensors: dict[str, Tensor]) -> None:
    """Let a generator make the same even grey whatever it is asked for."""
    tensors["image.weight"].zero_()
    tensors["image.bias"].zero_()
