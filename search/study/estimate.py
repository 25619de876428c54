"""What a search will cost: disk, and roughly memory and time."""

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from acgan.config import TrainConfig
from acgan.errors import InputError
from acgan.evaluation.classifier import Classifier
from acgan.evaluation.grids import GRID_TILE
from acgan.gan.networks import build_discriminator, build_generator
from acgan.gan.precision import reduced
from acgan.run.device import default_device

KEPT_WEIGHTS = 9  # three by the objective, three by the filter, the last three
SAMPLE_GRID_BYTES = 3 * 8  # a pixel of eight columns, uncompressed
PROCESS_BYTES = 500_000_000  # a worker with PyTorch
COPIES = 10  # of the networks' parameters: gradients, moments, and what a state is written from
TRAINED_BYTES = 3_100  # of activations, for each pixel of an image of a batch at full width
EVALUATED_BYTES = 120_000  # the same, for each pixel of the images that are scored together
STEP_FLOP = 2.06e12  # published size, batch 64
IMAGE_FLOP = 3.92e9  # generated, published size
SHORTEST_STEP_S = 0.01  # what the many small operations take at any size
SHARE_OF_PEAK = 0.25  # of the matrix-product rate: what an eager step reaches, roughly


def disk(config: TrainConfig, classes: int) -> int:
    """Return the bytes that a trial of this configuration leaves on disk."""
    generator, discriminator = _parameters(config, classes)
    states = 2 * _state_bytes(config, generator, discriminator)
    weights = KEPT_WEIGHTS * 4 * generator
    grids = config.epochs // config.samples_every
    return states + weights + grids * _grid_bytes(config, classes)


def epoch_bytes(config: TrainConfig, classes: int) -> int:
    """Return the bytes that an epoch with a state writes: state, weights and sample grid."""
    generator, discriminator = _parameters(config, classes)
    state = _state_bytes(config, generator, discriminator)
    return state + 4 * generator + _grid_bytes(config, classes)


def _state_bytes(config: TrainConfig, generator: int, discriminator: int) -> int:
    """Return the bytes of one state: weights and two moments of both networks."""
    return 4 * (3 * (generator + discriminator) + generator * (config.ema_decay > 0))


def _grid_bytes(config: TrainConfig, classes: int) -> int:
    return SAMPLE_GRID_BYTES * classes * max(config.image_size, GRID_TILE) ** 2


def still_needed(each: int, trials: int, begun: Iterable[Path]) -> int:
    """Return the bytes that so many trials of `each` bytes still write; begun: folders of some."""
    there = sum(min(_size(own), each) for own in begun)
    return max(each * trials - there, 0)


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # the temporary file of a process that ends
            size += path.stat().st_size if path.is_file() else 0
    return size


def _parameters(config: TrainConfig, classes: int) -> tuple[int, int]:
    """Return the numbers of the generator's and the discriminator's parameters."""
    networks = build_generator(config, classes), build_discriminator(config, classes)
    generator, discriminator = (sum(p.numel() for p in n.parameters()) for n in networks)
    return generator, discriminator


def memory(config: TrainConfig, classes: int) -> int:
    """Return roughly the bytes of main memory that a trial's process takes on a CPU."""
    networks = COPIES * 4 * sum(_parameters(config, classes))
    trained = round(TRAINED_BYTES * config.batch_size * config.width)
    return PROCESS_BYTES + networks + max(trained, EVALUATED_BYTES) * config.image_size**2


def check_folder(folder: Path) -> None:
    """Raise `InputError` if the study's folder cannot be made or written."""
    there = existing(folder)
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"cannot write in {there}; name another folder with --storage-path")


def check_disk(folder: Path, needed: int) -> None:
    """Raise `InputError` if the folder's file system has less than `needed` bytes free."""
    free = shutil.disk_usage(existing(folder)).free
    if free < needed:
        raise InputError(
            f"the search needs {gigabytes(needed)} on the disk of {folder}, which has "
            f"{gigabytes(free)} free; free some, name another with --storage-path, or ask for "
            "fewer trials with --num-samples"
        )


def existing(path: Path) -> Path:
    """Return the path itself, else the nearest folder above it that is there."""
    return next(there for there in (path, *path.parents) if there.exists())


def gigabytes(count: int) -> str:
    """Return a number of bytes as text, `1.2 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def trial_seconds(config: TrainConfig, images: int, device: torch.device | None = None) -> float:
    """Return roughly how long one trial takes on a device (default: this machine's).

    The published step's operations, scaled to this size, over a quarter of the rate at which the
    device multiplies matrices now.
    """
    updates = config.epochs * images / config.batch_size
    dtype = torch.bfloat16 if reduced(config) else torch.float32
    rate = matrix_rate(device or default_device(), dtype) * SHARE_OF_PEAK
    return updates * max(step_flop(config) / rate, SHORTEST_STEP_S)


def step_flop(config: TrainConfig) -> float:
    """Return roughly the operations of one step of a full batch."""
    side = config.image_size / 112
    return STEP_FLOP * config.batch_size / 64 * side**2 * config.width**2


def fit_seconds(
    *, classes: int, image_size: int, batch_size: int, updates: int, device: torch.device
) -> float:
    """Return roughly how long the published CNN takes to be trained on a device."""
    rate = matrix_rate(device) * SHARE_OF_PEAK
    flop = fit_flop(classes=classes, image_size=image_size, batch_size=batch_size)
    return updates * max(flop / rate, SHORTEST_STEP_S)


def fit_flop(*, classes: int, image_size: int, batch_size: int) -> float:
    """Return the operations of one update of the published CNN: convolutions and matrices."""
    with torch.device("meta"):  # counted, not computed
        model = Classifier(classes=classes, image_size=image_size)
        images = torch.empty(batch_size, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return float(counter.get_total_flops())


def generate_seconds(config: TrainConfig, images: int, device: torch.device) -> float:
    """Return roughly how long a device takes to generate so many images."""
    side = config.image_size / 112
    flop = images * IMAGE_FLOP * side**2 * config.width**2
    return flop / (matrix_rate(device) * SHARE_OF_PEAK)


def places(cpus: float, gpus: float, *, cpus_each: float, gpus_each: float) -> int:
    """Return how many trials a machine holds at once, by its CPUs and GPUs and what each takes.

    A trial's part of a GPU is of one and the same GPU.
    """
    own = [int(cpus / cpus_each + 1e-9)] if cpus_each else []
    if gpus_each:
        own.append(
            int(gpus / gpus_each) if gpus_each >= 1 else int(gpus) * int(1 / gpus_each + 1e-9)
        )
    return min(own)


def search_seconds(
    trials: int, speeds: Sequence[tuple[int, float]], *, most: int | None = None
) -> float:
    """Return how long that many trials take, one after another in each place there is for one.

    speeds: of each node, the trials that it holds at once and the seconds that one takes there
    most: trials at once on all nodes together
    """
    places = sum(count for count, _ in speeds)
    used = min(places, most or places, max(trials, 1)) / places
    a_second = used * sum(count / seconds for count, seconds in speeds)
    return trials / a_second


def matrix_rate(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the operations a second, by a clock, of a matrix product."""
    size = 8192 if device.type == "cuda" else 1024
    matrix = torch.rand(size, size, device=device, dtype=dtype)
    fastest = math.inf
    for _ in range(5):
        started = clock()
        float((matrix @ matrix)[0, 0])  # fetched: a GPU answers before it is done
        fastest = min(fastest, clock() - started)
    return 2 * size**3 / fastest
