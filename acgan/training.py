"""Train one AC-GAN: an iterator of epoch records, each already safely on disk."""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from acgan.command import FromFlags
from acgan.config import (
    TrainConfig,
    derive_seed,
    find_file,
    read_file,
    resolve,
    user_path,
)
from acgan.cores import keep_freed_memory
from acgan.data.dataset import Dataset, ImageSet
from acgan.data.pack import load_for
from acgan.data.source import named_source
from acgan.errors import InputError
from acgan.evaluation.evaluate import (
    VALIDATION_METRICS,
    Evaluation,
    check_numbers,
    to_signed_rgb,
)
from acgan.evaluation.grids import UNTRAINED
from acgan.evaluation.numbers import recorded_name
from acgan.evaluation.scorer import Scorer, cached_scorer
from acgan.gan.augment import augment
from acgan.gan.networks import check_networks
from acgan.gan.precision import check_precision
from acgan.gan.sampling import class_balanced, shuffled
from acgan.gan.step import METRICS, Training, train_step
from acgan.run.device import default_device, named_device
from acgan.run.machine import note_machine, this_machine
from acgan.run.records import (
    QUALITY,
    RANKING,
    EpochRecord,
    Ranking,
    best_windowed,
    grace_epochs,
    read_records,
)
from acgan.run.rundir import NotOwnerError, RunDir
from acgan.run.weights import weights_bytes

METRIC_NAMES = (
    *(f"train/{name}" for name in METRICS),
    "perf/images_per_s",
    *VALIDATION_METRICS,
)


def metric_names(config: TrainConfig) -> tuple[str, ...]:
    """Return what each epoch of a configuration records, besides its best value so far."""
    return (*METRIC_NAMES, *map(recorded_name, config.numbers))


def train(
    config: TrainConfig,
    data: Dataset,
    run: RunDir,
    *,
    ranking: Ranking = RANKING,
    scorer: Path | None = None,
    device: torch.device | None = None,
    repeat_last: bool = False,
) -> Iterator[EpochRecord]:
    """Train, or go on training, the run in `run`; yield each epoch's record once it is on disk.

    The caller stops the run by leaving the loop. Weights are kept of the best epochs by `ranking`,
    the best by losses and accuracies, and the last. `scorer` is the file of the scoring CNN
    (default: the cached one, trained if need be). `repeat_last` first yields the last epoch of an
    earlier start again: the one that is left once all that was damaged is mended. Raises
    `InputError` for settings the data cannot serve, or a directory of another run, and
    `NotOwnerError` when another process took the run over.
    """
    check_fits(config, data)
    check_networks(config, len(data.classes))
    check_numbers(config, data)
    device = device or default_device()
    check_precision(config, device)
    classes = len(data.classes)
    run.claim(config, classes=data.classes, fingerprint=data.fingerprint)
    training = Training(config, classes=classes, device=device)
    records = _restore(run, training, ranking)
    if repeat_last:
        yield from records[-1:]
    if len(records) >= config.epochs:
        return
    run.check_owner()
    note_machine(run.path, len(records) + 1, this_machine(device, config))
    path = scorer or cached_scorer(data, config, device)
    evaluation = Evaluation(
        data,
        config,
        Scorer.load(path, classes=classes, image_size=config.image_size, device=device),
        device,
    )
    images = DeviceImages(data.train, device)
    grace = grace_epochs(config, len(images))
    if not records:
        run.write_samples(UNTRAINED, evaluation.sample_grid(training.candidate))
    for epoch in range(len(records) + 1, config.epochs + 1):
        started = time.perf_counter()
        metrics = train_epoch(training, images, epoch)
        metrics["perf/images_per_s"] = len(data.train) / (time.perf_counter() - started)
        metrics |= evaluation.measure(training.candidate, training.discriminator)
        samples = None
        if epoch == config.epochs or epoch % config.samples_every == 0:
            samples = run.write_samples(epoch, evaluation.sample_grid(training.candidate))
        weights = run.write_weights(epoch, generator_bytes(training, data, run, epoch))
        record = EpochRecord(
            epoch=epoch,
            time=time.time(),
            metrics=metrics,
            samples=samples,
            weights=weights,
            young=epoch <= grace,
        )
        best = best_windowed([*records, record], ranking)
        record = record.model_copy(update={"metrics": metrics | {ranking.best: best}})
        records.append(record)
        _commit(run, training, records, ranking)
        yield record


def _restore(run: RunDir, training: Training, ranking: Ranking) -> list[EpochRecord]:
    restored = run.restore()
    if restored is None:
        return []
    records, tensors = restored
    try:
        training.load_tensors(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{run.state_path} is no state of these networks; restore it, or remove it and "
            f"{run.previous_state_path.name} to start the run again"
        ) from error
    run.prune_weights(records, ranking)  # a crash may have come between the commit and this
    return records


def _commit(run: RunDir, training: Training, records: list[EpochRecord], ranking: Ranking) -> None:
    config, epoch = training.config, records[-1].epoch
    due = epoch == config.epochs or epoch % config.state_every == 0
    run.commit(records[-1], training.tensors() if due else None)
    run.prune_weights(records, ranking)


def generator_bytes(training: Training, data: Dataset, run: RunDir, epoch: int) -> bytes:
    """Return the generator that an epoch's record speaks of as a file that says how to rebuild it.

    With `ema_decay` in its configuration it is the average.
    """
    metadata = {
        "config": training.config.model_dump_json(),
        "classes": json.dumps(list(data.classes)),
        "data": data.fingerprint,
        "run": run.path.name,
        "epoch": str(epoch),
    }
    return weights_bytes(training.candidate.state_dict(), metadata)


class DeviceImages:
    """The training images where the networks are: memory-mapped on a CPU, copied to a GPU."""

    def __init__(self, images: ImageSet, device: torch.device) -> None:
        with warnings.catch_warnings():  # a read-only map is only ever read
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.images = torch.from_numpy(np.asarray(images.images)).to(device)
        self.labels = torch.tensor(images.labels).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, size: int, random: torch.Generator, *, balanced: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield uint8 images [B, H, W] and labels [B] in a random order.

        Each image once; `balanced`: equally many of each class, as many in all.
        """
        order = (class_balanced if balanced else shuffled)(self.labels, random)
        for chosen in order.split(size):
            yield self.images[chosen], self.labels[chosen]


def train_epoch(training: Training, images: DeviceImages, epoch: int) -> dict[str, float]:
    """Train one pass over the images; return the `train/…` metrics, means over the images.

    All randomness follows from the seed and the epoch, so a run that was interrupted continues as
    if it had not been. The metrics are fetched from the device once.
    """
    config = training.config
    seed = derive_seed(config.seed, "epoch", epoch)
    noise = torch.Generator(training.device).manual_seed(seed)
    totals = torch.zeros(len(METRICS), device=training.device)
    drawn = images.batches(config.batch_size, noise, balanced=config.class_balanced)
    for batch, labels in drawn:
        signed = to_signed_rgb(batch)
        real = augment(
            signed if batch.ndim == 4 else signed[:, :1],
            shear_degrees=config.shear_degrees,
            zoom=config.zoom,
            random=noise,
        ).expand(-1, 3, -1, -1)
        totals += len(batch) * train_step(training, real, labels, noise)
    means = (totals / len(images)).tolist()
    return {f"train/{name}": value for name, value in zip(METRICS, means, strict=True)}


def check_fits(config: TrainConfig, data: Dataset) -> None:
    """Raise `InputError` if the data set is too small for the configuration."""
    if config.batch_size > len(data.train):
        raise InputError(
            f"batch_size {config.batch_size} is larger than the {len(data.train)} training images; "
            "make it smaller"
        )
    if config.grey and data.train.in_colour:
        raise InputError(
            "the images are in colour, and grey: true generates none; give --no-grey, or read them "
            "with --colour grey"
        )


@dataclass(frozen=True, kw_only=True)
class TrainRequest(FromFlags):
    """What one run is asked for.

    config: a YAML file; None: the published baseline
    run: its folder; None: by the configuration's name; device: None: a GPU if there is one
    values: settings by their names, of `TrainConfig` and `DataSource`, whose folder is `data`; they
        come before the configuration's
    """

    config: Path | None
    run: str | None
    device: str | None
    values: Mapping[str, Any]


def train_command(request: TrainRequest) -> int:
    """Train one run and print a line for each epoch; return the exit code."""
    keep_freed_memory()
    content = read_file(find_file(request.config)) if request.config else {}
    config = resolve(TrainConfig, "train", content.get("train"), request.values)
    source = named_source(request.values, content)
    stem = request.config.stem if request.config else "baseline"
    run = RunDir(user_path(request.run or f"runs/{stem}-single"))
    device = named_device(request.device) if request.device else None
    data = load_for(source, config, known=run.fingerprint)
    for warning in data.warnings:
        print(f"warning: {warning}")
    try:
        if _diverged_before(run):
            return _failed(f"the run in {run.path} diverged; name another folder")
        for record in train(config, data, run, device=device):
            print(_line(record, config.epochs), flush=True)
            if _diverged(record):
                return _failed(f"the losses of epoch {record.epoch} are not finite: it diverged")
    except NotOwnerError as error:
        return _failed(str(error))
    print(f"all {config.epochs} epochs are there; see {run.epochs_path} and the folders beside it")
    return 0


def _diverged_before(run: RunDir) -> bool:
    try:
        records = read_records(run.epochs_path)
    except ValueError:  # `RunDir.restore` says what is damaged, and mends it
        return False
    return any(map(_diverged, records[-1:]))


def _diverged(record: EpochRecord) -> bool:
    return not math.isfinite(record.metrics["train/g_loss"] + record.metrics["train/d_loss"])


def _failed(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 1


def _line(record: EpochRecord, epochs: int) -> str:
    shown = {
        "d_loss": "train/d_loss",
        "g_loss": "train/g_loss",
        "acc_real": "val/acc_real",
        "acc_generated": "val/acc_generated",
        "acc_class": "val/acc_class",
        "fd_cnn": QUALITY,
        "coverage": RANKING.metric,
        "images/s": "perf/images_per_s",
    }
    values = "  ".join(f"{name} {record.metrics[key]:.3g}" for name, key in shown.items())
    return f"epoch {record.epoch}/{epochs}  {values}"
