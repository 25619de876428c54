"""The funnel: from a plan to a decision, with the jobs of each step done side by side.

Step 1 is in the plan. `Funnel.run` does step 2 rung by rung, step 3 for those that are left, and
at the end the look at the test images; what follows from the numbers is `selection.decide`'s.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Sequence
from typing import TypeVar

from acgan.errors import InputError
from acgan.files import replace_bytes
from acgan.records import EpochRecord
from search.node import StudyAt
from selection import testset
from selection.animation import LIMIT_BYTES, film
from selection.decide import decide, race, utility, verdict
from selection.embedding import Points, embed
from selection.extractors import plugin_version
from selection.intervals import difference
from selection.jobs import (
    CeilingJob,
    ExtractorJob,
    FidelityJob,
    TouchJob,
    UtilityJob,
    WalksJob,
    sample_grid,
)
from selection.plan import Chosen, Plan
from selection.report import changes_name, film_name, grid_name, walks_name
from selection.result import (
    FORMAT,
    Candidate,
    Decision,
    Difference,
    ExtractorInfo,
    FilterReport,
    Images,
    LookAtTest,
    Pick,
    as_shares,
    write_json,
)
from selection.scores import rows
from selection.settings import PLACEMENT
from selection.work import Job, Measured, Opened, Scored, Touched, Weights, Work
from selection.workers import Workers

ResultT = TypeVar("ResultT")

FILMS_BYTES = 12_000_000  # of all trials together: they stand in the report
LIBRARIES = ("numpy", "scikit-learn", "torch", "torch-fidelity")


class Funnel:
    """One pick under way: a plan, and the candidates as far as they have come."""

    def __init__(self, plan: Plan, workers: Workers) -> None:
        self._plan, self._workers = plan, workers
        self._settings = plan.settings
        self._images = Images.of(plan.data.val)
        at = StudyAt(plan.study.path, plan.study.info.uuid, plan.source)
        self._work = Work(
            at,
            plan.settings,
            plan.data.fingerprint,
            plan.inception_weights,
            plugin_version(plan.settings.extractor),
        )
        self._ceilings = [CeilingJob(self._work, n) for n in range(plan.settings.cnn_seeds[0])]
        self._candidates = [_candidate(plan, chosen) for chosen in plan.candidates]

    def run(self) -> Pick:
        """Bring the candidates through all steps; return the pick, whose pictures are drawn.

        Raises `InputError` if no candidate can be scored.
        """
        self._work.store.mkdir(parents=True, exist_ok=True)
        self._plan.folder.mkdir(parents=True, exist_ok=True)
        self._step_2()
        extractor = self._step_3()
        decision = self._decide()
        self._draw(decision, extractor)
        look = self._look_at_test(decision, extractor) if self._plan.look_at_test else None
        return self._pick(decision, extractor, look)

    def _weights(self, place: int) -> Weights:
        chosen = self._plan.candidates[place]
        return Weights(self._candidates[place].name, chosen.weights, chosen.sha256)

    def _step_2(self) -> None:
        """Train CNNs for all candidates, then more for those that are still in, rung by rung."""
        running = [i for i, c in enumerate(self._candidates) if c.competes or c.baseline]
        extractor = ExtractorJob(self._work)
        for rung, seeds in enumerate(self._settings.cnn_seeds, start=1):
            jobs = {i: self._utility_job(i, seeds) for i in running}
            first: list[Job] = [extractor, *self._ceilings] if rung == 1 else []
            self._workers.do([*first, *jobs.values()], f"step 2, {seeds} CNNs each")
            for i, job in jobs.items():
                self._score(i, job)
            standing = race(self._candidates, self._images, self._settings, rungs=rung)
            running = standing.tied
            self._candidates = [
                c.model_copy(
                    update={
                        "left_at": standing.left_at.get(i),
                        "behind_best": standing.behind.get(i),
                    }
                )
                for i, c in enumerate(self._candidates)
            ]
            print(f"{len(running)} of {len(self._competing())} candidates are tied for the best")

    def _competing(self) -> list[Candidate]:
        return [candidate for candidate in self._candidates if candidate.competes]

    def _utility_job(self, place: int, seeds: int) -> UtilityJob:
        return UtilityJob(self._work, self._weights(place), tuple(range(seeds)))

    def _score(self, place: int, job: UtilityJob) -> None:
        results = [found for found in job.results() if found is not None]
        failed = next((found.failed for found in results if found.failed), "")
        # Worst, and finite: every CNN of it is taken to know no image.
        none = "0" * len(self._images.labels)
        hits = [found.hits or none for found in results]
        self._candidates[place] = self._candidates[place].model_copy(
            update={"failed": failed, "utility": utility(hits, self._images)}
        )

    def _step_3(self) -> ExtractorInfo:
        """Measure the tie set, and the baseline's best epoch to compare with."""
        extractor = _there(ExtractorJob(self._work).result()).info
        tied = [
            i
            for i, c in enumerate(self._candidates)
            if c.competes and not c.failed and c.left_at is None
        ]
        if not tied:
            reasons = {candidate.failed for candidate in self._competing()}
            raise InputError(
                f"no candidate can be scored ({'; '.join(sorted(reasons))}); search again"
            )
        compared = [i for i, c in enumerate(self._candidates) if c.baseline and not c.failed]
        places = sorted({*tied, *compared})
        jobs = {i: FidelityJob(self._work, self._weights(i), extractor) for i in places}
        self._workers.do(list(jobs.values()), "step 3, fidelity")
        for i, job in jobs.items():
            measured = _there(job.result())
            if measured.failed:
                print(f"{job.name} could not be measured in step 3: {measured.failed}")
            self._candidates[i] = self._candidates[i].model_copy(
                update={"fidelity": measured.fidelity}
            )
        return extractor

    def _decide(self) -> Decision:
        decision = decide(self._candidates, self._images, self._settings)
        assert decision is not None  # the tie set is not empty
        self._candidates = [
            c.model_copy(update={"verdict": verdict(c, i, decision)})
            for i, c in enumerate(self._candidates)
        ]
        return decision

    def _draw(self, decision: Decision, extractor: ExtractorInfo) -> None:
        """Put the pictures into the pick's folder: real and generated samples, pairs, t-SNE."""
        folder, val = self._plan.folder, self._plan.data.val
        replace_bytes(folder / "real.png", sample_grid(val.images, val.labels))
        self._draw_walks()
        self._draw_films()
        for i, candidate in enumerate(self._candidates):
            if candidate.fidelity is None:
                continue
            job = FidelityJob(self._work, self._weights(i), extractor)
            replace_bytes(folder / grid_name(candidate), job.grid_path.read_bytes())
            if i == decision.winner:
                replace_bytes(folder / "closest.png", job.closest_path.read_bytes())
                replace_bytes(folder / "tsne.png", self._t_sne(job))

    def _draw_walks(self) -> None:
        """Draw what the finalists do between latents and between classes."""
        finalists = [i for i, c in enumerate(self._candidates) if c.fidelity is not None]
        jobs = {i: WalksJob(self._work, self._weights(i)) for i in finalists}
        self._workers.do(list(jobs.values()), "walks through latents")
        for i, job in jobs.items():
            if _there(job.result()).failed:
                continue
            for name, path in ((walks_name, job.walks_path), (changes_name, job.changes_path)):
                file = self._plan.folder / name(self._candidates[i])
                replace_bytes(file, path.read_bytes())

    def _draw_films(self) -> None:
        """Show how the samples of the finalists' trials came about."""
        trials = sorted({c.trial for c in self._candidates if c.fidelity is not None})
        for name in trials:
            limit = min(LIMIT_BYTES, FILMS_BYTES // len(trials))
            found = film(self._plan.study.trial(name), self._plan.records[name], limit=limit)
            if found is not None:
                replace_bytes(self._plan.folder / film_name(name), found.content)

    def _t_sne(self, job: FidelityJob) -> bytes:
        (generated, *_), labels = job.generated_features()
        real, real_labels = job.real_features()
        return embed(
            Points(real.numpy(), real_labels),
            Points(generated.numpy(), labels),
            classes=self._plan.data.classes,
            seed=self._settings.seed,
        ).picture

    def _look_at_test(self, decision: Decision, extractor: ExtractorInfo) -> LookAtTest | None:
        """Score the winner and the baseline's best epoch on the test images, once."""
        plan = self._plan
        if not plan.test_images:
            print("the data set has no test images: nothing is looked at")
            return None
        places = {"winner": decision.winner}
        baseline = self._baseline()
        if baseline not in (None, decision.winner):
            places["baseline"] = baseline
        jobs = {name: self._touch_job(i, extractor) for name, i in places.items()}
        number = testset.record(
            plan.study,
            pick=plan.id,
            weights=[plan.candidates[i].sha256 for i in places.values()],
            reason="final report of a pick",
        )
        self._workers.do(list(jobs.values()), "test images")
        seen = {name: _there(job.result()) for name, job in jobs.items()}
        winner, beside = seen["winner"], seen.get("baseline")
        return LookAtTest(
            number=number,
            time=testset.touches(plan.study)[number - 1].time,
            images=plan.test_images,
            rows=rows(
                winner.hits,
                None if beside is None else beside.hits,
                winner.images,
                sources=winner.sources,
                classes=plan.data.classes,
            ),
            metrics={name: found.metrics for name, found in seen.items()},
        )

    def _baseline(self) -> int | None:
        places = [i for i, c in enumerate(self._candidates) if c.baseline and not c.failed]
        return places[0] if places else None

    def _pick(self, decision: Decision, extractor: ExtractorInfo, look: LookAtTest | None) -> Pick:
        plan, classes = self._plan, len(self._plan.data.classes)
        ceiling = [found.hits for job in self._ceilings if (found := job.result()) is not None]
        pick = Pick(
            format=FORMAT,
            id=plan.id,
            study=plan.study.info.name,
            study_id=plan.study.info.uuid,
            run_id=plan.parent_id,
            scope=plan.scope,
            created=time.time(),
            code_version=importlib.metadata.version("acgan-search"),
            versions=_versions(),
            settings=plan.settings.model_dump(mode="json", exclude=PLACEMENT),
            data_name=plan.data.name,
            fingerprint=plan.data.fingerprint,
            classes=list(plan.data.classes),
            warnings=list(plan.data.warnings),
            train_images=list(plan.data.train.per_class(classes)),
            validation=self._images,
            filter=filter_report(plan),
            candidates=self._candidates,
            ceiling=utility(ceiling, self._images),
            extractor=extractor,
            decision=decision,
            against_baseline=self._against_baseline(decision),
            test=look,
            cost=self._cost(extractor),
        )
        write_json(plan.folder / "pick.json", pick)
        return pick

    def _against_baseline(self, decision: Decision) -> Difference | None:
        baseline = self._baseline()
        if baseline in (None, decision.winner):
            return None
        winner, other = (self._candidates[i].utility for i in (decision.winner, baseline))
        assert winner is not None  # both were scored
        assert other is not None
        return Difference(
            name="balanced accuracy on validation images",
            winner=winner.balanced_accuracy,
            baseline=other.balanced_accuracy,
            difference=difference(as_shares(winner.hits), as_shares(other.hits), self._images),
        )

    def _cost(self, extractor: ExtractorInfo) -> dict[str, float]:
        """Return seconds of processes: of the search's training, and of each of pick's steps."""
        places, seeds = range(len(self._candidates)), self._settings.cnn_seeds[-1]
        fits = [found for i in places for found in self._utility_job(i, seeds).results()]
        fits += [job.result() for job in self._ceilings]
        measured = [FidelityJob(self._work, self._weights(i), extractor).result() for i in places]
        looks = [self._touch_job(i, extractor).result() for i in places]
        opened = ExtractorJob(self._work).result()
        steps = {
            "step 2": _seconds(fits),
            "step 3": _seconds([*measured, opened]),
            "test images": _seconds(looks),
        }
        search = sum(_training_seconds(self._plan, own) for own in self._plan.records.values())
        return {
            "training of all trials, process seconds": search,
            **{f"{name}, process seconds": seconds for name, seconds in steps.items()},
            "selection over training": sum(steps.values()) / search if search else 0.0,
        }

    def _touch_job(self, place: int, extractor: ExtractorInfo) -> TouchJob:
        chosen_by = self._settings.cnn_seeds[-1]
        numbers = tuple(range(chosen_by, 2 * chosen_by))
        return TouchJob(self._work, self._weights(place), numbers, extractor)


def _seconds(results: Sequence[Scored | Measured | Touched | Opened | None]) -> float:
    return sum(result.seconds for result in results if result is not None)


def _there(result: ResultT | None) -> ResultT:
    assert result is not None  # its job was done
    return result


def _candidate(plan: Plan, chosen: Chosen) -> Candidate:
    info = plan.study.trial(chosen.epoch.trial).info
    return Candidate(
        trial=chosen.epoch.trial,
        epoch=chosen.epoch.epoch,
        weights=chosen.sha256,
        params=info.params | {"seed": info.seed},
        quality=chosen.epoch.quality,
        filter_score=chosen.epoch.filter_score,
        competes=chosen.competes,
        baseline=chosen.baseline,
        review=chosen.review,
    )


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **versions}


def filter_report(plan: Plan) -> FilterReport:
    """Return what step 1 left of all epochs."""
    found = plan.filtered
    return FilterReport(
        trials=plan.trials,
        recorded=found.recorded,
        passed=found.passed,
        kept=len(found.kept),
        reasons=found.reasons,
        better_without_weights=found.better_without_weights,
        over_per_trial=found.over_per_trial,
        over_cap=found.over_cap,
    )


def _training_seconds(plan: Plan, records: Sequence[EpochRecord]) -> float:
    rates = [record.metrics.get("perf/images_per_s", 0.0) for record in records]
    return sum(len(plan.data.train) / rate for rate in rates if rate > 0)
