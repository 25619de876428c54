"""Sending a study to MLflow after its search: what `search.sync` does."""

import argparse
import contextlib
import sys

from acgan.config import validate
from acgan.errors import InputError
from acgan.files import exclusive
from search.settings import SearchConfig
from search.study.folder import open_study, study_path
from search.study.lock import driver_at_work, held_here
from search.study.store.lease import leased
from search.study.store.study_copy import StudyCopy
from search.tracking import connection, uris
from search.tracking.mirror import study_links, sync_study


def sync(options: argparse.Namespace) -> int:
    """Send what is missing; return the exit code: 1 when MLflow does not take it."""
    study = open_study(study_path(options.storage_path, options.study))
    uri = uris.resolve_uri(options.tracking_uri)
    experiment = validate(SearchConfig, "search", {"experiment": options.experiment}).experiment
    driving, own = driver_at_work(study.path), StudyCopy.of(study.path)
    if driving and own is not None and not held_here(study.path):
        raise InputError(
            f"{study.place} is being searched on another machine, which sends it to MLflow: type "
            "this command there, or again after its end"
        )
    if driving:
        with exclusive(study.path / "mlflow.lock") as locked:
            if not locked:
                raise InputError(
                    f"{study.path} is being searched, on a file system without locks: the search "
                    "and this command could each make the same runs; type it again after its end"
                )
    # Two machines that send a study at once could each make the same run.
    alone = contextlib.nullcontext() if own is None else leased(own.store.address, "mlflow")
    try:
        with alone:
            report = sync_study(study, uri=uri, experiment=experiment, driving=driving)
        pages = study_links(study, uri)
    except InputError:
        raise
    except Exception as error:  # of any library: S3's, a database's driver
        print(f"error: {connection.not_taken(uri, error)}", file=sys.stderr)
        print("when it does, type the same command again", file=sys.stderr)
        return 1
    for warning in sorted(report.warnings):
        print(f"warning: {warning}", file=sys.stderr)
    for problem in sorted(report.problems):
        print(f"not sent: {problem}", file=sys.stderr)
    print(
        f"study {study.info.name}: sent {report.runs} new runs, {report.epochs} epochs and "
        f"{report.images} sample images; all else was there"
    )
    print(f"to look at it: {uris.next_step(uri, *pages)}")
    return 1 if report.problems else 0
