"""One trial of a study, in whatever process and on whatever node Ray places it."""

import contextlib
import faulthandler
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from ray import tune

from acgan.config import TrainConfig, validate
from acgan.cores import keep_freed_memory
from acgan.data.dataset import Dataset
from acgan.errors import InputError
from acgan.evaluation.evaluate import Evaluation
from acgan.evaluation.scorer import Scorer, cached_scorer
from acgan.files import DISK_ERRORS, file_sha256, replace_bytes, write_json
from acgan.gan.precision import check_precision
from acgan.gan.step import Training
from acgan.run.records import EpochRecord
from acgan.run.rundir import RunDir
from acgan.training import train
from search.nodes.sees import StudyAt, same_data, same_study, set_aside
from search.study import space
from search.study.folder import Quality, Study, Trial, trial_config
from search.study.store.runs import StoredRun, in_store
from search.study.store.study_copy import StudyCopy

HANG = "hang.txt"


def run_trial(params: dict[str, Any], *, at: StudyAt, gpu: bool, hang_after_s: float) -> None:
    """Train the trial named by `params["trial"]` to its end, reporting each epoch to Tune.

    A trial that was begun reports its last epoch again first, then goes on where it was. One
    that has no new epoch for `hang_after_s` ends its process and leaves in `hang.txt` where it
    hung.
    """
    keep_freed_memory()
    own, notes = at.copy(), list[str]()
    if own is not None:
        own.store.on_outage = notes.append
        own.fetch(f"{params['trial']}/trial.json")
    study = same_study(at, own)
    trial = study.trial(params["trial"])
    config = trial_config(study.info, trial.info)
    data = same_data(at, study, config)
    _require_scorer(study, own)
    try:
        with contextlib.ExitStack() as stack:
            ranking, stored = study.info.ranking, None
            if own is not None:
                stored = StoredRun(own.store, trial.name, own.work, ranking=ranking, notes=notes)
            run = RunDir(trial.path if stored is None else stack.enter_context(stored).folder)
            run.notes = notes
            # The last epoch again: Tune may not know of it, and it may end the trial.
            records = train(
                config,
                data,
                run,
                ranking=ranking,
                scorer=study.scorer_path,
                device=set_aside(gpu),
                repeat_last=True,
            )
            alive = stack.enter_context(_watched(run.path / HANG, hang_after_s))
            if stored is None:
                epochs = ((record, "") for record in records)
            else:
                epochs = in_store(records, stored, alive)
            for record, commit in stack.enter_context(contextlib.closing(epochs)):
                alive()
                report_epoch(trial.name, record, notes, commit=commit)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        # No crash of this trial: no other could write either, and none is to be tried again now.
        tune.report({"trial": trial.name, "disk_error": disk_error(error, copied=own is not None)})


def disk_error(error: OSError, *, copied: bool) -> tuple[int | None, str | None]:
    """Return the number of an error of the disk, and where it is, for the driver to say.

    copied: whether the study is in an object store, so that the disk is this node's own
    """
    if not copied:
        return error.errno, error.filename
    return error.errno, f"{error.filename or 'a disk'} on node {platform.node()}"


def report_epoch(name: str, record: EpochRecord, notes: list[str], *, commit: str = "") -> None:
    """Report an epoch, and what was found damaged on opening the run, which is said once.

    The record goes as one text: of each number Tune keeps running averages, 3 KB of them a trial.

    commit: the epoch's in an object store, "" without one
    """
    report = {"trial": name, "record": record.model_dump_json(), "commit": commit}
    tune.report({**report, "notes": list(notes)})
    notes.clear()


def _require_scorer(study: Study, own: StudyCopy | None) -> None:
    """Have the scoring CNN here, whole; `InputError` if it cannot be."""
    quality = study.quality()
    for fetched in (False, True):
        if fetched and own is not None:
            own.fetch(study.scorer_path.name)
        if quality is not None and study.scorer_is_whole(quality):
            return
    raise InputError(f"{study.scorer_path} is damaged; the next start of the search mends it")


@contextlib.contextmanager
def _watched(path: Path, limit_s: float) -> Iterator[Callable[[], None]]:
    """End this process, with its threads' stacks in `path`, unless told often enough it is alive.

    Python's own watchdog needs neither the interpreter's lock nor a signal.
    """
    with path.open("w") as file:

        def alive() -> None:
            faulthandler.dump_traceback_later(limit_s, exit=True, file=file)

        alive()
        try:
            yield alive
        finally:
            faulthandler.cancel_dump_traceback_later()
            path.unlink()


def prepare_scoring(at: StudyAt, gpu: bool) -> None:
    """Put the scoring CNN into the study, and what its score means there; once per study.

    A scoring CNN that is there and damaged is replaced by the same one, or `InputError`; that is
    raised too, before anything is trained, where the device lacks the search's precision.
    """
    study = same_study(at)
    config = validate(TrainConfig, "train", study.info.train)
    device = set_aside(gpu)
    for each in space.each_precision(space.read(study.info.space, config), config):
        check_precision(each, device)
    data = same_data(at, study, config)
    own = at.copy()
    if own is None:
        _prepare(study, data, config, device, begun=any(map(_has_records, study.trials())))
        return
    own.fetch(study.scorer_path.name)
    _prepare(study, data, config, device, begun=own.has_epochs())
    own.send(study.scorer_path.name, "quality.json")


def _has_records(trial: Trial) -> bool:
    return (trial.path / "epochs.jsonl").is_file()


def _prepare(
    study: Study, data: Dataset, config: TrainConfig, device: torch.device, *, begun: bool
) -> None:
    """Make what is missing of scoring CNN and its meaning; begun: trials were judged by it."""
    known = study.quality()
    if known is None and begun:
        # It is lost; trials were judged by the scoring CNN that is there, which so must stay.
        try:
            write_json(study.path / "quality.json", _quality(study, data, config, device))
        except (InputError, FileNotFoundError) as error:
            raise InputError(
                f"{study.path} has lost its quality.json and its scoring CNN, by which its trials "
                "were judged: restore scorer.safetensors, or name a new study with --study NAME"
            ) from error
        return
    if known is None:
        study.scorer_path.unlink(missing_ok=True)  # of a start that came to no end
    elif study.scorer_is_whole(known):
        return
    replace_bytes(study.scorer_path, cached_scorer(data, config, device).read_bytes())
    if known is None:
        write_json(study.path / "quality.json", _quality(study, data, config, device))
    elif not study.scorer_is_whole(known):
        raise InputError(
            f"{study.scorer_path} is damaged and does not come out the same here: restore it, or "
            "name a new study with --study NAME"
        )


def _quality(study: Study, data: Dataset, config: TrainConfig, device: torch.device) -> Quality:
    classes = len(data.classes)
    scorer = Scorer.load(
        study.scorer_path, classes=classes, image_size=config.image_size, device=device
    )
    evaluation = Evaluation(data, config, scorer, device)
    untrained = Training(config, classes=classes, device=device)
    score = evaluation.measure(untrained.generator, untrained.discriminator)
    return Quality(
        floor=evaluation.floor(data, config),
        untrained=score["val/fd_cnn"],
        classifier_accuracy=evaluation.classifier_accuracy(),
        scorer=file_sha256(study.scorer_path),
    )
