from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from acgan.config import TrainConfig
from acgan.errors import InputError
from benchmarks.curves import READ_BY_RULES
from benchmarks.replay import unit
from benchmarks.train_curves import Asked, configurations, train_curves
from search.study import space
from tests.searches import write_images

pytestmark = pytest.mark.process

SECTION: dict[str, Any] = {
    "learning_rate": {"low": 5e-5, "high": 8e-4, "log": True},
    "dropout": {"low": 0.1, "high": 0.6},
}
TINY = TrainConfig(
    image_size=16, width=0.0625, batch_size=16, epochs=2, latent_size=8, grace_updates=0
)


def asked(folder: Path, source: str = "phantom", *, count: int = 2, **changes: Any) -> Asked:
    config = TINY.model_copy(update=changes)
    return Asked(source, config, space.read(SECTION, config), folder, count, jobs=1)


def test_configurations_fill_the_space_and_the_first_is_the_baseline(tmp_path: Path) -> None:
    found = configurations(asked(tmp_path, count=17))
    assert found == configurations(asked(tmp_path, count=17))
    assert found[0].params == {"learning_rate": TINY.learning_rate, "dropout": TINY.dropout}
    assert len({info.seed for info in found}) == 17
    points = [unit(space.read(SECTION, TINY), info.params) for info in found[1:]]
    for axis in zip(*points, strict=True):  # 16 points of a Sobol sequence: one in each sixteenth
        assert sorted(int(16 * place) for place in axis) == list(range(16))


def test_all_configurations_are_trained_to_their_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    write_images(tmp_path / "images")
    what, said = asked(tmp_path / "runs", str(tmp_path / "images")), list[str]()
    curves = train_curves(what, said.append)
    assert said[-1].startswith("4 of 4 epochs of 2 configurations")
    assert curves.shared.images == 72
    assert curves.epochs == 2
    assert set(READ_BY_RULES) < curves.curves[0].metrics.keys()
    assert [curve.params for curve in curves.curves] == [i.params for i in configurations(what)]
    assert curves.curves[0].metrics != curves.curves[1].metrics


def test_what_the_data_cannot_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size"):
        train_curves(asked(tmp_path, batch_size=10_000), print)
    with pytest.raises(InputError, match="the first 2 epochs are not judged"):
        train_curves(asked(tmp_path, grace_fraction=1.0), print)
