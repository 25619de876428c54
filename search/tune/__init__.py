"""The search itself: Ray Tune's trials, the sampler it asks, and the rules that end a trial."""

import gc

from acgan.command import loading
from search.nodes import environment  # noqa: F401 - before Ray is imported

with loading():  # for the processes of trials, which begin here
    import ray
    import torch  # noqa: F401
    from ray import tune  # noqa: F401

if ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
    gc.freeze()  # in such a process: see `loading`
