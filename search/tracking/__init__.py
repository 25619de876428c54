"""MLflow: where it is, which run is of what, and what is written there."""

from search.tracking import environment  # noqa: F401 - before MLflow is imported
