"""Optuna's own dashboard of a study: `python -m search.dashboard --study NAME`.

It shows a copy of the study's ledger, which follows the study while a search goes on, and can
change neither: what is typed into the page is refused. Ctrl-C ends it and removes the copy. Needs
the extra `dashboard`.
"""

from __future__ import annotations

from collections.abc import Sequence

from acgan.command import Parser, command, command_parser, run_command
from search.flags import add_study_flags

PORT = 8080


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command until it is interrupted; return its exit code."""
    options = parser().parse_args(argv)
    from search.commands.dashboard import serve  # noqa: PLC0415 (usage is answered before MLflow comes)

    return run_command(lambda: serve(options), resume="type the same command again")


def parser() -> Parser:
    """Return the parser of the command."""
    made = command_parser("search.dashboard", __doc__)
    add_study_flags(made, study="name of the study", run="MLflow run of the study, or of a trial")
    made.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    made.add_argument(
        "--port", type=int, default=PORT, help=f"default: {PORT}; 0: any that is free"
    )
    return made


if __name__ == "__main__":
    main()
