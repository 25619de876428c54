"""A generator read from its weights file, and the images it makes: the same ones every time."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Json, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from acgan.config import PUBLISHED, TrainConfig, derive_seed
from acgan.errors import InputError
from acgan.evaluation.grids import to_uint8
from acgan.gan.interface import GeneratorNetwork
from acgan.gan.models import draw_latents
from acgan.gan.networks import build_generator
from acgan.run.weights import parse_weights, weights_content

BLOCK = 64  # images computed at once: another number would be other images
Pixels = NDArray[np.uint8]


class NotFiniteError(ValueError):
    """A generator made pixels that are not finite: it is no use, whatever the latents."""


class _Metadata(BaseModel):
    """What a weights file says of itself, see `acgan.training.generator_bytes`."""

    config: Json[TrainConfig]
    classes: Json[tuple[str, ...]]
    data: str = ""
    run: str
    epoch: int


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator in inference mode on its device, and what its file says of it.

    `run` and `epoch` tell where it comes from; `sha256` is the file's; `data` is the fingerprint of
    the images it was trained on, "" in files of earlier versions.
    """

    generator: GeneratorNetwork
    device: torch.device
    config: TrainConfig
    classes: tuple[str, ...]
    run: str
    epoch: int
    sha256: str
    data: str = ""


def load_generator(
    path: Path, *, device: torch.device, sha256: str | None = None
) -> LoadedGenerator:
    """Read the weights of one epoch, as `acgan.training` keeps them.

    Raises `InputError` for a file that is missing, is no such file, whose networks are not
    installed here, whose tensors do not fit its configuration, or whose SHA-256 is not the expected
    one.
    """
    content = _content(path)
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise InputError(
            f"{path} is not the file that was recorded (SHA-256 {found[:16]}…, expected "
            f"{sha256[:16]}…); restore it"
        )
    metadata, tensors = _parse(path, content)
    if not _fit(tensors, metadata):
        raise InputError(f"the tensors in {path} do not fit the configuration it names; restore it")
    generator = build_generator(metadata.config, len(metadata.classes))
    generator.load_state_dict(tensors)
    return LoadedGenerator(
        generator.to(device).eval(),
        device,
        metadata.config,
        metadata.classes,
        metadata.run,
        metadata.epoch,
        found,
        metadata.data,
    )


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"there is no weights file {path}; name a run's weights/*.safetensors")
    try:
        return weights_content(path)
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; change its permissions, or name a run's "
            "weights/*.safetensors"
        ) from error


def _fit(tensors: Mapping[str, Tensor], metadata: _Metadata) -> bool:
    """Whether the tensors are those of a generator of this configuration.

    Found without the memory of one: a damaged configuration may ask for any amount. But a plug-in's
    may look at its numbers when it is made.
    """
    try:
        with torch.device("meta" if metadata.config.networks == PUBLISHED else "cpu"):
            wanted = build_generator(metadata.config, len(metadata.classes)).state_dict()
    except RuntimeError:  # more numbers than a tensor can have
        return False
    return tensors.keys() == wanted.keys() and all(
        (found.shape, found.dtype) == (wanted[name].shape, wanted[name].dtype)
        for name, found in tensors.items()
    )


def _parse(path: Path, content: bytes) -> tuple[_Metadata, dict[str, Tensor]]:
    try:
        tensors, texts = parse_weights(content)
        metadata = _Metadata.model_validate(texts)
    except SafetensorError as error:
        raise InputError(
            f"{path} is no safetensors file ({error}); name a run's weights/*.safetensors"
        ) from error
    except ValidationError as error:
        key = error.errors()[0]["loc"][0]
        raise InputError(
            f"{path} does not say which generator it holds ({key!r} is missing or wrong in its "
            "metadata); name a run's weights/*.safetensors"
        ) from error
    if len(set(metadata.classes)) < len(metadata.classes) or len(metadata.classes) < 2:
        raise InputError(
            f"{path} names the classes {metadata.classes}, not two or more; restore it"
        )
    return metadata, tensors


def generate(
    loaded: LoadedGenerator, label: int, *, count: int, seed: int, start: int = 0
) -> Pixels:
    """Return images `start` to `start + count - 1` of a class, uint8 [count, 3, H, W].

    Image i depends on the weights, the seed, the class and i alone: images are always computed in
    the same blocks of 64, because a convolution may round differently in another batch size. The
    bytes are the same for one kind of device and version of PyTorch. Raises `NotFiniteError`.
    """
    assert 0 <= label < len(loaded.classes), f"{label=}"
    assert start >= 0 < count, f"{start=}, {count=}"
    first, last = start // BLOCK, (start + count - 1) // BLOCK
    blocks = [_block(loaded, label, block, seed) for block in range(first, last + 1)]
    offset = start - first * BLOCK
    return np.concatenate(blocks)[offset : offset + count]


def _block(loaded: LoadedGenerator, label: int, block: int, seed: int) -> Pixels:
    random = torch.Generator().manual_seed(derive_seed(int(seed), int(label), int(block)))
    latents = draw_latents(BLOCK, loaded.config.latent_size, random)
    return _computed(loaded, latents, torch.full((BLOCK,), label))


def images_of(loaded: LoadedGenerator, latents: Tensor, labels: Tensor) -> Pixels:
    """Return the images of latents [N, latent_size] and labels int64 [N], uint8 [N, 3, H, W].

    Computed in whole blocks of 64, as `generate` does. Raises `NotFiniteError`.
    """
    padding = -len(latents) % BLOCK
    latents = torch.cat([latents, latents.new_zeros(padding, latents.shape[1])])
    labels = torch.cat([labels, labels.new_zeros(padding)])
    blocks = zip(latents.split(BLOCK), labels.split(BLOCK), strict=True)
    images = np.concatenate([_computed(loaded, *block) for block in blocks])
    return images[: len(images) - padding]


@torch.no_grad()
def _computed(loaded: LoadedGenerator, latents: Tensor, labels: Tensor) -> Pixels:
    with _reproducible():
        images = loaded.generator(latents.to(loaded.device), labels.to(loaded.device))
    if not images.isfinite().all():
        raise NotFiniteError(
            f"the generator of {loaded.run}, epoch {loaded.epoch}, makes pixels that are not finite"
        )
    pixels: Pixels = to_uint8(images).cpu().numpy()
    return pixels


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    """Keep cuDNN from algorithms whose result varies, and from choosing another each time."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def generate_all(
    loaded: LoadedGenerator, *, per_class: int, seed: int
) -> tuple[Pixels, NDArray[np.int64]]:
    """Return the first images of every class, uint8 [N, 3, H, W], and their labels, int64 [N].

    They are ordered by class. Raises `NotFiniteError`.
    """
    classes = range(len(loaded.classes))
    images = [generate(loaded, label, count=per_class, seed=seed) for label in classes]
    return np.concatenate(images), np.repeat(np.arange(len(classes)), per_class)
