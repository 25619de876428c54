"""Write a folder of images of a registered generator, as `acgan.generate` does from a file.

    python -m selection.generate --per-class 1000 --out DIR
    python -m selection.generate --balance DATA --agree 0.5 --not-near 0.05 --out DIR

`--model` names another alias, or a version: models:/cxr-acgan-generator/3. The second one fills
the classes of a data folder up to its largest with images that pass filters (see
`selection.screening`); DIR/filters.json says what was left out and what that cost in diversity.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from acgan.command import command, command_parser, run_command
from acgan.config import user_path
from acgan.device import named_device
from acgan.errors import InputError
from acgan.generate import (
    SCREENED,
    add_options,
    check_options,
    find_lack,
    manifest,
    require_free,
    write_folder,
    write_images,
)
from acgan.generator import NotFiniteError, load_generator
from search.tracking import connection
from selection.registry.versions import CHAMPION_URI, resolve_version
from selection.screening import Filters, Request, Thresholds, chosen_before, screening_lines

MAX_DRAWS = 20


@command
def main(arguments: Sequence[str] | None) -> int:
    """Write a folder of generated images; return the exit code."""
    parser = command_parser("selection.generate", __doc__)
    named = parser.add_mutually_exclusive_group()
    named.add_argument(
        "--model", default=CHAMPION_URI, metavar="URI", help=f"default: {CHAMPION_URI}"
    )
    connection.add_uri_option(parser)
    named.add_argument("--weights", metavar="FILE", help="a weights file, instead of --model")
    add_options(parser)
    _add_filters(parser)
    options = parser.parse_args(arguments)
    return run_command(lambda: _generate(options), resume="type the same command again")


def _add_filters(parser: argparse.ArgumentParser) -> None:
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


def _generate(options: argparse.Namespace) -> int:
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
        return resolve_version(connection.connect(uri), options.model)
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


if __name__ == "__main__":
    main()
