"""Train a trial again from what its study recorded, and compare the two epoch by epoch.

    python -m search.reproduce --run-id ID               # the MLflow run of a trial
    python -m search.reproduce --study NAME --trial t0003

The new run stands in a folder of its own; the study's folder is only read. On the machine and with
the versions that the trial was trained with, all numbers and weights must be equal (on a CPU; a
GPU adds up in an order that is not always the same). Elsewhere a tolerance decides, and it is said
what differs. Exit code 0: the same, 1: different. The same command again goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from acgan.command import Parser, as_typed, command, command_parser, run_command
from acgan.data.source import add_data_flags
from search.flags import add_study_flags

TOLERANCE = 0.1


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command; return its exit code."""
    arguments = parser().parse_args(argv)
    again = as_typed("search.reproduce", argv)
    from search.commands.reproduce import reproduce  # noqa: PLC0415 (usage is answered before PyTorch comes)

    return run_command(lambda: reproduce(arguments), resume=f"type: {again}")


def parser() -> Parser:
    """Return the parser of the command."""
    made = command_parser("search.reproduce", __doc__)
    add_study_flags(made, study="name of a study, with --trial", run="MLflow run of a trial")
    made.add_argument("--trial", metavar="NAME", help="name of a trial of --study, as t0003")
    made.add_argument("--epochs", type=int, metavar="N", help="the first N epochs only")
    made.add_argument("--out", metavar="DIR", help="default: reproduced/STUDY-TRIAL")
    add_data_flags(made, "folder of the study's images (default: where they were)")
    made.add_argument("--device", help="cpu, cuda, cuda:1 (default: as the trial's)")
    made.add_argument("--threads", type=int, metavar="N", help="default: as the trial's")
    made.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="SHARE",
        help="on another machine: largest difference of a metric, as a share of its size over "
        f"the trial's epochs (default: {TOLERANCE})",
    )
    return made


if __name__ == "__main__":
    main()
