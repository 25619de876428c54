"""Write a folder of images of a registered generator, as `acgan.generate` does from a file.

    python -m selection.generate --per-class 1000 --out DIR
    python -m selection.generate --balance DATA --agree 0.5 --not-near 0.05 --out DIR

`--model` names another alias, or a version: models:/cxr-acgan-generator/3. The second one fills
the classes of a data folder up to its largest with images that pass filters; DIR/filters.json says
what was left out and what that cost in diversity.
"""

from __future__ import annotations

from collections.abc import Sequence

from acgan.command import Parser, command, command_parser, run_command
from acgan.generate import add_options
from search.flags import add_tracking_flag

MAX_DRAWS = 20


@command
def main(argv: Sequence[str] | None) -> int:
    """Write a folder of generated images; return the exit code."""
    options = parser().parse_args(argv)
    from selection.commands.generate import generate  # noqa: PLC0415 (usage is answered before PyTorch comes)

    return run_command(lambda: generate(options), resume="type the same command again")


def parser() -> Parser:
    """Return the parser of the command."""
    made = command_parser("selection.generate", __doc__)
    made.bare = "--out"
    named = made.add_mutually_exclusive_group()
    named.add_argument("--model", metavar="URI", help="default: the registered champion")
    add_tracking_flag(made)
    named.add_argument("--weights", metavar="FILE", help="a weights file, instead of --model")
    add_options(made)
    _add_filters(made)
    return made


def _add_filters(parser: Parser) -> None:
    group = parser.add_argument_group("filters, with --balance")
    group.add_argument(
        "--agree",
        type=float,
        metavar="P",
        help="keep images that a CNN trained on DATA's real images takes for their class, with at "
        "least this probability (0: any)",
    )
    group.add_argument(
        "--not-near",
        type=float,
        metavar="SHARE",
        help="leave out images nearer to a training image of DATA than all but this share of the "
        "held-out patients' images are (0.05: as the memorisation check)",
    )
    group.add_argument(
        "--max-draws",
        type=int,
        default=MAX_DRAWS,
        metavar="N",
        help=f"give up after so many draws for each wanted image (default: {MAX_DRAWS})",
    )


if __name__ == "__main__":
    main()
