from __future__ import annotations

import pytest

from acgan.command import command_parser
from acgan.config import add_flags, resolve, validate
from acgan.errors import InputError
from acgan.run.records import QUALITY, RANKING, Ranking
from search.settings import PLACEMENT, STOPPING_RULES, SearchConfig, identity


def test_the_defaults_maximize_coverage_with_tpe_and_all_rules_on() -> None:
    config = SearchConfig()
    assert (config.ranking, config.direction, config.sampler) == (RANKING, "maximize", "tpe")
    on = {rule for rule in STOPPING_RULES if getattr(config, rule)}
    assert on == {"stop_pruned", "stop_diverged", "stop_collapsed", "stop_discriminator_won"}


@pytest.mark.parametrize(
    ("objective", "sign"),
    [
        (QUALITY, 1),
        ("val/intra_fd_cnn", 1),
        ("val/g_loss", 1),
        ("val/coverage", -1),
        ("val/recall", -1),
        ("val/diversity", -1),
        ("val/acc_class_balanced", -1),
    ],
)
def test_an_objective_improves_in_its_own_direction_unless_told_otherwise(
    objective: str, sign: int
) -> None:
    assert SearchConfig(objective=objective).ranking == Ranking(objective, sign)
    other = "minimize" if sign == -1 else "maximize"
    assert SearchConfig(objective=objective, direction=other).ranking == Ranking(objective, -sign)


def test_each_rule_is_off_by_a_flag() -> None:
    parser = command_parser("some.command", None)
    add_flags(parser, SearchConfig, "search")
    flags = vars(parser.parse_args(["--no-stop-collapsed", "--num-samples", "4"]))
    config = resolve(SearchConfig, "search", {"num_samples": 9}, flags)
    assert config == SearchConfig(stop_collapsed=False, num_samples=4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sampler", "grid"),
        ("direction", "up"),
        ("num_samples", 0),
        ("reduction_factor", 1),
        ("cpus_per_trial", 0),
        ("cpus_per_trial", 0.00001),
        ("gpus_per_trial", -1),
        ("gpus_per_trial", 1.5),
        ("gpus_per_trial", 0.00001),
        ("experiment", "postgres://u:pw@h/db"),
        ("max_concurrent", 0),
        ("won_above", 0),
        ("experiment", ""),
    ],
)
def test_a_bad_value_is_refused(key: str, value: object) -> None:
    with pytest.raises(InputError, match=f"configuration key 'search.{key}': .*, got {value!r}"):
        resolve(SearchConfig, "search", {key: value}, {})


@pytest.mark.parametrize("value", [0, 0.0001, 0.25, 1 / 3, 1, 2, 8.0])
def test_parts_of_one_gpu_and_whole_ones_can_be_set_aside(value: float) -> None:
    flags = {"gpus_per_trial": str(value)}
    assert resolve(SearchConfig, "search", {}, flags).gpus_per_trial == value


@pytest.mark.parametrize("value", [0.0001, 0.5, 1.5, 4])
def test_cores_can_be_set_aside_in_any_parts(value: float) -> None:
    assert SearchConfig(cpus_per_trial=value).cpus_per_trial == value


def test_where_and_how_long_trials_run_is_not_part_of_a_studys_identity() -> None:
    assert set(SearchConfig.model_fields) >= PLACEMENT
    here = SearchConfig()
    there = SearchConfig(
        num_samples=400,
        repeats=3,
        cpus_per_trial=8,
        gpus_per_trial=0.25,
        max_concurrent=2,
        max_retries=0,
        experiment="other",
    )
    assert identity(here) == identity(there)


@pytest.mark.parametrize("name", sorted(set(SearchConfig.model_fields) - PLACEMENT))
def test_every_other_setting_is_part_of_it(name: str) -> None:
    words = {"direction": "minimize", "sampler": "gp", "objective": "val/g_loss"}
    default = SearchConfig.model_fields[name].default
    if isinstance(default, bool):
        other: object = not default
    elif isinstance(default, int):
        other = default + 1
    else:
        other = words[name] if name in words else default / 2
    changed = validate(SearchConfig, "search", {name: other})
    assert identity(changed) != identity(SearchConfig())
