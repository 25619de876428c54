from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from acgan.errors import InputError
from acgan.records import EpochRecord
from acgan.rundir import RunDir
from acgan.train import train
from benchmarks import train_runs as module
from benchmarks.train_runs import Run, images, train_runs
from tests.kit import tiny_config
from tests.searches import write_images

EPOCHS = 6


def learned(records: Sequence[EpochRecord]) -> list[dict[str, float]]:
    """Return all metrics but the speed."""
    return [{k: v for k, v in r.metrics.items() if "images_per_s" not in k} for r in records]


def test_interrupted_runs_go_on_to_the_same_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SAY_EVERY_S", 0.1)
    write_images(tmp_path / "images")
    source, config = str(tmp_path / "images"), tiny_config(epochs=EPOCHS, batch_size=16)
    straight = list(train(config, images(source, config.image_size), RunDir(tmp_path / "straight")))
    runs = [Run(tmp_path / "runs" / name, source, config) for name in "ab"]
    runs[0].path.parent.mkdir()

    def interrupt(text: str) -> None:
        assert " of 12 epochs of 2 configurations" in text
        if not text.startswith("0 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_runs(runs, jobs=2, say=interrupt)
    assert 0 < sum(len(run.records()) for run in runs) < 2 * EPOCHS
    said: list[str] = []
    train_runs(runs, jobs=2, say=said.append)
    assert said[-1].startswith("12 of 12 epochs of 2 configurations")
    for run in runs:
        assert learned(run.records()) == learned(straight)


def test_what_a_run_raises_ends_all(tmp_path: Path) -> None:
    run = Run(tmp_path / "a", str(tmp_path / "nowhere"), tiny_config())
    with pytest.raises(InputError, match="nowhere"):
        train_runs([run], jobs=1, say=print)
