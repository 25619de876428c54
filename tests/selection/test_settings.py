from __future__ import annotations

import pytest

from acgan.config import resolve, validate
from acgan.errors import InputError
from acgan.evaluation.fit import FitConfig
from selection.settings import SelectionConfig


def test_the_published_step_2_is_the_default() -> None:
    config = SelectionConfig()
    assert 3 * config.cnn_images == 20_892
    assert config.fit == FitConfig()


@pytest.mark.parametrize("given", ["3,5,8", [3, 5, 8], ("3", "5", "8")])
def test_rungs_can_be_typed_or_listed(given: object) -> None:
    config = resolve(SelectionConfig, "selection", {}, {"cnn_seeds": given})
    assert config.cnn_seeds == (3, 5, 8)


@pytest.mark.parametrize("rungs", [(), (2, 3), (5, 3), (3, 3)])
def test_rungs_must_grow_from_three(rungs: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"selection.cnn_seeds.*growing numbers from 3"):
        validate(SelectionConfig, "selection", {"cnn_seeds": rungs})


@pytest.mark.parametrize(
    ("key", "value"),
    [("gpus_per_task", "1.5"), ("gpus_per_task", "0.00001"), ("cpus_per_task", "0.00001")],
)
def test_what_cannot_be_set_aside_for_a_task_is_refused(key: str, value: str) -> None:
    with pytest.raises(InputError, match=f"'selection.{key}': must be .*, got {value}"):
        resolve(SelectionConfig, "selection", {}, {key: value})
    assert resolve(SelectionConfig, "selection", {}, {"gpus_per_task": "0.5"}).gpus_per_task == 0.5
