"""Send what a study's directories hold and MLflow lacks: `python -m search.sync --study NAME`.

`search.run` does the same while it works; this is for afterwards, when MLflow was away.
"""

import argparse
import sys
from collections.abc import Sequence

from acgan.command import command, command_parser, run_command
from acgan.config import validate
from acgan.errors import InputError
from acgan.files import exclusive
from search.settings import SearchConfig
from search.study.folder import open_study, study_path
from search.study.lock import driver_at_work
from search.tracking import connection
from search.tracking.recorder import sync_study


@command
def main(arguments: Sequence[str] | None) -> int:
    """Run the command; return its exit code: 1 when MLflow does not take the data."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _sync(options), resume="type the same command again")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("search.sync", __doc__)
    parser.add_argument("--study", required=True, metavar="NAME", help="name of the study")
    parser.add_argument("--storage-path", default="runs", metavar="DIR", help="default: runs")
    connection.add_uri_option(parser)
    experiment = SearchConfig().experiment
    parser.add_argument(
        "--experiment",
        default=experiment,
        metavar="NAME",
        help=f"where a study that is not yet in MLflow goes (default: {experiment})",
    )
    return parser


def _sync(options: argparse.Namespace) -> int:
    study = open_study(study_path(options.storage_path, options.study))
    uri = connection.resolve_uri(options.tracking_uri)
    experiment = validate(SearchConfig, "search", {"experiment": options.experiment}).experiment
    driving = driver_at_work(study.path)
    if driving:
        with exclusive(study.path / "mlflow.lock") as locked:
            if not locked:
                raise InputError(
                    f"{study.path} is being searched, on a file system without locks: the search "
                    "and this command could each make the same runs; type it again after its end"
                )
    try:
        report = sync_study(study, uri=uri, experiment=experiment, driving=driving)
    except InputError:
        raise
    except Exception as error:  # of any library: S3's, a database's driver
        print(f"error: {connection.not_taken(uri, error)}", file=sys.stderr)
        print("when it does, type the same command again", file=sys.stderr)
        return 1
    for problem in sorted(report.problems):
        print(f"not sent: {problem}", file=sys.stderr)
    print(
        f"study {study.info.name}: sent {report.runs} new runs, {report.epochs} epochs and "
        f"{report.images} sample images; all else was there"
    )
    print(f"to look at it: {connection.next_step(uri)}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    main()
