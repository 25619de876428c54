"""What runs apart, in other processes and on other nodes, and where its results are stored."""

from search.nodes import cluster  # noqa: F401 - sets what Ray reads when it is imported
