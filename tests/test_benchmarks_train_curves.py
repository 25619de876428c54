from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from acgan.config import TrainConfig
from acgan.errors import InputError
from acgan.records import read_records
from benchmarks import train_curves as module
from benchmarks.replay import unit
from benchmarks.train_curves import Asked, configurations, train_curves
from search import space
from tests.searches import write_images

SECTION: dict[str, Any] = {
    "learning_rate": {"low": 5e-5, "high": 8e-4, "log": True},
    "dropout": {"low": 0.1, "high": 0.6},
}
TINY = TrainConfig(image_size=16, width=0.0625, batch_size=16, epochs=8, latent_size=8)


def asked(folder: Path, source: str = "phantom", count: int = 2, jobs: int = 2) -> Asked:
    return Asked(source, TINY, space.read(SECTION, TINY), folder, count, jobs)


def test_configurations_fill_the_space_and_the_first_is_the_baseline(tmp_path: Path) -> None:
    found = configurations(asked(tmp_path, count=17))
    assert found == configurations(asked(tmp_path, count=17))
    assert found[0].params == {"learning_rate": TINY.learning_rate, "dropout": TINY.dropout}
    assert len({info.seed for info in found}) == 17
    points = [unit(space.read(SECTION, TINY), info.params) for info in found[1:]]
    for axis in zip(*points, strict=True):  # 16 points of a Sobol sequence: one in each sixteenth
        assert sorted(int(16 * place) for place in axis) == list(range(16))


def test_an_interrupted_training_goes_on_to_the_same_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SAY_EVERY_S", 0.2)
    write_images(tmp_path / "images")
    source, said = str(tmp_path / "images"), list[str]()
    straight = train_curves(asked(tmp_path / "straight", source), said.append)
    assert said[-1].startswith("16 of 16 epochs of 2 configurations")
    assert [len(records) for records in straight.records] == [8] * 2
    assert straight.shared.images == 72

    def interrupt(text: str) -> None:
        if " of 16 epochs" in text and not text.startswith("0 "):
            raise KeyboardInterrupt

    folder = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        train_curves(asked(folder, source, jobs=1), interrupt)
    there = sum(len(read_records(path)) for path in folder.glob("*/epochs.jsonl"))
    assert 0 < there < 16
    assert train_curves(asked(folder, source, jobs=1), said.append).curves == straight.curves


def test_what_the_data_cannot_serve_is_refused(tmp_path: Path) -> None:
    large = TrainConfig(image_size=16, batch_size=10_000)
    searched = space.read(SECTION, large)
    with pytest.raises(InputError, match="batch_size"):
        train_curves(Asked("phantom", large, searched, tmp_path, 1, jobs=1), print)
