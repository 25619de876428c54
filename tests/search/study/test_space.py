from __future__ import annotations

from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from acgan.config import TrainConfig, validate
from acgan.errors import InputError
from search.study import space
from search.study.optuna_ledger import distributions

BASELINE = TrainConfig()

DEFAULT = """
learning_rate: {low: 5e-5, high: 8e-4, log: true}
label_smoothing: {low: 0.0, high: 0.3}
dropout: {low: 0.1, high: 0.6}
"""


def read(text: str, config: TrainConfig = BASELINE) -> space.Space:
    return space.read(yaml.safe_load(text), config)


def test_each_dimension_becomes_the_distribution_of_its_fields_type() -> None:
    assert distributions(read(DEFAULT)) == {
        "learning_rate": FloatDistribution(5e-5, 8e-4, log=True),
        "label_smoothing": FloatDistribution(0.0, 0.3),
        "dropout": FloatDistribution(0.1, 0.6),
    }
    grids = "latent_size: {low: 50, high: 200, step: 50}\nzoom: {low: 0, high: 0.3, step: 0.1}"
    assert distributions(read(grids)) == {
        "latent_size": IntDistribution(50, 200, step=50),
        "zoom": FloatDistribution(0.0, 0.3, step=0.1),
    }
    assert distributions(read("embedding_size: {low: 10, high: 1000, log: true}")) == {
        "embedding_size": IntDistribution(10, 1000, log=True)
    }


def test_choices_have_the_fields_type_however_yaml_reads_them() -> None:
    found = distributions(
        read("batch_size: {choices: [32, '64']}\nlearning_rate: {choices: [1e-4, 2e-4]}")
    )
    assert found == {
        "batch_size": CategoricalDistribution((32, 64)),
        "learning_rate": CategoricalDistribution((1e-4, 2e-4)),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: {low: 1, high: 2}", "did you mean 'learning_rate'"),
        ("1: {low: 1, high: 2}", "1 is no field of the training configuration"),
        ("dropout: {1: 2}", "'space.dropout"),
        ("image_size: {choices: [32, 64]}", "scoring CNN"),
        ("epochs: {low: 16, high: 128}", "count epochs"),
        ("seed: {low: 0, high: 9}", "--repeats"),
        ("split_seed: {low: 0, high: 9}", "same validation patients"),
        ("evaluation_seed: {low: 0, high: 9}", "same latents and CNN"),
        ("dropout: 0.3", "must be {low"),
        ("dropout: {low: 0.1}", "'space.dropout.high': must be given"),
        ("dropout: {low: 0.1, high: 0.6, sep: 0.1}", "did you mean 'step'"),
        ("dropout: {low: a, high: 0.6}", "'space.dropout.low'"),
        ("dropout: {low: 0.6, high: 0.1}", "low must lie below high, got 0.6 and 0.1"),
        ("dropout: {low: 0.5, high: 0.5}", "low must lie below high"),
        ("dropout: {low: 0.1, high: 1.2}", "'space.dropout': must be less than 1, got 1.2"),
        ("dropout: {low: 0.1, high: .inf}", "'space.dropout.high'"),
        ("dropout: {low: 0.0, high: 0.6, log: true}", "low must lie above 0"),
        ("dropout: {low: 0.1, high: 0.6, log: true, step: 0.1}", "log and step"),
        ("dropout: {low: 0.1, high: 0.6, step: 0.2}", "whole steps"),
        ("width: {low: 1.0e+308, high: 1.7e+308, step: 1.0e-300}", "whole steps"),
        ("dropout: {choices: [0.5]}", "'space.dropout.choices'"),
        ("dropout: {choices: [0.5, '0.5']}", "must all differ"),
        ("dropout: {choices: [0.5, 1.5]}", "'space.dropout': must be less than 1"),
        ("dropout: {choices: [0.5, [1]]}", "'space.dropout.choices"),
        ("batch_size: {low: 32.5, high: 64.5}", "must be a whole number, got 32.5"),
        ("batch_size: {low: 0, high: 64}", "must be greater than or equal to 2, got 0"),
        ("batch_size: {low: 32, high: 96, step: 0.5}", "step must be one, got 0.5"),
        ("dropout: {low: 0.1, high: 0.4}", "the baseline's dropout 0.5 lies outside"),
        ("dropout: {low: 0.0, high: 0.6, step: 0.2}", "the baseline's dropout 0.5 lies outside"),
        ("batch_size: {choices: [16, 32]}", "the baseline's batch_size 64 lies outside"),
    ],
)
def test_a_space_that_cannot_be_used_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_baseline_is_the_configurations_own_point() -> None:
    config = TrainConfig(dropout=0.2)
    assert space.baseline(read(DEFAULT, config), config) == {
        "learning_rate": 2e-4,
        "label_smoothing": 0.2,
        "dropout": 0.2,
    }


@pytest.mark.filterwarnings("error")
def test_every_drawn_point_is_a_valid_configuration_that_differs_only_in_the_space() -> None:
    found = read(DEFAULT + "latent_size: {low: 50, high: 200, step: 50}")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        params = study.ask(distributions(found)).params
        config = validate(TrainConfig, "train", BASELINE.model_dump() | params)
        assert config.model_dump() == BASELINE.model_dump() | params
        assert all(params[name] in dimension for name, dimension in found.items())


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("{}", 1),
        ("batch_size: {choices: [32, 64, 128]}", 3),
        ("batch_size: {low: 60, high: 64}", 5),
        ("zoom: {low: 0, high: 0.3, step: 0.1}\nbatch_size: {choices: [32, 64]}", 8),
    ],
)
def test_no_more_trials_are_asked_for_than_the_space_has_points(text: str, points: int) -> None:
    space.check_size(read(text), points)
    with pytest.raises(InputError, match=rf"--num-samples {points}\b"):
        space.check_size(read(text), points + 1)


def test_many_dimensions_of_many_choices_are_checked_one_by_one() -> None:
    names = ("dropout", "beta1", "beta2", "label_smoothing", "zoom", "shear_degrees", "width")
    few = ", ".join(f"0.0{number}" for number in range(1, 10))
    text = "".join(f"{name}: {{choices: [{few}, {getattr(BASELINE, name)}]}}\n" for name in names)
    assert len(read(text)) == 7  # of 10^7 points
    with pytest.raises(InputError, match=r"'space\.width'"):
        read(text.replace("width: {choices: [0.01", "width: {choices: [9.5"))


def test_a_space_of_real_numbers_has_points_enough() -> None:
    space.check_size(read(DEFAULT), 10**9)


def test_the_largest_value_of_a_field_is_the_spaces_or_the_configurations() -> None:
    found = read("batch_size: {choices: [128, 32, 64]}\nlatent_size: {low: 50, high: 200}")
    assert space.largest(found, BASELINE, "batch_size") == 128
    assert space.largest(found, BASELINE, "latent_size") == 200
    assert space.largest(found, BASELINE, "epochs") == BASELINE.epochs


def test_the_dump_is_plain_and_reads_back_as_the_same_space() -> None:
    text = DEFAULT + "batch_size: {choices: [32, 64]}"
    dumped: dict[str, Any] = space.dump(read(text))
    assert dumped["learning_rate"] == {"low": 5e-5, "high": 8e-4, "log": True}
    assert dumped["batch_size"] == {"choices": [32, 64]}
    assert space.read(dumped, BASELINE) == read(text)


def test_a_switch_is_searched_as_a_choice_and_stays_a_switch() -> None:
    searched = read("class_balanced: {choices: [false, true]}")
    assert space.dump(searched) == {"class_balanced": {"choices": [False, True]}}
    assert [type(value) for value in searched["class_balanced"].extremes()] == [bool, bool]
    assert space.baseline(searched, BASELINE) == {"class_balanced": False}
    assert distributions(searched) == {"class_balanced": CategoricalDistribution([False, True])}


def test_a_switch_has_no_range() -> None:
    with pytest.raises(InputError, match=r"'class_balanced' is no number; use \{choices: "):
        read("class_balanced: {low: 0, high: 1}")
