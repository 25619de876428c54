"""Search: train many AC-GANs around a baseline, and compare them in MLflow.

`python -m search.run --num-samples 32` trains 32 trials of `configs/demo.yaml`. The same command
again goes on where it was; a larger number adds trials to the same study. Without --config a
recipe takes the place of some defaults in [brackets]: `--dry-run` shows what holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from acgan.command import Parser, as_typed, command, run_command
from search.flags import search_parser


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command; return its exit code."""
    arguments = parser().parse_args(argv)
    again = as_typed("search.run", argv)
    from search.commands.run import search  # noqa: PLC0415 (usage is answered before Ray comes)

    return run_command(lambda: search(arguments, again), resume=f"type: {again}")


def parser() -> Parser:
    """Return the parser of the command."""
    made = search_parser("search.run", __doc__)
    made.add_argument("--dry-run", action="store_true", help="show what would be done, and end")
    return made


if __name__ == "__main__":
    main()
