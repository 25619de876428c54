"""A run on disk: its records, states and weights, and the machines it was trained on."""
