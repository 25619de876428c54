"""Studies on disk as a search leaves them, written by hand: no training, no Ray, no Optuna."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from acgan.config import TrainConfig
from acgan.files import write_json
from acgan.run.records import QUALITY, EpochRecord
from search.settings import SearchConfig, identity
from search.study.folder import (
    STUDY_FORMAT,
    Outcome,
    Quality,
    Study,
    StudyInfo,
    Trial,
    TrialEnd,
    TrialInfo,
    new_uuid,
    open_or_create,
    trial_name,
)

BEGIN = 1_700_000_000.0
KEYS = ("train/g_loss", "train/d_loss", "val/g_loss", "val/acc_generated", QUALITY, "best/fd_cnn")


def by_distance(**settings: Any) -> SearchConfig:
    """Return the settings of a search whose trials are judged by `val/fd_cnn`, as all once were."""
    return SearchConfig(**{"objective": QUALITY, **settings})


def write_study(path: Path, *, trials: int = 0, epochs: int = 0) -> Study:
    """Write a study of `trials` finished trials with `epochs` epochs each."""
    info = StudyInfo(
        format=STUDY_FORMAT,
        uuid=new_uuid(),
        name=path.name,
        created=BEGIN,
        code_version="0.1.0",
        train=TrainConfig(image_size=32, epochs=max(epochs, 1)).model_dump(),
        space={"learning_rate": {"low": 5e-5, "high": 8e-4, "log": True}},
        search=identity(by_distance()),
        data_name="phantom",
        classes=("COVID-19", "normal", "pneumonia"),
        fingerprint="0123456789abcdef" * 4,
    )
    study = open_or_create(path, info)
    write_json(
        path / "quality.json", Quality(floor=1.5, untrained=40.25, classifier_accuracy=0.9375)
    )
    for number in range(trials):
        trial = write_trial(study, number)
        write_epochs(trial, range(1, epochs + 1))
        write_end(trial, Outcome.FINISHED)
    return study


def write_trial(study: Study, number: int) -> Trial:
    """Write a trial that has started and has no epoch yet."""
    params = {"learning_rate": 1e-4 * (number + 1), "dropout": 0.5}
    info = TrialInfo(number=number, params=params, seed=number)
    path = study.path / trial_name(number)
    (path / "samples").mkdir(parents=True)
    write_json(path / "trial.json", info)
    config = {
        "train": {**study.info.train, **params, "seed": number},
        "classes": study.info.classes,
        "fingerprint": study.info.fingerprint,
    }
    (path / "config.json").write_text(json.dumps(config))
    return Trial(path, info)


def write_epochs(trial: Trial, epochs: Sequence[int]) -> None:
    """Append epochs to a trial: reproducible metrics, and a sample grid each."""
    with (trial.path / "epochs.jsonl").open("a") as file:
        for epoch in epochs:
            name = f"samples/epoch-{epoch:04d}.png"
            (trial.path / name).write_bytes(sample_png(trial.info.number, epoch))
            record = EpochRecord(
                epoch=epoch,
                time=BEGIN + 100 * trial.info.number + epoch + 0.125,
                metrics=epoch_metrics(trial.info.number, epoch),
                samples=name,
            )
            file.write(record.model_dump_json() + "\n")


def epoch_metrics(number: int, epoch: int) -> dict[str, float]:
    """Return a trial's metrics of an epoch: decays that differ from trial to trial."""
    rng = np.random.default_rng((number, epoch))
    return {key: float((number + 2) / epoch + rng.uniform(0, 0.1)) for key in KEYS}


def sample_png(number: int, epoch: int) -> bytes:
    """Return a grey 24×24 image as PNG that is different in every epoch of every trial."""
    pixels = np.random.default_rng((number, epoch)).integers(0, 256, (24, 24), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def write_end(trial: Trial, outcome: Outcome, reason: str = "") -> None:
    """Write how a trial ended."""
    time = BEGIN + 100 * trial.info.number + 90
    write_json(trial.path / "end.json", TrialEnd(outcome=outcome, reason=reason, time=time))
