"""Hyperparameter search: Ray Tune runs the trials, Optuna samples, MLflow records."""

import os
import secrets
from pathlib import Path

import acgan  # noqa: F401 - Ctrl-C while the rest is imported

# Ray reads these when it is imported, hence here; what the user has set stays.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_task_oom_retries": "3",  # a task for which a node is too small would be tried for ever
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # search.run ends the search itself
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def _has_token() -> bool:
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or Path("~/.ray/auth_token").expanduser().exists()


for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
MADE_TOKEN = not _has_token()  # whether the token is this process's own, which no cluster knows
if MADE_TOKEN:  # a cluster of this process alone: nothing is written to the home folder
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
