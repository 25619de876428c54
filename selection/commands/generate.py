"""A folder of a registered generator's images: what `selection.generate` does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from acgan.config import user_path
from acgan.errors import InputError
from acgan.generation.folder import (
    SCREENED,
    check_options,
    find_lack,
    manifest,
    require_free,
    write_folder,
    write_images,
)
from acgan.generation.generator import NotFiniteError, load_generator
from acgan.run.device import named_device
from search.tracking import connection
from selection.commands.screening import (
    Filters,
    Request,
    Thresholds,
    chosen_before,
    screening_lines,
)
from selection.registry.versions import CHAMPION_URI, resolve_version


def generate(options: argparse.Namespace) -> int:
    """Write the folder; return the exit code."""
    check_options(options)
    thresholds = _thresholds(options)
    if options.weights is not None:
        weights: Path | None = user_path(options.weights)
    else:
        weights = _registered(options)
    if weights is None:
        return 1
    if thresholds == Thresholds():
        return write_folder(options, weights)
    return _write_filtered(options, weights, thresholds)


def _thresholds(options: argparse.Namespace) -> Thresholds:
    """Return what images must pass; `InputError` for what cannot be asked."""
    asked = options.agree is not None or options.not_near is not None
    if asked and options.balance is None:
        raise InputError("--agree and --not-near need --balance DATA, whose images they compare to")
    if options.agree is not None and not 0 <= options.agree < 1:
        raise InputError(f"--agree must be a probability from 0 to below 1, got {options.agree}")
    if options.not_near is not None and not 0 < options.not_near < 1:
        raise InputError(f"--not-near must lie between 0 and 1, got {options.not_near}")
    if options.max_draws < 1:
        raise InputError(f"--max-draws must be at least 1, got {options.max_draws}")
    return Thresholds(agreement=options.agree, nearest=options.not_near)


def _registered(options: argparse.Namespace) -> Path | None:
    """Return the registered weights; None, said, where MLflow does not give them."""
    uri = connection.resolve_uri(options.tracking_uri)
    connection.check_there(uri)
    try:
        return resolve_version(connection.connect(uri), options.model or CHAMPION_URI)
    except connection.FAILURES as error:
        reason = connection.reason(uri, error)
        place = connection.shown(uri)
        print(f"error: cannot get the model from MLflow at {place}: {reason}", file=sys.stderr)
        return None


def _write_filtered(options: argparse.Namespace, weights: Path, thresholds: Thresholds) -> int:
    """Choose which images are kept, unless an earlier start has; write them; say what it cost."""
    loaded = load_generator(weights, device=named_device(options.device))
    lack = find_lack(options, loaded)
    if not lack.missing:
        return 0
    request = Request(loaded, lack, options.seed, thresholds, options.max_draws)
    wanted = manifest(
        loaded,
        options,
        lack.missing,
        balances=lack.data.fingerprint,
        filters=str(thresholds),
    )
    require_free(options, loaded, wanted)
    report = chosen_before(user_path(options.out), request)
    if report is None:
        print("training the CNNs that judge the images, unless they are in the cache", flush=True)
        try:
            report = Filters(request).choose()
        except NotFiniteError as error:
            print(f"error: {error}; choose other weights", file=sys.stderr)
            return 1
    chosen = {name: own.numbers for name, own in report.classes.items()}
    text = report.model_dump_json(indent=1) + "\n"
    code = write_images(options, loaded, wanted, chosen, report=text)
    if code == 0:
        print("\n".join(screening_lines(report)))
        print(f"what was left out stands in {Path(options.out) / SCREENED}")
    return code
