"""A search from its plan to its end: the study's lock, its ledger, Tune's trials, MLflow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from acgan.files import write_json
from search.plan import SearchPlan
from search.study import estimate, table
from search.study.folder import Outcome, Study, open_or_create
from search.study.lock import driver_of, require_free
from search.study.optuna_ledger import Ledger
from search.study.restore import mark_interrupted, restore, write_missing_ends
from search.study.store.study_copy import StudyCopy
from search.tracking.recorder import Recorder
from search.tune.driver import Driver
from search.tune.progress import BarProgress, Progress

RECORDER_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class CarriedOut:
    """What one start of a search left.

    missing, repeats: trials, and repeats of trials, that are asked for and not there
    interrupted: by `KeyboardInterrupt`; spent: the time budget is
    links: to the study in MLflow, its table and its charts; none where none is known
    sync: the command that sends what MLflow lacks, "" where it lacks nothing
    """

    study: Study
    missing: int
    repeats: int
    interrupted: bool
    spent: bool
    links: tuple[str, ...]
    sync: str


def carry_out(
    plan: SearchPlan, *, tell: Callable[[str], None] | None = None, bar: bool = False
) -> CarriedOut:
    """Bring a study to the trials asked for.

    tell: is given each line about how far it is (default: a live table, or lines, on stdout)
    bar: whether a bar of tqdm shows it besides
    Raises `InputError` where another process is at work on the study or the disk is too small.
    """
    estimate.check_folder(plan.folder)
    plan.folder.mkdir(parents=True, exist_ok=True)
    with driver_of(plan.folder, tell or print) as own:
        # Of picks and studies, which read the weights. They look for us once they hold this one, so
        # of two that begin at the same time one sees the other.
        require_free(plan.folder / "selection")
        study = open_or_create(plan.folder, plan.info)
        write_json(study.path / "start.json", plan.last_start)
        return _drive(plan, study, own, tell, bar)


def _drive(
    plan: SearchPlan,
    study: Study,
    own: StudyCopy | None,
    tell: Callable[[str], None] | None,
    bar: bool,
) -> CarriedOut:
    """Bring a study, which this process has locked, to the trials asked for.

    own: the copy that it is of one in an object store
    """
    ledger = plan.ledger(study.ledger_path)
    repaired = restore(study, ledger, seed=plan.search.seed)
    progress = (BarProgress if bar else Progress)(
        asked=plan.search.num_samples,
        ended=ledger.ended(),
        epochs=plan.train.epochs,
        ranking=plan.search.ranking,
        best=_best_finished(plan, ledger),
        out=tell,
    )
    for sentence in repaired:
        progress.say(f"warning: {sentence}")
    missing, repeats = _missing(plan, ledger), _missing_repeats(plan, study, ledger)
    begun = [study.path / row.name for row in ledger.rows() if row.outcome is None]
    needed = plan.disk(missing + repeats, begun)
    if own is None:
        estimate.check_disk(plan.folder, needed)
    else:
        own.store.on_outage = progress.say
    recorder = Recorder(
        study, uri=plan.tracking_uri, experiment=plan.search.experiment, say=progress.say
    )
    recorder.start()
    driver = Driver(plan, study, ledger, progress, own=own)
    interrupted = False
    try:
        if missing or repeats:
            disk = estimate.gigabytes(needed)
            progress.say(
                f"study {study.place}: {missing} trials to train, which need up to {disk} of disk"
            )
            driver.run()
        else:
            progress.say(f"all {plan.search.num_samples} trials asked for are there")
    except KeyboardInterrupt:
        interrupted = True
        if own is not None:
            own.store.give_up()
    finally:
        with contextlib.suppress(OSError):  # of a disk that failed: the next start writes them
            write_missing_ends(study, ledger)
            mark_interrupted(study)
        whole = recorder.close(RECORDER_TIMEOUT_S)
    return CarriedOut(
        study=study,
        missing=_missing(plan, ledger),
        repeats=len(table.missing_repeats(study, plan.search)),
        interrupted=interrupted,
        spent=driver.seconds_left is not None and driver.seconds_left <= 0,
        links=tuple(recorder.study_links),
        sync="" if whole else recorder.sync_command,
    )


def _best_finished(plan: SearchPlan, ledger: Ledger) -> tuple[float, str] | None:
    """Return value and name of the best trial that has finished so far."""
    sign = plan.search.ranking.sign
    values = [
        (row.value, row.name)
        for row in ledger.rows()
        if row.outcome is Outcome.FINISHED and row.value is not None
    ]
    return min(values, key=lambda found: (sign * found[0], found[1]), default=None)


def _missing(plan: SearchPlan, ledger: Ledger) -> int:
    return max(plan.search.num_samples - ledger.ended(), 0)


def _missing_repeats(plan: SearchPlan, study: Study, ledger: Ledger) -> int:
    """Return how many repeats are still trained; which trials they repeat may not be known yet."""
    if _missing(plan, ledger):
        return 2 * plan.search.repeats
    return len(table.missing_repeats(study, plan.search))
