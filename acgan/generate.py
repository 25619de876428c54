"""Folders of generated images, which are data folders themselves.

    python -m acgan.generate --weights FILE --per-class 1000 --out DIR

writes DIR/train/COVID-19-000123.png and so on, DIR/train.txt with a label line per image (of
other classes than COVIDx's: DIR/labels.csv), and DIR/manifest.json, which says how they were made.
Typed again it continues; a larger --per-class, or another class, adds to what is there.

    python -m acgan.generate --weights FILE --balance DATA --out DIR

fills the classes of a data folder up to its largest: DIR holds the generated images alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from acgan.command import Parser, command, command_parser, run_command
from acgan.config import user_path
from acgan.data.source import add_hints
from acgan.data.table import MERGED


@command
def main(argv: Sequence[str] | None) -> int:
    """Write a folder of generated images; return the exit code."""
    options = parser().parse_args(argv)
    from acgan.generation.folder import write_folder  # noqa: PLC0415 (usage is answered before PyTorch comes)
    from acgan.generation.request import FolderRequest  # noqa: PLC0415

    return run_command(
        lambda: write_folder(FolderRequest.of(options), user_path(options.weights)),
        resume="type the same command again",
    )


def parser() -> Parser:
    """Return the parser of the command."""
    made = command_parser("acgan.generate", __doc__)
    made.bare = "--weights"
    made.add_argument(
        "--weights", required=True, metavar="FILE", help="a run's weights/*.safetensors"
    )
    add_options(made)
    return made


def add_options(parser: Parser) -> None:
    """Add the options that every command has which writes generated images."""
    count = parser.add_mutually_exclusive_group(required=True)
    count.add_argument("--per-class", type=int, metavar="N", help="images of each class")
    count.add_argument(
        "--balance",
        metavar="DATA",
        help="as many as the classes of this data folder lack to have the images of the largest",
    )
    add_hints(parser)
    parser.add_argument(
        "--other-data",
        action="store_true",
        help="with --balance: DATA may be other images than the generator was trained on",
    )
    parser.add_argument(
        "--merged-labels",
        action="store_true",
        help=f"with --balance: write DATA's label file with the new lines, too, as {MERGED}",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="new folder, or one to go on with"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="SEED", help="default: 0")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    parser.add_argument(
        "--classes", nargs="+", metavar="CLASS", help="only these (default: all the weights know)"
    )


if __name__ == "__main__":
    main()
