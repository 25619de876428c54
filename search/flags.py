"""The flags of the search's commands. Nothing that takes long to import is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path

from acgan.command import Parser, command_parser
from acgan.config import TrainConfig, add_flags
from acgan.data.source import add_data_flags
from search.settings import SearchConfig

COMMON = {
    *("num_samples", "objective", "sampler", "repeats"),
    *("cpus_per_trial", "gpus_per_trial", "max_concurrent"),
    *("image_size", "width", "batch_size", "epochs"),
}
WEIGHTS_FLAG = "--inception-weights"


def search_parser(module: str, description: str | None) -> Parser:
    """Return a parser of the flags that say what a search is."""
    parser = command_parser(module, description)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML (default: the demo's, or with --data a recipe)",
    )
    add_data_flags(parser, "folder of labelled images, or 'phantom'")
    parser.add_argument(
        "--study", metavar="NAME", help="of the study (default: the configuration file's)"
    )
    parser.add_argument(
        "--storage-path",
        default="runs",
        metavar="DIR",
        help="folder of studies, or s3://BUCKET/FOLDER (default: runs)",
    )
    add_tracking_flag(parser)
    add_ray_flags(parser)
    parser.add_argument(
        "--time-budget",
        type=_duration,
        metavar="TIME",
        help="90s, 30m, 8h or 2d; a bare number is seconds",
    )
    add_flags(parser, SearchConfig, "search", common=COMMON)
    # A trial's seed follows from the search's.
    add_flags(parser, TrainConfig, "training, of all trials", skip={"seed"}, common=COMMON)
    return parser


def _duration(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a time such as 90s, 30m or 8h, got {text!r}")
    return seconds


def add_study_flags(parser: Parser, *, study: str, run: str) -> None:
    """Add the flags by which a study that is there is found, on disk or through MLflow.

    study, run: what `--study` and `--run-id` name
    """
    parser.bare = "--study"
    named = parser.add_mutually_exclusive_group(required=True)
    named.add_argument("--run-id", metavar="ID", help=run)
    named.add_argument("--study", metavar="NAME", help=study)
    parser.add_argument(
        "--storage-path",
        metavar="DIR",
        help="folder of studies, or s3://BUCKET/FOLDER (default: runs, or with --run-id as MLflow "
        "says)",
    )
    add_tracking_flag(parser)


def add_ray_flags(parser: Parser) -> None:
    """Add the flags of a command whose work Ray does."""
    parser.add_argument("--address", help="Ray cluster to join (default: RAY_ADDRESS or none)")
    parser.add_argument("--verbose", action="store_true", help="show what Ray prints")


def add_tracking_flag(parser: Parser) -> None:
    """Add the flag that names MLflow."""
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow: sqlite:///FILE.db or a server (default: MLFLOW_TRACKING_URI, else "
        "./mlflow.db)",
    )
