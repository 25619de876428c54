from __future__ import annotations

import functools
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from acgan.data import phantom
from acgan.evaluation.fit import FitConfig
from benchmarks import selection
from search.study.estimate import STEP_FLOP
from selection.extractors.cnn3 import Cnn3
from tests.kit import tiny_dataset

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("acgan.evaluation.scorer.scorer_fit", lambda images: FitConfig(5e-4, 1, 32))


def test_the_command_measures_every_part_of_a_pick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = selection.Operations(trial=1e15, fit=2e12, generating=1e12, fidelity=1e12)
    monkeypatch.setattr(selection, "operations", lambda: counted)
    monkeypatch.setattr(phantom, "make", functools.cache(phantom.make))
    page = tmp_path / "page.md"
    page.write_text("<!-- selection -->\n<!-- /selection -->\n")
    sizes = {
        "--trials": 2,
        "--epochs": 3,
        "--image-size": 16,
        "--width": 1 / 16,
        "--batch-size": 16,
        "--cnn-images": 16,
        "--fidelity-images": 32,
        "--rounds": 1,
    }
    words = [word for name, value in sizes.items() for word in (name, str(value))]
    assert selection.main([*words, "--out", str(page)]) == 0
    rows = [line.strip("| ").split(" | ") for line in page.read_text().splitlines()]
    counts = {row[0]: int(row[2]) for row in rows if len(row) == 5 and row[2].isdigit()}
    assert min(counts.values()) > 0, counts
    candidates = int(re.findall(r"(\d+) candidates", page.read_text())[0])
    assert counts["1: filter"] == sizes["--trials"]
    assert counts["2: CNN of generated images"] == 3 * candidates
    assert counts["2: CNN of real images"] == 3
    assert 1 <= counts["3: fidelity"] <= candidates
    seconds = {row[0]: float(row[3].replace(",", "")) for row in rows if row[0] in counts}
    assert min(seconds.values()) > 0, seconds
    assert seconds["2: – generating them"] < seconds["2: CNN of generated images"]


def test_a_profile_tells_who_called() -> None:
    profile = selection.Profile()
    assert profile.run(_outer) == 3
    assert (profile.calls(_inner), profile.calls(_outer), profile.calls(_own_cache)) == (3, 1, 0)
    assert profile.of(_own_cache) == 0
    assert 0 < profile.of(_inner) <= profile.of(_outer) <= profile.seconds
    assert profile.of(_inner, outside=_outer) == pytest.approx(0, abs=1e-6)


def _inner() -> int:
    time.sleep(0.001)
    return 1


def _outer() -> int:
    return _inner() + _inner() + _inner()


def test_features_are_computed_alone_on_the_same_batches() -> None:
    extractor = Cnn3(tiny_dataset(), torch.device("cpu"))
    images = np.random.default_rng(0).integers(0, 256, (70, 3, 16, 16), np.uint8)
    networks, batches = selection.networks(extractor, torch.from_numpy(images))
    assert [len(batch) for batch in batches] == [64, 6]
    with torch.inference_mode():
        alone = torch.cat([networks[0](batch) for batch in batches])
    (view, *_) = extractor.extract(images)
    torch.testing.assert_close(alone[:, -3:].double(), view.logits)
    found = selection.features(extractor, images, rounds=1)
    assert (found.extractor, len(networks)) == ("cnn3", 3)


def test_operations_at_full_size_are_those_of_the_published_step() -> None:
    found = selection.operations()
    steps = selection.FULL.epochs * 460
    assert found.trial / steps == pytest.approx(STEP_FLOP, rel=0.02)
    assert found.generating < found.fit < found.trial / 100
    assert found.pick < 0.01 * found.search
