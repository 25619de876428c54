"""Whom people are to look at: the finalists of a study, and their images.

After a pick they are those that its third step measured (the tie set, among which alone a person
who keeps one decides, and the baseline's best epoch to compare with) and those that were rejected,
so that a rejection can be taken back. Before a pick they are the candidates of step 1 with the
best value of the study's objective, by which alone epochs of different trials can be compared
without hours of CNNs, and the baseline's best epoch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from acgan.command import significant
from acgan.config import derive_seed
from acgan.data.dataset import Dataset
from acgan.errors import InputError
from acgan.evaluation.variety import DIVERSITY
from acgan.generation.generator import NotFiniteError, generate
from search.study.folder import Study
from selection.jobs.results import Weights
from selection.metrics.wording import interval_text
from selection.report.tables import finalists as measured
from selection.reviewing.quiz import GRID_IMAGES, MOST_PAGES, QUIZ_IMAGES, QUIZZES
from selection.reviewing.session import Finalist
from selection.settings import SelectionConfig
from selection.steps.plan import Chosen, step_1
from selection.steps.request import weights_path
from selection.steps.result import Candidate, Pick, read_picks

GENERATED = GRID_IMAGES + QUIZZES * QUIZ_IMAGES  # images of each class: a block, see `generate`
MORE = (MOST_PAGES - 1) * GRID_IMAGES  # that are in no quiz: another block


@dataclass(frozen=True)
class Shown(Weights):
    """A finalist before its images are made, and what is told of it."""

    facts: Mapping[str, str]


def find_finalists(
    study: Study, trial: str | None, data: Dataset, settings: SelectionConfig, *, most: int
) -> tuple[list[Shown], str]:
    """Return the finalists, at most so many and the baseline's best epoch, and where they are from.

    trial: where only one was asked for. Raises `InputError` where there is none.
    """
    known = [pick for pick in read_picks(study) if pick.scope == (trial or "study")]
    pick = max(known, key=lambda pick: pick.created, default=None)
    if pick is not None:
        return list(_of_pick(study, pick, most)), f"of pick {pick.id}"
    _, filtered, candidates = step_1(study, trial, data.val, settings)
    chosen = [c for c in candidates if c.baseline or c.epoch in filtered.chosen[:most]]
    where = f"of the {len(filtered.chosen)} candidates of step 1; there is no pick yet"
    return [_of_step_1(study, each) for each in chosen], where


def _of_pick(study: Study, pick: Pick, most: int) -> Iterator[Shown]:
    order = measured(pick)
    places = [i for i in order if not pick.candidates[i].baseline][:most]
    places += [i for i in order if pick.candidates[i].baseline]
    places += [i for i, c in enumerate(pick.candidates) if c.review == "rejected"]
    for place in dict.fromkeys(places):
        candidate = pick.candidates[place]
        path = weights_path(study, candidate.trial, candidate.epoch)
        if path.is_file():  # else it can no longer be picked either
            yield Shown(candidate.name, path, candidate.weights, _facts(pick, candidate))


def _facts(pick: Pick, candidate: Candidate) -> dict[str, str]:
    facts = _known(candidate.params, {pick.objective: candidate.quality}, candidate.diversity)
    if candidate.utility is not None:
        facts["balanced accuracy of CNNs"] = interval_text(candidate.utility.balanced_accuracy)
    if candidate.fidelity is not None:
        metric = candidate.fidelity.rank_metric
        facts[metric] = significant(candidate.fidelity.metrics["validation"].get(metric))
    return facts | {f"in pick {pick.id}": candidate.verdict}


def _of_step_1(study: Study, chosen: Chosen) -> Shown:
    epoch, own = chosen.epoch, chosen.weights
    info = study.trial(epoch.trial).info
    value = {study.info.ranking.metric: epoch.value}
    facts = _known({**info.params, "seed": info.seed}, value, epoch.diversity)
    if chosen.baseline:
        facts["baseline"] = "its best epoch"
    return Shown(own.name, own.path, own.sha256, facts)


def _known(
    params: Mapping[str, object], value: Mapping[str, float], diversity: float | None
) -> dict[str, str]:
    known = {**params, **value, DIVERSITY: diversity}
    return {name: significant(each) for name, each in known.items()}


def make_images(found: Sequence[Shown], *, seed: int, device: torch.device) -> list[Finalist]:
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
        own = {label: every[:GENERATED] for label, every in images.items()}
        more = {label: every[GENERATED:] for label, every in images.items()}
        finalists.append(Finalist(each.name, each.sha256, own, each.facts, more))
    if not finalists:
        raise InputError("there is no finalist whose images can be shown; search again")
    return finalists


def _images(found: Shown, *, seed: int, device: torch.device) -> dict[int, NDArray[np.uint8]]:
    loaded = found.load(device)
    own = derive_seed(seed, "images for people")
    return {
        label: generate(loaded, label, count=GENERATED + MORE, seed=own)
        for label in range(len(loaded.classes))
    }
