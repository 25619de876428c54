"""The machines of a search: Ray's cluster, and whether a node sees, holds and computes."""

from search.nodes import environment  # noqa: F401 - before Ray is imported
