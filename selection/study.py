"""Does it help? A CNN trained with generated images beside real ones, against what is usual.

`python -m selection.study --run-id ID --data DIR` takes the generator that was picked in the MLflow
run of a study (or of one trial) and trains the published CNN on real images only, with
undersampling, class weights, classical oversampling with augmentation, GAN oversampling, and both;
and with growing numbers of generated images. Whether it helps is said with `--test` only: on
validation images, on which the generator was picked, every number is optimistic. The same command
again goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from acgan.command import Parser, as_typed, command, command_parser, run_command
from acgan.config import add_flags
from search.flags import add_ray_flags
from selection.flags import add_request_flags
from selection.settings import STUDY_SETTINGS, SelectionConfig


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command; return its exit code."""
    arguments = parser().parse_args(argv)
    again = as_typed("selection.study", argv)
    from selection.commands.study import study  # noqa: PLC0415 (usage is answered before Ray comes)

    return run_command(lambda: study(arguments, again), resume=f"type: {again}")


def parser() -> Parser:
    """Return the parser of the command."""
    made = command_parser("selection.study", __doc__)
    add_request_flags(made, settings="the pick's settings")
    made.add_argument(
        "--pick", metavar="ID", help="which pick's generator (default: the latest of the run)"
    )
    made.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="CNNs of each arm (default: 5)"
    )
    made.add_argument(
        "--amounts",
        default="0.5,2,4",
        metavar="A,B",
        help="of generated images, besides 1: up to 1 a share of what evens the classes out, each "
        "1 more adds to every class as many as the largest has (default: 0.5,2,4)",
    )
    made.add_argument(
        "--updates",
        type=int,
        metavar="N",
        help="of each CNN (default: --cnn-epochs passes over as many images as make all classes "
        "as large as the largest, at least 500)",
    )
    made.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="CLASS=FRACTION",
        help="give the CNNs only this part of a class's training images, by patient; may be given "
        "several times",
    )
    made.add_argument(
        "--test",
        action="store_true",
        help="score on the test images, on the record, and say whether it helps",
    )
    add_ray_flags(made)
    made.add_argument("--dry-run", action="store_true", help="show what would be done, and end")
    skipped = SelectionConfig.model_fields.keys() - STUDY_SETTINGS
    add_flags(made, SelectionConfig, "classifier and placement", skip=skipped)
    return made


if __name__ == "__main__":
    main()
