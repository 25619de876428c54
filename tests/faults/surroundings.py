"""Nodes and stores that fail at random moments, as `nodes` and `stores` do at any moment."""

from __future__ import annotations

import contextlib
import random
import time

from tests.clusters import ClusterSearch, mlflow_over_http, postgres, ray_node
from tests.faults import stores
from tests.faults.kills import OPTIONS, TRIALS
from tests.faults.lab import (
    Findings,
    Lab,
    Moment,
    check_nothing_runs,
    check_whole,
    kill_driver,
    moment,
    redone,
)
from tests.faults.nodes import Moment as When
from tests.faults.nodes import (
    Seen,
    first_with_a_trial,
    head_dies,
    node_dies,
    node_joins,
)
from tests.searches import Search

EPOCHS = ("--epochs", "12")


def _moment(rng: random.Random) -> When:
    return When(epochs=rng.randint(0, 30), seconds=rng.uniform(0, 1))


def _check(search: ClusterSearch, seen: Seen, found: Findings) -> None:
    found.expect(seen.code == 0, f"exit {seen.code}: {seen.output[-2000:]}")
    found.redone = max(found.redone, seen.redone(search) + bool(seen.trials))
    check_whole(search, TRIALS, found)
    check_nothing_runs(search, found)


def node_is_killed(lab: Lab, rng: random.Random, *, times: int = 5) -> Findings:
    """Kill one of two nodes with all that runs on it, and replace it, again and again."""
    found, moments = Findings(times=0), list[Moment]()
    with lab.cluster() as search, contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(search.new_node()) for _ in range(2)]
        process = search.start(*OPTIONS, "--epochs", "40")
        while found.times < times and process.poll() is None:
            node, _ = first_with_a_trial(search, rng.sample(nodes, 2), process)
            time.sleep(rng.uniform(0, 4))
            if process.poll() is not None:
                break
            training = search.trials_on(node)
            moments.append(Moment(search.records(), training))
            node.kill()
            found.times += 1
            nodes[nodes.index(node)] = stack.enter_context(search.new_node())
        output, _ = process.communicate(timeout=1500)
        found.expect(process.returncode == 0, f"exit {process.returncode}: {output[-2000:]}")
        found.redone = redone(moments, search)
        check_whole(search, TRIALS, found)
        check_nothing_runs(search, found)
    return found


def node_is_taken(lab: Lab, rng: random.Random) -> Findings:
    """Tell one of two nodes to end, as a machine that is taken back."""
    found = Findings()
    with lab.cluster() as search:
        _check(search, node_dies(search, _moment(rng), *OPTIONS, *EPOCHS, gently=True), found)
    return found


def node_comes(lab: Lab, rng: random.Random) -> Findings:
    """Let a node join a search of two trials at a time."""
    found = Findings()
    with lab.cluster() as search:
        when = When(epochs=rng.randint(1, 10))
        seen = node_joins(search, when, *OPTIONS, "--epochs", "30")
        found.expect(bool(seen.trials), "the node that joined got no trial")
        found.expect(seen.redone(search) == 0, "epochs were trained again")
        found.expect(seen.code == 0, seen.output[-2000:])
        check_whole(search, TRIALS, found)
    return found


def folder_is_not_shared(lab: Lab, rng: random.Random) -> Findings:
    """Let one of two nodes see an empty disk where the study is, of a search that is begun or new.

    It is a process with mounts of its own.
    """
    found = Findings()
    with lab.cluster() as search:
        runs = search.folder / "runs"
        runs.mkdir()
        before = moment(search)
        if rng.random() < 0.5:
            with search.new_node():
                kill_driver(search, rng.randint(1, 8), *OPTIONS, *EPOCHS)
            before = moment(search)
        apart = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {runs} && exec "$0" "$@"')
        head = search.head
        with search.new_node(), ray_node(head.address, head.token, cpus=1, prefix=apart):
            refusal = search.run(*OPTIONS, *EPOCHS, code=2)
            found.expect("does not see the study's folder" in refusal, refusal)
        with search.new_node():
            search.run(*OPTIONS, *EPOCHS)
        found.redone = redone([before], search)
        check_whole(search, TRIALS, found)
    return found


def head_is_killed(lab: Lab, rng: random.Random) -> Findings:
    """Kill the head; start it again and type the same command."""
    found = Findings()
    with lab.cluster() as search:
        cut_off, again = head_dies(search, _moment(rng), *OPTIONS, *EPOCHS)
        found.redone = cut_off.redone(search) + bool(cut_off.trials)
        found.expect(again.code == 0, again.output[-2000:])
        check_whole(search, TRIALS, found)
        check_nothing_runs(search, found)
    return found


def _fault(rng: random.Random, doing: contextlib.AbstractContextManager[None]) -> stores.Fault:
    """Return a fault that begins at a random moment and lasts a while, or past the end."""
    lasts = When(epochs=rng.randint(2, 12), seconds=rng.uniform(0, 3))
    begins = When(epochs=rng.randint(0, 16))
    return stores.Fault(doing, begins, None if rng.random() < 0.3 else lasts)


def _endure(search: Search, fault: stores.Fault, uri: str, found: Findings) -> None:
    search.uri = uri
    search.options[-1] = uri
    seen = stores.endure(search, [fault], *OPTIONS)
    found.expect(seen.code == 0, f"exit {seen.code}: {seen.output[-2000:]}")
    found.problems += stores.not_once(search.study, uri)
    check_whole(search, TRIALS, found)
    check_nothing_runs(search, found)


def server_is_killed(lab: Lab, rng: random.Random) -> Findings:
    """Kill the MLflow server; start it again during the search or after it."""
    found = Findings()
    with lab.search() as search, mlflow_over_http(search.database, search.folder) as server:
        _endure(search, _fault(rng, stores.killed(server)), server.uri, found)
    return found


def server_is_slow(lab: Lab, rng: random.Random) -> Findings:
    """Let each call take two seconds for a while."""
    found = Findings()
    with (
        lab.search() as search,
        mlflow_over_http(search.database, search.folder) as server,
        stores.in_front_of(server) as proxy,
    ):
        _endure(search, _fault(rng, stores.slow(proxy, seconds=2)), proxy.uri, found)
    return found


def server_fails(lab: Lab, rng: random.Random) -> Findings:
    """Let calls be answered by 500 for a while, before or after they were done."""
    found = Findings()
    kind = rng.choice([stores.Failing.ALL, stores.Failing.WRITTEN])
    with (
        lab.search() as search,
        mlflow_over_http(search.database, search.folder) as server,
        stores.in_front_of(server) as proxy,
    ):
        _endure(search, _fault(rng, stores.failing(proxy, kind)), proxy.uri, found)
    return found


def file_is_locked(lab: Lab, rng: random.Random) -> Findings:
    """Let another process lock the SQLite file for a while."""
    found = Findings()
    with lab.search() as search:
        _endure(search, _fault(rng, stores.locked(search.database)), search.uri, found)
    return found


def database_crashes(lab: Lab, rng: random.Random) -> Findings:
    """Let PostgreSQL under the MLflow server crash and come back."""
    found = Findings()
    with (
        lab.search() as search,
        postgres() as database,
        mlflow_over_http(database.uri, search.folder) as server,
    ):
        _endure(search, _fault(rng, stores.crashed(database)), server.uri, found)
    return found
