"""The funnel: from a plan to a decision, with the jobs of each step done side by side.

Step 1 is in the plan. `Funnel.run` does step 2 rung by rung, step 3 for those that are left, and
at the end the look at the test images; what follows from the numbers is `selection.steps.decide`'s.
"""

import importlib.metadata
import platform
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from acgan.errors import InputError
from acgan.files import write_json
from acgan.plugins import EXTRACTORS, origin
from search.nodes.sees import StudyAt
from selection.extractors.base import ExtractorInfo
from selection.jobs.results import Result, StoredJob, Work
from selection.jobs.workers import Results, Workers
from selection.ledgers import looks
from selection.metrics.estimate import Estimate, Images
from selection.metrics.intervals import difference, interval
from selection.settings import PLACEMENT
from selection.steps import draw
from selection.steps.decide import decide, race, utility, verdict
from selection.steps.fidelity import ExtractorJob, FidelityJob
from selection.steps.look_at_test import LookJob, RealLookJob, seen_of
from selection.steps.plan import Chosen, PickPlan
from selection.steps.result import (
    PICK_FORMAT,
    Candidate,
    Decision,
    Difference,
    Fidelity,
    LookAtTest,
    Pick,
    Utility,
    as_shares,
)
from selection.steps.scores import rows
from selection.steps.utility import CeilingJob, Scored, UtilityJob

# To which step of the cost a job counts, by its kind.
COST_STEPS = {
    "utility": "step 2",
    "ceiling": "step 2",
    "extractor": "step 3",
    "fidelity": "step 3",
    "test": "test images",
    "test-real": "test images",
}
LIBRARIES = ("numpy", "scikit-learn", "torch", "torch-fidelity")


@dataclass
class Contender:
    """A candidate under way: what step 1 chose, and how far it has come."""

    chosen: Chosen
    params: dict[str, Any]
    failed: str = ""
    utility: Utility | None = None
    left_at: int | None = None
    behind_best: Estimate | None = None
    fidelity: Fidelity | None = None
    verdict: str = ""

    @property
    def is_tied(self) -> bool:
        """Whether it competes, and step 2 could not tell it from the best."""
        return self.chosen.competes and self.left_at is None

    def candidate(self) -> Candidate:
        """Return it as `pick.json` keeps it."""
        chosen, epoch = self.chosen, self.chosen.epoch
        return Candidate(
            trial=epoch.trial,
            epoch=epoch.epoch,
            weights=chosen.weights.sha256,
            params=self.params,
            quality=epoch.value,
            diversity=epoch.diversity,
            filter_score=epoch.filter_score,
            competes=chosen.competes,
            baseline=chosen.baseline,
            failed=self.failed,
            utility=self.utility,
            left_at=self.left_at,
            behind_best=self.behind_best,
            fidelity=self.fidelity,
            verdict=self.verdict,
            review=chosen.review,
        )


@dataclass
class Funnel:
    """One pick under way: a plan, and the contenders as far as they have come."""

    plan: PickPlan
    workers: Workers
    work: Work = field(init=False)
    contenders: list[Contender] = field(init=False)
    seconds: defaultdict[str, float] = field(init=False, default_factory=lambda: defaultdict(float))

    def __post_init__(self) -> None:
        plan = self.plan
        self.settings = plan.settings
        self.images = Images.of(plan.data.val)
        self.work = Work(
            StudyAt.of(plan.study, plan.source),
            plan.settings,
            plan.data.fingerprint,
            plan.inception_weights,
            origin(EXTRACTORS, plan.settings.extractor),
        )
        infos = [plan.study.trial(chosen.epoch.trial).info for chosen in plan.candidates]
        params = [info.params | {"seed": info.seed} for info in infos]
        self.contenders = [*map(Contender, plan.candidates, params)]

    def run(self) -> Pick:
        """Bring the candidates through all steps; return the pick, whose pictures are drawn.

        Raises `InputError` if no candidate can be scored.
        """
        self.work.folder.mkdir(parents=True, exist_ok=True)
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        ceiling, extractor = self._step_2()
        measured = self._step_3(extractor)
        decision = self._decide()
        draw.pictures(self.plan, self.workers, self.work, measured, winner=decision.winner)
        look = self._look_at_test(decision, extractor) if self.plan.look_at_test else None
        return self._pick(decision, ceiling, extractor, look)

    def _candidates(self) -> list[Candidate]:
        return [contender.candidate() for contender in self.contenders]

    def _do(self, jobs: Sequence[StoredJob[Result]], what: str) -> Results:
        results = self.workers.do(jobs, what)
        for job in jobs:
            self.seconds[COST_STEPS[job.kind]] += results[job].seconds
        return results

    def _step_2(self) -> tuple[Utility, ExtractorInfo]:
        """Train CNNs for all candidates, then more for those that are still in, rung by rung.

        Returns how CNNs of real images know them, and what the extractor is, which is opened
        beside the first rung.
        """
        opening = ExtractorJob(self.work)
        real = [CeilingJob(self.work, n) for n in range(self.settings.cnn_seeds[0])]
        first: list[StoredJob[Result]] = [opening, *real]
        chosen = [contender.chosen for contender in self.contenders]
        running = [i for i, own in enumerate(chosen) if own.competes or own.baseline]
        before = 0
        for rung, seeds in enumerate(self.settings.cnn_seeds, start=1):
            jobs = {
                (place, number): UtilityJob(self.work, chosen[place].weights, number)
                for place in running
                for number in range(before, seeds)
            }
            results = self._do([*first, *jobs.values()], f"step 2, {seeds} CNNs each")
            if first:
                ceiling = utility([results[job].hits for job in real], self.images)
                extractor, first = results[opening].info, []
            for place in running:
                own = [results[jobs[place, number]] for number in range(before, seeds)]
                self._score(self.contenders[place], own)
            standing = race(self._candidates(), self.images, self.settings, rungs=rung)
            for place, contender in enumerate(self.contenders):
                contender.left_at = standing.left_at.get(place)
                contender.behind_best = standing.behind.get(place)
            running, before = standing.tied, seeds
            competing = sum(own.competes for own in chosen)
            self.workers.say(f"{len(running)} of {competing} candidates are tied for the best")
        return ceiling, extractor

    def _score(self, contender: Contender, results: Sequence[Scored]) -> None:
        # Worst, and finite: every CNN of one that failed is taken to know no image.
        none = "0" * len(self.images.labels)
        before = contender.utility.hits if contender.utility else []
        hits = [*before, *(result.hits or none for result in results)]
        contender.utility = utility(hits, self.images)
        failed = next((result.failed for result in results if result.failed), "")
        contender.failed = contender.failed or failed

    def _step_3(self, extractor: ExtractorInfo) -> dict[int, FidelityJob]:
        """Measure the tie set, and the baseline's best epoch to compare with.

        Returns the jobs of those that could be measured, by their places.
        """
        competing = [c for c in self.contenders if c.chosen.competes]
        if all(contender.failed for contender in competing):
            reasons = {contender.failed for contender in competing}
            raise InputError(
                f"no candidate can be scored ({'; '.join(sorted(reasons))}); search again"
            )
        jobs = {
            place: FidelityJob(self.work, contender.chosen.weights, extractor)
            for place, contender in enumerate(self.contenders)
            if not contender.failed and (contender.chosen.baseline or contender.is_tied)
        }
        results = self._do(list(jobs.values()), "step 3, fidelity")
        for place, job in jobs.items():
            if results[job].failed:
                self.workers.say(
                    f"{job.name} could not be measured in step 3: {results[job].failed}"
                )
            self.contenders[place].fidelity = results[job].fidelity
        return {place: job for place, job in jobs.items() if results[job].fidelity is not None}

    def _decide(self) -> Decision:
        candidates = self._candidates()
        decision = decide(candidates, self.images, self.settings)
        assert decision is not None  # the tie set is not empty
        for place, contender in enumerate(self.contenders):
            contender.verdict = verdict(candidates[place], place, decision)
        return decision

    def _look_at_test(self, decision: Decision, extractor: ExtractorInfo) -> LookAtTest | None:
        """Score the winner and the baseline's best epoch on the test images, once."""
        plan = self.plan
        if not plan.test_images:
            self.workers.say("the data set has no test images: nothing is looked at")
            return None
        places = {"winner": decision.winner}
        if (baseline := self._baseline(decision.winner)) is not None:
            places["baseline"] = baseline
        jobs = {name: self._test_job(place, extractor) for name, place in places.items()}
        number = looks.record(
            plan.study,
            pick=plan.id,
            weights=[plan.candidates[place].weights.sha256 for place in places.values()],
            reason="final report of a pick",
        )
        real = [RealLookJob(self.work, n) for n in range(self.settings.cnn_seeds[0])]
        results = self._do([*jobs.values(), *real], "test images")
        seen = seen_of(jobs, results, self.workers.say)
        winner, beside = seen["winner"], seen.get("baseline")
        return LookAtTest(
            number=number,
            time=looks.touches(plan.study)[number - 1].time,
            images=plan.test_images,
            rows=rows(
                winner.hits,
                None if beside is None else beside.hits,
                winner.images,
                sources=winner.sources,
                classes=plan.data.classes,
            ),
            metrics={name: one.metrics for name, one in seen.items()},
            hits=winner.hits,
            real=winner.images,
            ceiling=interval(as_shares([results[job].hits for job in real]), winner.images),
        )

    def _test_job(self, place: int, extractor: ExtractorInfo) -> LookJob:
        chosen_by = self.settings.cnn_seeds[-1]
        numbers = tuple(range(chosen_by, 2 * chosen_by))
        return LookJob(self.work, self.contenders[place].chosen.weights, numbers, extractor)

    def _baseline(self, winner: int) -> int | None:
        """Return the place of the baseline's best epoch; None where it failed, or won itself."""
        known = enumerate(self.contenders)
        places = (place for place, c in known if c.chosen.baseline and not c.failed)
        return next((place for place in places if place != winner), None)

    def _pick(
        self,
        decision: Decision,
        ceiling: Utility,
        extractor: ExtractorInfo,
        look: LookAtTest | None,
    ) -> Pick:
        plan, classes = self.plan, len(self.plan.data.classes)
        pick = Pick(
            format=PICK_FORMAT,
            id=plan.id,
            study=plan.study.info.name,
            study_id=plan.study.info.uuid,
            run_id=plan.trial_run or plan.parent_id,
            scope=plan.scope,
            created=time.time(),
            code_version=importlib.metadata.version("acgan-search"),
            versions={
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in LIBRARIES},
            },
            settings=plan.settings.model_dump(mode="json", exclude=PLACEMENT),
            data_name=plan.data.name,
            fingerprint=plan.data.fingerprint,
            classes=list(plan.data.classes),
            warnings=list(plan.data.warnings),
            train_images=list(plan.data.train.per_class(classes)),
            validation=self.images,
            objective=plan.study.info.ranking.metric,
            filter=plan.filtered.report,
            candidates=self._candidates(),
            ceiling=ceiling,
            extractor=extractor,
            decision=decision,
            against_baseline=self._against_baseline(decision),
            test=look,
            cost=self._cost(),
        )
        write_json(plan.folder / "pick.json", pick)
        return pick

    def _against_baseline(self, decision: Decision) -> Difference | None:
        baseline = self._baseline(decision.winner)
        if baseline is None:
            return None
        winner, other = (self.contenders[i].utility for i in (decision.winner, baseline))
        assert winner is not None  # both were scored
        assert other is not None
        return Difference(
            name="balanced accuracy on validation images",
            winner=winner.balanced_accuracy,
            baseline=other.balanced_accuracy,
            difference=difference(as_shares(winner.hits), as_shares(other.hits), self.images),
        )

    def _cost(self) -> dict[str, float]:
        """Return seconds of processes: of the search's training, and of each of pick's steps."""
        search = self.plan.records.training_seconds(len(self.plan.data.train))
        steps = {name: self.seconds[name] for name in dict.fromkeys(COST_STEPS.values())}
        return {
            "training of all trials, process seconds": search,
            **{f"{name}, process seconds": seconds for name, seconds in steps.items()},
            "selection over training": sum(steps.values()) / search if search else 0.0,
        }
