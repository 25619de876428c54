"""What is asked of a study that was searched: which one, with which images and settings."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from acgan.command import FromFlags, typed
from acgan.config import (
    find_file,
    read_file,
    resolve,
)
from acgan.data.dataset import Dataset, ImageSet
from acgan.data.source import DataSource, named_source
from acgan.errors import InputError
from acgan.evaluation.neighbours import SMALLEST_SET
from acgan.run.rundir import RunDir
from search.study.folder import FEWEST_TRAINING, FEWEST_VALIDATION, Study, study_images
from search.study.lock import driver_at_work, driver_of
from search.study.store.lease import leased
from search.study.store.study_copy import StudyCopy, run_file
from search.tracking import connection, find, uris
from search.tracking.find import StudyNamed
from selection.settings import SelectionConfig


@dataclass(frozen=True, kw_only=True)
class Request(FromFlags):
    """What is asked of a study, by flags or from Python.

    named: the study, or one trial of it; config: a YAML file, None: the search's settings
    values: settings by their names, of `SelectionConfig` and `DataSource`, whose folder is `data`;
        they come before the file's
    address: of the Ray cluster to join; None: as RAY_ADDRESS says, or this machine
    """

    named: StudyNamed
    config: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    address: str | None = None
    verbose: bool = False

    @classmethod
    def of(cls, arguments: argparse.Namespace, **more: Any) -> Self:
        """Return what the flags of `selection.flags.add_request_flags` say, and more."""
        return super().of(arguments, named=StudyNamed.of(arguments), **more)


def require_idle(study: Study) -> None:
    """Raise `InputError` while the study is being searched."""
    if driver_at_work(study.path):
        raise InputError(
            f"the study at {study.path} is being searched; wait for its end, or interrupt it: "
            "trials under way still replace their weights"
        )


@contextlib.contextmanager
def at_work(study: Study) -> Iterator[None]:
    """Keep every other search and pick away from a study; `InputError` while there is one.

    A search that began since `require_idle` was asked is seen: it holds the study before it looks
    whether anybody picks from it. Of a study in an object store, what was made is there at the end.
    """
    folder = study.path / "selection"
    folder.mkdir(exist_ok=True)
    with driver_of(folder, print):
        require_idle(study)
        yield


@contextlib.contextmanager
def one_reviewer(study: Study) -> Iterator[None]:
    """Of a study in an object store keep every other reviewer away: its ledger is one object."""
    own = StudyCopy.of(study.path)
    if own is None:
        yield
        return
    with leased(own.store.address, "review"):
        own.fetch("reviews.jsonl")
        yield


def settle(
    request: Request, study: Study, *, picked: dict[str, Any] | None = None
) -> tuple[SelectionConfig, DataSource]:
    """Return the settings and where the images are: the search's, unless told otherwise.

    picked: settings of a pick, which come before the search's
    """
    content = read_file(find_file(request.config)) if request.config else {}
    started = study.last_start()
    section = (
        (started.selection if started else {}) | (picked or {}) | (content.get("selection") or {})
    )
    settings = resolve(SelectionConfig, "selection", section, request.values)
    source = named_source(request.values, content, default=started.source if started else None)
    return settings, source


def naming(study: Study, uri: str, trial_run: str | None) -> list[str]:
    """Return the flags by which any command finds a study and its MLflow, or one trial of it.

    trial_run: the trial's MLflow run; None: all of the study
    """
    words = uris.naming(study, uri)
    if trial_run is not None:
        words[:2] = ["--run-id", trial_run]
    return words


def find_run(named: StudyNamed) -> tuple[str, Study, str, str | None]:
    """Return MLflow's address, and there the study, its run, and the trial if it is one's run.

    Raises `InputError` for what is not there.
    """
    uri = uris.resolve_uri(named.tracking_uri)
    # Of its name alone: a study that is not there is no matter of MLflow's.
    study = find.asked_study(named)[0] if named.run_id is None else None
    uris.check_there(uri)
    try:
        return uri, *_find_run(connection.connect(uri), named, study)
    except connection.FAILURES as error:
        raise connection.unanswered(uri, error) from error


def _find_run(
    client: connection.Client, named: StudyNamed, study: Study | None
) -> tuple[Study, str, str | None]:
    """Return the study, its MLflow run, and the trial if only one was asked for.

    study: that of the name; None: it is found by a run
    """
    if study is not None:
        parent = find.run_of_study(client, study)
        if parent is None:
            sync = ["python", "-m", "search.sync", *uris.naming(study, client.tracking_uri)]
            raise InputError(
                f"MLflow at {uris.shown(client.tracking_uri)} does not have the study; "
                f"name it with --tracking-uri, or send the study there: {typed(sync)}"
            )
        return study, parent.info.run_id, None
    assert named.run_id is not None
    found = find.study_of_run(client, named.run_id)
    study = find.open_study_of(found, named.storage_path)
    return study, found.parent_id, found.trial


def load_data(study: Study, source: DataSource, *, test: bool) -> Dataset:
    """Load the study's images; `InputError` if they are others, or too few to measure on."""
    data = study_images(study, source)
    more = "search on more images, or with another --val-fraction"
    _check_counts(data, data.val, FEWEST_VALIDATION, f"validation images; {more}")
    _check_counts(data, data.train, FEWEST_TRAINING, f"training images; {more}")
    if test and len(data.test):
        _check_counts(data, data.test, SMALLEST_SET, "test images; leave them alone with --no-test")
    return data


def _check_counts(data: Dataset, images: ImageSet, least: int, what: str) -> None:
    """Raise `InputError` if a class has fewer images than the metrics need."""
    for name, count in zip(data.classes, images.per_class(len(data.classes)), strict=True):
        if count < least:
            raise InputError(f"class {name} has {count} of the {least} or more {what}")


def weights_path(study: Study, trial: str, epoch: int) -> Path:
    """Return where the weights of an epoch are, fetched if only an object store has them."""
    return run_file(RunDir(study.path / trial).weights_path(epoch))
