"""Ray: a cluster of this machine, one that is joined, or the one this process has already."""

import contextlib
import gc
import logging
import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from acgan.cores import usable_cores
from acgan.errors import InputError

CONNECT_S = 5.0
SOCKET_BYTES = 107  # of the longest path that a socket can have
LONGEST_SOCKET = "/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store"
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
# Addresses of Ray that are for other ways to use it.
OTHER_WAYS = {"ray": "Ray Client", "http": "Ray's dashboard", "https": "Ray's dashboard"}
_HOST = re.compile(r"(?:\w+://)?(?:[^/]*@)?(\[[^\]]*\]|[^:/\[\]]*)")


def freeze() -> None:
    """In a process of Ray's, have Python look no longer for garbage in what has been imported.

    A user's own process, which may have called `ray.init`, is left as it is.
    """
    if ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        gc.freeze()


@dataclass(frozen=True)
class Node:
    """What one node has, Ray's id of it, and its name for a person; memory in bytes."""

    cpus: float
    gpus: float
    memory: float = 0.0
    id: str = ""
    name: str = ""


@contextlib.contextmanager
def ray_cluster(address: str | None, *, verbose: bool = False) -> Iterator[list[Node]]:
    """Start Ray on this machine, or join the cluster at `address` (or `RAY_ADDRESS`).

    Ray on this machine has the cores that this process may use, and no more. Every connection
    carries a token: the user's own (`RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH`), or one made for this
    process. A Ray that this process has initialised before is used as it is, and left running.
    Raises `InputError` for a cluster that cannot be started or joined.
    """
    if ray.is_initialized():
        if address not in (None, "auto", ray.get_runtime_context().gcs_address):
            raise InputError(
                f"Ray is initialised in this process already, so the cluster at {address} cannot "
                "be joined: leave the address out, or call ray.shutdown() first"
            )
        yield _nodes()
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _require_form(address)
    _require_listener(address)
    on_terminate = signal.getsignal(signal.SIGTERM)
    is_main = threading.current_thread() is threading.main_thread()  # else Ray takes no signal
    with contextlib.ExitStack() as stack:
        own = _own_settings(stack) if address == "local" else {}
        stack.callback(_shut_down)
        _connect(address, verbose=verbose, **own)
        if is_main:
            signal.signal(signal.SIGTERM, on_terminate)  # Ray's own aborts the process
        yield _nodes()


def _shut_down() -> None:
    """End this process's Ray, while no thread collects garbage.

    A reference of Ray's that another thread drops between the end of Ray's worker and Python's
    learning of it would end the process (Ray 2.60).
    """
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if collects:
            gc.enable()


def _nodes() -> list[Node]:
    return [_node(found) for found in ray.nodes() if found["Alive"]]


def _own_settings(stack: contextlib.ExitStack) -> dict[str, Any]:
    """Return how Ray is started on this machine, with folders that last as long as `stack`."""
    settings: dict[str, Any] = {"include_dashboard": False, "num_cpus": usable_cores()}
    folder = _short_folder()
    if folder is not None:
        own = tempfile.TemporaryDirectory(prefix="ray-", dir=folder, ignore_cleanup_errors=True)
        settings["_temp_dir"] = stack.enter_context(own)
    return settings


def _short_folder() -> str | None:
    """Return a folder in which Ray's sockets have room; None where they have in Ray's own choice.

    Raises `InputError` where the user's choice is too long, and where there is no other.
    """
    named = os.environ.get("RAY_TMPDIR")
    own = os.path.join(named or os.environ.get("TMPDIR") or "/tmp", "ray")
    if len(os.fsencode(os.path.abspath(own) + LONGEST_SOCKET)) <= SOCKET_BYTES:
        return None
    fitting = [folder for folder in SHORT_FOLDERS if os.access(folder, os.W_OK | os.X_OK)]
    if named or not fitting:
        raise InputError(
            f"Ray's sockets cannot be made in {named or os.environ['TMPDIR']}, whose path is too "
            "long for them; name a folder of at most 39 bytes in RAY_TMPDIR, for example /tmp"
        )
    return fitting[0]


def _connect(address: str, *, verbose: bool, **own: Any) -> None:
    try:
        ray.init(
            address=address,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.CRITICAL,
            **own,
        )
    except SystemExit as error:  # raised by Ray's own handler of SIGTERM, set before it is done
        raise KeyboardInterrupt from error
    except Exception as error:  # of many kinds, plain `Exception` among them
        raise InputError(_refusal(address, error)) from error


def _refusal(address: str, error: Exception) -> str:
    """Return why Ray is not there, and what to do, as one sentence."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if address == "local":
        return (
            f"Ray does not start on this machine ({reason}); free memory, or name another short "
            "folder, which you can write, in RAY_TMPDIR"
        )
    if address == "auto" and isinstance(error, ConnectionError):
        return (
            f"no Ray cluster runs on this machine ({reason}); start one with 'ray start --head', "
            "or name none with --address local"
        )
    return (
        f"no Ray cluster can be joined at {address} ({reason}); give this command the same "
        "RAY_AUTH_TOKEN as 'ray start' had there, with RAY_AUTH_MODE=token in both"
    )


def needs(nodes: Sequence[Node], *, cpus: float, gpus: float | None, unit: str) -> dict[str, float]:
    """Return what Ray sets aside for a "trial" or "task"; `InputError` if no node has as much.

    gpus None: one where the cluster has any.
    """
    if gpus is None:
        gpus = 1.0 if any(node.gpus for node in nodes) else 0.0
    if not any(cpus <= node.cpus and gpus <= node.gpus for node in nodes):
        there = ", ".join(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in nodes)
        raise InputError(
            f"a {unit} needs {cpus:g} CPUs and {gpus:g} GPUs on one node, but there are: {there}; "
            f"lower --cpus-per-{unit} or --gpus-per-{unit}"
        )
    return {"cpu": cpus, "gpu": gpus}


def _node(found: Mapping[str, Any]) -> Node:
    has, host, number = found["Resources"], found["NodeManagerHostname"], found["NodeID"]
    return Node(
        cpus=has.get("CPU", 0.0),
        gpus=has.get("GPU", 0.0),
        memory=has.get("memory", 0.0),
        id=number,
        name=f"{host} ({found['NodeManagerAddress']}, {number[:8]})",
    )


def _require_form(address: str) -> None:
    """Raise `InputError` for what is not the address of a cluster's head."""
    scheme, mark, _ = address.partition("://")
    if address in ("local", "auto") or (not mark and re.fullmatch(r".+:\d+", address)):
        return
    found = _HOST.match(address)
    host = (found and found[1]) or "HEAD"
    whose = f"is that of {OTHER_WAYS[scheme]}" if scheme in OTHER_WAYS else "has another form"
    raise InputError(
        f"the address {address} {whose}, but a search or a pick is itself a member of the "
        f"cluster: give --address or RAY_ADDRESS the head's own, for example {host}:6379"
    )


def _require_listener(address: str) -> None:
    """Raise `InputError` if nobody listens there: Ray would end this process after a while."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return  # "auto" and "local"
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"nobody listens at {address} ({error}); start Ray there with 'ray start --head', or "
            "name the head's address with --address"
        ) from error
