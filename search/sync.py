"""Send what a study's directories hold and MLflow lacks: `python -m search.sync --study NAME`.

`search.run` does the same while it works; this is for afterwards, when MLflow was away.
"""

from __future__ import annotations

from collections.abc import Sequence

from acgan.command import Parser, command, command_parser, run_command
from search.flags import add_tracking_flag
from search.settings import SearchConfig


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command; return its exit code: 1 when MLflow does not take the data."""
    options = parser().parse_args(argv)
    from search.commands.sync import sync  # noqa: PLC0415 (usage is answered before MLflow comes)

    return run_command(lambda: sync(options), resume="type the same command again")


def parser() -> Parser:
    """Return the parser of the command."""
    made = command_parser("search.sync", __doc__)
    made.bare = "--study"
    made.add_argument("--study", required=True, metavar="NAME", help="name of the study")
    made.add_argument("--storage-path", default="runs", metavar="DIR", help="default: runs")
    add_tracking_flag(made)
    experiment = SearchConfig().experiment
    made.add_argument(
        "--experiment",
        default=experiment,
        metavar="NAME",
        help=f"where a study that is not yet in MLflow goes (default: {experiment})",
    )
    return made


if __name__ == "__main__":
    main()
