"""What Python code calls: `selection.pick` and `selection.augmentation_study`; see docs/python.md.

Nothing that takes long to import is imported before a function is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from acgan.data.source import HINTS, DataSource
from acgan.errors import InputError
from search.api import check_names, left_as_it_was, named_study, nobody, values_of, warn
from selection.settings import SelectionConfig

if TYPE_CHECKING:
    import pandas as pd

    from search.study.folder import Study
    from search.study.searched import SearchedStudy
    from selection.augmentation.result import AugmentationStudy
    from selection.metrics.estimate import Estimate
    from selection.registry.versions import Standing
    from selection.steps.result import Pick


@dataclass(frozen=True)
class Picked:
    """A generator that was picked.

    pick: every number of it, as in `pick.json`; folder: of its report and pictures
    weights: its safetensors file; standing: what it is in MLflow's registry
    """

    pick: Pick
    study: Study
    tracking_uri: str
    folder: Path
    weights: Path
    standing: Standing

    def __str__(self) -> str:
        """Return which candidate won, how well CNNs learn from it, and what speaks against it."""
        from selection.ledgers.reviews import looks, read_reviews  # noqa: PLC0415 (takes seconds)
        from selection.metrics.wording import interval_text  # noqa: PLC0415
        from selection.steps.objections import objections  # noqa: PLC0415

        winner = self.pick.winner
        text = f"{winner.name} (rule: {self.pick.decision.rule})"
        if winner.utility is not None:
            score = interval_text(winner.utility.balanced_accuracy)
            text += f"; CNNs trained on its images alone have balanced accuracy {score} on "
            text += "validation images, optimistic because it was picked by this"
        against = objections(self.pick, looks(read_reviews(self.study)))
        return f"{text}. {against[0].advice}" if against else text

    @property
    def report(self) -> Path:
        """The report, a page of HTML."""
        return self.folder / "report.html"

    @property
    def model_uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return self.standing.uri

    @property
    def candidates(self) -> pd.DataFrame:
        """A row for each candidate, by trial and epoch, in the order of step 1.

        Columns: the study's objective, diversity, balanced_accuracy of CNNs trained on its images
        alone with low and high (95 %), the rank metric of step 3 where it was measured, memorised
        (a class failed the check for copies; None where none was judged), baseline, winner,
        verdict.
        """
        import pandas as pd  # noqa: PLC0415 (half a second, for Python code alone)

        rows, metric = [], self.pick.decision.rank_metric
        for candidate in self.pick.candidates:
            score = candidate.utility.balanced_accuracy if candidate.utility else None
            fidelity = candidate.fidelity
            measured = fidelity and fidelity.metrics["validation"].get(metric)
            rows.append(
                {
                    "trial": candidate.trial,
                    "epoch": candidate.epoch,
                    self.pick.objective: candidate.quality,
                    "diversity": candidate.diversity,
                    **_interval("balanced_accuracy", score),
                    **({metric: measured} if metric else {}),
                    "memorised": bool(fidelity.memorised) if fidelity and fidelity.judged else None,
                    "baseline": candidate.baseline,
                    "winner": candidate is self.pick.winner,
                    "verdict": candidate.verdict,
                }
            )
        return pd.DataFrame(rows).set_index(["trial", "epoch"])

    def images(
        self, per_class: int | Mapping[str, int], *, seed: int = 0, device: str | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
        """Return generated images, uint8 [N, 3, H, W], and the name of each one's class, [N].

        per_class: of every class, or by a class's name
        seed: the same gives the same images, the first ones of a longer request
        device: "cpu", "cuda:1"; None: a GPU if there is one
        """
        from acgan.generation.generator import generate, load_generator  # noqa: PLC0415
        from acgan.run.device import default_device, named_device  # noqa: PLC0415 (takes seconds)

        classes = self.pick.classes
        if not isinstance(per_class, Mapping):  # NumPy's integers are none of Python's
            per_class = dict.fromkeys(classes, per_class)
        check_names(per_class, set(classes), what="class")
        if min(per_class.values(), default=0) < 1:
            raise InputError("per_class must be 1 or more images of a class, or of some by name")
        loaded = load_generator(
            self.weights,
            device=default_device() if device is None else named_device(device),
            sha256=self.pick.winner.weights,
        )
        counts = {name: per_class[name] for name in classes if name in per_class}
        images = [
            generate(loaded, classes.index(name), count=count, seed=seed)
            for name, count in counts.items()
        ]
        return np.concatenate(images), np.repeat(list(counts), list(counts.values()))


@dataclass(frozen=True)
class Augmentation:
    """What classifiers do with generated images and without.

    result: every number of it, as in `study.json`; folder: of its report
    """

    result: AugmentationStudy
    folder: Path

    def __str__(self) -> str:
        """Return whether generated images help; on validation images, that nothing is said."""
        return self.result.sentence or (
            "optimistic: the generator was picked on these images; whether it helps is said with "
            "test=True, which looks at the test images"
        )

    @property
    def report(self) -> Path:
        """The report, a page of HTML."""
        return self.folder / "study.html"

    @property
    def arms(self) -> pd.DataFrame:
        """A row for each arm, by its name.

        Columns: balanced_accuracy, and what it is more than that of real images only
        (against_real) and of classical oversampling (against_classical), each with low and high
        (95 %), paired by CNN and patient.
        """
        import pandas as pd  # noqa: PLC0415 (half a second, for Python code alone)

        from selection.steps.scores import BALANCED  # noqa: PLC0415

        rows = [
            {
                "arm": arm.name,
                **_interval("balanced_accuracy", arm.scores[BALANCED]),
                **_interval("against_real", arm.against_real.get(BALANCED)),
                **_interval("against_classical", arm.against_classical.get(BALANCED)),
            }
            for arm in self.result.arms
        ]
        return pd.DataFrame(rows).set_index("arm")


def pick(  # noqa: PLR0913 - one for each thing that a user may say
    study: SearchedStudy | str | None = None,
    *,
    run_id: str | None = None,
    storage_path: str | Path | None = None,
    tracking_uri: str | None = None,
    data: str | Path | DataSource | None = None,
    config: str | Path | None = None,
    address: str | None = None,
    inception_weights: str | Path | None = None,
    test: bool = True,
    promote: bool = False,
    tell: Callable[[str], None] | None = None,
    **settings: Any,
) -> Picked:
    """Pick one set of weights as `python -m selection.pick` does; called again, return the same.

    study: what `search.search` returned, or a study's name; or run_id: the MLflow run of a study or
        of one of its trials
    storage_path, tracking_uri: as for the search; data, config: None: the search's
    address: of the Ray cluster to join; None: as RAY_ADDRESS says, or this machine. A Ray that is
        initialised in this process already is used instead, and left running.
    inception_weights: torch-fidelity's file; test: whether the test images are looked at, once
    promote: make the winner the champion whatever speaks against it
    tell: is given each line about how far it is, and warnings, which are Python's own without it
    settings: fields of `SelectionConfig`, `max_candidates=8`

    Raises `InputError` for what cannot be picked from, before any long work, and where MLflow does
    not take the pick, of which nothing is lost; `selection.jobs.workers.LostError` when processes
    die again and again. The environment and the handlers of signals are as before then.
    """
    check_names(settings, {*SelectionConfig.model_fields, *HINTS})
    with left_as_it_was():
        from selection.commands import pick as body  # noqa: PLC0415 (takes seconds)
        from selection.steps.plan import PickRequest, make_pick_plan  # noqa: PLC0415
        from selection.steps.request import at_work  # noqa: PLC0415

        request = PickRequest(
            named=named_study(study, run_id, storage_path, tracking_uri),
            config=None if config is None else Path(config),
            values=settings | values_of(data),
            address=address,
            inception_weights=None if inception_weights is None else Path(inception_weights),
            test=test,
        )
        plan = make_pick_plan(request)
        for warning in plan.warnings:
            warn(warning, tell)
        say = tell or nobody
        say(body.filtered(plan))
        with at_work(plan.study):
            found = body.carry_out(plan, say=say)
            with _answering(plan.tracking_uri):
                published = body.publish(plan, found, promote=promote)
    winners = plan.candidates[found.decision.winner].weights.path
    return Picked(found, plan.study, plan.tracking_uri, plan.folder, winners, published.standing)


def augmentation_study(  # noqa: PLR0913 - one for each thing that a user may say
    picked: Picked | SearchedStudy | str | None = None,
    *,
    run_id: str | None = None,
    storage_path: str | Path | None = None,
    tracking_uri: str | None = None,
    data: str | Path | DataSource | None = None,
    config: str | Path | None = None,
    address: str | None = None,
    test: bool = False,
    keep: Mapping[str, float] | None = None,
    amounts: Sequence[float] = (0.5, 2.0, 4.0),
    seeds: int = 5,
    updates: int | None = None,
    tell: Callable[[str], None] | None = None,
    **settings: Any,
) -> Augmentation:
    """Train classifiers with and without generated images, as `python -m selection.study` does.

    Called again, return the same.

    picked: what `pick` returned, or a study, whose latest pick's winner generates
    run_id, storage_path, tracking_uri, data, config, address, tell: as in `pick`
    test: score on the test images, on the record, and say whether it helps
    keep: of a class, the fraction of its training images that the classifiers are given
    amounts: of generated images, besides 1, which evens the classes out; each 1 more adds to every
        class as many as the largest has
    seeds: CNNs of each arm, at least 5; updates: of each CNN
    settings: fields of `SelectionConfig` that concern the CNNs

    Raises `InputError` and `LostError` as `pick`.
    """
    check_names(settings, {*SelectionConfig.model_fields, *HINTS})
    with left_as_it_was():
        from selection.augmentation.plan import StudyRequest, make_study_plan  # noqa: PLC0415
        from selection.commands import study as body  # noqa: PLC0415 (takes seconds)
        from selection.steps.request import at_work  # noqa: PLC0415

        request = StudyRequest(
            named=named_study(picked, run_id, storage_path, tracking_uri),
            config=None if config is None else Path(config),
            values=settings | values_of(data),
            address=address,
            pick=picked.pick.id if isinstance(picked, Picked) else None,
            seeds=seeds,
            amounts=amounts,
            updates=updates,
            keep=keep or {},
            test=test,
        )
        plan = make_study_plan(request)
        for warning in (*plan.data.warnings, *plan.notes):
            warn(warning, tell)
        say = tell or nobody
        say(body.asked(plan))
        with at_work(plan.study):
            found = body.carry_out(plan, say=say)
            with _answering(plan.tracking_uri):
                body.publish_study(plan, found)
    return Augmentation(found, plan.folder)


@contextmanager
def _answering(uri: str) -> Iterator[None]:
    """Raise `InputError` for what MLflow does not take."""
    from search.tracking import connection  # noqa: PLC0415 (takes seconds)

    try:
        yield
    except connection.FAILURES as error:
        text = connection.not_taken(uri, error)
        raise InputError(f"{text}; nothing is lost: call the same again") from error


def _interval(name: str, found: Estimate | None) -> dict[str, float | None]:
    """Return the columns of a number and its interval."""
    if found is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
