"""The thread of a search's driver that keeps MLflow up to date beside it.

It imports MLflow itself: that takes seconds, in which the driver starts Ray.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from acgan.command import loading, typed
from search.settings import SearchConfig
from search.study.folder import Study
from search.study.store.objects import StoreError
from search.tracking import uris

if TYPE_CHECKING:
    from search.tracking.mirror import Mirror, SyncReport

PASS_EVERY_S = 1.0
LONGEST_PAUSE_S = 30.0


class Recorder(threading.Thread):
    """Keep MLflow up to date beside a search, at its own pace.

    A server that does not answer is said once and asked again at growing intervals up to half a
    minute; nothing is lost meanwhile, for the directories hold it. `say` prints one line.
    """

    def __init__(
        self, study: Study, *, uri: str, experiment: str, say: Callable[[str], None]
    ) -> None:
        super().__init__(name="mlflow-recorder", daemon=True)
        self._study, self._uri, self._experiment = study, uri, experiment
        self._mirror: Mirror | None = None  # until MLflow is imported
        self._where = uris.shown(uri)
        self._say = say
        self._closing = threading.Event()
        self._reachable = True
        self._complete = False
        self._said: set[str] = set()

    def run(self) -> None:
        """Make passes until `close`, then the last ones."""
        with loading():
            from search.tracking.mirror import Mirror  # noqa: PLC0415 (MLflow comes)

        pause_s = 0.0
        mirror = Mirror(self._study, uri=self._uri, experiment=self._experiment, marked=True)
        self._mirror = mirror
        while not self._closing.wait(pause_s):
            report = self._attempt(mirror, driving=True)
            if report is None:
                pause_s = min(max(2 * pause_s, PASS_EVERY_S), LONGEST_PAUSE_S)
            else:
                pause_s = PASS_EVERY_S if report.complete else 0.0
        report = self._attempt(mirror, driving=False)
        while report is not None and not report.complete:
            report = self._attempt(mirror, driving=False)
        self._complete = report is not None

    @property
    def study_links(self) -> tuple[str, ...]:
        """Where MLflow's page shows the trials in order, and their curves; () while not known."""
        return () if self._mirror is None else self._mirror.study_links

    @property
    def sync_command(self) -> str:
        """The command that sends the rest by hand, ready to be typed."""
        words = ["python", "-m", "search.sync", *uris.naming(self._study, self._uri)]
        if self._experiment != SearchConfig().experiment:
            words += ["--experiment", self._experiment]
        return typed(words)

    def close(self, timeout_s: float) -> bool:
        """Send what is left, for at most so long; say what could not be sent, return if none."""
        self._closing.set()
        self.join(timeout_s)
        if self._complete:
            return True
        epochs = 0 if self._mirror is None else self._mirror.unsent()
        what = f"{epochs} epochs are" if epochs else "how the search ended is"
        self._say(f"{what} not yet in MLflow at {self._where}; nothing is lost")
        return False

    def _attempt(self, mirror: Mirror, *, driving: bool) -> SyncReport | None:
        try:
            report = mirror.update(driving=driving)
        except Exception as error:  # of any library: S3's, a database's driver
            mirror.forget()
            if self._reachable and isinstance(error, StoreError):
                self._say(f"{error}; MLflow is sent the rest later, and the search goes on")
            elif self._reachable:
                from search.tracking.connection import reason  # noqa: PLC0415 (as above)

                why = reason(self._uri, error)
                self._say(f"MLflow at {self._where} takes no data now ({why}); the search goes on")
            self._reachable = False
            return None
        if not self._reachable:
            self._say(f"MLflow at {self._where} takes data again; nothing was lost")
        self._reachable = True
        for problem in sorted(report.problems - self._said):
            self._say(f"not sent to MLflow: {problem}")
        for warning in sorted(report.warnings - self._said):
            self._say(f"warning: {warning}")
        self._said |= report.problems | report.warnings
        return report
