"""The machines of a search: Ray's cluster, and whether a node sees, holds and computes."""
