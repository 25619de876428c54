"""The files of configs/cluster: whole, without any default password, and the Slurm script run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from search.study.folder import open_study
from tests.clusters import ray_environment, session
from tests.kit import ROOT
from tests.searches import CONFIG, wait_for, write_images

pytestmark = pytest.mark.process

FOLDER = ROOT / "configs" / "cluster"
SECRETS = ("PASSWORD", "SECRET", "TOKEN")
JOB = "4711"

# What Slurm's own do on the nodes of a job, here on this machine: one process for each task.
SRUN = r"""#!/usr/bin/env bash
for option in "$@"; do
    case $option in
    --ntasks=*) count=${option#*=} ;;
    --*) ;;
    *) break ;;
    esac
    shift
done
tasks=()
trap 'kill -TERM "${tasks[@]}"' TERM
for ((i = 0; i < count; i++)); do
    "$@" &
    tasks+=($!)
done
wait
wait
"""
SCONTROL = r"""#!/usr/bin/env bash
case $1 in
show) printf '%s\n' localhost node-2 node-3 ;;
requeue) echo "$2" >>requeued ;;
esac
"""


class Loader(yaml.SafeLoader):
    """Knows Compose's tag for a list that is replaced."""


def replaced(loader: Loader, node: Any) -> list[Any]:
    return loader.construct_sequence(node)


Loader.add_constructor("!override", replaced)


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.load_all((FOLDER / name).read_text(), Loader))


def test_no_service_of_compose_has_a_default_password_or_an_open_port() -> None:
    (compose,) = documents("compose.yaml")
    for service in compose["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        for name, value in service.get("environment", {}).items():
            if any(word in name for word in SECRETS):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name
    nodes = {"head", "worker", "search", "pick"}
    assert all(compose["services"][n]["environment"]["RAY_AUTH_MODE"] == "token" for n in nodes)


def test_with_a_bucket_the_services_of_compose_share_no_folder_but_the_images() -> None:
    (compose,), (change,) = documents("compose.yaml"), documents("compose-bucket.yaml")
    for name in ("head", "worker", "search", "pick"):
        service = change["services"][name]
        (images,) = service["volumes"]
        assert images in compose["services"][name]["volumes"]
        assert images.endswith(":/data:ro")
        assert service["environment"]["AWS_ENDPOINT_URL"].endswith("http://bucket:8333}")
    for name in ("search", "pick"):
        assert "--storage-path ${STORAGE:-/runs}" in compose["services"][name]["command"]
    for name, service in change["services"].items():
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", service["environment"][key]), name


def test_the_rayjob_in_a_bucket_is_the_other_but_for_where_studies_and_images_are() -> None:
    (job,), (_, other) = documents("kuberay-bucket.yaml"), documents("kuberay-rayjob.yaml")
    assert "PersistentVolumeClaim" not in (FOLDER / "kuberay-bucket.yaml").read_text()
    entrypoint = other["spec"]["entrypoint"].replace("/shared/covidx", "/disk/covidx")
    assert job["spec"]["entrypoint"] == entrypoint.replace("/shared/runs", "s3://BUCKET/runs")
    for pod in pods(job):
        (fetch,) = pod.pop("initContainers")
        compile(fetch["command"][-1], "fetch", "exec")
        assert fetch["volumeMounts"] == pod["containers"][0]["volumeMounts"]
        assert pod.pop("serviceAccountName") == "acgan"
        assert pod["volumes"] == [{"name": "disk", "emptyDir": {}}]
    for pod in (*pods(job), *pods(other)):
        del pod["volumes"], pod["containers"][0]["volumeMounts"]
        pod["containers"][0]["env"] = [
            e for e in pod["containers"][0]["env"] if "ACGAN" not in e["name"]
        ]
    job["spec"]["entrypoint"] = other["spec"]["entrypoint"]
    assert job == other


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_rayjob_has_a_token_a_shared_volume_and_no_secret_in_it() -> None:
    claim, job = documents("kuberay-rayjob.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "acgan"}
    for pod in pods(job):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (container,) = pod["containers"]
        assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
        env = {variable["name"]: variable for variable in container["env"]}
        assert "valueFrom" in env["MLFLOW_TRACKING_URI"]
        assert "valueFrom" in env["MLFLOW_TRACKING_PASSWORD"]


def test_the_rayjob_names_the_pinned_version_of_ray() -> None:
    _, job = documents("kuberay-rayjob.yaml")
    version = job["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"ray=={version}\n" in (FOLDER.parents[1] / "constraints.txt").read_text()


@dataclass(frozen=True)
class Job:
    """The Slurm script in a folder that all nodes share."""

    folder: Path
    images: Path

    def start(self, *options: str, env: Mapping[str, str] = {}) -> subprocess.Popen[str]:
        """Start the script as Slurm does, on the first of three nodes."""
        environment = ray_environment(None) | {
            "PATH": f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ACGAN_CACHE": str(self.folder / "cache"),
            "SLURM_JOB_ID": JOB,
            "SLURM_JOB_NODELIST": "localhost,node-[2-3]",
            "SLURM_CPUS_PER_TASK": "1",
            **env,
        }
        command = ["bash", str(FOLDER / "slurm.sh"), "--config", "tiny.yaml"]
        return subprocess.Popen(
            [*command, "--data", str(self.images), *options],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def secrets(self) -> list[Path]:
        """Return the files that hold a token."""
        return list(self.folder.glob(".ray-*/token"))

    def epochs(self) -> int:
        """Return how many epochs are on disk."""
        files = self.folder.glob("runs/tiny/t*/epochs.jsonl")
        return sum(len(file.read_bytes().splitlines()) for file in files)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    (tmp_path / "bin").mkdir()
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(content)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    write_images(tmp_path / "images")
    yield Job(tmp_path, tmp_path / "images")
    shutil.rmtree(f"/tmp/ray-{JOB}", ignore_errors=True)


def test_the_slurm_script_is_one_that_bash_can_read() -> None:
    subprocess.run(["bash", "-n", str(FOLDER / "slurm.sh")], check=True)


def test_a_slurm_job_runs_another_command_of_the_project(job: Job) -> None:
    process = job.start("--num-samples", "3", env={"ACGAN_MODULE": "search.doctor"})
    try:
        output, _ = process.communicate(timeout=1500)
        assert process.returncode == 0, output
        assert "the search can start" in output
    finally:
        for left in session(process.pid):
            left.kill()
        process.wait()


def test_before_its_time_is_up_a_slurm_job_ends_and_continues_when_requeued(job: Job) -> None:
    process = job.start("--num-samples", "3", "--epochs", "8")
    try:
        wait_for(lambda: job.epochs() >= 2 or process.poll() is not None, "two epochs", seconds=400)
        (token,) = job.secrets()
        assert token.stat().st_mode & 0o077 == token.parent.stat().st_mode & 0o077 == 0
        process.send_signal(signal.SIGUSR1)
        output, _ = process.communicate(timeout=1500)
        assert process.returncode == 130, output
        assert "to continue: " in output
        assert (job.folder / "requeued").read_text() == f"{JOB}\n"
        assert job.secrets() == []
        reached = job.epochs()
        assert 2 <= reached < 24

        process = job.start("--num-samples", "3", "--epochs", "8")
        output, _ = process.communicate(timeout=1500)
        assert process.returncode == 0, output
        trials = open_study(job.folder / "runs" / "tiny").trials()
        assert [len(trial.records()) for trial in trials] == [8, 8, 8]
        assert (job.folder / "requeued").read_text() == f"{JOB}\n"
        assert job.secrets() == []
        _, alive = psutil.wait_procs(session(process.pid), timeout=400)
        assert alive == []
    finally:
        for left in session(process.pid):
            left.kill()
        process.wait()
