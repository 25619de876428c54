"""Check, before money is spent, all that a search needs: `search.run`'s flags, and no trial starts.

One line a check: ok, warning or error, what was found, and what to do about it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from acgan.command import Parser, command, run_command
from search.flags import WEIGHTS_FLAG, search_parser


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command; return its exit code: 1 where a check found an error."""
    arguments = parser().parse_args(argv)
    words = sys.argv[1:] if argv is None else argv
    from search.commands.doctor import examine  # noqa: PLC0415 (usage is answered before Ray comes)

    return run_command(lambda: examine(arguments, words), resume="type the same command again")


def parser() -> Parser:
    """Return the parser of the command."""
    made = search_parser("search.doctor", __doc__)
    made.add_argument(
        WEIGHTS_FLAG, type=Path, metavar="FILE", help="torch-fidelity's Inception weights"
    )
    return made


if __name__ == "__main__":
    main()
