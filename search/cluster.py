"""Ray: a cluster of this machine, or one that is joined. The package sets its token."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ray

from acgan.errors import InputError


@dataclass(frozen=True)
class Node:
    """What one node has."""

    cpus: float
    gpus: float


@contextlib.contextmanager
def ray_cluster(address: str | None, *, verbose: bool = False) -> Iterator[list[Node]]:
    """Start Ray on this machine, or join the cluster at `address` (or `RAY_ADDRESS`).

    Every connection carries a token: the user's own (`RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH`),
    or one made for this process. Raises `InputError` for a cluster that cannot be joined.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address == "local":
            raise
        reason = str(error).splitlines()[0]
        raise InputError(
            f"no Ray cluster can be joined at {address} ({reason}); give this command the same "
            "RAY_AUTH_TOKEN as 'ray start' had there, with RAY_AUTH_MODE=token in both"
        ) from error
    signal.signal(signal.SIGTERM, on_terminate)  # Ray's own aborts the process
    try:
        yield _nodes()
    finally:
        # A second Ctrl-C would leave Ray half shut down, and this process without its last words.
        on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        ray.shutdown()
        signal.signal(signal.SIGINT, on_interrupt)


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
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in found]
