"""The Inception network of torch-fidelity; with its standard weights alone a distance is FID."""

import contextlib
import hashlib
import io
import pickle
import sys
from collections.abc import Iterator
from http.client import HTTPException
from urllib.request import urlopen

import torch
from torch import Tensor, nn

from acgan.errors import InputError
from acgan.evaluation.classifier import Images
from acgan.evaluation.inception_file import STANDARD_SHA256, URL, cached_path, checked_file
from acgan.files import replace_bytes
from selection.extractors.base import Extractor, View

INCEPTION = "inception-v3-compat"

LAYERS = ["2048", "logits_unbiased"]
NETWORK_TIMEOUT_S = 5.0
DOWNLOAD_LIMIT_BYTES = 256 * 1024**2  # the file has 91 MB
BATCH = 64
# What PyTorch raises, besides, for a file that is no weights file or another network's.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, EOFError, LookupError)

_operators: list[torch.library.Library] = []  # a library is there as long as its object is


class Inception(Extractor):
    """The Inception network of torch-fidelity, with its resize; `network` maps uint8 images."""

    def __init__(self, network: nn.Module, sha256: str, device: torch.device) -> None:
        self.standard = sha256 == STANDARD_SHA256
        name = INCEPTION if self.standard else f"inception_{sha256[:8]}"
        super().__init__(name, sha256, independent=True)
        self.network = network.to(device)
        self.device = device

    @torch.inference_mode()
    def extract(self, images: Images) -> tuple[View, ...]:
        """Return the 2,048 pooled features and the logits without bias."""
        outputs = [self.network(batch.to(self.device)) for batch in _colour_batches(images)]
        features, logits = (torch.cat(parts).cpu() for parts in zip(*outputs, strict=True))
        return (View(features, logits),)


def _colour_batches(images: Images) -> Iterator[Tensor]:
    for start in range(0, len(images), BATCH):
        chosen = images[start : start + BATCH]
        batch = chosen if isinstance(chosen, Tensor) else torch.tensor(chosen)
        yield batch if batch.ndim == 4 else batch[:, None].expand(-1, 3, -1, -1)


def standard_weights() -> bytes | None:
    """Return torch-fidelity's weights file from PyTorch's cache or the network; None without."""
    path = cached_path(URL)
    with contextlib.suppress(InputError):  # missing or damaged: it is downloaded anew
        return checked_file(path, STANDARD_SHA256)
    try:
        with urlopen(URL, timeout=NETWORK_TIMEOUT_S) as response:
            content: bytes = response.read(DOWNLOAD_LIMIT_BYTES)
    except (OSError, HTTPException):
        return None
    if hashlib.sha256(content).hexdigest() != STANDARD_SHA256:
        return None
    with contextlib.suppress(OSError):  # it serves without being kept
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(path, content)
    return content


def load_inception(content: bytes, device: torch.device) -> Inception:
    """Build Inception from a weights file's content, which is read without unpickling objects.

    torch-fidelity's own loading would unpickle, so it is given what has been read, written anew.
    """
    enable_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import (  # noqa: PLC0415 (seconds)
        FeatureExtractorInceptionV3,
    )

    rewritten = io.BytesIO()
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        torch.save(state, rewritten)
        rewritten.seek(0)
        with torch.random.fork_rng(devices=[]):  # a new layer draws from the global generator
            network = FeatureExtractorInceptionV3(
                INCEPTION, LAYERS, feature_extractor_weights_path=rewritten
            )
    except UNREADABLE as error:
        raise InputError(
            "the Inception weights are no state of torch-fidelity's Inception network; "
            f"give the file that {URL} offers"
        ) from error
    return Inception(network, hashlib.sha256(content).hexdigest(), device)


def enable_torchvision() -> None:
    """Import torchvision, also beside a PyTorch build for which its operators were not compiled.

    torch-fidelity uses none of them, but torchvision cannot be imported unless `nms` is declared.
    """
    try:
        _import_afresh()
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _operators.append(library)
        _import_afresh()


def _import_afresh() -> None:
    """Import torchvision without the parts that an import that failed has left behind."""
    if "torchvision" not in sys.modules:
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]
    import torchvision  # noqa: F401, PLC0415
