"""Whom people are to look at: the finalists of a study, and their images.

After a pick they are those that its third step measured (the tie set, among which alone a person
who keeps one decides, and the baseline's best epoch to compare with) and those that were rejected,
so that a rejection can be taken back. Before a pick they are the candidates of step 1 with the
best `val/fd_cnn`, by which alone epochs of different trials can be compared without hours of
CNNs, and the baseline's best epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from acgan.config import derive_seed
from acgan.dataset import Dataset
from acgan.errors import InputError
from acgan.generator import BLOCK, NotFiniteError, generate, load_generator
from acgan.records import QUALITY
from search.study import Study
from selection.overview import finalists as measured
from selection.plan import Chosen, step_1, weights_path
from selection.result import Candidate, Pick, read_picks
from selection.review_session import Finalist
from selection.settings import SelectionConfig
from selection.wording import interval, significant

GENERATED = BLOCK  # images of each class: what is computed at once


@dataclass(frozen=True)
class Found:
    """A finalist before its images are made."""

    name: str
    weights: Path
    sha256: str
    facts: Mapping[str, str]


def find_finalists(
    study: Study, trial: str | None, data: Dataset, settings: SelectionConfig, *, most: int
) -> tuple[list[Found], str]:
    """Return the finalists, at most so many and the baseline's best epoch, and where they are from.

    trial: where only one was asked for. Raises `InputError` where there is none.
    """
    pick = _last_pick(study, trial or "study")
    if pick is not None:
        return list(_of_pick(study, pick, most)), f"of pick {pick.id}"
    _, filtered, candidates = step_1(study, trial, data.val, settings)
    best = {(epoch.trial, epoch.epoch) for epoch in filtered.chosen[:most]}
    chosen = [c for c in candidates if c.baseline or (c.epoch.trial, c.epoch.epoch) in best]
    where = f"of the {len(filtered.chosen)} candidates of step 1; there is no pick yet"
    return [_of_step_1(study, each) for each in chosen], where


def _last_pick(study: Study, scope: str) -> Pick | None:
    known = [pick for pick in read_picks(study) if pick.scope == scope]
    return max(known, key=lambda pick: pick.created, default=None)


def _of_pick(study: Study, pick: Pick, most: int) -> Iterator[Found]:
    order = measured(pick)
    places = [i for i in order if not pick.candidates[i].baseline][:most]
    places += [i for i in order if pick.candidates[i].baseline]
    places += [i for i, c in enumerate(pick.candidates) if c.review == "rejected"]
    for place in dict.fromkeys(places):
        candidate = pick.candidates[place]
        path = weights_path(study, candidate.trial, candidate.epoch)
        if path.is_file():  # else it can no longer be picked either
            yield Found(candidate.name, path, candidate.weights, _facts(pick, candidate))


def _facts(pick: Pick, candidate: Candidate) -> dict[str, str]:
    facts = _known(candidate.params, candidate.quality)
    if candidate.utility is not None:
        facts["balanced accuracy of CNNs"] = interval(candidate.utility.balanced_accuracy)
    if candidate.fidelity is not None:
        metric = candidate.fidelity.rank_metric
        facts[metric] = significant(candidate.fidelity.metrics["validation"].get(metric))
    return facts | {f"in pick {pick.id}": candidate.verdict}


def _of_step_1(study: Study, chosen: Chosen) -> Found:
    epoch = chosen.epoch
    info = study.trial(epoch.trial).info
    return Found(
        f"{epoch.trial}, epoch {epoch.epoch}",
        chosen.weights,
        chosen.sha256,
        _known({**info.params, "seed": info.seed}, epoch.quality)
        | ({"baseline": "its best epoch"} if chosen.baseline else {}),
    )


def _known(params: Mapping[str, object], quality: float) -> dict[str, str]:
    facts = {name: significant(value) for name, value in params.items()}
    return facts | {QUALITY: significant(quality)}


def make_images(found: Sequence[Found], *, seed: int, device: torch.device) -> list[Finalist]:
    """Return the finalists with their images; latents of one place are the same for all.

    Those whose generator makes pixels that are not finite are left out with a line.
    """
    finalists = []
    for each in tqdm(found, desc="generating", unit="finalist", disable=None):
        try:
            images = _images(each, seed=seed, device=device)
        except NotFiniteError as error:
            print(f"not shown: {error}")
            continue
        finalists.append(Finalist(each.name, each.sha256, images, each.facts))
    if not finalists:
        raise InputError("there is no finalist whose images can be shown; search again")
    return finalists


def _images(found: Found, *, seed: int, device: torch.device) -> dict[int, NDArray[np.uint8]]:
    loaded = load_generator(found.weights, device=device, sha256=found.sha256)
    own = derive_seed(seed, "images for people")
    return {
        label: generate(loaded, label, count=GENERATED, seed=own)
        for label in range(len(loaded.classes))
    }
