"""What Ray reads in the environment; rooms that import Ray import this before anything else."""

import os
import secrets
import sys
from pathlib import Path

# Ray reads these when it is imported; what the user has set stays.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_task_oom_retries": "3",  # a task for which a node is too small would be tried for ever
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the search ends itself
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
TOKEN = "RAY_AUTH_TOKEN"
_OWN_TOKEN = secrets.token_hex(32)  # one for a whole process: Ray reads it once


def set_up() -> None:
    """Set what Ray reads; a Ray that runs in this process already keeps its own token or none."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if not _has_token():  # a cluster of this process alone: nothing is written to the home folder
        os.environ[TOKEN] = _OWN_TOKEN


def made_token() -> bool:
    """Whether the token is this process's own, which no cluster knows."""
    return os.environ.get(TOKEN) == _OWN_TOKEN


def _has_token() -> bool:
    named = any(os.environ.get(name) for name in (TOKEN, "RAY_AUTH_TOKEN_PATH"))
    return named or Path("~/.ray/auth_token").expanduser().exists()


set_up()
