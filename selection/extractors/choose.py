"""What turns images into features, once: Inception, CNNs of this data set, or a plug-in.

"Standard" are torch-fidelity's Inception weights alone: only with them is a distance called FID.
Where they cannot be had, three CNNs trained on the real training images serve. A package adds its
own by an entry point in the group `acgan_search.extractors`: a callable of the data set and the
device that returns an `Extractor`.
"""

import hashlib
from importlib.metadata import EntryPoint
from pathlib import Path

import torch

from acgan.config import nearest_name
from acgan.data.dataset import Dataset
from acgan.errors import InputError
from acgan.evaluation.inception_file import STANDARD_SHA256, URL, checked_file
from acgan.plugins import EXTRACTORS, installed, load_any
from selection.extractors.base import Extractor
from selection.extractors.cnn3 import CNN3, Cnn3
from selection.extractors.inception import INCEPTION, load_inception, standard_weights

AUTO = "auto"
BUILT_IN = (AUTO, INCEPTION, CNN3)


def open_extractor(
    name: str,
    *,
    data: Dataset,
    device: torch.device,
    folder: Path | None = None,
    weights: Path | None = None,
    sha256: str | None = None,
) -> Extractor:
    """Return an extractor: "auto", "inception-v3-compat", "cnn3", or a plug-in's name.

    folder: where all nodes share "cnn3" (default: each has its own cache); weights: a local file
    for Inception; sha256: its hash, for weights other than the standard ones (they are then named
    by it). "auto" is Inception where a file is given, is in PyTorch's
    cache or can be downloaded, else "cnn3", trained on `data` if it is not in the cache.
    Raises `InputError` for an unknown name and for weights that cannot be had or do not fit.
    """
    plugins = check_request(name, weights)
    if weights is not None:
        return load_inception(checked_file(weights, sha256 or STANDARD_SHA256), device)
    if name in (AUTO, INCEPTION) and (content := standard_weights()):
        return load_inception(content, device)
    if name == INCEPTION:
        raise InputError(
            f"the Inception weights are not in PyTorch's cache and {URL} cannot be reached; "
            f"give them with --inception-weights FILE, or choose --extractor {CNN3}"
        )
    if name not in plugins:
        return Cnn3(data, device, folder)
    made = load_any(plugins[name])(data, device)
    if not isinstance(made, Extractor) or made.name != name:
        raise InputError(
            f"the plug-in {name!r} must return a selection.extractors.base.Extractor "
            "of its name; mend it, or choose another extractor"
        )
    return made


def check_request(name: str, weights: Path | None) -> dict[str, EntryPoint]:
    """Return the plug-ins by name; `InputError` for an unknown extractor or one that needs none."""
    plugins = installed(EXTRACTORS)
    known = (*BUILT_IN, *plugins)
    if name not in known:
        raise InputError(f"unknown extractor {name!r}{nearest_name(name, known)}")
    if weights is not None and name not in (AUTO, INCEPTION):
        raise InputError(
            f"Inception weights are given, but the extractor is {name!r}; leave one of them out"
        )
    return plugins


def settled(name: str, weights: Path | None) -> str:
    """Return what "auto" is now: Inception where its weights can be had, else "cnn3"."""
    if name != AUTO:
        return name
    return INCEPTION if weights is not None or standard_weights() is not None else CNN3


def check_weights(path: Path, sha256: str | None) -> str:
    """Return a weights file's SHA-256; `InputError` if it is not this one, or the standard one."""
    return hashlib.sha256(checked_file(path, sha256 or STANDARD_SHA256)).hexdigest()
