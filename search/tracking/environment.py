"""What MLflow reads when it is imported; the room imports this before anything else."""

import os
import warnings

TIMEOUT, SHORT_S, LONG_S = "MLFLOW_HTTP_REQUEST_TIMEOUT", "10", "600"
# Read when mlflow is imported, hence before it. A dead server must fail at once (MLflow's own
# retries last minutes); what the user has set stays.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    TIMEOUT: SHORT_S,
}

# MLflow warns of its own types when its models are imported.
warnings.filterwarnings("ignore", category=UserWarning, module=r"mlflow\.types\.type_hints")

# They bind whatever a client writes to a run, model or experiment of another program's.
BINDING = (
    "MLFLOW_RUN_ID",
    "MLFLOW_RUN_CONTEXT",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_ACTIVE_MODEL_ID",
    "_MLFLOW_ACTIVE_MODEL_ID",
    "MLFLOW_TRACING_DESTINATION",
)


def set_up() -> None:
    """Set what MLflow reads, and take away what binds it."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    unbind()


def unbind() -> None:
    """Take the names that bind a client out of the environment."""
    for name in BINDING:
        os.environ.pop(name, None)


set_up()
