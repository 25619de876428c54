"""The doctor as it is typed: real Ray nodes, one of which sees other folders, and a real MLflow."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from acgan.data.source import DataSource
from acgan.files import write_json
from search import doctor, run
from search.plan import SearchRequest, load_images, read_asked, study_info
from tests.clusters import ray_environment, ray_head, ray_node
from tests.kit import ROOT
from tests.mlflow_server import Server
from tests.searches import CONFIG, write_images
from tests.studies import write_study

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]
TOKEN = "5ec2e7" * 6
NOBODY = "127.0.0.1:9"  # where nothing listens
COMMAND = [sys.executable, "-m", "search.doctor"]


def environment(home: Path, token: str | None) -> dict[str, str]:
    """Return an environment without the caches, tokens and addresses of whoever runs the tests."""
    names = ("MLFLOW_TRACKING_URI", "TORCH_HOME", "XDG_CACHE_HOME")
    found = {name: text for name, text in ray_environment(token).items() if name not in names}
    return found | {"HOME": str(home), "ACGAN_CACHE": str(home / "c"), "PYTHONPATH": str(ROOT)}


def typed(
    folder: Path, *options: str, token: str | None = None, prefix: Sequence[str] = ()
) -> tuple[int, str]:
    """Type the command in a folder; return its exit code and what it printed."""
    folder.mkdir(exist_ok=True)
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [*prefix, *COMMAND, *options],
        cwd=folder,
        env=environment(home, token),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout


def lines(output: str, level: str) -> list[str]:
    """Return the findings of a level, without it."""
    start = f"{level:<9}"
    return [line.removeprefix(start) for line in output.splitlines() if line.startswith(start)]


def mounting(commands: str) -> list[str]:
    """Return what makes a command see these mounts alone; skip the test where none can be made."""
    prefix = ["unshare", "--mount", "sh", "-c", f'{commands} && exec "$0" "$@"']
    try:
        allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode
    except FileNotFoundError:
        pytest.skip("there is no unshare to give a process mounts of its own")
    if allowed != 0:
        pytest.skip("mounting is not allowed here")
    return prefix


@pytest.fixture(autouse=True)
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration, images, and weights that the configuration expects."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    (folder / "weights.pth").write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    section = f"selection: {{inception_sha256: {sha256}}}\n"
    (folder / "tiny.yaml").write_text(CONFIG + section)
    write_images(folder / "images")
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


def named(inputs: Path) -> list[str]:
    return ["--config", str(inputs / "tiny.yaml"), "--data", str(inputs / "images")]


def test_of_the_phantom_no_report_of_a_folder_is_promised(
    inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for data in ("phantom", str(inputs / "images")):
        words = ["--config", str(inputs / "tiny.yaml"), "--data", data, "--colour", "rgb"]
        assert doctor.main([*words, "--epochs", "1", "--address", NOBODY]) == 1
    warned = lines(capsys.readouterr().out, "warning")
    about = [line for line in warned if line.startswith("data: ")]
    assert [line for line in about if "rgb has no effect" in line]
    told = {line.rpartition("acgan.covidx ")[2].split()[0] for line in about if "covidx" in line}
    assert told == {str(inputs / "images")}


def test_alone_without_gpu_weights_and_token_the_search_can_start(tmp_path: Path) -> None:
    code, output = typed(tmp_path / "empty", "--num-samples", "4", "--time-budget", "1s")
    assert code == 0, output
    assert lines(output, "error") == []
    warned = {line.partition(":")[0] for line in lines(output, "warning")}
    gpu = set() if os.path.exists("/dev/nvidia0") else {"devices"}
    assert warned == {"Inception weights", "token", "time"} | gpu
    found = {line.partition(":")[0].partition(" (")[0] for line in lines(output, "ok")}
    assert found >= {
        *("configuration", "data", "study", "disk", "MLflow", "cluster", "storage", "versions"),
    }
    last = output.splitlines()[-1]
    assert "the search can start; type: " in last
    assert last.endswith("-m search.run --num-samples 4 --time-budget 1s")
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Two nodes; for the second, what lies in `masked` is another, empty folder."""
    (tmp_path / "masked").mkdir()
    prefix = mounting(f"mount -t tmpfs none {shlex.quote(str(tmp_path / 'masked'))}")
    with (
        ray_head(TOKEN, cpus=1) as head,
        ray_node(head.address, TOKEN, cpus=1, prefix=prefix),
    ):
        yield head.address


def test_a_cluster_is_checked_node_by_node(
    tmp_path: Path, inputs: Path, cluster: str, server: Server
) -> None:
    server.start()
    options = [*named(inputs), "--address", cluster, "--tracking-uri", server.uri]
    weights = ["--inception-weights", str(inputs / "weights.pth")]
    shared = ["--storage-path", str(tmp_path / "shared" / "runs"), "--num-samples", "2"]
    code, output = typed(tmp_path / "here", *options, *weights, *shared, token=TOKEN)
    assert code == 0, output
    assert lines(output, "error") == []
    fine = "\n".join(lines(output, "ok"))
    assert f"cluster: 2 nodes at {cluster}" in fine
    assert f"storage: {tmp_path}/shared/runs can be written, the same from 2 nodes" in fine
    assert "data: every node has the same images" in fine
    assert "Inception weights: every node has the same file" in fine
    assert f"MLflow: {server.uri} answers" in fine
    assert output.count("room for 1 trial at once") == 2
    assert "--inception-weights" not in output.splitlines()[-1]
    assert not (tmp_path / "shared").exists()

    masked = tmp_path / "masked"
    shutil.copytree(inputs / "images", masked / "images")
    shutil.copy(inputs / "weights.pth", masked)
    options[3] = str(masked / "images")
    weights[1] = str(masked / "weights.pth")
    shared[1] = str(masked / "runs")
    code, output = typed(tmp_path / "here", *options, *weights, *shared, token=TOKEN)
    assert code == 1, output
    errors = lines(output, "error")
    assert [line.partition(":")[0] for line in errors] == ["storage", "data", "Inception weights"]
    assert "sees another folder there, or none; mount the one folder there" in errors[0]
    nodes = [line.partition(":")[0] for line in lines(output, "ok") if line.startswith("node ")]
    blamed = [[node for node in nodes if node in line] for line in errors]
    assert blamed[0] == blamed[1] == blamed[2]
    assert len(blamed[0]) == 1
    assert TOKEN not in output
    assert {path.name for path in masked.iterdir()} == {"images", "weights.pth"}


def test_whatever_is_wrong_is_said_at_once_and_without_secrets(
    tmp_path: Path, inputs: Path
) -> None:
    fixed = tmp_path / "fixed"
    fixed.mkdir()
    folder = shlex.quote(str(fixed))
    prefix = mounting(f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}")
    options = [*named(inputs), "--address", NOBODY, "--storage-path", str(fixed / "runs")]
    options += ["--tracking-uri", f"sqlite:///{fixed}/mlflow.db", "--inception-weights", "nowhere"]
    code, output = typed(tmp_path / "here", *options, token=TOKEN, prefix=prefix)
    assert code == 1, output
    errors = lines(output, "error")
    assert [line.partition(":")[0] for line in errors] == [
        *("MLflow", "Inception weights", "cluster", "storage"),
    ]
    assert "cannot be made or written; name another with --tracking-uri" in errors[0]
    assert "cannot read the Inception weights" in errors[1]
    assert f"nobody listens at {NOBODY}" in errors[2]
    assert "Read-only file system" in errors[3]
    assert "devices and time: not checked without" in output
    assert output.splitlines()[-1].startswith("4 errors, ")
    assert TOKEN not in output


def test_what_depends_on_a_check_that_failed_says_so(
    inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (inputs / "wrong.yaml").write_text("train: {epoch: 3}")
    uri = "http://me:pa55w0rd@127.0.0.1:9"
    options = ["--config", str(inputs / "wrong.yaml"), "--address", NOBODY, "--tracking-uri", uri]
    assert doctor.main(options) == 1
    output = capsys.readouterr().out
    errors = {line.partition(":")[0] for line in lines(output, "error")}
    assert {"configuration", "MLflow"} <= errors
    skipped = [line for line in lines(output, "warning") if "not checked without" in line]
    assert {line.partition(":")[0] for line in skipped} >= {
        *("data", "study", "disk", "storage", "nodes", "devices and time"),
    }
    assert "me:***@127.0.0.1:9" in output
    assert "pa55w0rd" not in output


@pytest.mark.parametrize(
    ("options", "what", "message"),
    [
        (["--data", "nowhere"], "data", "nowhere"),
        (["--storage-path", "s3://me:it@bucket"], "study", "must be a plain address"),
        (["--study", "../other"], "study", "must be a plain name"),
        (["--num-samples", "1000000000"], "disk", "ask for fewer trials"),
        (["--tracking-uri", "./mlruns"], "MLflow", "sqlite:///"),
        (["--address", "here:0:99999"], "cluster", "nobody listens at here:0:99999"),
    ],
)
def test_each_error_stands_in_its_own_line(
    inputs: Path,
    options: list[str],
    what: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a token of a cluster")
    assert doctor.main([*named(inputs), "--address", NOBODY, *options]) == 1
    (found,) = [
        line
        for line in lines(capsys.readouterr().out, "error")
        if line.startswith(f"{what}: ") and NOBODY not in line
    ]
    assert message in found


def test_a_study_that_is_there_is_compared_and_its_ended_trials_are_counted(
    inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(Path("runs/tiny").absolute(), trials=2, epochs=1)
    options = [*named(inputs), "--address", NOBODY, "--num-samples", "5", "--repeats", "1"]
    assert doctor.main(options) == 1
    output = capsys.readouterr().out
    (error,) = [line for line in lines(output, "error") if line.startswith("study: ")]
    assert "exists with another configuration" in error
    assert "storage: " in "".join(lines(output, "ok"))
    assert "7 trials" in next(line for line in lines(output, "ok") if line.startswith("disk: "))

    asked = read_asked(SearchRequest.of(doctor.parser().parse_args(options)))
    data = load_images(asked, DataSource(folder=str(inputs / "images")))
    write_json(study.path / "study.json", study_info("tiny", asked, data))
    doctor.main(options)
    found = lines(capsys.readouterr().out, "ok")
    assert f"study: {study.path} goes on: 2 of 5 trials have ended" in found
    assert "5 trials" in next(line for line in found if line.startswith("disk: "))


def test_its_flags_are_the_searchs_and_one_more() -> None:
    own = set(doctor.parser()._option_string_actions)
    assert own - set(run.parser()._option_string_actions) == {"--inception-weights"}
    assert set(run.parser()._option_string_actions) - own == {"--dry-run"}


def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        doctor.main(["--num-sample", "3"])
    assert end.value.code == 2
    said = "unrecognized arguments: --num-sample 3; did you mean --num-samples?"
    assert capsys.readouterr().err == f"error: {said} All flags: python -m search.doctor --help\n"
