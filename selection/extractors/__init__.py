"""What turns images into features: Inception, CNNs of this data set, or a plug-in.

A plug-in's extractor is an `Extractor` that returns `View`s.
"""

from selection.extractors.base import Extractor, View

__all__ = ["Extractor", "View"]
