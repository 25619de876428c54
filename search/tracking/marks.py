"""Which trials a study knows to be whole in MLflow, so that a start need not ask for each of them.

The marks stand in the study, and their digest in MLflow, as a tag of the study's run: a database
that is another one, or came back older, has not this tag, and is asked for all.
"""

import contextlib

from mlflow import MlflowClient
from mlflow.entities import Run

from acgan.config import derive_seed
from acgan.files import Stored, write_json
from search.study.folder import Study

FILE = "mlflow.json"
TAG = "marks"


class Marks(Stored):
    """Trials whose runs are whole, with their ends in ms since 1970; run_id: of the study."""

    run_id: str
    trials: dict[str, int]

    @property
    def digest(self) -> str:
        """What tells them from others."""
        return f"{derive_seed(self.run_id, sorted(self.trials.items())):016x}"


def read(study: Study, parent: Run) -> dict[str, int]:
    """Return the marks that hold for this run of the study; none where they are not its."""
    try:
        found = Marks.model_validate_json((study.path / FILE).read_bytes())
    except (OSError, ValueError):  # not there, or damaged: MLflow is asked
        return {}
    if found.run_id != parent.info.run_id or found.digest != parent.data.tags.get(TAG):
        return {}
    return found.trials


def write(client: MlflowClient, study: Study, run_id: str, trials: dict[str, int]) -> None:
    """Mark trials as whole, in MLflow first: marks that a crash leaves half hold for nothing."""
    marks = Marks(run_id=run_id, trials=trials)
    client.set_tag(run_id, TAG, marks.digest)
    with contextlib.suppress(OSError):  # without them the next start takes longer, that is all
        write_json(study.path / FILE, marks)
