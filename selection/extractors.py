"""What turns images into features, once: Inception, CNNs of this data set, or a plug-in.

"Standard" are torch-fidelity's Inception weights alone: only with them is a distance called FID.
Where they cannot be had, three CNNs trained on the real training images serve. A package adds its
own by an entry point in the group `acgan_search.extractors`: a callable of the data set and the
device that returns an `Extractor`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from acgan.classifier import Images, embed_and_classify
from acgan.config import TrainConfig, cache_folder, derive_seed, nearest
from acgan.dataset import Dataset
from acgan.errors import InputError
from acgan.evaluate import Scorer, cached_scorer, scorer_name
from acgan.files import replace_bytes
from acgan.inception import STANDARD_SHA256, URL, cached_path, checked_file
from acgan.rundir import checksum, read_weights, weights_bytes

AUTO = "auto"
INCEPTION = "inception-v3-compat"
CNN3 = "cnn3"
PLUGINS = "acgan_search.extractors"

LAYERS = ["2048", "logits_unbiased"]
NETWORK_TIMEOUT_S = 5.0
DOWNLOAD_LIMIT_BYTES = 256 * 1024**2  # the file has 91 MB
BATCH = 64
# What PyTorch raises, besides, for a file that is no weights file or another network's.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, EOFError, LookupError)
FEATURES_VERSION = 1  # a change makes every cached feature again

_operators: list[torch.library.Library] = []  # a library is there as long as its object is


@dataclass(frozen=True)
class View:
    """Images as one network sees them.

    features [N, D]; logits [N, C], for the inception score: logarithms of its classes'
    probabilities up to a constant; both on the CPU, wherever they were computed
    """

    features: Tensor
    logits: Tensor

    def __post_init__(self) -> None:
        for name in ("features", "logits"):
            object.__setattr__(self, name, getattr(self, name).detach().cpu())


class Extractor(ABC):
    """Turns images into features.

    name: as it stands in the names of metrics
    sha256: of the weights
    independent: whether it has never seen the data set's own images
    standard: whether these are torch-fidelity's Inception weights; never true for a plug-in
    """

    standard = False

    def __init__(self, name: str, sha256: str, *, independent: bool) -> None:
        self.name = name
        self.sha256 = sha256
        self.independent = independent

    @abstractmethod
    def extract(self, images: Images) -> tuple[View, ...]:
        """Return one view of the images or several, over which metrics are averaged.

        images: uint8 [N, 3, H, W], or grey [N, H, W]
        """

    def metric_name(self, metric: str) -> str:
        """Return a metric's name, "fid" or "intra_fid": as it is, or for example "fd_cnn3"."""
        return metric if self.standard else f"{metric.replace('fid', 'fd')}_{self.name}"


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


class Cnn3(Extractor):
    """Three scoring CNNs trained on the real training images with seeds used nowhere else.

    They are trained once for a data set and kept in the cache. With `folder`, which all nodes of
    a cluster see, they are taken from there, and put there first: two GPUs would not train the
    same ones.
    """

    def __init__(self, data: Dataset, device: torch.device, folder: Path | None = None) -> None:
        size = data.train.images.shape[-1]
        paths = [_scorer_path(data, device, i, folder) for i in range(3)]
        content = b"".join(path.read_bytes() for path in paths)
        super().__init__(CNN3, hashlib.sha256(content).hexdigest(), independent=False)
        self.scorers = [
            Scorer.load(path, classes=len(data.classes), image_size=size, device=device)
            for path in paths
        ]

    def extract(self, images: Images) -> tuple[View, ...]:
        """Return each CNN's 32 components and the logits.

        The components are divided by one number, so that the mean square of one is about 1 on
        real images: KID's kernel is made for such features. Undivided (about 6), its cubes let
        a few unusual images rule.
        """
        return tuple(_scorer_view(scorer, images) for scorer in self.scorers)


def _scorer_path(data: Dataset, device: torch.device, number: int, folder: Path | None) -> Path:
    size, seed = data.train.images.shape[-1], derive_seed("selection extractor", number)
    config = TrainConfig(image_size=size, evaluation_seed=seed)
    if folder is None:
        return cached_scorer(data, config, device)
    path = folder / f"{CNN3}-{scorer_name(data, config)}"
    if not path.exists():
        replace_bytes(path, cached_scorer(data, config, device).read_bytes())
    return path


def _scorer_view(scorer: Scorer, images: Images) -> View:
    pooled, logits = (t.double().cpu() for t in embed_and_classify(scorer.classifier, images))
    components = scorer.components(pooled.numpy())
    mean_square = np.isfinite(scorer.scale).sum() / components.shape[1]  # of standardised channels
    return View(torch.from_numpy(components / mean_square**0.5), logits)


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
        return _load_inception(checked_file(weights, sha256 or STANDARD_SHA256), device)
    if name in (AUTO, INCEPTION) and (content := _standard_weights()):
        return _load_inception(content, device)
    if name == INCEPTION:
        raise InputError(
            f"the Inception weights are not in PyTorch's cache and {URL} cannot be reached; "
            f"give them with --inception-weights FILE, or choose --extractor {CNN3}"
        )
    if name in plugins:
        return _open_plugin(plugins[name].load()(data, device), name)
    return Cnn3(data, device, folder)


def check_request(name: str, weights: Path | None) -> dict[str, EntryPoint]:
    """Return the plug-ins by name; `InputError` for an unknown extractor or one that needs none."""
    plugins = {plugin.name: plugin for plugin in entry_points(group=PLUGINS)}
    known = (AUTO, INCEPTION, CNN3, *plugins)
    if name not in known:
        raise InputError(f"unknown extractor {name!r}{nearest(name, known)}")
    if weights is not None and name not in (AUTO, INCEPTION):
        raise InputError(
            f"Inception weights are given, but the extractor is {name!r}; leave one of them out"
        )
    return plugins


def settled(name: str, weights: Path | None) -> str:
    """Return what "auto" is now: Inception where its weights can be had, else "cnn3"."""
    if name != AUTO:
        return name
    return INCEPTION if weights is not None or _standard_weights() is not None else CNN3


def plugin_version(name: str) -> str:
    """Return package and version that a plug-in comes from; nothing for any other extractor."""
    for plugin in entry_points(group=PLUGINS, name=name):
        if plugin.dist is not None:
            return f"{plugin.dist.name} {plugin.dist.version}"
    return ""


def check_weights(path: Path, sha256: str | None) -> str:
    """Return a weights file's SHA-256; `InputError` if it is not this one, or the standard one."""
    return hashlib.sha256(checked_file(path, sha256 or STANDARD_SHA256)).hexdigest()


def _open_plugin(made: object, name: str) -> Extractor:
    if not isinstance(made, Extractor) or made.name != name:
        raise InputError(
            f"the plug-in {name!r} must return a selection.extractors.Extractor "
            "of its name; mend it, or choose another extractor"
        )
    return made


def _standard_weights() -> bytes | None:
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


def _load_inception(content: bytes, device: torch.device) -> Inception:
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
        _write_views(path, views)
    return views


def _write_views(path: Path, views: tuple[View, ...]) -> None:
    tensors = {f"{i}.features": view.features for i, view in enumerate(views)}
    tensors |= {f"{i}.logits": view.logits for i, view in enumerate(views)}
    content = weights_bytes(tensors, {"checksum": checksum(tensors, "")})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(path, content)
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror}); name another folder in ACGAN_CACHE"
        ) from error


def _read_views(path: Path) -> tuple[View, ...] | None:
    """Read what `_write_views` wrote; None if it is not there or is damaged."""
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
