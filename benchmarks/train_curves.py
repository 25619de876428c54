"""Train many configurations once, each to its last epoch: the curves that a replay answers with.

Each configuration is a run directory of `acgan`, so what was interrupted goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from acgan.config import TrainConfig, validate
from acgan.data.dataset import Dataset
from acgan.errors import InputError
from acgan.evaluation.evaluate import Evaluation
from acgan.evaluation.scorer import Scorer, cached_scorer
from acgan.run.device import default_device
from acgan.run.records import QUALITY, grace_epochs
from acgan.training import check_fits
from benchmarks.curves import Curves, Shared, curve_of
from benchmarks.train_runs import Run, images, train_runs
from search.settings import SearchConfig
from search.study import space
from search.study.folder import TrialInfo, trial_name
from search.study.optuna_ledger import Ledger
from search.study.restore import trial_info

SEED = 0  # of the sequence of configurations, and of what each run's own seed derives from


@dataclass(frozen=True)
class Asked:
    """What is to be trained.

    source: "phantom", or the folder of the images; folder: where the run directories stand
    count: configurations; jobs: processes side by side, one thread each
    """

    source: str
    config: TrainConfig
    space: space.Space
    folder: Path
    count: int
    jobs: int


def configurations(asked: Asked) -> list[TrialInfo]:
    """Return the baseline and a scrambled Sobol sequence, as a study would propose them."""
    start = space.baseline(asked.space, asked.config)
    ledger = Ledger(
        None,
        asked.space,
        start=start,
        config=SearchConfig(objective=QUALITY, sampler="qmc", seed=SEED),
    )
    return [trial_info(ledger.propose(), SEED) for _ in range(asked.count)]


def train_curves(asked: Asked, say: Callable[[str], None]) -> Curves:
    """Train what is missing, without any early stopping; `say` is told how far it is."""
    data = images(asked.source, asked.config.image_size)
    check_judged(asked.config, data)
    say("the scoring CNN is trained on the real training images, unless it is in the cache")
    floor = _floor(data, asked.config)
    found = configurations(asked)
    runs = [_run(asked, info) for info in found]
    asked.folder.mkdir(parents=True, exist_ok=True)
    train_runs(runs, jobs=asked.jobs, say=say)
    shared = Shared(
        data=data.name,
        images=len(data.train),
        floor=floor,
        train=asked.config.model_dump(exclude={"seed"}),
        space=space.dump(asked.space),
    )
    return Curves(
        shared,
        [curve_of(info.params, run.records()) for info, run in zip(found, runs, strict=True)],
    )


def _run(asked: Asked, info: TrialInfo) -> Run:
    values = asked.config.model_dump() | info.params | {"seed": info.seed}
    config = validate(TrainConfig, "train", values)
    return Run(asked.folder / trial_name(info.number), asked.source, config)


def _floor(data: Dataset, config: TrainConfig) -> float:
    device = default_device()
    path = cached_scorer(data, config, device)
    scorer = Scorer.load(
        path, classes=len(data.classes), image_size=config.image_size, device=device
    )
    return Evaluation(data, config, scorer, device).floor(data, config)


def check_judged(config: TrainConfig, data: Dataset) -> None:
    """Raise `InputError` for settings that the data cannot serve, or under which none is judged."""
    check_fits(config, data)
    grace = grace_epochs(config, len(data.train))
    if config.epochs <= grace:
        raise InputError(
            f"the first {grace} epochs are not judged; ask for more with --epochs, got "
            f"{config.epochs}"
        )
