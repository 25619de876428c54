"""Train one AC-GAN alone, without a search, or go on training it.

`python -m acgan.train --config configs/demo.yaml`; see `acgan.training`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from acgan.command import Parser, command, command_parser, run_command
from acgan.config import TrainConfig, add_flags
from acgan.data.source import add_data_flags

COMMON = {"image_size", "width", "batch_size", "epochs", "learning_rate", "dropout", "seed"}


@command
def main(argv: Sequence[str] | None) -> int:
    """Run the command; return its exit code."""
    arguments = parser().parse_args(argv)
    from acgan.training import TrainRequest, train_command  # noqa: PLC0415 (usage is answered before PyTorch comes)

    request = TrainRequest.of(arguments)
    return run_command(lambda: train_command(request), resume="type the same command again")


def parser() -> Parser:
    """Return the parser of the command."""
    made = command_parser("acgan.train", __doc__)
    made.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file (default: the published baseline)"
    )
    add_data_flags(made, "folder of labelled images, or 'phantom'")
    made.add_argument(
        "--run", metavar="DIR", help="the run's folder (default: runs/<config>-single)"
    )
    made.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    add_flags(made, TrainConfig, "training", common=COMMON)
    return made


if __name__ == "__main__":
    main()
