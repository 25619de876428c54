"""Ray: a cluster of this machine, or one that is joined. The package sets its token."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from acgan.errors import InputError

CONNECT_S = 5.0


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

    Every connection carries a token: the user's own (`RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH`),
    or one made for this process. Raises `InputError` for a cluster that cannot be joined.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _require_listener(address)
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        _connect(address, verbose=verbose)
        signal.signal(signal.SIGTERM, on_terminate)  # Ray's own aborts the process
        yield _nodes()
    finally:
        ray.shutdown()


def _connect(address: str, *, verbose: bool) -> None:
    try:
        ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.CRITICAL,
        )
    except SystemExit as error:  # raised by Ray's own handler of SIGTERM, set before it is done
        raise KeyboardInterrupt from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address == "local":
            raise
        reason = str(error).splitlines()[0]
        raise InputError(
            f"no Ray cluster can be joined at {address} ({reason}); give this command the same "
            "RAY_AUTH_TOKEN as 'ray start' had there, with RAY_AUTH_MODE=token in both"
        ) from error


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


def _nodes() -> list[Node]:
    return [_node(found) for found in ray.nodes() if found["Alive"]]


def _node(found: Mapping[str, Any]) -> Node:
    has, host, number = found["Resources"], found["NodeManagerHostname"], found["NodeID"]
    return Node(
        cpus=has.get("CPU", 0.0),
        gpus=has.get("GPU", 0.0),
        memory=has.get("memory", 0.0),
        id=number,
        name=f"{host} ({found['NodeManagerAddress']}, {number[:8]})",
    )


def _require_listener(address: str) -> None:
    """Raise `InputError` if nobody listens there: Ray would end this process after a while."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()):
        return  # "auto" and other forms that Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"nobody listens at {address} ({error}); start Ray there with 'ray start --head', or "
            "name the head's address with --address"
        ) from error
