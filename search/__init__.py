"""Hyperparameter search: Ray Tune runs the trials, Optuna samples, MLflow records."""

import acgan  # noqa: F401 - Ctrl-C while the rest is imported
from search.api import load_study, search

__all__ = ["load_study", "search"]
