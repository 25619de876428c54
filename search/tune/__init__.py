"""The search itself: Ray Tune's trials, the sampler it asks, and the rules that end a trial."""

from search.nodes import environment  # noqa: F401 - before Ray is imported
