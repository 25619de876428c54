"""What runs apart, in other processes and on other nodes, and where its results are stored."""

import gc

from acgan.command import loading

with loading():  # for the processes of jobs, which begin here
    import ray
    import torch  # noqa: F401

    from search.nodes import cluster  # noqa: F401 - sets what Ray reads when it is imported

if ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
    gc.freeze()  # in such a process: see `loading`
