"""A folder of a registered generator's images: what `selection.generate` does."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from acgan.command import FromFlags
from acgan.config import user_path
from acgan.errors import InputError
from acgan.generation.folder import (
    SCREENED,
    find_lack,
    manifest,
    require_free,
    write_folder,
    write_images,
)
from acgan.generation.generator import NotFiniteError, load_generator
from acgan.generation.request import FolderRequest
from acgan.run.device import named_device
from search.tracking import connection, uris
from selection.commands.screening import (
    Filters,
    Request,
    Thresholds,
    chosen_before,
    screening_lines,
)
from selection.registry.versions import CHAMPION_URI, resolve_version


@dataclass(frozen=True, kw_only=True)
class GenerateRequest(FromFlags):
    """Which images are asked for, of which generator, and which of them are kept.

    weights: a weights file; None: the registered model, an MLflow URI (None: the champion)
    max_draws: for each image that is wanted, where some are left out
    """

    folder: FolderRequest
    weights: str | None
    model: str | None
    tracking_uri: str | None
    thresholds: Thresholds
    max_draws: int

    @classmethod
    def of(cls, arguments: argparse.Namespace, **more: Any) -> Self:
        """Return what the flags say."""
        thresholds = Thresholds(agreement=arguments.agree, nearest=arguments.not_near)
        folder = FolderRequest.of(arguments)
        return super().of(arguments, folder=folder, thresholds=thresholds, **more)

    def check(self) -> None:
        """Raise `InputError` for what cannot be asked."""
        self.folder.check()
        agreement, nearest = self.thresholds.agreement, self.thresholds.nearest
        if self.thresholds != Thresholds() and self.folder.balance is None:
            raise InputError(
                "--agree and --not-near need --balance DATA, whose images they compare to"
            )
        if agreement is not None and not 0 <= agreement < 1:
            raise InputError(f"--agree must be a probability from 0 to below 1, got {agreement}")
        if nearest is not None and not 0 < nearest < 1:
            raise InputError(f"--not-near must lie between 0 and 1, got {nearest}")
        if self.max_draws < 1:
            raise InputError(f"--max-draws must be at least 1, got {self.max_draws}")


def generate(arguments: argparse.Namespace) -> int:
    """Write the folder; return the exit code."""
    request = GenerateRequest.of(arguments)
    request.check()
    if request.weights is not None:
        weights: Path | None = user_path(request.weights)
    else:
        weights = _registered(request)
    if weights is None:
        return 1
    if request.thresholds == Thresholds():
        return write_folder(request.folder, weights)
    return _write_filtered(request, weights)


def _registered(request: GenerateRequest) -> Path | None:
    """Return the registered weights; None, said, where MLflow does not give them."""
    uri = uris.resolve_uri(request.tracking_uri)
    uris.check_there(uri)
    try:
        return resolve_version(connection.connect(uri), request.model or CHAMPION_URI)
    except connection.FAILURES as error:
        reason = connection.reason(uri, error)
        place = uris.shown(uri)
        print(f"error: cannot get the model from MLflow at {place}: {reason}", file=sys.stderr)
        return None


def _write_filtered(asked: GenerateRequest, weights: Path) -> int:
    """Choose which images are kept, unless an earlier start has; write them; say what it cost."""
    folder = asked.folder
    loaded = load_generator(weights, device=named_device(folder.device))
    lack = find_lack(folder, loaded)
    if not lack.missing:
        return 0
    request = Request(loaded, lack, folder.seed, asked.thresholds, asked.max_draws)
    wanted = manifest(
        loaded,
        folder,
        lack.missing,
        balances=lack.data.fingerprint,
        filters=str(asked.thresholds),
    )
    require_free(folder, loaded, wanted)
    report = chosen_before(user_path(folder.out), request)
    if report is None:
        print("training the CNNs that judge the images, unless they are in the cache", flush=True)
        try:
            report = Filters(request).choose()
        except NotFiniteError as error:
            print(f"error: {error}; choose other weights", file=sys.stderr)
            return 1
    chosen = {name: own.numbers for name, own in report.classes.items()}
    text = report.model_dump_json(indent=1) + "\n"
    code = write_images(folder, loaded, wanted, chosen, report=text)
    if code == 0:
        print("\n".join(screening_lines(report)))
        print(f"what was left out stands in {Path(folder.out) / SCREENED}")
    return code
