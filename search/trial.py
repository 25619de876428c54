"""One trial of a study, in whatever process and on whatever node Ray places it."""

from __future__ import annotations

import itertools
from typing import Any

from ray import tune

from acgan.config import TrainConfig, validate
from acgan.evaluate import Evaluation, Scorer, cached_scorer
from acgan.files import replace_bytes
from acgan.records import EpochRecord
from acgan.rundir import RunDir
from acgan.step import Training
from acgan.train import train
from search.node import StudyAt, same_data, same_study, set_aside
from search.study import Quality, StudyInfo, TrialInfo, write


def run_trial(params: dict[str, Any], *, at: StudyAt, gpu: bool) -> None:
    """Train the trial named by `params["trial"]` to its end, reporting each epoch to Tune.

    A trial that was begun reports its last epoch again first, then goes on where it was.
    """
    study = same_study(at)
    trial = study.trial(params["trial"])
    config = trial_config(study.info, trial.info)
    data = same_data(at, config)
    run = RunDir(trial.path)
    reported = 0
    before = trial.records()[-1:]
    trained = train(config, data, run, scorer=study.scorer_path, device=set_aside(gpu))
    for record in itertools.chain(before, trained):
        _report(trial.name, record)
        reported = record.epoch
    # A crash may have come between the last epoch's state and its line.
    for record in trial.records()[-1:]:
        if record.epoch > reported:
            _report(trial.name, record)


def _report(name: str, record: EpochRecord) -> None:
    tune.report({"trial": name, "epoch": record.epoch, "young": record.young, **record.metrics})


def trial_config(study: StudyInfo, trial: TrialInfo) -> TrainConfig:
    """Return a trial's configuration: the study's, with the trial's point and seed."""
    return validate(TrainConfig, "train", study.train | trial.params | {"seed": trial.seed})


def prepare_scoring(at: StudyAt, gpu: bool) -> None:
    """Put the scoring CNN into the study, and what its score means there; once a study."""
    study = same_study(at)
    config = validate(TrainConfig, "train", study.info.train)
    data = same_data(at, config)
    device = set_aside(gpu)
    if not study.scorer_path.exists():
        replace_bytes(study.scorer_path, cached_scorer(data, config, device).read_bytes())
    classes = len(data.classes)
    scorer = Scorer.load(
        study.scorer_path, classes=classes, image_size=config.image_size, device=device
    )
    evaluation = Evaluation(data, config, scorer, device)
    untrained = Training(config, classes=classes, device=device)
    score = evaluation.measure(untrained.generator, untrained.discriminator)
    quality = Quality(
        floor=evaluation.floor(data, config),
        untrained=score["val/fd_cnn"],
        classifier_accuracy=evaluation.classifier_accuracy(),
    )
    write(study.path / "quality.json", quality)
