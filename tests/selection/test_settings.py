from __future__ import annotations

import math

import pytest

from acgan.config import resolve, validate
from acgan.errors import InputError
from acgan.evaluation.fit import FitConfig
from selection.settings import Requirement, SelectionConfig


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


@pytest.mark.parametrize(
    "given",
    [
        "val/recall>0.1,val/x<=2",
        ["val/x <= 2", "val/recall >0.10"],
        ["val/recall>1e-1", "val/x<=2.0,val/recall > 0.1"],
    ],
)
def test_what_is_required_of_a_number_has_one_form(given: object) -> None:
    config = resolve(SelectionConfig, "selection", {}, {"require": given})
    assert config.require == ("val/recall > 0.1", "val/x <= 2")
    assert config.required == [("val/recall", ">", 0.1), ("val/x", "<=", 2.0)]
    again = validate(SelectionConfig, "selection", config.model_dump(mode="json"))
    assert again == config


@pytest.mark.parametrize(
    "text", ["val/recall", ">0.1", "val/x=1", "val/x>", "val/x>y", "val/x>nan"]
)
def test_what_is_no_requirement_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"'selection.require': must be numbers with a bound"):
        resolve(SelectionConfig, "selection", {"require": text}, {})


@pytest.mark.parametrize(
    ("sign", "held"), [("<", [1.0]), ("<=", [1.0, 2.0]), (">", [3.0]), (">=", [2.0, 3.0])]
)
def test_a_requirement_holds_by_its_sign_and_never_of_what_is_not_finite(
    sign: str, held: list[float]
) -> None:
    required = Requirement("x", sign, 2.0)
    values = [1.0, 2.0, 3.0, math.nan, math.inf, -math.inf]
    assert [value for value in values if required.holds(value)] == held
