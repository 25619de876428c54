"""The search's driver, with Ray Tune and the ledger, over trials that only report."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from acgan.cores import usable_cores
from benchmarks import simulated
from benchmarks.process import Watch, watched
from search.tune.driver import Driver
from search.tune.progress import Progress, Seen


@dataclass(frozen=True)
class Driven:
    """One search of simulated trials, as its driver's process went through it."""

    trials: int
    epochs: int
    concurrency: int
    ended: int
    watch: Watch


class _Counting(Progress):
    """Counts the reports that a search has taken, and shows nothing."""

    reports = 0

    def epoch(self, name: str, seen: Seen) -> None:
        """Take up an epoch of a trial."""
        self.reports += name not in self._over  # Tune's last word repeats the last epoch
        super().epoch(name, seen)


def drive(trials: int, epochs: int, concurrency: int) -> Driven:
    """Search so many simulated trials, `concurrency` of them at once, and watch it."""
    with tempfile.TemporaryDirectory() as name, Path(os.devnull).open("w") as nowhere:
        words = simulated.flags(Path(name), trials=trials, epochs=epochs)
        words += ["--max-concurrent", str(concurrency)]
        words += ["--cpus-per-trial", str(usable_cores() / concurrency)]
        plan = simulated.plan_of(words)
        study = simulated.begin_study(plan)
        ledger = plan.ledger(study.ledger_path)
        progress = _Counting(
            asked=trials, ended=0, epochs=epochs, ranking=plan.search.ranking, out=nowhere
        )
        driver = Driver(plan, study, ledger, progress, trainable=simulated.emit)
        with watched(lambda: progress.reports) as watch:
            driver.run()
        return Driven(trials, epochs, concurrency, ledger.ended(), watch)
