"""A study's runs in MLflow: what is written where, and what is there already.

    parent   one study   tags study_id (its uuid), stage=search, study_dir, plugins (if any)
    child    one trial   tags study_id, trial (t0007), mlflow.parentRunId

Steps are epochs and times come from the records, so sending again changes nothing. An infinite
metric reads 1.797e308 there.
"""

import importlib.metadata
import json
import re
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.multimedia import compress_image_size
from PIL import Image

from acgan.errors import InputError
from acgan.evaluation.variety import ONE_PICTURE, is_one_picture
from acgan.run.records import BEST, QUALITY, EpochRecord, Ranking
from search.study.folder import (
    BASELINE,
    Outcome,
    Quality,
    Study,
    StudyInfo,
    Trial,
    TrialEnd,
    open_study,
    trial_name,
)
from search.study.objective import Ended
from search.study.table import short
from search.tracking.connection import milliseconds
from search.tracking.find import find_runs, run_of_study
from search.tracking.uris import sqlite_file

METRICS_A_CALL = 1000  # MLflow's limit
SAMPLES = "samples"
PICTURES = "pictures"  # their folder, and the tag that says of how many ended trials they are
VARIETY = "variety"
# Of trials in MLflow's charts, by their numbers: MLflow's own are drawn by lot, and two may be one.
# Okabe and Ito's, which colour-blind people tell apart, and grey.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a8a8a"]
_THUMBNAIL = re.compile(rf"images/{SAMPLES}\+step\+(\d+)\+.*\+compressed\.webp")
EpochKey = tuple[int, int]


def epoch_key(record: EpochRecord) -> EpochKey:
    """Return what makes two epochs the same in MLflow: step and timestamp in ms."""
    return record.epoch, milliseconds(record.time)


def parent_run(client: MlflowClient, study: Study, *, experiment: str) -> Run:
    """Return the study's run wherever it is, else a new one in the named experiment.

    Raises `InputError` if that experiment was deleted, and for a copy of the study whose run it is.
    """
    run = run_of_study(client, study) or _create_parent(client, study, experiment)
    there = run.data.tags.get("study_dir", "")
    if there != study.place:
        if there and _is_copy(study, Path(there)) and not _is_copied(client, run):
            raise InputError(
                f"{study.place} is a copy of the study at {there}, which MLflow has: remove one of "
                "the two, or send the copy to another MLflow with --tracking-uri"
            )
        # Else it was moved.
        client.set_tag(run.info.run_id, "study_dir", study.place)
    if run.inputs is None or not run.inputs.dataset_inputs:  # a crash lost this, written last
        _describe_parent(client, run.info.run_id, study.info)
    return run


def _is_copy(study: Study, of: Path) -> bool:
    """Whether the study of this id is still in another folder, too."""
    try:
        return open_study(of).info.uuid == study.info.uuid and not of.samefile(study.path)
    except (InputError, OSError):
        return False


def _is_copied(client: MlflowClient, run: Run) -> bool:
    """Whether a database was copied, or moved, too: its files are not where it would have them."""
    database = sqlite_file(client.tracking_uri)
    return database is not None and not run.info.artifact_uri.startswith(_artifacts(database))


def _artifacts(database: Path) -> str:
    """Return where files go whose runs are in a sqlite file: beside it.

    MLflow's own choice is relative to the directory it happens to be started in.
    """
    return (database.parent / "mlartifacts").as_uri()


def _create_parent(client: MlflowClient, study: Study, experiment: str) -> Run:
    tags = {
        "study_id": study.info.uuid,
        "stage": "search",
        "study_dir": study.place,
        "code_version": study.info.code_version,
    }
    started = study.last_start()
    if started is not None and started.plugins:
        pairs = (f"{name}: {version}" for name, version in started.plugins.items())
        tags["plugins"] = "; ".join(pairs)
    revision = _git_revision()
    if revision:
        tags["mlflow.source.git.commit"] = revision
    return client.create_run(
        _experiment_id(client, experiment),
        start_time=milliseconds(study.info.created),
        run_name=study.info.name,
        tags=tags,
    )


def _experiment_id(client: MlflowClient, name: str) -> str:
    if client.get_experiment_by_name(name) is None:
        database = sqlite_file(client.tracking_uri)
        location = None if database is None else _artifacts(database)
        try:
            client.create_experiment(name, artifact_location=location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
    found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage == "deleted":
        raise InputError(
            f"the MLflow experiment {name!r} is deleted; restore it with 'mlflow experiments "
            "restore' or name another with --experiment"
        )
    return str(found.experiment_id)


def _describe_parent(client: MlflowClient, run_id: str, info: StudyInfo) -> None:
    sections = {"train": info.train, "space": info.space, "search": info.search}
    params = [Param(key, str(value)) for key, value in flatten(sections).items()]
    client.log_batch(run_id, params=params, synchronous=True)
    client.log_text(run_id, info.model_dump_json(indent=1), "study.json")
    packages = {f"{found.name}=={found.version}" for found in importlib.metadata.distributions()}
    lines = "\n".join(sorted(packages, key=str.lower)) + "\n"
    client.log_text(run_id, lines, "environment.txt")
    data = Dataset(
        name=info.data_name,
        digest=info.fingerprint[:36],  # as long as MLflow takes; the source has all of it
        source_type="fingerprint",
        source=json.dumps({"sha256": info.fingerprint}),
        profile=json.dumps({"classes": info.classes}),
    )
    client.log_inputs(run_id, [DatasetInput(data, tags=[])])


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings under their dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _git_revision() -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed: a checkout further up is another project's
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None


def log_quality(client: MlflowClient, parent: Run, quality: Quality) -> None:
    """Write what the quality score means in this study as metrics of its run."""
    metrics = [
        Metric(f"quality/{name}", value, parent.info.start_time, step=0)
        for name, value in quality.model_dump(exclude={"scorer"}).items()
    ]
    client.log_batch(parent.info.run_id, metrics=metrics, synchronous=True)


def log_pictures(
    client: MlflowClient, parent: Run, pictures: Mapping[str, bytes], *, trials: int
) -> None:
    """Write the study's pictures, PNGs by file name, and then of how many ended trials they are."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in pictures.items():
            path = Path(folder, name)
            path.write_bytes(content)
            client.log_artifact(parent.info.run_id, str(path), PICTURES)
    client.set_tag(parent.info.run_id, PICTURES, str(trials))


def log_best(client: MlflowClient, parent: Run, ranking: Ranking, name: str, best: Ended) -> None:
    """Write the study's best value so far, whose it is, and what its images are called."""
    # The tags first: where the value is there after a crash, none is written again.
    wanted = {"best_trial": name, **variety_tag(best.diversity)}
    _replace_tags(client, parent.info.run_id, {VARIETY}, wanted)
    # Of two values at one step MLflow shows the later one; clocks differ, and are set back.
    key = ranking.best
    before = client.get_metric_history(parent.info.run_id, key)
    now = max([milliseconds(time.time()), *(metric.timestamp + 1 for metric in before)])
    metric = Metric(key, best.value, now, step=0)
    client.log_batch(parent.info.run_id, metrics=[metric], synchronous=True)


def finished_trials(
    client: MlflowClient, study: Study, parent: Run, *, since_ms: int = 0
) -> dict[str, int]:
    """Return the trials whose runs are whole (FINISHED is written last) and their ends in ms.

    since_ms: those that ended before are left out
    """
    condition = (
        f"tags.study_id = '{study.info.uuid}' AND tags.trial LIKE 't%' "
        f"AND tags.mlflow.parentRunId = '{parent.info.run_id}' AND attributes.status = 'FINISHED' "
        f"AND attributes.end_time >= {since_ms}"
    )
    runs = find_runs(client, condition)
    return {run.data.tags["trial"]: run.info.end_time or 0 for run in runs}


def run_of_trial(client: MlflowClient, parent: Run, trial: Trial) -> Run | None:
    """Return the trial's run, as a child of the study's; None if there is none yet."""
    study_id = parent.data.tags["study_id"]
    condition = f"tags.study_id = '{study_id}' AND tags.trial = '{trial.name}'"
    found = client.search_runs(
        [parent.info.experiment_id], condition, order_by=["attributes.start_time ASC"]
    )
    if not found:
        return None
    run, parent_id = found[0], parent.info.run_id
    if run.data.tags.get("mlflow.parentRunId") != parent_id:  # its former parent was deleted
        client.set_tag(run.info.run_id, "mlflow.parentRunId", parent_id)
    return run


def create_trial_run(client: MlflowClient, parent: Run, trial: Trial, started: float) -> Run:
    """Create the trial's run as a child of the study's; `started` in seconds since 1970."""
    tags = {
        "study_id": parent.data.tags["study_id"],
        "trial": trial.name,
        "origin": trial.info.origin,
        "seed": str(trial.info.seed),
        "mlflow.runColor": COLOURS[trial.info.number % len(COLOURS)],
        "mlflow.parentRunId": parent.info.run_id,
    }
    if trial.info.repeats is not None:
        tags["repeats"] = trial.info.repeats
    role = " (baseline)" if trial.name == trial_name(BASELINE) else ""
    return client.create_run(
        parent.info.experiment_id,
        start_time=milliseconds(started),
        run_name=f"{parent.info.run_name}/{trial.name}{role}",
        tags=tags,
    )


def log_params(client: MlflowClient, run: Run, trial: Trial) -> None:
    """Write the trial's sampled fields as `train.<field>`, numbers with three digits.

    The exact ones stand in its config.json. What all trials share stands at the study's run: here
    it would bury the images, for MLflow writes every parameter above each of them.
    """
    if trial.info.params and not run.data.params:
        own = trial.info.params.items()
        params = [Param(f"train.{name}", short(value)) for name, value in own]
        client.log_batch(run.info.run_id, params=params, synchronous=True)


def logged_epochs(client: MlflowClient, run_id: str) -> set[EpochKey]:
    """Return the epochs that are there: one call writes its epochs whole or not at all."""
    return {(point.step, point.timestamp) for point in client.get_metric_history(run_id, QUALITY)}


def log_epochs(client: MlflowClient, run_id: str, records: Sequence[EpochRecord]) -> None:
    """Write the metrics of epochs, as many epochs per call as fit."""
    if not records:
        return
    a_call = max(1, METRICS_A_CALL // max(len(record.metrics) for record in records))
    for start in range(0, len(records), a_call):
        metrics = [
            Metric(name, value, milliseconds(record.time), record.epoch)
            for record in records[start : start + a_call]
            for name, value in record.metrics.items()
            # Of young epochs the best is the last one's value, which would rise and fall.
            if not (record.young and name.startswith(BEST))
        ]
        client.log_batch(run_id, metrics=metrics, synchronous=True)


def log_young_end(client: MlflowClient, run_id: str, last: EpochRecord) -> None:
    """Write the best value of a trial that has ended with a young epoch: there is no later one."""
    if last.young:
        epoch, timestamp = epoch_key(last)
        best = {name: value for name, value in last.metrics.items() if name.startswith(BEST)}
        metrics = [Metric(name, value, timestamp, epoch) for name, value in best.items()]
        client.log_batch(run_id, metrics=metrics, synchronous=True)


def logged_samples(client: MlflowClient, run_id: str) -> set[int]:
    """Return the epochs whose sample grid is there, thumbnail (written last) included."""
    names = (file.path for file in client.list_artifacts(run_id, "images"))
    return {int(match[1]) for match in map(_THUMBNAIL.fullmatch, names) if match}


def log_samples(client: MlflowClient, run_id: str, image: Image.Image, key: EpochKey) -> None:
    """Write an epoch's sample grid, pixel for pixel, where the UI's step slider finds it.

    The files are those of `MlflowClient.log_image`, which gives them a new name each time: here
    the name is always the same, so a grid that is sent again replaces itself.
    """
    step, timestamp = key
    number = uuid.uuid5(uuid.UUID(run_id), f"{SAMPLES} {step}")
    stem = f"{SAMPLES}+step+{step}+timestamp+{timestamp}+{number}"
    files = {f"{stem}.png": image, f"{stem}+compressed.webp": compress_image_size(image)}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            content.save(path)
            client.log_artifact(run_id, str(path), "images")
    client.set_tag(run_id, "mlflow.loggedImages", "True")


def status_of(end: TrialEnd | None, *, driving: bool) -> str:
    """Return MLflow's status of a trial; `driving`: the study's driver is at work."""
    if end is None:
        return "RUNNING" if driving else "KILLED"
    return {Outcome.CRASHED: "FAILED", Outcome.INTERRUPTED: "KILLED"}.get(end.outcome, "FINISHED")


def set_status(client: MlflowClient, run_id: str, status: str, *, ended_ms: int | None) -> None:
    """Set a run's status, and unless it runs its end in ms since 1970 (None: now).

    MLflow cannot take an end back: a run that continues keeps its old one until it ends again.
    """
    if status == "RUNNING":
        client.update_run(run_id, status=status)
    else:
        client.set_terminated(run_id, status, end_time=ended_ms)


def set_end_tags(
    client: MlflowClient, run_id: str, end: TrialEnd | None, diversity: float | None
) -> None:
    """Tag how the trial ended, why, and what its images are called; one that goes on has no tag.

    diversity: its `val/diversity`, see `search.study.table.Line`. Of an error only its name: what
    it says may hold the paths of images.
    """
    wanted = {} if end is None else {"outcome": end.outcome.value, **variety_tag(diversity)}
    if end is not None and end.reason:
        crashed = end.outcome is Outcome.CRASHED
        reason = end.reason.partition(":")[0] if crashed else end.reason
        wanted["stop_reason"] = f"{end.outcome}: {reason}"
    _replace_tags(client, run_id, {"outcome", "stop_reason", VARIETY}, wanted)


def variety_tag(diversity: float | None) -> dict[str, str]:
    """Return the tag that says what images are called; none where they vary, or nobody knows."""
    return {VARIETY: ONE_PICTURE} if is_one_picture(diversity) else {}


def _replace_tags(
    client: MlflowClient, run_id: str, names: set[str], wanted: Mapping[str, str]
) -> None:
    """Set the tags that are wanted, and take away those of these names that are not."""
    there = client.get_run(run_id).data.tags
    for name in names & (there.keys() - wanted.keys()):
        client.delete_tag(run_id, name)
    tags = [RunTag(name, value) for name, value in wanted.items()]
    client.log_batch(run_id, tags=tags, synchronous=True)
