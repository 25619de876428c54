"""The search itself: Ray Tune's trials, the sampler it asks, and the rules that end a trial."""

from acgan.command import loading
from search.nodes import environment  # noqa: F401 - before Ray is imported

with loading():  # for the processes of trials, which begin here
    import torch  # noqa: F401
    from ray import tune  # noqa: F401

    from search.nodes import cluster
cluster.freeze()
