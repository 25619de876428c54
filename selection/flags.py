"""The flags of the selection's commands. Nothing that takes long to import is imported here."""

from __future__ import annotations

from pathlib import Path

from acgan.command import Parser
from acgan.data.source import add_data_flags
from search.flags import add_study_flags


def add_request_flags(parser: Parser, *, settings: str = "the search's settings") -> None:
    """Add the flags by which a command of selection finds a study, its images and MLflow.

    settings: what holds where no configuration is named
    """
    add_study_flags(
        parser,
        study="name of a study, instead of --run-id",
        run="MLflow run of a study, or of one trial",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"YAML file (default: {settings})"
    )
    add_data_flags(parser, "folder of the study's images (default: where they were)")
