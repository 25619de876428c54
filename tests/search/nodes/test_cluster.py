"""Search and selection on a cluster of several nodes, with the commands of compose.yaml.

PostgreSQL, MLflow with passwords and with its artifacts behind it, and Ray nodes with a token run
as processes of this machine. One search and one pick across them are shared by the tests.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from acgan.errors import InputError
from search.nodes.cluster import ray_cluster
from search.study.folder import Study, open_study
from selection.registry.versions import CHAMPION, NAME
from selection.steps.result import Pick, read_pick
from tests.clusters import (
    Postgres,
    RayNode,
    differences,
    postgres,
    ray_environment,
    running,
    session,
    trials_on,
)
from tests.compose import Compose
from tests.mlflow_server import ServerCommand, free_port
from tests.picks import SELECTION, write_covidx
from tests.searches import wait_for

pytestmark = pytest.mark.process

EPOCHS = 40  # longer than one node may take to start a worker after the other
CONFIG = {
    "train": {
        "image_size": 16,
        "width": 0.0625,
        "batch_size": 32,
        "epochs": EPOCHS,
        "latent_size": 8,
        "grace_fraction": 0.0,
        "grace_updates": 1,
    },
    "space": {"learning_rate": {"low": 5e-5, "high": 8e-3, "log": True}},
    "search": {"stop_pruned": False, "stop_collapsed": False, "stop_discriminator_won": False},
    "selection": SELECTION | {"per_trial": 1, "max_candidates": 2},
}


@dataclass(frozen=True)
class Place:
    """Where all that the tests share runs."""

    folder: Path
    compose: Compose
    head: RayNode
    workers: tuple[RayNode, RayNode]
    mlflow: str

    @property
    def study(self) -> Study:
        """The study, read afresh."""
        return open_study(self.folder / "runs" / "tiny")

    @property
    def client(self) -> MlflowClient:
        """MLflow's."""
        return MlflowClient(self.mlflow)

    def run_of(self, stage: str) -> Run:
        """Return the one run of a stage of the study."""
        experiment = self.client.get_experiment_by_name("acgan-search")
        assert experiment is not None
        runs = self.client.search_runs([experiment.experiment_id], f"tags.stage = '{stage}'")
        (found,) = runs
        return found

    @contextlib.contextmanager
    def typed(self, command: list[str], **changes: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command as a driver's container does, and end all that it started."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.compose.environment("search") | {"RAY_TMPDIR": "/tmp"} | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            for found in session(process.pid):
                found.kill()
            process.communicate()


def _variables(folder: Path, database: Postgres) -> dict[str, str]:
    """Return what a user sets for compose.yaml."""
    return {
        "POSTGRES_PASSWORD": database.password,
        "MLFLOW_PASSWORD": secrets.token_hex(16),
        "MLFLOW_SECRET_KEY": secrets.token_hex(16),
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "DATA": str(folder / "data"),
        "CONFIG": str(folder / "tiny.yaml"),
        "STUDY": "tiny",
        "NUM_SAMPLES": "2",
        "WORKER_CPUS": "1",
    }


def _places(folder: Path, *, database: int, head: int, mlflow: int) -> dict[str, str]:
    """Return what stands here for the hosts, ports and folders of compose.yaml."""
    hosts = ("mlflow", "localhost", "127.0.0.1")
    return {
        **{f"{host}:5000": f"127.0.0.1:{mlflow}" for host in hosts},
        "0.0.0.0": "127.0.0.1",
        "port 5000": f"port {mlflow}",
        "head:6379": f"127.0.0.1:{head}",
        "port 6379": f"port {head}",
        "postgres:5432": f"127.0.0.1:{database}",
        "/etc/mlflow-auth.ini": str(folder / "auth.ini"),
        "/mlartifacts": str(folder / "artifacts"),
        "/runs": str(folder / "runs"),
        "/data": str(folder / "data"),
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("Flask-WTF is not installed, which MLflow needs for passwords")
    folder = tmp_path_factory.mktemp("place")
    write_covidx(folder / "data")
    (folder / "runs").mkdir()
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("ACGAN_CACHE", str(folder / "cache"))
        database = stack.enter_context(postgres())
        head, mlflow = free_port(), free_port()
        places = _places(folder, database=database.port, head=head, mlflow=mlflow)
        compose = Compose(_variables(folder, database), places)
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            patch.setenv(name, compose.environment("search")[name])
        (folder / "auth.ini").write_text(compose.config("mlflow-auth"))
        command, environment = compose.command("mlflow"), compose.environment("mlflow")
        server = ServerCommand(folder, mlflow, command, environment)
        stack.callback(server.stop)
        server.start()
        nodes = [
            stack.enter_context(running(_node(compose, name, f"127.0.0.1:{head}")))
            for name in ("head", "worker", "worker")
        ]
        yield Place(folder, compose, nodes[0], (nodes[1], nodes[2]), server.uri)


def _node(compose: Compose, service: str, address: str) -> RayNode:
    return RayNode(compose.command(service), compose.environment(service), address=address)


@dataclass(frozen=True)
class Searched:
    """How the search ended, and which trials were seen on each of the two workers."""

    place: Place
    code: int
    output: str
    seen: tuple[set[str], set[str]]


@pytest.fixture(scope="module")
def searched(place: Place) -> Searched:
    study = place.folder / "runs" / "tiny"
    seen: tuple[set[str], set[str]] = (set(), set())

    def both_have_worked() -> bool:
        for trials, worker in zip(seen, place.workers, strict=True):
            trials.update(trials_on(study, worker))
        return all(seen) or process.poll() is not None

    with place.typed(place.compose.command("search")) as process:
        wait_for(both_have_worked, "a trial on each worker", seconds=400)
        output, _ = process.communicate(timeout=1500)
        return Searched(place, process.returncode, output, seen)


@dataclass(frozen=True)
class Picked:
    """What the pick printed, and what it left."""

    place: Place
    output: str
    pick: Pick
    folder: Path


@pytest.fixture(scope="module")
def picked(searched: Searched) -> Picked:
    place = searched.place
    assert searched.code == 0, searched.output
    with place.typed(place.compose.command("pick")) as process:
        output, _ = process.communicate(timeout=1500)
    assert process.returncode == 0, output
    (file,) = place.study.path.glob("selection/*/pick.json")
    found = read_pick(file)
    assert found is not None
    return Picked(place, output, found, file.parent)


@pytest.fixture(scope="module")
def promoted(picked: Picked) -> Picked:
    """The same pick, found by the study's run and made the champion whatever it is worth."""
    place = picked.place
    command = [sys.executable, "-m", "selection.pick", "--address", place.head.address, "--promote"]
    command += ["--run-id", place.run_of("search").info.run_id, "--tracking-uri", place.mlflow]
    with place.typed(command, MLFLOW_TRACKING_URI="") as process:
        output, _ = process.communicate(timeout=1500)
    assert process.returncode == 0, output
    assert f"pick {picked.pick.id} is there already" in output
    return picked


def test_trials_run_on_both_nodes(searched: Searched) -> None:
    assert searched.code == 0, searched.output
    first, second = searched.seen
    assert first
    assert second
    assert not first & second


def test_mlflow_has_over_http_all_values_of_the_directories(searched: Searched) -> None:
    study = searched.place.study
    assert [trial.name for trial in study.trials()] == ["t0000", "t0001"]
    assert [len(trial.records()) for trial in study.trials()] == [EPOCHS] * 2
    assert differences(study, searched.place.mlflow) == []


def test_every_sample_grid_comes_back_through_the_server(
    searched: Searched, tmp_path: Path
) -> None:
    client, study = searched.place.client, searched.place.study
    condition = f"tags.study_id = '{study.info.uuid}' and tags.trial LIKE 't%'"
    experiment = searched.place.run_of("search").info.experiment_id
    for run in client.search_runs([experiment], condition):
        trial = study.trial(run.data.tags["trial"])
        (tmp_path / trial.name).mkdir()
        here = str(tmp_path / trial.name)
        folder = Path(client.download_artifacts(run.info.run_id, "images", here))
        there = {int(path.name.split("+")[2]): path for path in folder.glob("*.png")}
        grids = {0: "samples/epoch-0000.png"}  # the untrained generator's
        grids |= {record.epoch: record.samples or "" for record in trial.records()}
        assert sorted(there) == sorted(grids)
        for epoch, name in grids.items():
            sent, kept = Image.open(there[epoch]), Image.open(trial.path / name)
            np.testing.assert_array_equal(np.asarray(sent), np.asarray(kept))


def test_the_picks_report_comes_back_and_its_winner_is_the_champion(
    promoted: Picked, tmp_path: Path
) -> None:
    picked = promoted
    client = picked.place.client
    run = picked.place.run_of("selection")
    folder = Path(client.download_artifacts(run.info.run_id, "selection", str(tmp_path)))
    sent = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sent == {path.name: path.read_bytes() for path in picked.folder.iterdir()}
    version = client.get_model_version_by_alias(NAME, CHAMPION)
    assert version.tags["weights_sha256"] == picked.pick.winner.weights


def test_the_champion_generates_images_wherever_the_server_is_seen(
    promoted: Picked, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "selection.generate", "--tracking-uri", promoted.place.mlflow]
    command += ["--per-class", "2", "--out", str(tmp_path / "generated")]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "generated").rglob("*.png"))) == 6


def test_a_ray_client_without_the_clusters_token_is_refused(place: Place) -> None:
    program = f"import ray; ray.init(address={place.head.address!r})"
    command = [sys.executable, "-c", program]
    clients = [
        subprocess.Popen(
            command, env=ray_environment(token), stderr=subprocess.PIPE, text=True, cwd=place.folder
        )
        for token in (None, secrets.token_hex(16), place.head.token)
    ]
    errors = [client.communicate(timeout=1500)[1] for client in clients]
    assert [client.returncode for client in clients] == [1, 1, 0], errors
    assert all("Failed to connect to Ray cluster" in error for error in errors[:2])


def test_a_search_without_the_clusters_token_says_what_to_do(place: Place) -> None:
    command = [sys.executable, "-m", "search.run", "--config", "tiny.yaml", "--study", "refused"]
    command += ["--data", str(place.folder / "data"), "--storage-path", str(place.folder / "runs")]
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    with place.typed([*command, "--address", place.head.address], **environment) as process:
        output, _ = process.communicate(timeout=1500)
    assert process.returncode == 2, output
    assert "give this command the same RAY_AUTH_TOKEN as 'ray start' had there" in output


def test_mlflow_refuses_who_has_no_password(place: Place) -> None:
    request = f"{place.mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name=acgan-search"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=400)


def test_a_node_whose_folder_is_not_the_shared_one_ends_the_search_with_a_sentence(
    place: Place,
) -> None:
    apart = ["unshare", "--mount", "sh", "-c"]
    if subprocess.run([*apart, "mount -t tmpfs none /mnt"], check=False).returncode:
        pytest.skip("mounting in a namespace of one's own is not allowed here")
    mount = f'mount -t tmpfs none {place.folder / "runs"} && exec "$0" "$@"'
    command = [*apart, mount, *place.compose.command("worker")]
    # Only this node has two CPUs.
    command[command.index("--num-cpus") + 1] = "2"
    search = place.compose.command("search")
    search[-1] = search[-1].replace("--study tiny", "--study apart --cpus-per-trial 2")
    environment = place.compose.environment("worker")
    with (
        running(RayNode(command, environment, address=place.head.address)),
        place.typed(search) as process,
    ):
        output, _ = process.communicate(timeout=1500)
    assert process.returncode == 2, output
    assert "does not see the study's folder" in output


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://head:10001", r"is that of Ray Client, .* for example head:6379"),
        ("http://u:pw@head:8265/", r"is that of Ray's dashboard, .* for example head:6379"),
        ("https://[::1]:8265", r"is that of Ray's dashboard, .* for example \[::1\]:6379"),
        ("ray://", r"is that of Ray Client, .* for example HEAD:6379"),
        ("head", r"has another form, .* for example head:6379"),
    ],
)
def test_an_address_for_another_use_of_ray_says_which_one_is_for_this(
    address: str, said: str
) -> None:
    with pytest.raises(InputError, match=said), ray_cluster(address):
        pytest.fail("it is no head's")


def test_a_folder_that_the_user_named_too_long_for_sockets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("l" * 60)))
    with pytest.raises(InputError, match="in RAY_TMPDIR, for example /tmp"), ray_cluster(None):
        pytest.fail("its sockets have no room")


ALONE = """
import os
from pathlib import Path
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from search.nodes.cluster import ray_cluster
with ray_cluster(None) as nodes:
    print([node.cpus for node in nodes], len(list(Path(os.environ["TMPDIR"]).iterdir())))
"""


def test_ray_of_this_machine_has_own_cores_alone_and_room_for_its_sockets(tmp_path: Path) -> None:
    folder = tmp_path / ("l" * 60)
    folder.mkdir()
    environment = ray_environment(None) | {"TMPDIR": str(folder)}
    environment.pop("RAY_TMPDIR", None)
    done = subprocess.run(
        [sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[1.0] 0\n"), done.stderr


def test_sigterm_while_ray_starts_interrupts_as_ctrl_c_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(**_: object) -> None:  # Ray takes the signal over before it has started
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("ray.init", init)
    try:
        with pytest.raises(KeyboardInterrupt), ray_cluster(None):
            pytest.fail("Ray has not started")
    finally:
        signal.signal(signal.SIGTERM, before)
