"""What a search will cost: disk, and roughly time."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path

import torch

from acgan.config import TrainConfig
from acgan.errors import InputError
from acgan.evaluate import GRID_TILE
from acgan.models import Discriminator, Generator

KEPT_WEIGHTS = 9  # three by quality, three by the filter, the last three
SAMPLE_GRID_BYTES = 3 * 8  # a pixel of eight columns, uncompressed
STEP_FLOP = 2.06e12  # published size, batch 64
SHORTEST_STEP_S = 0.01  # what the many small operations take at any size
SHARE_OF_PEAK = 0.25  # of the matrix-product rate: what an eager step reaches, roughly


def disk(config: TrainConfig, classes: int) -> int:
    """Return the bytes that a trial of this configuration leaves on disk."""
    generator = _count(Generator(config, classes))
    discriminator = _count(Discriminator(config, classes))
    states = 2 * 4 * 3 * (generator + discriminator)  # two states: weights and two moments
    weights = KEPT_WEIGHTS * 4 * generator
    grids = config.epochs // config.samples_every
    samples = grids * SAMPLE_GRID_BYTES * classes * max(config.image_size, GRID_TILE) ** 2
    return states + weights + samples


def _count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def check_disk(folder: Path, needed: int) -> None:
    """Raise `InputError` if the folder's file system has less than `needed` bytes free."""
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise InputError(
            f"the search needs {gigabytes(needed)} on the disk of {folder}, which has "
            f"{gigabytes(free)} free; free some, name another with --storage-path, or ask for "
            "fewer trials with --num-samples"
        )


def gigabytes(count: int) -> str:
    """Return a number of bytes as text, `1.2 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def trial_seconds(config: TrainConfig, images: int) -> float:
    """Return roughly how long one trial takes on this machine's device.

    The published step's operations, scaled to this size, over a quarter of the rate at which the
    device multiplies matrices now.
    """
    side = config.image_size / 112
    updates = config.epochs * images / config.batch_size
    step = STEP_FLOP * config.batch_size / 64 * side**2 * config.width**2
    return updates * max(step / (_matrix_rate() * SHARE_OF_PEAK), SHORTEST_STEP_S)


def _matrix_rate() -> float:
    """Return the float32 operations a second of a matrix product on the default device."""
    gpu = torch.cuda.is_available()
    size = 8192 if gpu else 1024
    matrix = torch.rand(size, size, device="cuda" if gpu else "cpu")
    fastest = math.inf
    for _ in range(5):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # fetched: a GPU answers before it is done
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * size**3 / fastest
