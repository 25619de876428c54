"""Selection: from every kept epoch of every trial to one set of weights."""

import acgan  # noqa: F401 - Ctrl-C while the rest is imported
from selection.api import augmentation_study, pick

__all__ = ["augmentation_study", "pick"]
