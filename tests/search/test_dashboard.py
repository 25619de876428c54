"""The dashboard shows a copy that follows the study, changes neither, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acgan.config import TrainConfig
from search.study import space
from search.study.folder import Outcome, Study
from search.study.optuna_ledger import Ledger
from search.tracking.mirror import sync_study
from tests import studies
from tests.searches import wait_for
from tests.studies import by_distance

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]


def ledger_of(study: Study) -> Ledger:
    train = TrainConfig.model_validate(study.info.train)
    dimensions = space.read(study.info.space, train)
    start = space.baseline(dimensions, train)
    return Ledger(study.ledger_path, dimensions, start=start, config=by_distance())


def add_trials(study: Study, values: list[float]) -> None:
    ledger = ledger_of(study)
    for value in values:
        row = ledger.propose()
        ledger.tell(row.number, Outcome.FINISHED, value=value)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = studies.write_study(tmp_path / "runs" / "lungs", trials=1, epochs=1)
    add_trials(study, [3.0, 1.5, 2.0])
    return study


class Dashboard:
    """The command as a user types it, in a folder of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "search.dashboard", *options, "--port", "0"],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", first)
        assert found, first + self.process.stdout.read()
        self.address = found[0]

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=400) as answer:
            return json.load(answer)

    def study_id(self) -> int:
        (summary,) = self.get("api/studies")["study_summaries"]
        return int(summary["study_id"])

    def trials(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(f"api/studies/{self.study_id()}")["trials"]
        return found

    def end(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=1500)
        return self.process.returncode, output


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dashboard, Study]]:
    """A dashboard and its study, for tests that only look."""
    folder = tmp_path_factory.mktemp("served")
    study = studies.write_study(folder / "runs" / "lungs")
    add_trials(study, [3.0, 1.5, 2.0])
    started = Dashboard(folder, "--study", "lungs")
    try:
        yield started, study
    finally:
        assert started.end(signal.SIGTERM)[0] == 0


def test_over_http_it_has_the_trials_and_new_ones_soon(served: tuple[Dashboard, Study]) -> None:
    dashboard, study = served
    (summary,) = dashboard.get("api/studies")["study_summaries"]
    assert summary["study_name"] == "lungs"
    detail = dashboard.get(f"api/studies/{dashboard.study_id()}")
    assert detail["objective_names"] == ["val/fd_cnn"]
    assert [trial["values"] for trial in dashboard.trials()] == [[3.0], [1.5], [2.0]]
    names = {p["name"] for p in dashboard.trials()[0]["params"]}
    assert names == {"learning_rate"}
    add_trials(study, [0.25])
    wait_for(lambda: len(dashboard.trials()) == 4, "the new trial")
    wait_for(lambda: dashboard.trials()[3].get("values") == [0.25], "its value")


def test_ctrl_c_ends_it_and_removes_the_copy(study: Study, tmp_path: Path) -> None:
    dashboard = Dashboard(tmp_path, "--study", study.info.name)
    before = study.ledger_path.read_bytes()
    dashboard.trials()
    assert len(list(dashboard.temporary.rglob("optuna.jsonl"))) == 1
    code, output = dashboard.end(signal.SIGINT)
    assert (code, output.splitlines()[-1]) == (0, "ended; the copy is removed")
    assert list(dashboard.temporary.iterdir()) == []
    assert study.ledger_path.read_bytes() == before
    assert {path.name for path in study.path.iterdir()} >= {"optuna.jsonl", "study.json"}
    assert not list(study.path.glob("optuna.jsonl.*"))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "api/studies/{study}", b""),
        ("POST", "api/studies", b'{"study_name": "x", "directions": ["minimize"]}'),
        ("POST", "api/studies/{study}/rename", b'{"study_name": "x"}'),
        ("PUT", "api/studies/{study}/0/note", b'{"version": 1, "body": "mine"}'),
    ],
)
def test_nothing_can_be_changed(
    served: tuple[Dashboard, Study], method: str, path: str, body: bytes
) -> None:
    dashboard, study = served
    (copy,) = dashboard.temporary.rglob("optuna.jsonl")
    before, ledger = copy.read_bytes(), study.ledger_path.read_bytes()
    request = urllib.request.Request(
        dashboard.address + path.format(study=dashboard.study_id()),
        data=body,
        method=method,
        headers={"Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError, match="405") as refused:
        urllib.request.urlopen(request, timeout=400)
    refused.value.close()
    assert (copy.read_bytes(), study.ledger_path.read_bytes()) == (before, ledger)


def test_in_a_browser_the_page_shows_the_study(
    served: tuple[Dashboard, Study], tmp_path: Path
) -> None:
    dashboard, _ = served
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'browser'}"]
    page = f"{dashboard.address}dashboard/studies/{dashboard.study_id()}/trials"
    result = subprocess.run(
        [*command, "--virtual-time-budget=60000", "--dump-dom", page],
        capture_output=True,
        text=True,
        timeout=400,
        check=True,
    )
    assert "lungs" in result.stdout
    assert {f"Trial {number}" for number in range(3)} <= set(
        re.findall(r"Trial \d+", result.stdout)
    )
    assert "learning_rate" in result.stdout


def test_it_is_found_by_the_run_of_a_trial(study: Study, tmp_path: Path, uri: str) -> None:
    from search.tracking import connection, find

    sync_study(study, uri=uri, experiment="chests", driving=False)
    client = connection.connect(uri)
    (child,) = find.find_runs(client, "tags.trial = 't0000'")
    started = Dashboard(tmp_path, "--run-id", child.info.run_id, "--tracking-uri", uri)
    try:
        assert len(started.trials()) == 3
    finally:
        assert started.end(signal.SIGINT)[0] == 0


def test_a_torn_last_line_is_not_copied_until_it_is_whole(study: Study, tmp_path: Path) -> None:
    from search.commands.dashboard import LedgerCopy

    def lines_of(path: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_bytes().splitlines()]

    first, *rest = lines_of(study.ledger_path)
    whole = [first | {"study_name": "lungs"}, *rest]
    with study.ledger_path.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    copy = LedgerCopy(study, tmp_path / "copy.jsonl")
    copy.update()
    assert lines_of(copy.path) == whole
    add_trials(study, [9.0])  # which cuts the torn line first
    copy.update()
    copy.update()
    assert lines_of(copy.path) == [whole[0], *lines_of(study.ledger_path)[1:]]


def test_another_study_in_the_same_place_is_not_mixed_in(study: Study, tmp_path: Path) -> None:
    from search.commands.dashboard import LedgerCopy

    copy = LedgerCopy(study, tmp_path / "copy.jsonl")
    copy.update()
    before = copy.path.read_bytes()
    study.ledger_path.unlink()
    add_trials(study, [float(number) for number in range(9)])
    assert len(study.ledger_path.read_bytes()) > len(before)
    copy.update()
    assert copy.path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--study", "nothing"], "there is no study at"),
        (["--study", "../x"], "must be a plain name"),
        (["--study", "empty"], "has no trials yet; search first"),
        (["--study", "begun"], "has no trials yet; search first"),
        (["--study", "lungs", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        (["--study", "lungs", "--port", "70000"], "cannot listen on"),
        (["--study", "lungs", "--host", "é.."], "cannot listen on"),
        (["--run-id", "x", "--tracking-uri", "sqlite:///none.db"], "there is no MLflow database"),
    ],
)
def test_wrong_input_is_one_sentence(
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    sentence: str,
) -> None:
    from search.dashboard import main

    studies.write_study(tmp_path / "runs" / "empty")
    begun = studies.write_study(tmp_path / "runs" / "begun")
    begun.ledger_path.write_text('{"op_code": 0, "study_na')
    monkeypatch.chdir(tmp_path)
    assert main(options) == 2
    assert sentence in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from search.dashboard import main

    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["--study", study.info.name, "--port", port]) == 2
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in capsys.readouterr().err


def test_without_the_extra_one_sentence_says_what_to_type(study: Study, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['optuna_dashboard'] = None\n"
        "from search.dashboard import main; sys.exit(main(['--study', 'lungs']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'optuna-dashboard>=0.20,<1'" in done.stderr
