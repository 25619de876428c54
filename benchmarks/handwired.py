"""The search as one would wire it by hand from Ray Tune's documentation: the benchmark's peer.

`OptunaSearch` proposes, `MLflowLoggerCallback` logs, and a function reports each epoch. It keeps
no states that a further start would find, sends no images and stops no trial early.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
from ray import init, shutdown, tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch

from acgan.config import TrainConfig
from acgan.data.pack import load_for
from acgan.run.records import QUALITY
from acgan.run.rundir import RunDir
from acgan.training import train


def trainable(params: dict[str, Any], *, fixed: dict[str, Any], source: str, folder: str) -> None:
    """Train one run and report its epochs."""
    config = TrainConfig(**fixed, **params)
    data = load_for(source, config)
    run = RunDir(Path(folder, tune.get_context().get_trial_id()))
    for record in train(config, data, run, device=torch.device("cpu")):
        tune.report(record.metrics)


def main() -> None:
    """Search as the flags say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--train", type=TrainConfig.model_validate_json, required=True)
    parser.add_argument("--trials", type=int, required=True)
    arguments = parser.parse_args()
    fixed = arguments.train.model_dump(exclude={"learning_rate", "seed"})
    init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(
                trainable,
                fixed=fixed,
                source=arguments.source,
                folder=str(arguments.folder / "runs"),
            ),
            {"cpu": 1},
        ),
        param_space={"learning_rate": tune.loguniform(5e-5, 8e-4)},
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(metric=QUALITY, mode="min", seed=0),
            num_samples=arguments.trials,
            max_concurrent_trials=1,
        ),
        run_config=tune.RunConfig(
            name="handwired",
            storage_path=str(arguments.folder / "ray"),
            verbose=0,
            callbacks=[
                MLflowLoggerCallback(
                    tracking_uri=f"sqlite:///{arguments.folder / 'mlflow.db'}",
                    experiment_name="handwired",
                )
            ],
        ),
    )
    results = tuner.fit()
    shutdown()
    assert not results.num_errors, results.errors[0]


if __name__ == "__main__":
    main()
