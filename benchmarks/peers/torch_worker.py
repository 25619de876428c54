"""The project's step, or a plain port's, as a process: `… torch_worker step --size=112 …`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from acgan.config import TrainConfig, read_file, resolve
from acgan.gan.step import Training, train_step
from acgan.run.device import default_device
from benchmarks.peers.plain import Port
from benchmarks.peers.plain_recipe import RecipePort
from benchmarks.peers.worker import Profile, Settings, Step, serve
from benchmarks.report import ROOT

SHOWN = 8
RECIPE = ROOT / "configs" / "small.yaml"


def published(settings: Settings) -> TrainConfig:
    """Return the published step's configuration in this size."""
    return TrainConfig(**_sizes(settings))


def recipe(settings: Settings) -> TrainConfig:
    """Return the recipe's configuration in this size."""
    return resolve(TrainConfig, "train", read_file(RECIPE)["train"], _sizes(settings))


def _sizes(settings: Settings) -> dict[str, Any]:
    return {
        "image_size": settings.size,
        "width": settings.width,
        "batch_size": settings.batch,
    }


def project(
    settings: Settings,
    config_of: Callable[[Settings], TrainConfig] = published,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Step:
    """Return this project's step."""
    device = _device(settings)
    config = config_of(settings).model_copy(update={"precision": precision})
    training = Training(config, classes=3, device=device)
    noise = torch.Generator(device).manual_seed(0)
    images, labels = _batch(settings, device)
    return lambda: train_step(training, images, labels, noise).tolist()


def plain(settings: Settings, autocast: torch.dtype | None = None) -> Step:
    """Return the plain port's step."""
    device = _device(settings)
    port = Port(size=settings.size, width=settings.width, device=device, autocast=autocast)
    images, labels = _batch(settings, device)
    return lambda: port.step(images, labels)


def plain_recipe(settings: Settings) -> Step:
    """Return the step of the recipe's plain port."""
    device = _device(settings)
    port = RecipePort(size=settings.size, width=settings.width, device=device)
    images, labels = _batch(settings, device)
    return lambda: port.step(images[:, :1], labels)


def _device(settings: Settings) -> torch.device:
    torch.set_num_threads(settings.threads)
    return default_device()


def _batch(settings: Settings, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.rand(settings.batch, 1, settings.size, settings.size, device=device) * 2 - 1
    labels = torch.randint(3, (settings.batch,), device=device)
    return images.expand(-1, 3, -1, -1), labels


def profiled(step: Step) -> list[tuple[str, float]]:
    """Return the operations that take most of a step's time, each with its share of it."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    times = {event.key: float(event.self_cpu_time_total) for event in found.key_averages()}
    order = sorted(times, key=lambda key: -times[key])[:SHOWN]
    return [(key, times[key] / sum(times.values())) for key in order]


WAYS: dict[str, Callable[[Settings], Step]] = {
    "step": project,
    "plain": plain,
    "recipe": partial(project, config_of=recipe),
    "plain-recipe": plain_recipe,
    "step-bfloat16": partial(project, precision="bfloat16"),
    "plain-bfloat16": partial(plain, autocast=torch.bfloat16),
}


def _prepare(step: Step) -> tuple[Step, Profile]:
    return step, lambda: profiled(step)


if __name__ == "__main__":
    way = WAYS[sys.argv.pop(1)]
    serve(lambda settings: _prepare(way(settings)))
