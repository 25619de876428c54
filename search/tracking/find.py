"""Which MLflow run is of which study or trial, and which study a run or a name means."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.store.entities import PagedList

from acgan.command import FromFlags
from acgan.config import user_path
from acgan.errors import InputError
from search.study.folder import Study, copied, open_study, study_path
from search.study.store.objects import is_address
from search.tracking.connection import FAILURES, connect, if_known, unanswered
from search.tracking.uris import check_there, resolve_uri, shown

T = TypeVar("T")


def run_of_study(client: MlflowClient, study: Study) -> Run | None:
    """Return the study's run; None if MLflow has none."""
    condition = f"tags.study_id = '{study.info.uuid}' AND tags.stage = 'search'"
    found = find_runs(client, condition)
    return found[0] if found else None


def find_runs(client: MlflowClient, condition: str) -> list[Run]:
    """Return the runs that match in any experiment, the oldest first."""
    known = _all_pages(lambda token: client.search_experiments(page_token=token))
    experiments = [experiment.experiment_id for experiment in known]
    return _all_pages(
        lambda token: client.search_runs(
            experiments, condition, order_by=["attributes.start_time ASC"], page_token=token
        )
    )


def _all_pages(fetch: Callable[[str | None], PagedList[T]]) -> list[T]:
    page = fetch(None)
    items = list(page)
    while page.token:
        page = fetch(page.token)
        items += page
    return items


@dataclass(frozen=True, kw_only=True)
class StudyNamed(FromFlags):
    """How a study that is there is named: by an MLflow run, or by its name and its folder.

    run_id: of the study or of one of its trials; None: study is its name
    storage_path: folder of studies; None: "runs", or with a run where MLflow says
    tracking_uri: of MLflow; None: as the environment says, or the file on this machine
    """

    run_id: str | None = None
    study: str | None = None
    storage_path: str | None = None
    tracking_uri: str | None = None


@dataclass(frozen=True)
class StudyRun:
    """Which study a run belongs to: its parent run, uuid, directory; the trial if it is one's."""

    parent_id: str
    study_id: str
    study_dir: str
    trial: str | None


def study_of_run(client: MlflowClient, run_id: str) -> StudyRun:
    """Return the study of a parent run or of one of its trials' runs.

    Raises `InputError` for a run id that MLflow does not know, and for a run of something else.
    """
    run = _get_run(client, run_id)
    parent_id = run.data.tags.get("mlflow.parentRunId")
    parent = run if parent_id is None else _get_run(client, parent_id)
    tags = parent.data.tags
    known = tags.get("stage") == "search" and {"study_id", "study_dir"} <= tags.keys()
    if not known:
        raise InputError(f"the MLflow run {run_id} is no study and no trial; see the UI for ids")
    if parent_id is not None and "trial" not in run.data.tags:
        raise InputError(
            f"the MLflow run {run_id} ({run.info.run_name}) is no study and no trial, but belongs "
            f"to the study {parent.info.run_name}: --run-id {parent_id}"
        )
    return StudyRun(
        parent.info.run_id, tags["study_id"], tags["study_dir"], run.data.tags.get("trial")
    )


def study_of_run_at(uri: str, run_id: str) -> StudyRun:
    """Return the study of a run in the MLflow at an address; `InputError` also without answer."""
    check_there(uri)
    try:
        return study_of_run(connect(uri), run_id)
    except FAILURES as error:
        raise unanswered(uri, error) from error


def asked_study(named: StudyNamed) -> tuple[Study, str | None]:
    """Return the study that is named, and the trial if it is a trial's run.

    By its name it is found without MLflow. Raises `InputError` where it is not there.
    """
    if named.run_id is None:
        assert named.study is not None
        return open_study(study_path(named.storage_path or "runs", named.study)), None
    found = study_of_run_at(resolve_uri(named.tracking_uri), named.run_id)
    return open_study_of(found, named.storage_path), found.trial


def open_study_of(run: StudyRun, storage: str | None) -> Study:
    """Open a run's study where it was, or is now under `storage`; `InputError` without it."""
    above, _, name = run.study_dir.rpartition("/")
    if is_address(storage or above):
        folders = [copied(storage or above, name)]
    elif storage is None:
        folders = [Path(run.study_dir)]
    else:
        folders = [path.parent for path in sorted(user_path(storage).glob("*/study.json"))]
        folders.sort(key=lambda folder: folder != Path(run.study_dir))  # a copy has the same id
    for folder in folders:
        with contextlib.suppress(InputError):  # another study, of another version or damaged
            study = open_study(folder)
            if study.info.uuid == run.study_id:
                return study
    raise InputError(
        f"the study of this run is not in {storage or run.study_dir}; name the folder that holds "
        "the study's folder with --storage-path"
    )


def _get_run(client: MlflowClient, run_id: str) -> Run:
    run = if_known(lambda: client.get_run(run_id))
    if run is None:
        raise InputError(
            f"MLflow at {shown(client.tracking_uri)} has no run {run_id!r}; see --tracking-uri"
        )
    return run
