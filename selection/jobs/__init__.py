"""What runs apart, in other processes and on other nodes, and where its results are stored."""

import gc

from acgan.command import loading

with loading():  # for the processes of jobs, which begin here
    import torch  # noqa: F401

    from search.nodes import cluster  # sets what Ray reads when it is imported

if cluster.in_worker():
    gc.freeze()  # in such a process: see `loading`
