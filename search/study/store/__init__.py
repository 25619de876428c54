"""Studies on object storage: the objects, a study's copy on a node, its lock, its trials' runs."""
