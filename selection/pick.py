"""Selection: from every kept epoch of every trial to one set of weights.

`python -m selection.pick --run-id ID` takes the MLflow run of a study (or of one trial), filters
its epochs, trains CNNs on the images of those that are left, compares the images of those that
the CNNs cannot tell apart, and registers the winner in MLflow, as the champion where nothing
speaks against it. The same command again goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from acgan.command import Parser, as_typed, command, command_parser, run_command
from acgan.config import add_flags
from search.flags import add_ray_flags
from selection import api
from selection.flags import add_request_flags
from selection.settings import SelectionConfig

COMMON = {
    *("per_trial", "max_candidates", "require", "collapsed_below"),
    *("cnn_images", "cnn_epochs", "cnn_seeds", "extractor", "fidelity_images", "memorised_above"),
    *("seed", "cpus_per_task", "gpus_per_task"),
}


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command; return its exit code."""
    arguments = parser().parse_args(argv)
    again = as_typed("selection.pick", argv)
    from selection.commands.pick import pick  # noqa: PLC0415 (usage is answered before Ray comes)

    return run_command(lambda: pick(arguments, again), resume=f"type: {again}")


def parser() -> Parser:
    """Return the parser of the command."""
    made = command_parser("selection.pick", __doc__)
    add_request_flags(made)
    add_ray_flags(made)
    made.add_argument(
        "--inception-weights", type=Path, metavar="FILE", help="torch-fidelity's Inception weights"
    )
    made.add_argument(
        "--test",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look at the test images at the end, once (default: yes)",
    )
    made.add_argument(
        "--promote",
        action="store_true",
        help="make the winner the champion whatever speaks against it, also in a pick made before",
    )
    made.add_argument("--dry-run", action="store_true", help="show what would be done, and end")
    add_flags(made, SelectionConfig, "selection", common=COMMON)
    return made


class _Callable(ModuleType):
    """A module that can be called: imported, it takes the place of the function of its name."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        """Pick, see `selection.api.pick`."""
        return api.pick(*args, **settings)


sys.modules[__name__].__class__ = _Callable


if __name__ == "__main__":
    main()
