"""What can happen to the nodes of a cluster during a search, done at any moment of it.

The head has no CPUs, as on a real cluster: it holds the driver, and the trials run on nodes.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.clusters import ClusterSearch, RayNode
from tests.searches import Records, Search, wait_for

WAIT_S = 400


@dataclass(frozen=True)
class Moment:
    """When a fault is done: once so many epochs are on disk, over all trials, and seconds later."""

    epochs: int = 0
    seconds: float = 0.0

    def wait(self, search: Search, process: subprocess.Popen[str]) -> None:
        """Wait for it, or for the end of the command."""
        wait_for(
            lambda: search.epochs_kept() >= self.epochs or process.poll() is not None,
            f"{self.epochs} epochs",
            seconds=WAIT_S,
        )
        time.sleep(self.seconds)


@dataclass(frozen=True)
class Seen:
    """What was seen of a command.

    code, output: how it ended, and what it printed
    trials: those that were on the node that died, or came to the one that joined
    before: the records that were on disk when the fault was done
    """

    code: int
    output: str
    trials: set[str]
    before: Records

    def redone(self, search: Search) -> int:
        """Return how many of the epochs that were on disk are gone or were trained again."""
        now = search.records()
        return sum(len([r for r in kept if r not in now[n]]) for n, kept in self.before.items())


def node_dies(search: ClusterSearch, moment: Moment, *options: str, gently: bool = False) -> Seen:
    """Kill, of two nodes, one that has a trial, with all that runs on it.

    gently: it is told to end, as a machine that is taken back
    """
    with search.new_node() as one, search.new_node() as other:
        process = search.start(*options)
        node, trials = first_with_a_trial(search, (one, other), process)
        moment.wait(search, process)
        before = search.records()
        (node.end if gently else node.kill)()
        return _end(process, trials, before)


def node_joins(search: ClusterSearch, moment: Moment, *options: str) -> Seen:
    """Let a second node join."""
    with search.new_node():
        process = search.start(*options)
        moment.wait(search, process)
        before = search.records()
        with search.new_node() as node:
            _, trials = first_with_a_trial(search, (node,), process)
            return _end(process, trials, before)


def head_dies(search: ClusterSearch, moment: Moment, *options: str) -> tuple[Seen, Seen]:
    """Kill the head while a node still works; then start it and a node, and type the same again."""
    with search.new_node() as node:
        process = search.start(*options)
        _, trials = first_with_a_trial(search, (node,), process)
        moment.wait(search, process)
        before = search.records()
        search.head.kill()
        cut_off = _end(process, trials, before)
        search.head.start()
        with search.new_node():
            return cut_off, _end(search.start(*options), set(), search.records())


def first_with_a_trial(
    search: ClusterSearch, nodes: Sequence[RayNode], process: subprocess.Popen[str]
) -> tuple[RayNode, set[str]]:
    """Wait for a trial on one of the nodes, or for the end; return the node and its trials."""
    found = (nodes[0], set[str]())

    def one_has() -> bool:
        nonlocal found
        on_each = [(node, search.trials_on(node)) for node in nodes]
        found = next((pair for pair in on_each if pair[1]), found)
        return bool(found[1]) or process.poll() is not None

    wait_for(one_has, "a trial on a node", seconds=WAIT_S)
    return found


def _end(process: subprocess.Popen[str], trials: set[str], before: Records) -> Seen:
    output, _ = process.communicate(timeout=1500)
    return Seen(process.returncode, output, trials, before)
