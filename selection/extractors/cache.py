"""Features of real images, kept from pick to pick."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from acgan.config import cache_folder
from acgan.files import write_cached
from acgan.run.weights import checksum, read_weights, weights_bytes
from selection.extractors.base import Extractor, View

FEATURES_VERSION = 1  # a change makes every cached feature again


def cached_views(extractor: Extractor, images: NDArray[np.uint8]) -> tuple[View, ...]:
    """Return the views of a set of real images, from the cache if these very bytes are there.

    A cached file that is damaged is made again. Raises `InputError` where none can be written.
    """
    key = f"{FEATURES_VERSION} {extractor.name} {extractor.sha256} {images.shape}"
    digest = hashlib.sha256(key.encode())
    digest.update(np.ascontiguousarray(images).data)
    path = cache_folder() / "features" / f"{digest.hexdigest()}.safetensors"
    views = _read_views(path)
    if views is None:
        views = extractor.extract(images)
        tensors = {f"{i}.features": view.features for i, view in enumerate(views)}
        tensors |= {f"{i}.logits": view.logits for i, view in enumerate(views)}
        write_cached(path, weights_bytes(tensors, {"checksum": checksum(tensors, "")}))
    return views


def _read_views(path: Path) -> tuple[View, ...] | None:
    """Read what was cached; None if it is not there or is damaged."""
    try:
        tensors, metadata = read_weights(path)
    except (SafetensorError, OSError):
        return None
    if checksum(tensors, "") != metadata.get("checksum"):
        return None
    views = range(len(tensors) // 2)
    if tensors.keys() != {f"{i}.{part}" for i in views for part in ("features", "logits")}:
        return None
    return tuple(View(tensors[f"{i}.features"], tensors[f"{i}.logits"]) for i in views)
