"""What a browser and a plain REST client find in MLflow of a study."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from acgan.run.records import QUALITY
from search.study.folder import Outcome, Study
from search.tracking import connection, uris
from search.tracking.mirror import Mirror, sync_study
from search.tracking.view import links
from tests import studies
from tests.browser import browser
from tests.mlflow_server import Server

pytestmark = pytest.mark.browser

pytest_plugins = ["tests.mlflow_stores"]


@dataclass(frozen=True)
class Served:
    """A study that was sent to a server, and the server's REST API."""

    study: Study
    uri: str
    experiment_id: str

    def get(self, endpoint: str, **query: str) -> dict[str, Any]:
        """Return the answer to a GET request."""
        address = f"{self.uri}/api/2.0/mlflow/{endpoint}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=400) as answer:
            content: dict[str, Any] = json.load(answer)
        return content

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs of the experiment."""
        body = json.dumps({"experiment_ids": [self.experiment_id]}).encode()
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/runs/search",
            data=body,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=400) as answer:
            runs: list[dict[str, Any]] = json.load(answer)["runs"]
        return runs


@pytest.fixture(scope="module")
def served(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    study = studies.write_study(folder / "runs" / "lungs", trials=3, epochs=4)
    pruned = studies.write_trial(study, 3)
    studies.write_epochs(pruned, [1, 2])
    studies.write_end(pruned, Outcome.PRUNED, "behind 67 % of the trials at epoch 2")
    server = Server(folder, Path(shutil.copy(migrated_database, folder / "mlflow.db")))
    try:
        server.start()
        sync_study(study, uri=server.uri, experiment="chests", driving=False)
        experiment = connection.connect(server.uri).get_experiment_by_name("chests")
        assert experiment is not None
        yield Served(study, server.uri, experiment.experiment_id)
    finally:
        server.stop()


def test_over_rest_every_trial_has_its_metrics_and_samples_at_the_same_steps(
    served: Served,
) -> None:
    trials = {trial.name: trial for trial in served.study.trials()}
    children = {
        tag["value"]: run
        for run in served.runs()
        for tag in run["data"]["tags"]
        if tag["key"] == "trial"
    }
    assert children.keys() == trials.keys()
    for name, trial in trials.items():
        run_id = children[name]["info"]["run_id"]
        steps = [record.epoch for record in trial.records()]
        for key in studies.KEYS:
            history = served.get("metrics/get-history", run_id=run_id, metric_key=key)["metrics"]
            assert [point["step"] for point in history] == steps
        files = served.get("artifacts/list", run_id=run_id, path="images")["files"]
        grids = [file["path"] for file in files if file["path"].endswith(".png")]
        assert all(path.startswith("images/samples+step+") for path in grids)
        assert sorted(int(path.split("+")[2]) for path in grids) == steps


class _Text(HTMLParser):
    """Collects the pieces of text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def handle_data(self, data: str) -> None:
        self.pieces.append(data.strip())


def test_in_a_browser_the_page_that_is_linked_shows_all_trials_the_best_first(
    served: Served, tmp_path: Path
) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={tmp_path}", "--dump-dom"]
    command += ["--virtual-time-budget=60000"]
    mirror = Mirror(served.study, uri=served.uri, experiment="chests")
    mirror.update(driving=False)
    page = uris.next_step(served.uri, mirror.study_links[0])
    assert page.startswith(f"{served.uri}/#/experiments/{served.experiment_id}/runs?")
    result = subprocess.run(
        [*command, page], capture_output=True, text=True, timeout=400, check=True
    )
    text = _Text()
    text.feed(result.stdout)
    shown = [piece for piece in text.pieces if piece.startswith("lungs/t")]
    values = {
        trial.name: trial.records()[-1].metrics["best/fd_cnn"] for trial in served.study.trials()
    }
    order = sorted(values, key=lambda name: values[name])
    names = [f"lungs/{name}{' (baseline)' * (name == 't0000')}" for name in order]
    assert list(dict.fromkeys(shown)) == names


def test_in_a_browser_the_linked_page_has_score_outcome_and_parameters_then_curves_and_images(
    served: Served, tmp_path: Path
) -> None:
    table, charts = links(served.study.info.uuid, served.experiment_id)
    with browser(tmp_path) as page:
        page.open(f"{served.uri}{table}", width=1900)
        page.shows("pruned")
        shown = page.text()
        assert all(word in shown for word in ("best/fd_cnn", "outcome", "train.learning_rate"))
        page.open("about:blank")
        page.open(f"{served.uri}{charts}", width=1900, height=1600)
        names = [QUALITY, "val/g_loss", "val/acc_generated"]
        wanted = ["curves", *names, "images", "Image grid"]
        for text in wanted:
            page.shows(text)
        lines = page.text().splitlines()
        places = [lines.index(text) for text in wanted]
        assert places == sorted(places)


def test_in_a_browser_the_note_of_a_study_leads_to_its_trials(
    served: Served, tmp_path: Path
) -> None:
    (run,) = (r for r in served.runs() if r["info"]["run_name"] == "lungs")
    with browser(tmp_path) as page:
        page.open(f"{served.uri}/#/experiments/{served.experiment_id}/runs/{run['info']['run_id']}")
        page.shows("4 trials of the study lungs have ended")
        find = "[...document.querySelectorAll('a')].find(a => a.innerText == 'the trials in order')"
        page.value(f"{find}.removeAttribute('target'), {find}.click()")
        page.shows("lungs/t0003")
        assert "viewStateShareKey" in page.value("location.href")
