"""MLflow as this project uses it: which run is whose, and what is written where.

    parent   one study   tags study_id (its uuid), stage=search, study_dir
    child    one trial   tags study_id, trial (t0007), mlflow.parentRunId

Runs are found by these tags, never by memory, and always written by explicit id: there is no
active run, so `MLFLOW_RUN_ID` of the surroundings is without effect. Steps are epochs and times
come from the records, so sending again changes nothing. An infinite metric reads 1.797e308 there.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import re
import subprocess
import tempfile
import textwrap
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

# Read when mlflow is imported, hence before it. A dead server must fail at once (MLflow's own
# retries last minutes); what the user has set stays.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
_TIMEOUT, _SHORT_S, _LONG_S = "MLFLOW_HTTP_REQUEST_TIMEOUT", "10", "600"
os.environ.setdefault(_TIMEOUT, _SHORT_S)

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.tracking.multimedia import compress_image_size
from PIL import Image
from sqlalchemy.exc import SADeprecationWarning, SQLAlchemyError

from acgan.command import typed
from acgan.config import user_path
from acgan.errors import InputError
from acgan.records import QUALITY, EpochRecord
from search.study import Outcome, Quality, Study, StudyInfo, Trial, TrialEnd, open_study

warnings.filterwarnings("ignore", category=SADeprecationWarning)

METRICS_A_CALL = 1000  # MLflow's limit
SAMPLES = "samples"
PICTURES = "pictures"
STORAGE_HELP = "folder of studies (default: runs, or with --run-id as MLflow says)"
FAILURES = (MlflowException, SQLAlchemyError, OSError, ImportError)  # ImportError: no driver

_SERVERS = re.compile(r"(https?|(postgresql|mysql|mssql)(\+\w+)?)://|databricks(://|$)")
_PASSWORD = re.compile(r"(://[^\s:/@]*:)\S*@")
_SECRET_PARAMETER = re.compile(r"([?&][^\s=&]*(?:password|token|secret)[^\s=&]*=)[^\s&']+")
_THUMBNAIL = re.compile(rf"images/{SAMPLES}\+step\+(\d+)\+.*\+compressed\.webp")

Client = MlflowClient
EpochKey = tuple[int, int]
T = TypeVar("T")


def milliseconds(time_s: float) -> int:
    """Return a time in seconds since 1970 as MLflow counts it."""
    return round(time_s * 1000)


def epoch_key(record: EpochRecord) -> EpochKey:
    """Return what makes two epochs the same in MLflow: step and timestamp in ms."""
    return record.epoch, milliseconds(record.time)


def resolve_uri(uri: str | None) -> str:
    """Return the tracking URI to use: `uri`, else `MLFLOW_TRACKING_URI`, else ./mlflow.db.

    The file of a sqlite URI is made absolute. Raises `InputError` for a store of plain files,
    which MLflow has given up, and for anything else that is neither a database nor a server.
    """
    named = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if _SERVERS.match(named):
        return named.rstrip("/")
    path = named.removeprefix("sqlite:///")
    if path == named or path in ("", ":memory:"):
        origin = "--tracking-uri" if uri else "MLFLOW_TRACKING_URI"
        raise InputError(
            f"{origin} {named} is no place for MLflow; give sqlite:///FILE.db "
            "or the address of a server, for example http://127.0.0.1:5000"
        )
    file = Path(path).expanduser().absolute()
    if "%" in str(file):
        raise InputError(
            f"MLflow cannot use {file}: an address of a database takes no % in a path; name "
            "another file with --tracking-uri"
        )
    return f"sqlite:///{file}"


def shown(text: str) -> str:
    """Return a URI, or a text with URIs in it, without their passwords."""
    return _SECRET_PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))


def one_line(error: Exception) -> str:
    """Return an error's first cause as one line of at most 200 characters, without passwords."""
    first: BaseException = error
    while before := first.__cause__ or (not first.__suppress_context__ and first.__context__):
        first = before
    text = str(first)
    if not isinstance(error, (InputError, *FAILURES)):  # of a library, or a fault of this code
        text = f"{type(first).__name__}: {text}"
    return shown(textwrap.shorten(text, 200, placeholder=" …"))


def not_taken(uri: str, error: Exception) -> str:
    """Return that MLflow takes no data, and why, as one line."""
    return f"MLflow at {shown(uri)} takes no data: {one_line(error)}"


def next_step(uri: str) -> str:
    """Return the command or address that shows what is in MLflow."""
    return typed(["mlflow", "ui", "--backend-store-uri", uri]) if sqlite_file(uri) else shown(uri)


def naming(study: Study, uri: str) -> list[str]:
    """Return the flags by which any command finds a study and its MLflow."""
    words = ["--study", study.path.name]
    if study.path.parent != Path("runs").absolute():
        words += ["--storage-path", str(study.path.parent)]
    return words + uri_flag(uri)


@contextlib.contextmanager
def transfer() -> Iterator[None]:
    """Give a server minutes for large files; a timeout that the user has set stays.

    What the library of a storage such as S3 raises becomes an `MlflowException` that names it.
    """
    before = os.environ[_TIMEOUT]
    os.environ[_TIMEOUT] = _LONG_S if before == _SHORT_S else before
    try:
        yield
    except FAILURES:
        raise
    except Exception as error:
        raise MlflowException(f"{type(error).__name__}: {error}") from None
    finally:
        os.environ[_TIMEOUT] = before


def uri_flag(uri: str) -> list[str]:
    """Return the flag that names an MLflow, unless it is what commands take without it.

    It is for people to read: a password is not in it.
    """
    here = f"sqlite:///{Path('mlflow.db').absolute()}"
    return [] if uri == here else ["--tracking-uri", shown(uri)]


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a resolved sqlite URI; None for any other."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri[:7] == "sqlite:" else None


def check_there(uri: str) -> None:
    """Raise `InputError` for a sqlite file that is not there: a command that reads makes none."""
    database = sqlite_file(uri)
    if database is not None and not database.exists():
        raise InputError(f"there is no MLflow database {database}; name it with --tracking-uri")


def connect(uri: str) -> MlflowClient:
    """Return a client of a resolved URI; the first one makes the sqlite file and its tables."""
    database = sqlite_file(uri)
    if database is None:
        return MlflowClient(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that migrate one new file at once fail with "duplicate column name".
    with database.with_name(f"{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return MlflowClient(uri)


def parent_run(client: MlflowClient, study: Study, *, experiment: str) -> Run:
    """Return the study's run wherever it is, else a new one in the named experiment.

    Raises `InputError` if that experiment was deleted.
    """
    run = find_parent(client, study) or _create_parent(client, study, experiment)
    if run.data.tags.get("study_dir") != str(study.path):  # it was moved
        client.set_tag(run.info.run_id, "study_dir", str(study.path))
    if run.inputs is None or not run.inputs.dataset_inputs:  # a crash lost this, written last
        _describe_parent(client, run.info.run_id, study.info)
    return run


def find_parent(client: MlflowClient, study: Study) -> Run | None:
    """Return the study's run; None if MLflow has none."""
    condition = f"tags.study_id = '{study.info.uuid}' AND tags.stage = 'search'"
    found = find_runs(client, condition)
    return found[0] if found else None


def find_runs(client: MlflowClient, condition: str) -> list[Run]:
    """Return the runs that match in any experiment, the oldest first."""
    experiments = [
        experiment.experiment_id
        for experiment in _all_pages(lambda token: client.search_experiments(page_token=token))
    ]
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


def _create_parent(client: MlflowClient, study: Study, experiment: str) -> Run:
    tags = {
        "study_id": study.info.uuid,
        "stage": "search",
        "study_dir": str(study.path),
        "code_version": study.info.code_version,
    }
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
        _create_experiment(client, name)
    found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage == "deleted":
        raise InputError(
            f"the MLflow experiment {name!r} is deleted; restore it with 'mlflow experiments "
            "restore' or name another with --experiment"
        )
    return str(found.experiment_id)


def _create_experiment(client: MlflowClient, name: str) -> None:
    database = sqlite_file(client.tracking_uri)
    # MLflow's own choice is relative to the directory it happens to be started in.
    location = None if database is None else (database.parent / "mlartifacts").as_uri()
    try:
        client.create_experiment(name, artifact_location=location)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
            raise


def _describe_parent(client: MlflowClient, run_id: str, info: StudyInfo) -> None:
    sections = {"train": info.train, "space": info.space, "search": info.search}
    params = [Param(key, str(value)) for key, value in flatten(sections).items()]
    client.log_batch(run_id, params=params, synchronous=True)
    client.log_text(run_id, info.model_dump_json(indent=1), "study.json")
    client.log_text(run_id, _environment(), "environment.txt")
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
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # installed: a checkout further up is another project's
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None


def _environment() -> str:
    lines = {f"{found.name}=={found.version}" for found in importlib.metadata.distributions()}
    return "\n".join(sorted(lines, key=str.lower)) + "\n"


def has_quality(parent: Run) -> bool:
    """Whether what the quality score means in this study is in its run."""
    return "quality/floor" in parent.data.metrics


def log_quality(client: MlflowClient, parent: Run, quality: Quality) -> None:
    """Write what the quality score means in this study as metrics of its run."""
    metrics = [
        Metric(f"quality/{name}", value, parent.info.start_time, step=0)
        for name, value in quality.model_dump(exclude={"scorer"}).items()
    ]
    client.log_batch(parent.info.run_id, metrics=metrics, synchronous=True)


def drawn_trials(parent: Run) -> int:
    """Return of how many ended trials the study's pictures are, 0 where there are none."""
    return int(parent.data.tags.get(PICTURES, "0"))


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


def best_key(objective: str) -> str:
    """Return the name of the study's best value: `best/fd_cnn` for `val/fd_cnn`."""
    return f"best/{objective.rpartition('/')[2]}"


def log_best(
    client: MlflowClient, parent: Run, objective: str, value: float, *, trial_name: str
) -> None:
    """Write the study's best value so far and whose it is."""
    # The tag first: where the value is there after a crash, neither is written again.
    client.set_tag(parent.info.run_id, "best_trial", trial_name)
    # Of two values at one step MLflow shows the later one; clocks differ, and are set back.
    key = best_key(objective)
    before = client.get_metric_history(parent.info.run_id, key)
    now = max([milliseconds(time.time()), *(metric.timestamp + 1 for metric in before)])
    metric = Metric(key, value, now, step=0)
    client.log_batch(parent.info.run_id, metrics=[metric], synchronous=True)


def finished_trials(client: MlflowClient, study: Study, parent: Run) -> dict[str, int]:
    """Return the trials whose runs are whole (FINISHED is written last) and their ends in ms."""
    condition = (
        f"tags.study_id = '{study.info.uuid}' AND tags.trial LIKE 't%' "
        f"AND tags.mlflow.parentRunId = '{parent.info.run_id}' AND attributes.status = 'FINISHED'"
    )
    runs = find_runs(client, condition)
    return {run.data.tags["trial"]: run.info.end_time or 0 for run in runs}


def trial_run(client: MlflowClient, parent: Run, trial: Trial) -> Run | None:
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
        "mlflow.parentRunId": parent.info.run_id,
    }
    if trial.info.repeats is not None:
        tags["repeats"] = trial.info.repeats
    return client.create_run(
        parent.info.experiment_id,
        start_time=milliseconds(started),
        run_name=trial.name,
        tags=tags,
    )


def log_params(client: MlflowClient, run: Run, trial: Trial) -> None:
    """Write what is the trial's own, its sampled fields and its seed, as `train.<field>`.

    What all trials share stands at the study's run: here it would bury the images, for MLflow
    writes every parameter above each of them.
    """
    if not run.data.params:
        own = {**trial.info.params, "seed": trial.info.seed}
        params = [Param(f"train.{name}", str(value)) for name, value in own.items()]
        client.log_batch(run.info.run_id, params=params, synchronous=True)


def log_config(client: MlflowClient, run_id: str, trial: Trial) -> None:
    """Write the trial's resolved configuration as the artifact `config.json`."""
    path = trial.path / "config.json"
    if path.is_file():  # not there if the trial never started
        client.log_artifact(run_id, str(path))


def logged_epochs(client: MlflowClient, run_id: str) -> set[EpochKey]:
    """Return the epochs that are there: one call writes its epochs whole or not at all."""
    return {(point.step, point.timestamp) for point in client.get_metric_history(run_id, QUALITY)}


def log_epochs(client: MlflowClient, run_id: str, records: Sequence[EpochRecord]) -> None:
    """Write the metrics of epochs, as many epochs a call as fit."""
    if not records:
        return
    a_call = max(1, METRICS_A_CALL // max(len(record.metrics) for record in records))
    for start in range(0, len(records), a_call):
        metrics = [
            Metric(name, value, milliseconds(record.time), record.epoch)
            for record in records[start : start + a_call]
            for name, value in record.metrics.items()
        ]
        client.log_batch(run_id, metrics=metrics, synchronous=True)


def logged_samples(client: MlflowClient, run_id: str) -> set[int]:
    """Return the epochs whose sample grid is there, thumbnail (written last) included."""
    names = (file.path for file in client.list_artifacts(run_id, "images"))
    return {int(match[1]) for match in map(_THUMBNAIL.fullmatch, names) if match}


def read_samples(path: Path) -> Image.Image:
    """Read a sample grid; `ValueError` for a file that is missing or no image."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.copy()
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image that can be read") from error


def log_samples(client: MlflowClient, run_id: str, image: Image.Image, record: EpochRecord) -> None:
    """Write an epoch's sample grid, pixel for pixel, where the UI's step slider finds it.

    The files are those of `MlflowClient.log_image`, which gives them a new name each time: here
    the name is always the same, so a grid that is sent again replaces itself.
    """
    step, timestamp = epoch_key(record)
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


def set_end_tags(client: MlflowClient, run_id: str, end: TrialEnd | None) -> None:
    """Tag how the trial ended, and why; a trial that goes on has neither tag.

    Of an error only its name: what it says may hold the paths of images.
    """
    wanted = {} if end is None else {"outcome": end.outcome.value}
    if end is not None and end.reason:
        crashed = end.outcome is Outcome.CRASHED
        reason = end.reason.partition(":")[0] if crashed else end.reason
        wanted["stop_reason"] = f"{end.outcome}: {reason}"
    there = client.get_run(run_id).data.tags
    for name in {"outcome", "stop_reason"} & (there.keys() - wanted.keys()):
        client.delete_tag(run_id, name)
    tags = [RunTag(name, value) for name, value in wanted.items()]
    client.log_batch(run_id, tags=tags, synchronous=True)


@dataclass(frozen=True)
class StudyRun:
    """Which study a run belongs to: its parent run, uuid, directory; the trial if it is one's."""

    parent_id: str
    study_id: str
    study_dir: Path
    trial: str | None


def study_by_run_id(client: MlflowClient, run_id: str) -> StudyRun:
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
        parent.info.run_id, tags["study_id"], Path(tags["study_dir"]), run.data.tags.get("trial")
    )


def find_study_run(uri: str, run_id: str) -> StudyRun:
    """Return the study of a run in the MLflow at an address.

    Raises `InputError` also where it does not answer.
    """
    check_there(uri)
    try:
        return study_by_run_id(connect(uri), run_id)
    except FAILURES as error:
        raise unanswered(uri, error) from error


def unanswered(uri: str, error: Exception) -> InputError:
    """Return the error to raise where MLflow does not answer."""
    return InputError(
        f"MLflow at {shown(uri)} does not answer ({one_line(error)}); see --tracking-uri"
    )


def open_study_of(run: StudyRun, storage: str | None) -> Study:
    """Open a run's study where it was, or wherever under `storage` it is now.

    Raises `InputError` where it is not there.
    """
    if storage is None:
        folders = [run.study_dir]
    else:
        folders = [path.parent for path in sorted(user_path(storage).glob("*/study.json"))]
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
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise InputError(
            f"MLflow at {shown(client.tracking_uri)} has no run {run_id!r}; see --tracking-uri"
        ) from error
