"""The `space:` section of a configuration: what a search may vary, around the baseline.

    space:
      learning_rate: {low: 5e-5, high: 8e-4, log: true}   # uniform in its logarithm
      label_smoothing: {low: 0.0, high: 0.3}              # uniform
      latent_size: {low: 50, high: 200, step: 50}         # a grid; whole numbers by its type
      batch_size: {choices: [32, 64]}                     # one of these, without an order

Each name is a field of `TrainConfig`, but none by which trials are compared (`_SHARED`); its
value in the configuration is the baseline: trial 0.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from acgan.config import Section, TrainConfig, nearest_name, shown, validate
from acgan.errors import InputError
from search.settings import Value

_SHARED = {
    "colour": "the packed images and the scoring CNN of all trials are of one kind",
    "networks": "a study compares trials of one kind of networks",
    "numbers": "it changes what is recorded, not what is learned",
    "image_size": "the packed images and the scoring CNN of all trials have one size",
    "epochs": "rungs and grace period count epochs, and a longer trial has more tries at its best",
    "seed": "each trial has its own; --repeats trains with more of them",
    "split_seed": "all trials are compared on the same validation patients",
    "val_fraction": "all trials are compared on the same validation patients",
    "evaluation_seed": "all trials are scored with the same latents and CNN",
    "grace_fraction": "all trials are judged from the same epoch on",
    "grace_updates": "all trials are judged from the same epoch on",
    "samples_every": "it changes what is written, not what is learned",
    "state_every": "it changes what is written, not what is learned",
}


class Range(Section):
    """Numbers from `low` to `high`, both included; with a `step`, only each step from `low`."""

    low: float
    high: float
    log: bool = False
    step: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must lie below high, got {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must lie above 0 where log is true, got {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError(f"log and step cannot both be given, got step {self.step:g}")
        if self.high not in self:
            raise ValueError(
                f"high must lie whole steps above low, got {self.low:g}, {self.high:g} "
                f"and step {self.step:g}"
            )
        return self

    def __contains__(self, value: float) -> bool:
        if not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return math.isfinite(steps) and math.isclose(steps, round(steps), abs_tol=1e-8)

    def extremes(self) -> tuple[Value, ...]:
        """Return the values between which all others lie."""
        return (self.low, self.high)


class Choices(Section):
    """Two or more values without an order between them."""

    choices: tuple[bool | int | float | str, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _different(self) -> Self:
        if len(set(self.choices)) < len(self.choices):
            raise ValueError(f"choices must all differ, got {list(self.choices)}")
        return self

    def __contains__(self, value: Value) -> bool:
        return value in self.choices

    def extremes(self) -> tuple[Value, ...]:
        """Return the values between which all others lie: all of them."""
        return self.choices


Dimension = Range | Choices
Space = Mapping[str, Dimension]


def read(section: Mapping[str, Any] | None, config: TrainConfig) -> Space:
    """Read the `space:` section; every point of the space is a valid `TrainConfig`.

    Raises `InputError` for a field that does not exist or that all trials share, for bounds or
    choices that cannot be used, and for a baseline (`config`) outside of the space.
    """
    space = {name: _dimension(name, entry, config) for name, entry in (section or {}).items()}
    baseline(space, config)
    return space


def _dimension(name: str, entry: object, config: TrainConfig) -> Dimension:
    if name not in TrainConfig.model_fields:
        hint = nearest_name(str(name), TrainConfig.model_fields.keys() - _SHARED.keys())
        raise InputError(f"space: {name!r} is no field of the training configuration{hint}")
    if name in _SHARED:
        raise InputError(f"space: {name!r} cannot be searched: {_SHARED[name]}; remove it")
    if not isinstance(entry, Mapping):
        raise InputError(
            f"space: {name!r} must be {{low: …, high: …}} or {{choices: […]}}, got {shown(entry)}"
        )
    if "choices" not in entry and TrainConfig.model_fields[name].annotation is bool:
        raise InputError(f"space: {name!r} is no number; use {{choices: [false, true]}}")
    if "choices" not in entry:
        dimension = validate(Range, f"space.{name}", entry)
        if is_whole(name) and dimension.step is not None and not dimension.step.is_integer():
            raise InputError(
                f"configuration key 'space.{name}.step': {name} is a whole number, so its step "
                f"must be one, got {dimension.step:g}"
            )
        # As they were given: in a range 0 is 0.0, which a message would show.
        _typed(name, [entry["low"], entry["high"]], config)
        return dimension
    raw = validate(Choices, f"space.{name}", entry)
    return validate(Choices, f"space.{name}", {"choices": _typed(name, raw.choices, config)})


def _typed(name: str, values: Sequence[Value], config: TrainConfig) -> list[Value]:
    """Return what a field makes of values (YAML reads 5e-5 as a text), each alone.

    No rule of `TrainConfig` concerns two fields, so no combination of them is to be tried.
    """
    fields = config.model_dump()
    return [getattr(validate(TrainConfig, "space", fields | {name: v}), name) for v in values]


def is_whole(name: str) -> bool:
    """Whether a field takes whole numbers alone."""
    return TrainConfig.model_fields[name].annotation is int


def baseline(space: Space, config: TrainConfig) -> dict[str, Value]:
    """Return the configuration's own values in the space; `InputError` if one lies outside."""
    values = {name: getattr(config, name) for name in space}
    for name, dimension in space.items():
        if values[name] not in dimension:
            raise InputError(
                f"space: the baseline's {name} {values[name]} lies outside of "
                f"{dump(space)[name]}; widen it, or change {name} in the section 'train'"
            )
    return values


def check_size(space: Space, num_samples: int) -> None:
    """Raise `InputError` if the space has fewer points than trials are asked for.

    No point is trained twice: chance is measured by `--repeats`, which changes the seed alone.
    """
    points = math.prod(_points(name, dimension) for name, dimension in space.items())
    if points < num_samples:
        raise InputError(
            f"the space has {points:g} point{'s' * (points != 1)} but {num_samples} trials are "
            f"asked for; use --num-samples {points:g}, or widen the section 'space'"
        )


def _points(name: str, dimension: Dimension) -> float:
    if isinstance(dimension, Choices):
        return len(dimension.choices)
    step = dimension.step or (1 if is_whole(name) else None)
    return math.inf if step is None else round((dimension.high - dimension.low) / step) + 1


def largest(space: Space, config: TrainConfig, name: str) -> float:
    """Return the largest value that any trial has in a numeric field, searched or not."""
    values = space[name].extremes() if name in space else [getattr(config, name)]
    return max(float(value) for value in values)


def each_precision(space: Space, config: TrainConfig) -> list[TrainConfig]:
    """Return the configuration in each precision that a trial may have, the baseline's first."""
    searched = space["precision"].extremes() if "precision" in space else ()
    values = dict.fromkeys((config.precision, *searched))
    return [validate(TrainConfig, "train", config.model_dump() | {"precision": v}) for v in values]


def dump(space: Space) -> dict[str, Any]:
    """Return the space as plain JSON values: part of a study's identity."""
    return {
        name: dimension.model_dump(mode="json", exclude_defaults=True)
        for name, dimension in space.items()
    }
