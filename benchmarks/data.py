"""What images cost: packing, the second start, memory of several processes, a step's share.

python -m benchmarks.data --out docs/performance.md
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from acgan.config import TrainConfig, find_file, read_file, user_path, validate
from acgan.cores import usable_cores
from acgan.data.curate import image_paths
from acgan.data.decode import examine
from acgan.data.layouts import read_table
from acgan.data.pack import load
from acgan.data.source import PHANTOM
from acgan.evaluation.evaluate import to_signed_rgb
from acgan.gan.augment import augment
from acgan.gan.step import Training, train_step
from acgan.run.device import named_device
from acgan.training import DeviceImages
from benchmarks.images import write_large, write_tiny
from benchmarks.report import benchmark, benchmark_parser, table
from benchmarks.timing import Ratio, alternating, one_thread, ratio

IMAGE_SIZE = 112
COVIDX = 29_404  # images that the published system was trained on
TARGET = 0.9
STEPS = 20  # in a row, at the demo's size


@dataclass(frozen=True)
class Packing:
    """Images a second, medians of the rounds, and how packing compares with its limits.

    pillow: decoding, conversion to grey and resizing by Pillow alone, in one thread
    examined: the same with the two hashes by which duplicates are found, in one thread
    packed: the whole of packing, on all cores
    of_pillow, of_examined: packing over so many times the rate of one thread as there are cores
    """

    images: int
    pillow: float
    examined: float
    packed: float
    of_pillow: Ratio
    of_examined: Ratio


def packing(folder: Path, scratch: Path, *, rounds: int) -> Packing:
    """Pack a data folder into new packs below `scratch`, in turn with Pillow alone."""
    paths = image_paths(read_table(folder))
    caches = (scratch / f"cache-{number}" for number in range(rounds + 1))
    seconds = alternating(
        {
            "pillow": lambda: [with_pillow(path) for path in paths],
            "examined": lambda: [examine(path, image_size=IMAGE_SIZE) for path in paths],
            "packed": lambda: load(str(folder), image_size=IMAGE_SIZE, cache=next(caches)),
        },
        rounds,
    )
    rates = {name: len(paths) / median(found) for name, found in seconds.items()}
    per_core = [usable_cores() * s for s in seconds["packed"]]
    return Packing(
        len(paths),
        **rates,
        of_pillow=ratio(seconds["pillow"], per_core),
        of_examined=ratio(seconds["examined"], per_core),
    )


def with_pillow(path: str) -> NDArray[np.uint8]:
    """Return the pixels of an 8-bit grey image file as Pillow alone makes them."""
    with Image.open(path) as image:
        size = (IMAGE_SIZE, IMAGE_SIZE)
        return np.asarray(image.convert("L").resize(size, Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Starts:
    """Seconds until a data folder's images are there: packed first, found packed then."""

    images: int
    first: float
    second: float


def starts(folder: Path, cache: Path, *, rounds: int) -> Starts:
    """Load a data folder that is not in `cache` yet, then again as any later start does."""

    def start() -> float:
        started = time.perf_counter()
        load(str(folder), image_size=IMAGE_SIZE, cache=cache)
        return time.perf_counter() - started

    first = start()
    second = median(start() for _ in range(rounds))
    return Starts(len(read_table(folder).rows), first, second)


@dataclass(frozen=True)
class Memory:
    """Bytes of so many processes that each load one pack and touch all of its images.

    Proportional set sizes, summed: a page that n processes share counts 1/n in each.
    images: of the file of images alone; whole: of everything
    """

    processes: int
    images: int
    whole: int


def memory(folder: Path, cache: Path, *, processes: int) -> Memory:
    """Measure that many processes at the moment when all of them hold their images."""
    context = multiprocessing.get_context("spawn")
    pipes, started = [], []
    try:
        for _ in range(processes):
            here, there = context.Pipe()
            process = context.Process(target=_hold, args=(folder, cache, there), daemon=True)
            process.start()
            there.close()  # so that the end of the process is seen here
            pipes.append(here)
            started.append(process)
        for pipe in pipes:
            pipe.recv()
        numbers = [process.pid for process in started if process.pid is not None]
        images, whole = (sum(map(of, numbers)) for of in (_image_bytes, _whole_bytes))
    finally:
        for pipe in pipes:
            pipe.close()
        for process in started:
            process.join()
    return Memory(processes, images, whole)


def _hold(folder: Path, cache: Path, parent: Connection) -> None:
    """Load the images, touch each of their pages, say so, and wait until the parent hangs up."""
    data = load(str(folder), image_size=IMAGE_SIZE, cache=cache)
    for images in (data.train, data.val, data.test):
        int(images.images.sum())
    parent.send(None)
    parent.poll(None)


def _whole_bytes(process: int) -> int:
    return sum(_pss(Path(f"/proc/{process}/smaps_rollup").read_text()))


def _image_bytes(process: int) -> int:
    text = Path(f"/proc/{process}/smaps").read_text()
    mappings = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text)
    return sum(sum(_pss(own)) for own in mappings if "/images.u8\n" in own)


def _pss(text: str) -> Iterator[int]:
    return (1024 * int(kib) for kib in re.findall(r"(?m)^Pss:\s+(\d+) kB$", text))


@dataclass(frozen=True)
class Step:
    """Milliseconds of a training step and of what its images cost, medians of the rounds.

    fetch: a batch from the memory-mapped file; augmentation: to [-1, 1], shear and zoom
    share: both over all three
    """

    config: TrainConfig
    update: float
    fetch: float
    augmentation: float
    share: Ratio


def step(config: TrainConfig, device: torch.device, *, steps: int, rounds: int) -> Step:
    """Measure so many steps of phantom images a round, in turn with what their images cost."""
    data = load(PHANTOM, image_size=config.image_size)
    images = DeviceImages(data.train, device)
    noise = torch.Generator(device).manual_seed(0)
    training = Training(config, classes=len(data.classes), device=device)
    batch, labels = next(images.batches(config.batch_size, noise))

    def augmented() -> torch.Tensor:
        return augment(
            to_signed_rgb(batch)[:, :1],
            shear_degrees=config.shear_degrees,
            zoom=config.zoom,
            random=noise,
        ).expand(-1, 3, -1, -1)

    real = augmented()
    bodies: dict[str, Callable[[], object]] = {
        "update": lambda: train_step(training, real, labels, noise),
        "augmentation": augmented,
    }
    seconds = alternating(
        {
            "fetch": _done(lambda: list(images.batches(config.batch_size, noise)), device),
            **{name: _done(_repeated(body, steps), device) for name, body in bodies.items()},
        },
        rounds,
    )
    batches = -(-len(images) // config.batch_size)
    per_step = {
        name: [1000 * s / (batches if name == "fetch" else steps) for s in found]
        for name, found in seconds.items()
    }
    cost = [a + b for a, b in zip(per_step["fetch"], per_step["augmentation"], strict=True)]
    whole = [a + b for a, b in zip(cost, per_step["update"], strict=True)]
    medians = {name: median(found) for name, found in per_step.items()}
    return Step(config, **medians, share=ratio(cost, whole))


def _repeated(body: Callable[[], object], count: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(count):
            body()

    return repeated


def _done(body: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Return the body with a wait for the device, which answers before it is done."""

    def done() -> None:
        body()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return done


def report(arguments: argparse.Namespace, scratch: Path) -> str:
    """Measure everything that was asked for; return it as tables."""
    tiny = {count: scratch / f"tiny-{count}" for count in (arguments.few, arguments.many)}
    for count, folder in tiny.items():
        write_tiny(folder, count)
    cache = scratch / "packed"
    found = [starts(folder, cache, rounds=arguments.rounds) for folder in tiny.values()]
    held = [memory(tiny[arguments.many], cache, processes=n) for n in (1, arguments.processes)]
    return "\n\n".join(
        [
            _packing_table(_packings(arguments, scratch)),
            _starts_table(found),
            _memory_table(held, arguments.many * IMAGE_SIZE**2),
            _step_table(_steps(arguments)),
        ]
    )


def _packings(arguments: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, Packing]]:
    for form in ("PNG", "JPEG"):
        folder = scratch / form
        write_large(folder, arguments.images, form)
        own = packing(folder, scratch / f"packs-{form}", rounds=arguments.rounds)
        yield f"grey {form}, 1,024 px, phantom", own
    if arguments.data is not None:
        folder = user_path(arguments.data)
        yield folder.name, packing(folder, scratch / "packs-named", rounds=arguments.rounds)


def _packing_table(found: Iterator[tuple[str, Packing]]) -> str:
    cores = usable_cores()
    header = (
        "packing to 112 px",
        "files",
        "Pillow alone, images/s of one thread",
        "with both hashes, images/s of one thread",
        f"packing, images/s on {cores} cores",
        f"over {cores} × Pillow (target ≥ {TARGET})",
        f"over {cores} × Pillow with both hashes",
    )
    rows = [
        [name, p.images, p.pillow, p.examined, p.packed, p.of_pillow, p.of_examined]
        for name, p in found
    ]
    return table(header, rows)


def _starts_table(found: Sequence[Starts]) -> str:
    rows = [[s.images, s.first, s.second, 1e6 * s.second / s.images] for s in found]
    return table(
        ("images of 16 px", "first start, s", "second start, s", "second start, µs an image"), rows
    )


def _memory_table(found: Sequence[Memory], pack: int) -> str:
    header = (
        f"processes that hold {pack / 1e6:,.0f} MB of images",
        "images, MB in all",
        "everything, MB in all",
        "everything but images, MB per process",
    )
    rows = [
        [m.processes, m.images / 1e6, m.whole / 1e6, (m.whole - m.images) / 1e6 / m.processes]
        for m in found
    ]
    return table(header, rows)


def _steps(arguments: argparse.Namespace) -> Iterator[Step]:
    device = named_device(arguments.device)
    demo = read_file(find_file(Path("configs/demo.yaml")))
    config = validate(TrainConfig, "train", demo["train"])
    with one_thread():
        yield step(config, device, steps=STEPS, rounds=arguments.rounds)
        if arguments.full_size:
            yield step(TrainConfig(), device, steps=1, rounds=arguments.rounds)


def _step_table(found: Iterator[Step]) -> str:
    header = (
        "training step",
        "both updates, ms",
        "fetching a batch, ms",
        "augmentation, ms",
        "fetching and augmentation, share of the whole",
    )
    rows = [[_named(s.config), s.update, s.fetch, s.augmentation, s.share] for s in found]
    return table(header, rows)


def _named(config: TrainConfig) -> str:
    return f"{config.image_size} px, width {config.width:g}, batch {config.batch_size}"


def _parser() -> argparse.ArgumentParser:
    parser = benchmark_parser("data", __doc__)
    parser.add_argument("--data", metavar="DIR", help="also pack this folder of real images")
    parser.add_argument(
        "--images", type=int, default=240, metavar="N", help="large files of each kind to pack"
    )
    parser.add_argument("--few", type=int, default=1000, metavar="N", help="tiny files, and")
    parser.add_argument(
        "--many", type=int, default=COVIDX, metavar="N", help="more of them, to start with again"
    )
    parser.add_argument("--processes", type=int, default=8, metavar="N", help="on one node")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of each measurement")
    parser.add_argument(
        "--full-size", action="store_true", help="also measure a step of the published size"
    )
    parser.add_argument("--device", default="cpu", help="of the step: cpu, cuda (default: cpu)")
    return parser


def _measure(arguments: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        return report(arguments, Path(scratch))


main = benchmark(_parser, _measure)

if __name__ == "__main__":
    main()
