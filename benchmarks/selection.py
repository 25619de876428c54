"""What a pick costs: seconds of each part of its steps, features a second, its share of a search.

A small study of phantom images is trained and picked from, one job after another on one thread;
seconds are a processor's, so that other work beside it counts little.
At full size the shares are those of operations.

python -m benchmarks.selection --out docs/performance.md
"""

from __future__ import annotations

import argparse
import cProfile
import dataclasses
import functools
import inspect
import math
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from acgan.config import TrainConfig
from acgan.data.source import PHANTOM, DataSource
from acgan.evaluation.classifier import fit_last, to_rgb
from acgan.files import write_json
from acgan.gan.step import Training, train_step
from acgan.generation.generator import generate_all
from acgan.run.rundir import RunDir
from acgan.training import train
from benchmarks.report import benchmark, benchmark_parser, table
from benchmarks.timing import Ratio, alternating, one_thread, ratio
from search.flags import search_parser
from search.nodes.sees import StudyAt
from search.plan import DEMO, SearchRequest, make_search_plan
from search.study.folder import Outcome, Study, open_or_create, trial_config, write_end
from search.study.objective import objective_value
from search.study.restore import trial_info
from search.tracking.mirror import sync_study
from search.tune.trial import prepare_scoring
from selection.extractors.base import Extractor
from selection.extractors.cache import cached_views
from selection.extractors.choose import AUTO, open_extractor
from selection.extractors.cnn3 import CNN3, Cnn3
from selection.extractors.inception import BATCH, Inception
from selection.jobs.results import Result, StoredJob
from selection.jobs.workers import Workers
from selection.metrics import memorisation, reference
from selection.pick import parser as pick_parser
from selection.pictures.sheets import contact_sheet, sample_grid
from selection.settings import SelectionConfig
from selection.steps import filter, utility
from selection.steps.fidelity import ExtractorJob, FidelityJob
from selection.steps.funnel import Funnel
from selection.steps.look_at_test import LookJob, RealLookJob
from selection.steps.plan import PickPlan, PickRequest, make_pick_plan
from selection.steps.result import LAST_EPOCHS, Pick
from selection.steps.utility import CeilingJob, UtilityJob

CPU = torch.device("cpu")
STUDY = "bench"

# The search and pick at full size that operations are counted of.
FULL = TrainConfig()
TRIALS = 32
TRAIN_IMAGES = 29_404  # 460 updates per epoch
CANDIDATES, CNNS, CEILINGS = 24, 5, 3
INCEPTION_FLOP = 11.4e9  # an image of 299 px: 5.7 G multiplications and additions
# However short the trials are, their epochs pass step 1.
PASS_ALL = {"class_margin": 0, "dead_real_below": 0, "dead_real_above": 1, "collapsed_below": 0}
SMALL = 2  # images that operations are counted with: they grow in proportion

Timed = Callable[..., Any]
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Searched:
    """A trained study, and the seconds of one thread that its trials took, all of each epoch."""

    study: Study
    uri: str
    seconds: float


def search(folder: Path, options: Sequence[str]) -> Searched:
    """Train the trials of a search in this process, as its driver places them; tell MLflow."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    words = ["--config", str(DEMO), "--data", PHANTOM, "--study", STUDY]
    words += ["--storage-path", str(folder / "runs"), "--tracking-uri", uri, *options]
    plan = make_search_plan(SearchRequest.of(search_parser("search.run", None).parse_args(words)))
    study = open_or_create(plan.folder, plan.info)
    write_json(study.path / "start.json", plan.last_start)
    prepare_scoring(StudyAt(study.path, study.info.uuid, DataSource(folder=PHANTOM)), gpu=False)
    ledger = plan.ledger(study.ledger_path)
    seconds = 0.0
    for _ in range(plan.search.num_samples):
        row = ledger.propose()
        info = trial_info(row, plan.search.seed)
        run = RunDir(study.path / row.name)
        run.path.mkdir()
        write_json(run.path / "trial.json", info)
        config = trial_config(study.info, info)
        started = time.process_time()
        trained = train(
            config,
            plan.data,
            run,
            ranking=study.info.ranking,
            scorer=study.scorer_path,
            device=CPU,
        )
        records = list(trained)
        seconds += time.process_time() - started
        value = objective_value(records, plan.search)
        ledger.tell(row.number, Outcome.FINISHED, value=value)
        write_end(study, row.name, Outcome.FINISHED, "")
    sync_study(study, uri=uri, experiment=plan.search.experiment, driving=False)
    return Searched(study, uri, seconds)


class Profile:
    """Calls of functions in some work, and their seconds with all that they call."""

    def __init__(self) -> None:
        self._profiler = cProfile.Profile(time.process_time)
        self.seconds = 0.0

    def run(self, work: Callable[[], ResultT]) -> ResultT:
        """Do work; return its result."""
        started = time.process_time()
        result = self._profiler.runcall(work)
        self.seconds += time.process_time() - started
        return result

    def calls(self, function: Timed) -> int:
        """Return how often a function was called."""
        found = self._found(function)
        return 0 if found is None else int(found[1])

    def of(self, function: Timed, *, outside: Timed | None = None) -> float:
        """Return a function's seconds, less those of its calls by `outside`."""
        found = self._found(function)
        if found is None:
            return 0.0
        others = found[4].get(_key(outside)) if outside is not None else None
        return float(found[3] - (others[3] if others is not None else 0.0))

    def _found(self, function: Timed) -> Any:
        # (recursion aside) calls, all calls, own seconds, seconds, the same by caller
        self._profiler.create_stats()
        return self._profiler.stats.get(_key(function))


def _key(function: Timed) -> tuple[str, int, str]:
    code: CodeType = inspect.unwrap(function).__code__
    return code.co_filename, code.co_firstlineno, code.co_name


class Profiled(Workers):
    """Does jobs in this process, one after another, with a profile of each kind of job."""

    def __init__(self, settings: SelectionConfig) -> None:
        super().__init__(settings, address=None, verbose=False)
        self.profiles: defaultdict[type, Profile] = defaultdict(Profile)

    def run(self, jobs: Sequence[StoredJob[Result]], what: str, *, there: int) -> None:  # noqa: ARG002
        """Run the jobs."""
        for job in jobs:
            print(f"{what}: {job.name}", flush=True)
            self.profiles[type(job)].run(functools.partial(job.run, gpu=False))


@dataclass(frozen=True)
class Picked:
    """A pick, the plan that it followed, and what they took.

    profiles: of finding and checking what was asked for (`Plan`), and of each kind of job
    seconds: of everything; driver_s: of what no job did, after the plan
    """

    plan: PickPlan
    pick: Pick
    profiles: Mapping[type, Profile]
    seconds: float
    driver_s: float


def pick(searched: Searched, options: Sequence[str]) -> Picked:
    """Pick from a study as the command does, save for Ray and for MLflow's part."""
    words = ["--study", STUDY, "--storage-path", str(searched.study.path.parent)]
    words += ["--tracking-uri", searched.uri, *options]
    asked = PickRequest.of(pick_parser().parse_args(words))
    planning = Profile()
    plan = planning.run(lambda: make_pick_plan(asked))
    workers = Profiled(plan.settings)
    started = time.process_time()
    made = Funnel(plan, workers).run()
    took = time.process_time() - started
    jobs = sum(profile.seconds for profile in workers.profiles.values())
    profiles = {PickPlan: planning, **workers.profiles}
    return Picked(plan, made, profiles, planning.seconds + took, took - jobs)


@dataclass(frozen=True)
class Part:
    """A part of a pick: what it is called, whose it is, the functions that do it.

    one: what the seconds are of; per: the function that is called once for each of them
    outside: calls by this one do not count
    """

    name: str
    one: str
    owner: type
    per: Timed
    functions: tuple[Timed, ...]
    outside: Timed | None = None

    def row(self, picked: Picked) -> list[object]:
        """Return name, what it is of, how many of them, seconds of one, share of the pick."""
        profile = picked.profiles.get(self.owner, Profile())
        seconds = sum(profile.of(own, outside=self.outside) for own in self.functions)
        count = profile.calls(self.per)
        return [self.name, self.one, count, seconds / max(count, 1), seconds / picked.seconds]


def parts(extractor: type[Extractor]) -> tuple[Part, ...]:
    """Return the parts of a pick with such an extractor, in their order."""
    cnn, real, measured = utility.train_on_generated, RealLookJob.run, FidelityJob.run
    metrics = (
        reference.reference,
        reference.metrics,
        reference.inception_scores,
        reference.rank_values,
    )
    copies = memorisation.prepare, memorisation.check_copies
    pictures = contact_sheet, sample_grid
    features = (extractor.extract,)
    of = functools.partial(Part, one="candidate", owner=FidelityJob, per=measured)
    return (
        Part(
            "1: filter",
            "trial",
            PickPlan,
            filter.judge_epochs,
            (filter.judge_epochs, filter.places, filter.choose),
        ),
        Part("2: CNN of generated images", "CNN", UtilityJob, cnn, (cnn, utility.hits)),
        Part("2: – generating them", "CNN", UtilityJob, cnn, (generate_all,)),
        Part("2: – training", "CNN", UtilityJob, cnn, (fit_last,)),
        Part("2: CNN of real images", "CNN", CeilingJob, CeilingJob.run, (CeilingJob.run,)),
        Part("3: extractor", "pick", ExtractorJob, ExtractorJob.run, (ExtractorJob.run,)),
        of("3: fidelity", functions=(measured,)),
        of("3: – generating images", functions=(generate_all,)),
        of("3: – their features", functions=features, outside=cached_views),
        of("3: – features of real images", functions=(cached_views,)),
        of("3: – metrics", functions=metrics),
        of("3: – memorisation", functions=copies),
        of("3: – reverse test", functions=(utility.reverse,)),
        of("3: – pictures", functions=pictures),
        Part("test images", "generator", LookJob, LookJob.run, (LookJob.run,)),
        Part("test images: CNN of real images", "CNN", RealLookJob, real, (real,)),
    )


@dataclass(frozen=True)
class Features:
    """Images a second, medians of the rounds: as step 3 has them, and of the networks alone."""

    extractor: str
    pipeline: float
    alone: float
    of_alone: Ratio


def features(extractor: Extractor, images: NDArray[np.uint8], *, rounds: int) -> Features:
    """Extract features of images [N, 3, H, W], in turn with the networks on ready batches."""
    computed, batches = networks(extractor, torch.from_numpy(images))

    def alone() -> None:
        with torch.inference_mode():
            for network in computed:
                for batch in batches:
                    network(batch)

    bodies = {"pipeline": lambda: extractor.extract(images), "alone": alone}
    seconds = alternating(bodies, rounds)
    rates = {name: len(images) / statistics.median(found) for name, found in seconds.items()}
    return Features(extractor.name, **rates, of_alone=ratio(seconds["alone"], seconds["pipeline"]))


def networks(
    extractor: Extractor, images: Tensor
) -> tuple[list[Callable[[Tensor], Any]], list[Tensor]]:
    """Return what an extractor computes of each batch, and the batches as it computes them."""
    batches = list(images.split(BATCH))
    if isinstance(extractor, Inception):
        return [extractor.network], batches
    assert isinstance(extractor, Cnn3), f"{extractor=}"
    of_each = [s.classifier.eval().pooled_features_and_logits for s in extractor.scorers]
    return [*of_each], [to_rgb(batch) for batch in batches]


@dataclass(frozen=True)
class Operations:
    """Floating-point operations at the published size, counted: a multiplication and addition 2.

    trial: a whole trial; fit: a CNN of step 2 with its images; generating: these images alone
    fidelity: step 3 of a candidate with Inception
    """

    trial: float
    fit: float
    generating: float
    fidelity: float

    @property
    def search(self) -> float:
        """Of all trials, none of them stopped early."""
        return TRIALS * self.trial

    @property
    def pick(self) -> float:
        """Of a pick in which all candidates tie, and of the look at the test images."""
        compared = CANDIDATES + 1
        fits = CNNS * (compared + len(("winner", "baseline"))) + CEILINGS
        return fits * self.fit + compared * self.fidelity


def operations() -> Operations:
    """Count the operations of the published search and pick, on a few images each."""
    config, settings = FULL, SelectionConfig()
    classes, size = 3, FULL.image_size
    noise = torch.Generator().manual_seed(0)
    training = Training(config, classes=classes, device=CPU)
    real = torch.zeros(SMALL, 3, size, size)
    labels = torch.arange(SMALL)
    update = _counted(lambda: train_step(training, real, labels, noise)) / SMALL
    steps = config.epochs * math.ceil(TRAIN_IMAGES / config.batch_size)

    latents = torch.zeros(SMALL, config.latent_size)
    generator = training.generator.eval()
    with torch.no_grad():
        generated = _counted(lambda: generator(latents, labels)) / SMALL

    def fit(epochs: int) -> float:
        few = dataclasses.replace(settings.fit, epochs=epochs)
        fitted = functools.partial(fit_last, config=few, classes=classes, seed=0, count=LAST_EPOCHS)
        pixels = np.zeros((SMALL, 3, size, size), np.uint8)
        return _counted(lambda: fitted(pixels, labels)) / SMALL

    images = classes * settings.cnn_images
    shortest = fit(LAST_EPOCHS)
    epoch = fit(LAST_EPOCHS + 1) - shortest
    trained = shortest + (settings.cnn_epochs - LAST_EPOCHS) * epoch
    measured = classes * settings.fidelity_images
    return Operations(
        trial=steps * config.batch_size * update,
        fit=images * (generated + trained),
        generating=images * generated,
        fidelity=measured * (generated + INCEPTION_FLOP),
    )


def _counted(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def report(arguments: argparse.Namespace, scratch: Path) -> str:
    """Measure everything that was asked for; return it as tables."""
    with one_thread():
        searched = search(scratch, _search_options(arguments))
        picked = pick(searched, _pick_options(arguments))
        shutil.rmtree(searched.study.path / "selection")  # what is left is the cache
        again = pick(searched, _pick_options(arguments))
        extractor = _extractor(picked)
        winner = picked.plan.candidates[picked.pick.decision.winner]
        generator = winner.weights.load(CPU)
        images, _ = generate_all(generator, per_class=arguments.fidelity_images, seed=0)
        rates = features(extractor, images, rounds=arguments.rounds)
        counted = operations()
    return "\n\n".join(
        [
            _setting(arguments, picked),
            _parts_table(picked, type(extractor)),
            _features_table(rates),
            _share_table(searched, picked, again, counted),
        ]
    )


def _search_options(arguments: argparse.Namespace) -> list[str]:
    names = ("epochs", "image_size", "width", "batch_size")
    values = {name: getattr(arguments, name) for name in names}
    # All epochs may be candidates, however short the trials are.
    return _flags(
        {"num_samples": arguments.trials, "grace_fraction": 0, "grace_updates": 1} | values
    )


def _pick_options(arguments: argparse.Namespace) -> list[str]:
    weights = arguments.inception_weights
    named = {"inception_weights": weights, "extractor": AUTO} if weights else {"extractor": CNN3}
    sizes = {name: getattr(arguments, name) for name in ("cnn_images", "fidelity_images")}
    return _flags({**named, **sizes, **PASS_ALL})


def _flags(values: Mapping[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in (_flag(name), str(value))]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _extractor(picked: Picked) -> Extractor:
    plan = picked.plan
    return open_extractor(
        plan.settings.extractor,
        data=plan.data,
        device=CPU,
        folder=plan.study.path / "selection" / "store",
        weights=plan.inception_weights,
        sha256=plan.settings.inception_sha256,
    )


def _setting(arguments: argparse.Namespace, picked: Picked) -> str:
    settings = picked.plan.settings
    return (
        f"{arguments.trials} trials of {arguments.epochs} epochs at {arguments.image_size} px, "
        f"width {arguments.width:g}, batch {arguments.batch_size}; {len(picked.plan.candidates)} "
        f"candidates, {settings.cnn_images} generated images of each class for a CNN of "
        f"{settings.cnn_epochs} epochs, {settings.fidelity_images} for fidelity with "
        f"{picked.pick.extractor.name}; one thread, seconds of a processor."
    )


def _parts_table(picked: Picked, extractor: type[Extractor]) -> str:
    whole = picked.seconds
    rows = [
        *(part.row(picked) for part in parts(extractor)),
        ["driver: decision, pictures, t-SNE", "pick", 1, picked.driver_s, picked.driver_s / whole],
        ["everything", "pick", 1, whole, 1.0],
    ]
    return table(("step", "of a", "count", "seconds each", "share of the pick"), rows)


def _features_table(found: Features) -> str:
    header = ("extractor", "in step 3, images/s", "networks alone, images/s", "ratio")
    return table(header, [[found.extractor, found.pipeline, found.alone, found.of_alone]])


def _share_table(searched: Searched, picked: Picked, again: Picked, counted: Operations) -> str:
    header = ("", "all trials", "pick", "pick over trials")
    full = (
        f"full size, PFLOP: {TRIALS} trials; {CANDIDATES} candidates that all tie, {CNNS} CNNs "
        f"each ({counted.fit / 1e12:,.0f} TFLOP, {counted.generating / 1e12:,.0f} of them for "
        f"their images), Inception ({counted.fidelity / 1e12:,.0f} TFLOP a candidate)"
    )
    trained = searched.seconds
    rows = [
        ["measured above, s", trained, picked.seconds, picked.seconds / trained],
        [
            "the same where the cache has CNNs and features of these images, s",
            trained,
            again.seconds,
            again.seconds / trained,
        ],
        [full, counted.search / 1e15, counted.pick / 1e15, counted.pick / counted.search],
    ]
    return table(header, rows)


def _parser() -> argparse.ArgumentParser:
    parser = benchmark_parser("selection", __doc__)
    count: dict[str, Any] = {"type": int, "metavar": "N"}
    parser.add_argument("--trials", default=4, help="trials of the study (default: 4)", **count)
    parser.add_argument("--epochs", default=6, help="of a trial (default: 6)", **count)
    parser.add_argument("--image-size", default=32, help="pixels (default: 32)", **count)
    parser.add_argument("--width", type=float, default=0.25, help="of the networks (default: 0.25)")
    parser.add_argument("--batch-size", default=8, help="of the trials (default: 8)", **count)
    parser.add_argument(
        "--cnn-images",
        default=64,
        help="generated images of a class, step 2 (default: 64)",
        **count,
    )
    parser.add_argument(
        "--fidelity-images", default=1667, help="the same of step 3 (default: 1667)", **count
    )
    parser.add_argument(
        "--inception-weights", type=Path, metavar="FILE", help="use Inception instead of cnn3"
    )
    parser.add_argument("--rounds", default=5, help="of features (default: 5)", **count)
    return parser


def _measure(arguments: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["ACGAN_CACHE"] = f"{scratch}/cache"  # nothing is there already
        return report(arguments, Path(scratch))


main = benchmark(_parser, _measure)

if __name__ == "__main__":
    main()
