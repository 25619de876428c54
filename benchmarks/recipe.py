"""What a recipe buys over the published step, what each of its parts is worth, and what tells.

Trained are the published step at the recipe's size, the recipe of a configuration file, and the
recipe without each of its parts, with the same seeds. Of every run up to four of the epochs whose
weights are kept are measured on the validation images; the test images are not touched. From all
these generators follows which recorded number orders them as their use does. The same command
again goes on where it was:

    python -m benchmarks.recipe --data DIR --out docs/performance.md
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from acgan.command import command, run_command
from acgan.config import (
    TrainConfig,
    derive_seed,
    find_file,
    read_file,
    resolve,
    user_path,
    validate,
)
from acgan.data.dataset import Dataset
from acgan.data.source import PHANTOM
from acgan.errors import InputError
from acgan.files import replace_bytes
from acgan.run.records import RANKING, EpochRecord, best_epochs
from acgan.run.rundir import RunDir
from benchmarks.arms import Arm, cell
from benchmarks.generators import CNNS, RARE, Asked, Worth, accuracies, measure
from benchmarks.ranks import correlations
from benchmarks.report import benchmark_parser, publish, table
from benchmarks.train_curves import check_judged
from benchmarks.train_runs import Run, images, train_runs

# What a recipe changes of the published step; sizes and lengths are the same for all.
PARTS = (
    "learning_rate",
    "label_smoothing",
    "dropout",
    "discriminator_rate",
    "class_balanced",
    "translation",
    "cutout",
    "spectral_norm",
    "r1_gamma",
    "reacgan_head",
    "ema_decay",
    "mode_seeking",
    "grey",
    "upsampling",
    "conditional_norm",
    "real_classes",
    "hinge",
    "generator_class_weight",
)
NUMBERS = (
    "val/fd_cnn",
    "val/intra_fd_cnn",
    "val/diversity",
    "val/recall",
    "val/coverage",
    "val/acc_class_balanced",
    "val/g_loss",
    "val/acc_generated",
)
COVERED = 0.5  # of real images, from which on a generator is of some use
TEACHES = 0.8  # of what CNNs of real images know, likewise
MORE_IS_BETTER = {"val/diversity", "val/recall", "val/coverage", "val/acc_class_balanced"}


@dataclass(frozen=True)
class Generator:
    """One measured generator: where it comes from, what was recorded of it, what it is worth.

    covers: the updates after which its run's `val/coverage` first was COVERED or more; None: never
    """

    arm: str
    seed: int
    updates: int
    covers: int | None
    metrics: dict[str, float]
    worth: Worth

    @property
    def run(self) -> tuple[str, int]:
        """The run that it is of."""
        return self.arm, self.seed

    @property
    def accuracy(self) -> float:
        """The balanced accuracy of CNNs trained on its images alone."""
        return statistics.mean(self.worth.alone)

    @property
    def gain(self) -> float:
        """What its images add to real ones of which one class is rare."""
        return statistics.mean(self.worth.gain)


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(argv)
    return run_command(lambda: _measure(options), resume="type the same command again")


def _parser() -> argparse.ArgumentParser:
    parser = benchmark_parser("recipe", __doc__)
    add = parser.add_argument
    add("--data", default=PHANTOM, help="folder of images and label files (default: phantom)")
    add("--config", type=Path, default=Path("configs/small.yaml"), help="the recipe's file")
    add("--epochs", help="of each run (default: the file's)")
    add("--image-size", help="pixels a side (default: the file's)")
    add("--width", help="factor on channel counts (default: the file's)")
    add("--batch-size", help="real images per step (default: the file's)")
    left_out = "parts left out in turn, A+B together (default: each)"
    add("--without", nargs="*", type=_parts, metavar="PART", help=left_out)
    add("--seeds", type=int, default=3, help="runs of each configuration (default: 3)")
    add("--first-seed", type=int, default=0, help="after those that --curves holds (default: 0)")
    add("--per-class", type=int, default=200, help="images a CNN learns from (default: 200)")
    add("--cnn-updates", type=int, default=240, help="updates of each CNN (default: 240)")
    add("--folder", default="build/recipe", help="runs and results (default: build/recipe)")
    add("--curves", type=Path, help="file that keeps every generator's numbers (.jsonl.gz)")
    add("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs at once")
    return parser


def _measure(options: argparse.Namespace) -> int:
    section = read_file(find_file(options.config)).get("train")
    recipe = resolve(TrainConfig, "train", section, vars(options))
    source = PHANTOM if options.data == PHANTOM else str(user_path(options.data))
    data = images(source, recipe.image_size)
    check_judged(recipe, data)
    arms = arms_of(recipe, options.without)
    folder = user_path(options.folder)
    runs = {
        (arm.name, number): _run(arm, number, recipe, source, folder)
        for number in range(options.first_seed, options.first_seed + options.seeds)
        for arm in arms
    }
    for run in runs.values():
        run.path.parent.mkdir(parents=True, exist_ok=True)
    train_runs(list(runs.values()), jobs=options.jobs, say=lambda text: print(text, flush=True))
    found = _generators(runs, source, options)
    if options.curves is not None:
        trained = {each.run for each in found}
        found = [each for each in _kept(options.curves) if each.run not in trained] + found
        _keep(found, options.curves)
    real = accuracies(data.train.images[:], data.train.labels, data, updates=options.cnn_updates)
    text = [
        setting(options, recipe, data, len({each.seed for each in found})),
        part_table(found, real),
        time_table(found, statistics.mean(real)),
        rank_table(found),
    ]
    publish("recipe", "\n\n".join(text), options.out)
    return 0


def _parts(text: str) -> tuple[str, ...]:
    """Return the parts that are left out together."""
    names = tuple(text.split("+"))
    if unknown := sorted(set(names) - set(PARTS)):
        raise argparse.ArgumentTypeError(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    return names


def arms_of(recipe: TrainConfig, without: Sequence[tuple[str, ...]] | None = None) -> list[Arm]:
    """Return the published step, the recipe, and the recipe without its parts in turn.

    without: the parts left out together, arm by arm (default: each by itself)
    """
    published = TrainConfig()
    changed = {
        n: getattr(published, n) for n in PARTS if getattr(published, n) != getattr(recipe, n)
    }
    arms = [Arm("published step", changed), Arm("recipe", {})]
    for parts in [(name,) for name in changed] if without is None else without:
        if unchanged := [name for name in parts if name not in changed]:
            raise InputError(f"--without {unchanged[0]}: it is as in the published step")
        arms.append(Arm(f"without {', '.join(parts)}", {name: changed[name] for name in parts}))
    return arms


def _run(arm: Arm, number: int, recipe: TrainConfig, source: str, folder: Path) -> Run:
    changes = dict(arm.changes) | {"seed": derive_seed("recipe", number)}
    path = folder / "runs" / arm.folder / f"seed-{number}"
    return Run(path, source, validate(TrainConfig, "train", recipe.model_dump() | changes))


def _generators(
    runs: dict[tuple[str, int], Run], source: str, options: argparse.Namespace
) -> list[Generator]:
    """Measure up to four kept epochs of every run: the first, middle, best and last."""
    asked: list[tuple[tuple[str, int], EpochRecord, Asked]] = []
    for key, run in runs.items():
        records, kept = run.records(), RunDir(run.path).kept_weights()
        ages = {kept[0], kept[len(kept) // 2], kept[-1], *best_epochs(records, RANKING, 1)}
        for epoch in sorted(ages & set(kept)):
            out = run.path / f"worth-{epoch:04d}.json"
            weights, size = RunDir(run.path).weights_path(epoch), run.config.image_size
            each = Asked(weights, source, size, options.per_class, options.cnn_updates, out)
            asked.append((key, records[epoch - 1], each))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context, torch.set_num_threads, (1,)) as workers:
        list(workers.map(measure, [each for _, _, each in asked]))
    return [_generator(runs[key], key, record, each) for key, record, each in asked]


def _generator(run: Run, key: tuple[str, int], record: EpochRecord, asked: Asked) -> Generator:
    data = images(run.source, run.config.image_size)
    steps = -(-len(data.train) // run.config.batch_size)
    records = run.records()
    covering = (each.epoch for each in records if each.metrics["val/coverage"] >= COVERED)
    first = next(covering, None)
    return Generator(
        arm=key[0],
        seed=key[1],
        updates=record.epoch * steps,
        covers=None if first is None else first * steps,
        metrics={name: record.metrics[name] for name in NUMBERS},
        worth=Worth.read(asked.out),
    )


def _kept(path: Path) -> list[Generator]:
    """Return the generators that a file of numbers holds; none if it is not there."""
    file = user_path(str(path))
    rows = gzip.decompress(file.read_bytes()).splitlines() if file.exists() else []
    return [_generator_of(json.loads(row)) for row in rows]


def _generator_of(row: Mapping[str, Any]) -> Generator:
    worth = Worth(tuple(row["alone"]), tuple(row["gain"]))
    names = ("arm", "seed", "updates", "covers", "metrics")
    return Generator(**{name: row[name] for name in names}, worth=worth)


def _keep(found: Sequence[Generator], path: Path) -> None:
    lines = [json.dumps(_row(each)) for each in found]
    replace_bytes(user_path(str(path)), gzip.compress("\n".join([*lines, ""]).encode(), mtime=0))


def _row(found: Generator) -> dict[str, Any]:
    return {
        "arm": found.arm,
        "seed": found.seed,
        "updates": found.updates,
        "covers": found.covers,
        "metrics": found.metrics,
        "alone": found.worth.alone,
        "gain": found.worth.gain,
    }


def setting(options: argparse.Namespace, recipe: TrainConfig, data: Dataset, seeds: int) -> str:
    """Say what was trained and what is measured of it."""
    steps = -(-len(data.train) // recipe.batch_size)
    return (
        f"{data.name} ({len(data.train)} training, {len(data.val)} validation images), recipe "
        f"`{options.config}`, {recipe.image_size} px, width {recipe.width:g}, batch "
        f"{recipe.batch_size}, {recipe.epochs * steps:,} updates, up to {seeds} seeds, the same "
        f"for all. CNN: balanced accuracy on the validation images of {CNNS} CNNs trained on "
        f"{options.per_class} generated images per class with {options.cnn_updates} updates; gain: "
        f"what images of {data.classes[RARE]} add to the balanced accuracy of CNNs on real images "
        "with a fifth "
        "of its patients. The other numbers are recorded ones, within classes, in the score's 32 "
        "components. Of each run the measured epoch of the largest `val/coverage`; mean ± standard "
        "deviation over the seeds:"
    )


def part_table(found: Sequence[Generator], real: Sequence[float]) -> str:
    """Return a row for each arm, and one for CNNs trained on the real images.

    real: their balanced accuracies
    """
    names = ("val/diversity", "val/recall", "val/coverage", "val/fd_cnn", "val/intra_fd_cnn")
    rows = []
    for arm in dict.fromkeys(each.arm for each in found):
        own = _best_of_runs([each for each in found if each.arm == arm])
        cells = [cell([each.metrics[name] for each in own]) for name in names]
        worth = [cell([each.accuracy for each in own]), cell([each.gain for each in own])]
        updates = cell([each.updates for each in own])
        rows.append([arm, str(len(own)), updates, *cells, *worth])
    rows.append(["real images", "", "", *[""] * len(names), cell(real), ""])
    return table(["", "seeds", "update", *(f"`{name}`" for name in names), "CNN", "gain"], rows)


def _best_of_runs(found: Sequence[Generator]) -> list[Generator]:
    """Return of each run the generator that covers most of the real images, the later of equals."""
    best: dict[tuple[str, int], Generator] = {}
    for each in found:
        held = best.get(each.run)
        if held is None or _covered(each) >= _covered(held):
            best[each.run] = each
    return list(best.values())


def _covered(generator: Generator) -> float:
    return generator.metrics["val/coverage"]


def time_table(found: Sequence[Generator], real: float) -> str:
    """Return after how many updates each arm is of some use, seed by seed.

    real: the balanced accuracy of CNNs trained on the real images
    """
    rows = []
    for arm in dict.fromkeys(each.arm for each in found):
        own = [each for each in found if each.arm == arm]
        seeds = sorted({each.seed for each in own})
        covers = [next(each.covers for each in own if each.seed == seed) for seed in seeds]
        teaches = [
            min(
                (e.updates for e in own if e.seed == seed and e.accuracy >= TEACHES * real),
                default=None,
            )
            for seed in seeds
        ]
        rows.append([arm, *(", ".join(map(_count, each)) for each in (covers, teaches))])
    head = (
        f"Updates until `val/coverage` first is {COVERED:g} or more, and until the first measured "
        f"generator whose images teach a CNN {TEACHES:g} of what real images do, seed by seed:"
    )
    columns = ["", f"coverage {COVERED:g}", f"CNN {TEACHES:g} of the real-trained"]
    return f"{head}\n\n{table(columns, rows)}"


def _count(updates: int | None) -> str:
    return "never" if updates is None else f"{updates:,}"


def rank_table(found: Sequence[Generator]) -> str:
    """Return each recorded number's rank correlation with the two that stand for use."""
    numbers = {
        name: [each.metrics[name] * (1 if name in MORE_IS_BETTER else -1) for each in found]
        for name in NUMBERS
    }
    runs = [each.run for each in found]
    by_accuracy = correlations(numbers, [each.accuracy for each in found], runs=runs)
    by_gain = correlations(numbers, [each.gain for each in found], runs=runs)
    rows = [[f"`{name}`", str(by_accuracy[name]), str(by_gain[name])] for name in NUMBERS]
    head = (
        f"Spearman's rank correlation of each recorded number, better first, with what "
        f"{len(found)} generators of {len(set(runs))} runs are worth (95 %, runs resampled):"
    )
    return f"{head}\n\n{table(['', 'CNN', 'gain'], rows)}"


if __name__ == "__main__":
    main()
