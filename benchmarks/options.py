"""What each option around the baseline buys: the same seeds for all, and what the spread allows.

Trained are the baseline, each option alone on it, the best of a search of three dimensions and
the best of an extended search, each with fresh seeds. Of every run the epoch with the best
windowed `val/fd_cnn` is measured as a pick measures its candidates, on the validation images; the
test images are not touched. The same command again goes on where it was:

    python -m benchmarks.options --data DIR --out docs/performance.md
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from acgan.command import say
from acgan.config import (
    TrainConfig,
    derive_seed,
    find_file,
    read_file,
    resolve,
    user_path,
    validate,
)
from acgan.cores import usable_cores
from acgan.data.dataset import Dataset
from acgan.data.source import PHANTOM, DataSource
from acgan.run.records import QUALITY, Ranking, best_epochs, best_windowed
from acgan.run.rundir import RunDir
from benchmarks.arms import BASELINE, NUMBERS, OPTIONS, Arm, Values, against, cell, sentence
from benchmarks.real_searches import RealSearches, best_params, search_within
from benchmarks.replay import SEARCHERS
from benchmarks.report import benchmark, benchmark_parser, image_source, table, whole
from benchmarks.train_curves import check_judged
from benchmarks.train_runs import Run, images, train_runs
from search.nodes.sees import StudyAt
from search.plan import Asked, study_info
from search.settings import SearchConfig
from search.study import space
from search.study.folder import open_or_create
from selection.extractors.base import ExtractorInfo
from selection.extractors.cnn3 import CNN3
from selection.jobs.results import Result, StoredJob, Weights, Work
from selection.jobs.workers import Workers
from selection.metrics.estimate import Images
from selection.settings import SelectionConfig
from selection.steps.decide import utility
from selection.steps.fidelity import ExtractorJob, FidelityJob
from selection.steps.result import Fidelity
from selection.steps.utility import CeilingJob, UtilityJob

SMALL, EXTENDED = Path("configs/covidx.yaml"), Path("configs/covidx-extended.yaml")
CNNS = 3
BY_QUALITY = Ranking(QUALITY, sign=1)


def _parser() -> argparse.ArgumentParser:
    parser = benchmark_parser("options", __doc__)
    add = parser.add_argument
    add("--data", type=image_source, default=PHANTOM, help="folder of images (default: phantom)")
    add("--seeds", type=whole(2), default=3, help="runs of each configuration (default: 3)")
    add("--trials", type=whole(0), default=16, help="full trials' compute a search; 0: no search")
    add("--image-size", type=whole(16), default=64, help="pixels a side (default: 64)")
    add("--width", type=float, default=0.25, help="factor on channel counts (default: 0.25)")
    add("--batch-size", type=whole(2), default=16, help="real images per step (default: 16)")
    add("--epochs", type=whole(1), default=36, help="of each run (default: 36)")
    add("--cnn-images", type=whole(8), default=200, help="step 2: of a class (default: 200)")
    add("--cnn-epochs", type=whole(3), default=12, help="step 2: of a CNN (default: 12)")
    add("--generated", type=whole(32), default=512, help="step 3: of a class (default: 512)")
    add("--folder", default="build/options", help="runs and studies (default: build/options)")
    add("--jobs", type=whole(1), default=usable_cores(), help="runs at once")
    return parser


def _measure(options: argparse.Namespace) -> str:
    names = ("image_size", "width", "batch_size", "epochs")
    flags = {name: getattr(options, name) for name in names}
    config = resolve(TrainConfig, "train", None, flags)  # by the environment too, as the searches
    source, folder = options.data, user_path(options.folder)
    data = images(source, config.image_size)
    check_judged(config, data)
    arms = [BASELINE, *(Arm(name, changes) for name, changes in OPTIONS.items())]
    if options.trials:
        arms += _searched(options, config, source, folder)
    runs = {arm: _runs(arm, config, source, folder, options.seeds) for arm in arms}
    for own in runs.values():
        for run in own:
            run.path.parent.mkdir(parents=True, exist_ok=True)
    train_runs([run for own in runs.values() for run in own], jobs=options.jobs, say=say)
    values = _measured(runs, _work(options, config, data, source, folder), data)
    text = [setting(options, config, data), value_table(values), verdicts(values), limits(options)]
    return "\n\n".join(text)


def _searched(
    options: argparse.Namespace, config: TrainConfig, source: str, folder: Path
) -> list[Arm]:
    """Search in both spaces with the same compute; return the best point of each."""
    arms = []
    for name, file in (("best of 3 dimensions", SMALL), ("best of the extended", EXTENDED)):
        asked = RealSearches(
            config=file,
            source=source,
            train=config,
            folder=folder / f"search-{file.stem}",
            budget=options.trials * config.epochs,
            jobs=options.jobs,
        )
        found = search_within(asked, SEARCHERS[0])
        say(f"{file}: {found.trials} trials of {found.epochs:,} epochs, best {found.value:,.0f}")
        arms.append(Arm(name, best_params(asked, SEARCHERS[0])))
    return arms


def _runs(arm: Arm, config: TrainConfig, source: str, folder: Path, seeds: int) -> list[Run]:
    found = []
    for number in range(seeds):
        own = dict(arm.changes) | {"seed": derive_seed("options", number)}
        path = folder / "runs" / arm.folder / f"seed-{number}"
        own_config = validate(TrainConfig, "train", config.model_dump() | own)
        found.append(Run(path, source, own_config, BY_QUALITY))  # by which it is measured
    return found


def _work(
    options: argparse.Namespace, config: TrainConfig, data: Dataset, source: str, folder: Path
) -> Work:
    """Return what a pick's jobs are told, for a study that holds their results and no trial."""
    settings = SelectionConfig(
        cnn_images=options.cnn_images,
        cnn_epochs=options.cnn_epochs,
        cnn_batch_size=config.batch_size,
        cnn_learning_rate=5e-4,
        cnn_seeds=(CNNS,),
        extractor=CNN3,
        fidelity_images=options.generated,
    )
    section = read_file(find_file(SMALL))["space"]
    asked = Asked(str(SMALL), "", {}, config, SearchConfig(), space.read(section, config))
    study = open_or_create(folder / "measured", study_info("measured", asked, data))
    at = StudyAt(study.path, study.info.uuid, DataSource(folder=source))
    return Work(at, settings, data.fingerprint, None)


def _measured(runs: Mapping[Arm, Sequence[Run]], work: Work, data: Dataset) -> dict[Arm, Values]:
    """Measure every run's best epoch as a pick does."""
    work.folder.mkdir(parents=True, exist_ok=True)
    found = {
        run: _weights(f"{arm.name}, seed {number}", run)
        for arm, own in runs.items()
        for number, run in enumerate(own)
    }
    weights = [each for each in found.values() if each is not None]
    opened = ExtractorJob(work)
    first: list[StoredJob[Result]] = [opened, *(CeilingJob(work, n) for n in range(CNNS))]
    with Workers(work.settings) as workers:
        fits = [job for each in weights for job in _utility_jobs(work, each)]
        info = workers.do([*first, *fits], "step 2")[opened].info
        workers.do([FidelityJob(work, each, info) for each in weights], "step 3")
    val = Images.of(data.val)
    rows = {
        arm: [_row(run, found[run], work, info, val) for run in own] for arm, own in runs.items()
    }
    return {
        arm: {number.name: [row[number.name] for row in own] for number in NUMBERS}
        for arm, own in rows.items()
    }


def _weights(name: str, run: Run) -> Weights | None:
    """Return the weights of a run's best epoch; None if no epoch has a finite score."""
    records = run.records()
    best = best_epochs(records, BY_QUALITY, 1)
    if not best:
        return None
    record = records[best[0] - 1]
    assert record.weights is not None
    return Weights(name, RunDir(run.path).weights_path(record.epoch), record.weights)


def _utility_jobs(work: Work, weights: Weights) -> list[UtilityJob]:
    return [UtilityJob(work, weights, number) for number in range(CNNS)]


def _row(
    run: Run, weights: Weights | None, work: Work, extractor: ExtractorInfo, val: Images
) -> dict[str, float]:
    """Return a run's numbers; what could not be measured is NaN."""
    row = dict.fromkeys((number.name for number in NUMBERS), math.nan)
    row["val/fd_cnn"] = best_windowed(run.records(), BY_QUALITY)
    if weights is None:
        return row
    scored = [job.result() for job in _utility_jobs(work, weights)]
    hits = [one.hits for one in scored if one is not None]
    none = "0" * len(val.labels)  # of a generator that cannot be trained on, as a pick has it
    score = utility([own or none for own in hits], val)
    row["balanced accuracy"] = score.balanced_accuracy.value
    measured = FidelityJob(work, weights, extractor).result()
    if measured is not None and measured.fidelity is not None:
        row |= _fidelity(measured.fidelity)
    return row


def _fidelity(found: Fidelity) -> dict[str, float]:
    metrics = found.metrics["validation"]
    shares = [space.share.value for space in found.memorisation if space.share is not None]
    return {
        "intra-KID": metrics[f"intra_kid_{CNN3}"],
        "recall": metrics[f"recall_{CNN3}"],
        "coverage": metrics[f"coverage_{CNN3}"],
        "memorised": max(shares, default=math.nan),
    }


def setting(options: argparse.Namespace, config: TrainConfig, data: Dataset) -> str:
    """Say what was trained and what is measured of it."""
    searches = (
        f" The best points are of searches (`{SMALL}`, `{EXTENDED}`; seed 0, early stopping) that "
        f"each spent the epochs of {options.trials} full trials."
        if options.trials
        else ""
    )
    return (
        f"{data.name} ({len(data.train)} training, {len(data.val)} validation images), "
        f"{config.image_size} px, width {config.width:g}, batch {config.batch_size}, "
        f"{config.epochs} epochs, {options.seeds} fresh seeds, the same for all.{searches} Of each "
        f"run the epoch with the best windowed `{QUALITY}` is measured on the validation images: "
        f"balanced accuracy of {CNNS} CNNs trained on {options.cnn_images} images per class; "
        f"intra-KID, recall and coverage of {options.generated} a class in features of three CNNs "
        "trained on the real images (cnn3: no Inception); memorised is the largest share of near-"
        "copies in any class and space. Mean ± standard deviation over the seeds:"
    )


def value_table(values: Mapping[Arm, Values]) -> str:
    """Return a row for each arm, a column for each number."""
    header = ["", *(f"{number.name} ({number.better} is better)" for number in NUMBERS)]
    rows = [
        [arm.name, *(cell(own[number.name]) for number in NUMBERS)] for arm, own in values.items()
    ]
    return table(header, rows)


def verdicts(values: Mapping[Arm, Values]) -> str:
    """Say of each arm what its spread allows, and what the searched points are."""
    others = [arm for arm in values if arm != BASELINE]
    lines = []
    for arm in others:
        results = {
            n.name: against(n, values[arm][n.name], values[BASELINE][n.name], arms=len(others))
            for n in NUMBERS
        }
        lines.append(sentence(arm, results))
    points = [f"\n{arm.name}: {arm.point}." for arm in others if arm.name not in OPTIONS]
    return "\n".join([*lines, *points])


def limits(options: argparse.Namespace) -> str:
    """Say how the verdicts are to be read."""
    return (
        f"Against the baseline: Welch's intervals of the ratio (`{QUALITY}`) or the difference of "
        f"means over {options.seeds} seeds, so wide that those of all rows hold together with 95 % "
        "for each number. Not told apart is not equal. Every epoch was chosen by a score on the "
        "validation images that it is measured on, in all rows alike."
    )


main = benchmark(_parser, _measure)

if __name__ == "__main__":
    main()
