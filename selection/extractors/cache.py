"""Features of real images, kept from pick to pick."""

import hashlib

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from acgan.config import cache_folder
from acgan.run.weights import cached_tensors
from selection.extractors.base import Extractor, View

FEATURES_VERSION = 1  # a change makes every cached feature again
PARTS = ("features", "logits")


def cached_views(
    extractor: Extractor, images: NDArray[np.uint8], *, version: str = ""
) -> tuple[View, ...]:
    """Return the views of a set of real images, from the cache if these very bytes are there.

    version: of the package that the extractor comes from, if it is a plug-in, whose code may give
    other features with the same weights. A cached file that is damaged is made again. Raises
    `InputError` where none can be written.
    """
    key = f"{FEATURES_VERSION} {extractor.name} {extractor.sha256} {images.shape}"
    key += f" {version}" if version else ""
    digest = hashlib.sha256(key.encode())
    digest.update(np.ascontiguousarray(images).data)
    path = cache_folder() / "features" / f"{digest.hexdigest()}.safetensors"

    def extract() -> dict[str, Tensor]:
        parts = enumerate(extractor.extract(images))
        return {f"{i}.{part}": getattr(view, part) for i, view in parts for part in PARTS}

    tensors = cached_tensors(path, extract)
    count = len(tensors) // len(PARTS)
    return tuple(View(*(tensors[f"{i}.{part}"] for part in PARTS)) for i in range(count))
