"""Numbers of an epoch that a package adds: from generated and validation images to a float.

A package adds its own by an entry point in the group `acgan_search.numbers`, whose name is what
`train.numbers` says and whose value is a `Number`. Each epoch records it as `val/NAME`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Real
from typing import TYPE_CHECKING, Literal, NamedTuple

from acgan.errors import InputError
from acgan.plugins import NUMBERS, find, installed, load, reason

if TYPE_CHECKING:  # whoever reads a command line needs no arrays
    from collections.abc import Callable
    from importlib.metadata import EntryPoint

    import numpy as np
    from numpy.typing import NDArray

    from acgan.data.dataset import ImageSet

GROUP = "val/"


class Number(NamedTuple):
    """A number of an epoch.

    function: of generated images uint8 [N, H, W] in grey, or [N, 3, H, W] where the validation
        images are in colour; of their labels int64 [N]; and of the validation images. It returns
        a float that follows from these alone, not finite where there is none. All are read-only.
    better: in which direction it improves, which `--objective val/NAME` follows
    """

    function: Callable[[NDArray[np.uint8], NDArray[np.int64], ImageSet], float]
    better: Literal["lower", "higher"] = "lower"


def recorded_name(name: str) -> str:
    """Return how a number is recorded: `val/sharpness` for `sharpness`."""
    return f"{GROUP}{name}"


def find_number(name: str, taken: Collection[str]) -> Number:
    """Return a number by name; `InputError` where no package has it, or its name is taken.

    taken: what every epoch records already
    """
    if recorded_name(name) in taken:
        raise InputError(
            f"{recorded_name(name)} is recorded already; name the entry point of the number "
            f"{name!r} otherwise"
        )
    number = find(NUMBERS, name, Number)
    if number.better not in ("lower", "higher"):
        raise InputError(
            f"the number {name!r} must say better='lower' or 'higher', not {number.better!r}; "
            "mend the package that has it"
        )
    return number


def _by_recorded_name() -> dict[str, EntryPoint]:
    return {recorded_name(name): plugin for name, plugin in installed(NUMBERS).items()}


def how_to_record(metric: str) -> str:
    """Return "; record it with --numbers …" where this is a number that is installed here."""
    plugin = _by_recorded_name().get(metric)
    return "" if plugin is None else f"; record it with --numbers {plugin.name}"


def more_is_better(metric: object) -> bool:
    """Whether this is the recorded name of a number, installed here, of which more is better."""
    names = _by_recorded_name()
    if not isinstance(metric, str) or metric not in names:
        return False
    try:
        return load(names[metric], Number).better == "higher"
    except InputError:  # whoever records it says so
        return False


def compute(
    name: str,
    number: Number,
    generated: NDArray[np.uint8],
    labels: NDArray[np.int64],
    validation: ImageSet,
) -> float:
    """Return a number of images; `InputError` where its function fails or returns no float."""
    for array in (generated, labels):
        array.flags.writeable = False
    try:
        value = number.function(generated, labels, validation)
    except (OSError, MemoryError, InputError):
        raise
    except Exception as error:  # whatever another's code may raise
        raise InputError(
            f"the number {name!r} cannot be computed ({reason(error)}); mend the package that has "
            "it, or leave it out of --numbers"
        ) from error
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(
            f"the number {name!r} must be a float, not a {type(value).__name__}; mend the package "
            "that has it, or leave it out of --numbers"
        )
    return float(value)


def unknown(names: Collection[str]) -> dict[str, float]:
    """Return what is recorded of numbers where no image can be shown."""
    return {recorded_name(name): math.nan for name in names}
