"""MLflow's registry of generators: versions, aliases, and what a registered model is."""

from search.tracking import environment  # noqa: F401 - before MLflow is imported
