"""What MLflow reads when it is imported; the room imports this before anything else."""

import os
import warnings

# Read when mlflow is imported, hence before it. A dead server must fail at once (MLflow's own
# retries last minutes); what the user has set stays.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
TIMEOUT, SHORT_S, LONG_S = "MLFLOW_HTTP_REQUEST_TIMEOUT", "10", "600"
os.environ.setdefault(TIMEOUT, SHORT_S)

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


def unbind() -> None:
    """Take the names that bind a client out of the environment."""
    for name in BINDING:
        os.environ.pop(name, None)


unbind()
