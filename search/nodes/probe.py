"""What each node of a Ray cluster says of itself; it is only looked at, and nothing stays there."""

import contextlib
import importlib.metadata
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
from packaging.requirements import Requirement
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from acgan.config import TrainConfig
from acgan.data.layouts import read_table
from acgan.data.source import DataSource
from acgan.errors import InputError
from acgan.evaluation.inception_file import checked_file
from acgan.gan.networks import find_networks
from acgan.gan.precision import check_precision
from search.nodes.cluster import Node  # sets Ray's token, which its import reads
from search.nodes.sees import set_aside
from search.study import estimate
from search.study.store.objects import ObjectStore, StoreError

ANSWER_S = 120.0  # a first process on a node imports PyTorch, maybe over a network
DRIVER = "driver"  # the file that the driver puts into the shared folder
_DEVELOPMENT = re.compile(r"extra\s*==\s*['\"]dev['\"]")

T = TypeVar("T")


@dataclass(frozen=True)
class NodeQuestion:
    """What each node is asked about, all as the driver sees it; None: nothing to look at.

    shared: a folder that the driver has made, and `mark` the content of its one file
    source: the data folder; inception: the weights file, and its SHA-256
    """

    shared: Path | None
    mark: str
    source: DataSource | None
    inception: tuple[Path, str] | None


@dataclass(frozen=True)
class Found:
    """Something that a node was asked for, and what is wrong with it there ("": nothing)."""

    value: str = ""
    problem: str = ""


@dataclass(frozen=True)
class NodeAnswer:
    """What a node says.

    versions: of Python and the packages; token: whether it refuses connections without one
    shared: name and content of the file that it wrote; data: a hash of what the data folder holds
    """

    versions: Mapping[str, str]
    token: bool
    free_memory: int
    shared: Found
    data: Found
    inception: Found


@dataclass(frozen=True)
class Device:
    """Where a trial would compute: what it is, and roughly how many seconds it takes there.

    problem: why it cannot be used, if it cannot
    """

    name: str = ""
    seconds: float = 0.0
    problem: str = ""


def ask(
    nodes: Sequence[Node],
    function: Callable[..., T],
    *arguments: Any,
    resources: Mapping[str, float] | None = None,
    wait_s: float = ANSWER_S,
) -> tuple[dict[Node, T], dict[Node, str]]:
    """Call a function on every node; return the answers, and why other nodes gave none.

    resources: what Ray sets aside for it there, as `search.nodes.cluster.needs` returns it
    """
    if not nodes:
        return {}, {}
    aside = resources or {"cpu": 0.0, "gpu": 0.0}
    remote: Any = ray.remote(num_cpus=aside["cpu"], num_gpus=aside["gpu"], max_retries=0)(function)
    references = {}
    for node in nodes:
        pinned = remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, False))
        references[pinned.remote(*arguments)] = node
    there, missing = ray.wait(list(references), num_returns=len(references), timeout=wait_s)
    answers, problems = {}, {}
    for reference in there:
        try:
            answers[references[reference]] = ray.get(reference)
        except RayError as error:
            problems[references[reference]] = str(error).strip().splitlines()[-1]
    for reference in missing:
        ray.cancel(reference)
        problems[references[reference]] = f"no answer within {wait_s:g} s"
    return answers, problems


@contextlib.contextmanager
def shared_folder(storage: Path, mark: str) -> Iterator[Path]:
    """Make a folder with one file under `storage`; all that was made for it is removed after.

    Raises `InputError` if it cannot be made.
    """
    made = [path for path in (storage, *storage.parents) if not path.exists()]
    folder = storage / f".doctor-{secrets.token_hex(8)}"
    try:
        try:
            folder.mkdir(parents=True)
            (folder / DRIVER).write_text(mark)
        except OSError as error:
            raise InputError(
                f"cannot write in {storage} ({error.strerror}); name another folder with "
                "--storage-path"
            ) from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):  # somebody has put something there
                path.rmdir()


def answer_for_node(question: NodeQuestion) -> NodeAnswer:
    """Look at this node."""
    return NodeAnswer(
        versions=versions(),
        token=os.environ.get("RAY_AUTH_MODE", "token") == "token",
        free_memory=free_memory(),
        shared=_found(_write, question.shared, question.mark) if question.shared else Found(),
        data=_found(data_hash, question.source) if question.source else Found(),
        inception=_found(_inception, *question.inception) if question.inception else Found(),
    )


def versions() -> dict[str, str]:
    """Return this process's Python, this package and all that it needs, with their versions."""
    lines = importlib.metadata.requires("acgan-search") or []
    names = {Requirement(line).name for line in lines if not _DEVELOPMENT.search(line)}
    found = {"python": platform.python_version()}
    for name in sorted({"acgan-search", *names}):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def free_memory() -> int:
    """Return the bytes of main memory that new processes can take on this machine."""
    values = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(values["MemAvailable"].removesuffix("kB")) * 1024


def _found(look: Callable[..., str], *arguments: Any) -> Found:
    """Return what a look at this node finds, or the problem that its `InputError` names."""
    try:
        return Found(look(*arguments))
    except InputError as error:
        return Found(problem=str(error))


def _write(folder: Path, mark: str) -> str:
    if _content(folder / DRIVER) != mark:
        raise InputError("sees another folder there, or none")
    value = secrets.token_hex(16)
    try:
        (folder / value).write_text(value)
    except OSError as error:
        raise InputError(f"cannot write there ({error.strerror})") from error
    return value


def try_store(address: str, folder: str) -> Found:
    """Read in an object store what the driver has written in a folder there, and write beside it.

    Returns the key of what was written.
    """
    key = f"{folder}{secrets.token_hex(16)}"
    try:
        store = ObjectStore(address)
        store.read(f"{folder}{DRIVER}")
        store.write(key, b"")
    except FileNotFoundError:
        return Found(problem=f"sees other objects at {address}, or none")
    except (InputError, StoreError) as error:
        return Found(problem=str(error))
    return Found(key)


def unseen(folder: Path, written: Sequence[str]) -> list[str]:
    """Return those of the files that nodes have written, each under its content, not seen here."""
    return [value for value in written if _content(folder / value) != value]


def _content(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def data_hash(source: DataSource) -> str:
    """Return a hash of what a data folder's labels say, and of its images' names and sizes."""
    table = read_table(Path(source.folder), source.reading)
    rows = [replace(row, stamp=row.stamp and (row.stamp[0], 0)) for row in table.rows]
    return replace(table, rows=tuple(rows)).digest()


def _inception(path: Path, sha256: str) -> str:
    checked_file(path, sha256)
    return sha256


def try_device(configs: Sequence[TrainConfig], images: int, gpu: bool) -> Device:
    """Compute a little where a trial would; `gpu`: Ray has set one aside for it.

    configs: the baseline first, then those in other precisions that must be possible, too
    """
    try:
        device = set_aside(gpu)
        for each in configs:
            find_networks(each.networks)
            check_precision(each, device)
    except InputError as error:
        return Device(problem=str(error))
    name = "the CPU"
    if gpu:
        free = estimate.gigabytes(torch.cuda.mem_get_info()[0])
        name = f"{torch.cuda.get_device_name()} with {free} free"
    return Device(name, estimate.trial_seconds(configs[0], images, device))
