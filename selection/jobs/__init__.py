"""What runs apart, in other processes and on other nodes, and where its results are stored."""

from acgan.command import loading

with loading():  # for the processes of jobs, which begin here
    import torch  # noqa: F401

    from search.nodes import cluster  # which sets what Ray reads when it is imported
cluster.freeze()
