"""Write a folder of images of a registered generator, as `acgan.generate` does from a file.

    python -m selection.generate --per-class 1000 --out DIR

`--model` names another alias, or a version: models:/cxr-acgan-generator/3.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from acgan.command import command, command_parser, run_command
from acgan.generate import add_options, write_folder
from search import tracking
from selection.registry import CHAMPION_URI, resolve


@command
def main(arguments: Sequence[str] | None) -> int:
    """Write a folder of generated images; return the exit code."""
    parser = command_parser("selection.generate", __doc__)
    parser.add_argument(
        "--model", default=CHAMPION_URI, metavar="URI", help=f"default: {CHAMPION_URI}"
    )
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="sqlite:///FILE.db or a server (default: MLFLOW_TRACKING_URI, else ./mlflow.db)",
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    return run_command(lambda: _generate(options), resume="type the same command again")


def _generate(options: argparse.Namespace) -> int:
    uri = tracking.resolve_uri(options.tracking_uri)
    tracking.check_there(uri)
    try:
        weights = resolve(tracking.connect(uri), options.model)
    except tracking.FAILURES as error:
        reason = tracking.one_line(error)
        place = tracking.shown(uri)
        print(f"error: cannot get the model from MLflow at {place}: {reason}", file=sys.stderr)
        return 1
    return write_folder(options, weights)


if __name__ == "__main__":
    main()
