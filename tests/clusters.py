"""A cluster on this machine: Ray nodes, PostgreSQL, and MLflow over HTTP with its artifacts.

Every process listens on loopback where it can, has a session of its own, and is ended by its
process id when the context is left, also by a failure.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from acgan.run.records import EpochRecord
from search.study.folder import Study
from tests.mlflow_server import Server, free_port
from tests.searches import Search

START_S = 400
STARTED = "Ray runtime started."
RAY_START = (str(Path(sys.executable).parent / "ray"), "start", "--block")
SMALL = ("--object-store-memory", "80000000", "--include-log-monitor", "false")
# A node has an address of its own, so that a driver, which has the machine's, is on the head.
NODES = itertools.count(2)
# What is gone is noticed within seconds; what is only slow, on a busy machine, has its time.
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
}


def ray_environment(token: str | None) -> dict[str, str]:
    """Return an environment that carries this token to Ray; None: that knows of none."""
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    found = {name: value for name, value in os.environ.items() if name not in names}
    found |= QUICK | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    return found if token is None else found | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


def session(leader: int) -> list[psutil.Process]:
    """Return the processes of a session that are alive: all that its leader started, Ray's too."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class RayNode:
    """One Ray node, `ray start --block`: to be killed, ended, and started again at will."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, address: str
    ) -> None:
        self.environment, self.address = environment, address
        self._command = [*command, *SMALL]
        self._folders: list[Path] = []
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def token(self) -> str:
        """The cluster's."""
        return self.environment["RAY_AUTH_TOKEN"]

    def start(self) -> None:
        """Start it and wait until it runs; after it was killed, on the same port.

        Each time with a new folder, as a machine that was switched on again: by an old one Ray
        would believe that the head still runs, because other nodes of this machine name it.
        """
        # Ray makes sockets in it, whose paths must be short.
        folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        self._folders.append(folder)
        log = folder / "start.log"
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*self._command, "--temp-dir", str(folder)],
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while STARTED not in log.read_text():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"Ray does not start: {log.read_text()}"
            time.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        """Return what runs on this node: its own processes and its workers."""
        return [] if self.process is None else session(self.process.pid)

    def kill(self) -> None:
        """Kill all its processes at once, as a machine that loses its power does."""
        family = self.processes()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._wait([*family, *self.processes()])  # what was being started ends with its parent

    def end(self) -> None:
        """Send SIGTERM to `ray start`, as whoever takes a machine back does, and wait."""
        family = self.processes()
        if self.process is not None:
            self.process.terminate()
        self._wait(family)

    def _wait(self, family: list[psutil.Process]) -> None:
        if self.process is not None:
            self.process.wait(timeout=400)
        _, alive = psutil.wait_procs(family, timeout=400)
        assert not alive, f"still there: {alive}"
        self.process = None

    def close(self) -> None:
        """Kill what is left of it and remove its folders."""
        self.kill()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running(node: RayNode) -> Iterator[RayNode]:
    """Start a node, and end it with the context."""
    try:
        node.start()
        yield node
    finally:
        node.close()


@contextlib.contextmanager
def ray_head(token: str, *, cpus: int) -> Iterator[RayNode]:
    """Start the head of a cluster; its `address` is where others join."""
    port = free_port()
    command = [*RAY_START, "--head", "--port", str(port), "--num-cpus", str(cpus)]
    command += ["--include-dashboard", "false"]
    with running(RayNode(command, ray_environment(token), address=f"127.0.0.1:{port}")) as node:
        yield node


@contextlib.contextmanager
def ray_node(
    address: str, token: str, *, cpus: int, prefix: Sequence[str] = ()
) -> Iterator[RayNode]:
    """Start a node that joins the cluster at `address`; `prefix` comes before its command.

    prefix: such as ("unshare", "-m", "sh", "-c", 'mount … && exec "$0" "$@"')
    """
    command = [*prefix, *RAY_START, "--address", address, "--num-cpus", str(cpus)]
    command += ["--node-ip-address", f"127.0.0.{next(NODES)}"]
    with running(RayNode(command, ray_environment(token), address=address)) as node:
        yield node


class ClusterSearch(Search):
    """A search that joins a cluster."""

    def __init__(self, folder: Path, images: Path, database: Path, head: RayNode) -> None:
        super().__init__(folder, images, database)
        self.head = head

    def environment(self) -> dict[str, str]:
        """Return the environment of the command, with the cluster's token."""
        rays = {k: v for k, v in self.head.environment.items() if k.startswith("RAY_")}
        return super().environment() | rays

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Type the command in the folder, with the cluster's address."""
        return super().start(*options, "--address", self.head.address)

    def new_node(self) -> contextlib.AbstractContextManager[RayNode]:
        """Give a node with a place for one trial."""
        return ray_node(self.head.address, self.head.token, cpus=1)

    def trials_on(self, node: RayNode) -> set[str]:
        """Return the trials whose process is one of the node's now."""
        pids = {process.pid for process in node.processes()}
        return {name for name, pid in self.owners().items() if pid in pids}


def trials_on(study: Path, node: RayNode) -> set[str]:
    """Return the trials whose process, by their `owner.json`, is one of the node's now."""
    pids = {process.pid for process in node.processes()}
    owners = {path.parent.name: path.read_bytes() for path in study.glob("t*/owner.json")}
    return {name for name, owner in owners.items() if json.loads(owner)["pid"] in pids}


def is_sent(key: str, record: EpochRecord, *, final: bool = False) -> bool:
    """Whether MLflow gets a metric of an epoch: of young epochs no best value.

    final: it is the last one of a trial that has ended for good
    """
    return key in record.metrics and not (record.young and key.startswith("best/") and not final)


def differences(study: Study, uri: str, *, latest_only: bool = False) -> list[str]:
    """Name what differs between a study's directories and MLflow: runs, steps and values.

    latest_only: of several points at a step only the latest counts, which MLflow shows; an epoch
    that was on disk and is trained again leaves the one that it replaces.
    """
    client = MlflowClient(uri)
    numbers = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(numbers, f"tags.study_id = '{study.info.uuid}'")
    named = [run for run in runs if "trial" in run.data.tags]
    by_name = {run.data.tags["trial"]: run for run in named}
    found = [f"{len(named) - len(by_name)} trials twice"] if len(named) > len(by_name) else []
    found += [f"only in one: {name}" for name in by_name.keys() ^ {t.name for t in study.trials()}]
    for trial in study.trials():
        if trial.name not in by_name:
            continue
        run_id, records, end = by_name[trial.name].info.run_id, trial.records(), trial.end()
        final = records[-1:] if end is not None and end.outcome.counts else []
        for key in {key for record in records for key in record.metrics}:
            wanted = sorted(
                (r.epoch, r.metrics[key]) for r in records if is_sent(key, r, final=r in final)
            )
            history = client.get_metric_history(run_id, key)
            history.sort(key=lambda point: point.timestamp)
            points = [(point.step, point.value) for point in history]
            if sorted(dict(points).items() if latest_only else points) != wanted:
                found.append(f"{trial.name} {key}")
    return found


class Postgres:
    """PostgreSQL on loopback with one database, `mlflow`; stopped and started at will.

    synced: it waits for the disk, as it does outside of tests
    """

    def __init__(self, *, synced: bool = False) -> None:
        self._bin = _postgres_programs()
        self.port = free_port()
        # It refuses to run as root.
        self._user = "postgres" if os.getuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        if self._user:
            shutil.chown(self._folder, self._user)
        self.password = secrets.token_hex(16)
        secret = self._folder / "password"
        secret.write_text(self.password)
        if self._user:
            shutil.chown(secret, self._user)
        auth = ["--auth", "scram-sha-256", "--pwfile", str(secret)]
        self._run("initdb", "--username", "mlflow", *auth, "--no-sync")
        settings = {
            "listen_addresses": "'127.0.0.1'",
            "port": self.port,
            "unix_socket_directories": f"'{self._folder}'",
            "shared_buffers": "16MB",
            "fsync": "on" if synced else "off",
        }
        with (self._folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    def _run(self, program: str, *options: str) -> None:
        command = [str(self._bin / program), "--pgdata", str(self._folder / "data"), *options]
        with (self._folder / "run.log").open("ab") as log:
            done = subprocess.run(
                command,
                check=False,
                user=self._user,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                timeout=START_S,
            )
        assert done.returncode == 0, (self._folder / "run.log").read_text()

    @property
    def uri(self) -> str:
        """The database `mlflow`, as MLflow is told."""
        return f"postgresql+psycopg://mlflow:{self.password}@127.0.0.1:{self.port}/mlflow"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._run("pg_ctl", "start", "--wait", "--log", str(self._folder / "server.log"))

    def create(self) -> None:
        """Make the database."""
        command = [str(self._bin / "createdb"), "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--username", "mlflow", "mlflow"]
        environment = os.environ | {"PGPASSWORD": self.password}
        subprocess.run(command, check=True, env=environment, timeout=START_S)

    def stop(self, *, mode: str = "fast") -> None:
        """Stop it: "fast" ends its connections, "immediate" is a crash."""
        self._run("pg_ctl", "stop", "--wait", "--mode", mode)

    def close(self) -> None:
        """Stop it if it runs, and remove its data."""
        if (self._folder / "data" / "postmaster.pid").exists():
            self.stop(mode="immediate")
        shutil.rmtree(self._folder)


def _postgres_programs() -> Path:
    """Return the folder of PostgreSQL's programs; skip the test where there is none."""
    lacking = lacking_for_postgres()
    if lacking:
        pytest.skip(lacking)
    return _postgres_folders()[-1]


def lacking_for_postgres() -> str:
    """Return what is not installed that MLflow on PostgreSQL needs, "" if all is there."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed, which MLflow needs for PostgreSQL"
    if not _postgres_folders():
        return "PostgreSQL is not installed (Debian: apt install postgresql)"
    return ""


def _postgres_folders() -> list[Path]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # Debian: not on the PATH
    found += [Path(path).resolve() for path in [shutil.which("initdb")] if path]
    return [path.parent for path in found]


@contextlib.contextmanager
def postgres(*, synced: bool = False) -> Iterator[Postgres]:
    """Start PostgreSQL with an empty database, and stop it with the context."""
    server = Postgres(synced=synced)
    try:
        server.start()
        server.create()
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def mlflow_over_http(store: Path | str, folder: Path) -> Iterator[Server]:
    """Start MLflow over a sqlite file or a database's URI; artifacts go through it to `folder`."""
    server = Server(folder, store)
    try:
        server.start()
        yield server
    finally:
        server.stop()
