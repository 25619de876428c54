"""A page on this machine on which a person looks at the finalists of a study and decides.

`python -m selection.review --run-id ID` prints an address to open in a browser. There the images
of each finalist, from the same latents for all, stand beside real validation images of the same
class; which trial they are of, and its numbers, is shown only when it is asked for. All is done
by keys: keep, reject, next, two side by side, a quiz (real or generated?).

What is decided is written into the study and into MLflow at once, under the reviewer's name, and
the next `python -m selection.pick` honours it: rejected candidates are out, and of the ties of
step 2 that pass the check for copies, kept ones go first. Ctrl-C ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from acgan.command import Parser, as_typed, command, command_parser, run_command
from selection.flags import add_request_flags

PORT = 8777
MOST_FINALISTS = 8


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command; return its exit code: 1 where MLflow could not be told."""
    arguments = parser().parse_args(argv)
    again = as_typed("selection.review", argv)
    from selection.commands.review import review  # noqa: PLC0415 (usage is answered before PyTorch comes)

    return run_command(lambda: review(arguments, again), resume=f"type: {again}")


def parser() -> Parser:
    """Return the parser of the command."""
    made = command_parser("selection.review", __doc__)
    add_request_flags(made)
    made.add_argument(
        "--reviewer",
        metavar="NAME",
        help="who looks (default: the login name); it is written into the study and its reports, "
        "and sent to MLflow, whose users see it: take another name if that is not wanted",
    )
    made.add_argument(
        "--finalists",
        type=int,
        default=MOST_FINALISTS,
        metavar="N",
        help=f"most candidates to look at, besides the baseline (default: {MOST_FINALISTS})",
    )
    made.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    made.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on, by which browsers know this machine (default: 127.0.0.1, "
        "which only this machine reaches); anybody with the printed address sees real images",
    )
    made.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}; 0: any free one")
    return made


if __name__ == "__main__":
    main()
