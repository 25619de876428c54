"""The `search:` section of a configuration: how trials are proposed, stopped and placed."""

from typing import Any, Literal

from pydantic import Field, model_validator

from acgan.config import Cpus, Gpus, Section
from acgan.evaluation.numbers import more_is_better
from acgan.evaluation.variety import ONE_PICTURE_BELOW
from acgan.run.records import RANKING, Ranking

MORE_IS_BETTER = (
    "train/acc_class",
    "val/acc_class",
    "val/acc_class_balanced",
    "val/diversity",
    "val/recall",
    "val/coverage",
    "perf/images_per_s",
)

Value = bool | int | float | str  # of a sampled parameter


class SearchConfig(Section):
    """How trials are proposed, stopped and placed; one flag of `search.run` for each field."""

    objective: str = Field(RANKING.metric, description="recorded metric that ranks trials")
    direction: Literal["minimize", "maximize"] = Field(
        "maximize", description="of the objective; unset: maximize where more is better"
    )
    sampler: Literal["tpe", "gp", "random", "qmc"] = Field(
        "tpe", description="how trials are proposed"
    )
    seed: int = Field(0, ge=0, description="of the proposals and of every trial's own seed")

    stop_pruned: bool = Field(True, description="end trials that are behind at a rung")
    stop_diverged: bool = Field(True, description="end trials whose losses are absurd or NaN")
    stop_collapsed: bool = Field(
        True, description="end trials of one picture per class, where others have left that state"
    )
    stop_discriminator_won: bool = Field(True, description="end trials that cannot fool at all")
    reduction_factor: int = Field(3, ge=2, description="one trial in this many passes a rung")
    patience: int = Field(3, ge=1, description="epochs in a row before a rule acts")
    collapsed_below: float = Field(
        ONE_PICTURE_BELOW, ge=0, description="val/diversity below: a trial may end as collapsed"
    )
    diverged_above: float = Field(1000, gt=0, description="a loss beyond: diverged")
    won_above: float = Field(
        0.999, gt=0, le=1, description="val/acc_real and val/acc_generated both above: won"
    )

    num_samples: int = Field(32, ge=1, description="trials asked for, with those that are there")
    repeats: int = Field(0, ge=0, description="more seeds for the baseline and the best trial")
    cpus_per_trial: Cpus = Field(1.0, description="CPU cores per trial")
    gpus_per_trial: Gpus = Field(
        None, description="0.25: four on one GPU; unset: 1 if there are any"
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="most trials at once; unset: all fit"
    )
    max_retries: int = Field(3, ge=0, description="restarts of a crashed trial in one start")
    hang_after_s: float = Field(
        3600, gt=0, description="seconds without an epoch after which a trial counts as crashed"
    )
    experiment: str = Field(
        "acgan-search", min_length=1, description="MLflow experiment of a new study"
    )

    @model_validator(mode="before")
    @classmethod
    def _fitting_direction(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("direction") is None:
            objective = values.get("objective", RANKING.metric)
            more = objective in MORE_IS_BETTER or more_is_better(objective)
            return {**values, "direction": "maximize" if more else "minimize"}
        return values

    @property
    def ranking(self) -> Ranking:
        """The objective, by which trials are judged and their epochs are kept."""
        return Ranking(self.objective, 1 if self.direction == "minimize" else -1)


STOPPING_RULES = tuple(name for name in SearchConfig.model_fields if name.startswith("stop_"))
PLACEMENT = {
    "num_samples",
    "repeats",
    "cpus_per_trial",
    "gpus_per_trial",
    "max_concurrent",
    "max_retries",
    "hang_after_s",
    "experiment",
}


def identity(config: SearchConfig) -> dict[str, Any]:
    """Return what makes two searches the same study: all but where and how long trials run."""
    return config.model_dump(exclude=PLACEMENT)
