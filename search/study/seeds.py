"""The seeds of a search's runs: each follows from the search's own, the same on every machine."""

from acgan.config import derive_seed


def trial_seed(search: int, number: int) -> int:
    """Return the seed of a trial by its number."""
    return derive_seed(search, "trial", number)


def repeat_seed(search: int, name: str) -> int:
    """Return the seed of a repeat, which trains a trial's configuration again, by its name."""
    return derive_seed(search, "repeat", name)
