"""The searcher that Ray Tune asks for trials: it hands on what the ledger proposes."""

from collections import deque
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from search.study.optuna_ledger import Ledger, Proposal


class StudySearcher(Searcher):
    """Ray Tune's view of the ledger: trials that have not ended first, then new ones.

    Hands out as many as are missing from `num_samples`, each as `{"trial": "t0007"}`: its
    parameters are in its `trial.json`.
    `on_proposal` is called with a trial before Tune sees it, `on_crash` with the name of one
    that has used up its retries. Other ends are entered by `stopping.TrialStopper`.
    """

    def __init__(
        self,
        ledger: Ledger,
        num_samples: int,
        *,
        on_proposal: Callable[[Proposal], None],
        on_crash: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._ledger = ledger
        self._waiting = deque(ledger.open_rows())
        self._missing = num_samples - ledger.ended()
        self._on_proposal, self._on_crash = on_proposal, on_crash
        self._names: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's configuration, or `Searcher.FINISHED`."""
        if self._missing <= 0:
            return Searcher.FINISHED
        self._missing -= 1
        row = self._waiting.popleft() if self._waiting else self._ledger.propose()
        self._names[trial_id] = row.name
        self._on_proposal(row)
        return {"trial": row.name}

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,  # noqa: ARG002
        error: bool = False,
    ) -> None:
        """Pass on a crash: the trial stays open in the ledger, for the next start."""
        name = self._names.pop(trial_id)
        if error and any(row.name == name for row in self._ledger.open_rows()):
            self._on_crash(name)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the ledger is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing: a new start opens the ledger."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its parts beside the trials; nothing reads them
