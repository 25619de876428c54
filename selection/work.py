"""What every job of a pick or a study is told, and where it leaves its result.

A result stands in the study's store, under a name that follows from all that decides it (weights,
settings, images).
"""

from __future__ import annotations

import dataclasses
import functools
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from acgan.config import TrainConfig, derive_seed, validate
from acgan.dataset import Dataset, ImageSet
from acgan.errors import InputError
from acgan.generator import LoadedGenerator, generate_all, load_generator
from search.node import StudyAt, same_data, same_study, set_aside
from selection.extractors import Extractor, open_extractor
from selection.result import ExtractorInfo, Fidelity, Images
from selection.settings import SelectionConfig

STORE_VERSION = 1


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Scored(_File):
    """One CNN's hits on the validation images, see `selection.result.Utility`; or why not."""

    hits: str = ""
    failed: str = ""
    seconds: float = 0.0


class Measured(_File):
    """Step 3's numbers of one candidate; or why there are none."""

    fidelity: Fidelity | None = None
    failed: str = ""
    seconds: float = 0.0


class Touched(_File):
    """What was seen of one candidate on the test images: hits of its CNNs, and metrics."""

    images: Images
    sources: list[str]
    hits: list[str]
    metrics: dict[str, float]
    seconds: float = 0.0


class Opened(_File):
    """What the extractor is, and how long it took to open."""

    info: ExtractorInfo
    seconds: float = 0.0


class Walked(_File):
    """Whether a generator's walks are drawn; or why not."""

    failed: str = ""
    seconds: float = 0.0


FileT = TypeVar("FileT", bound=BaseModel)


def read_stored(model: type[FileT], path: Path) -> FileT | None:
    """Read a stored result; None if there is none that can be used."""
    try:
        return model.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def whole_tensors(path: Path) -> bool:
    """Return whether a file of tensors is there and undamaged, as far as its header tells."""
    try:
        with safe_open(path, framework="pt"):  # also compares the length with the header's
            return True
    except (OSError, SafetensorError):
        return False


@dataclass(frozen=True)
class Work:
    """What every job of one pick is told.

    plugin_version: of the package that the extractor comes from, if it is a plug-in
    """

    at: StudyAt
    settings: SelectionConfig
    fingerprint: str
    inception_weights: Path | None
    plugin_version: str = ""

    @property
    def store(self) -> Path:
        """The study's folder of results."""
        return self.at.study / "selection" / "store"

    def path(self, kind: str, names: set[str], *parts: object) -> Path:
        """Return where a result stands that `parts` and the settings of these names decide."""
        settings = self.settings.model_dump(include=names)
        key = derive_seed(STORE_VERSION, self.fingerprint, sorted(settings.items()), *parts)
        return self.store / f"{kind}-{key:016x}.json"

    def data(self) -> Dataset:
        """Load the study's images on this node, without the test images."""
        return without_test(self.all_data())

    def all_data(self) -> Dataset:
        """Load the study's images on this node; only the last step may ask for the test images."""
        study = same_study(self.at)
        return same_data(self.at, validate(TrainConfig, "train", study.info.train))

    def fidelity_images(
        self, generator: LoadedGenerator, what: str = "fidelity images"
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the images of a generator that are measured, and their labels.

        what: for which measurement; each has images of its own
        """
        seed = derive_seed(self.settings.seed, what)
        return generate_all(generator, per_class=self.settings.fidelity_images, seed=seed)

    def open_extractor(self, *, gpu: bool, known: ExtractorInfo | None = None) -> Extractor:
        """Open what turns images into features; `InputError` if this node's is not the known."""
        extractor = _extractor(self, self.settings.extractor, gpu)
        if known is not None and extractor.sha256 != known.sha256:
            raise InputError(
                f"node {platform.node()} has the features {extractor.name}, others have "
                f"{known.name}; name a file that all nodes see with --inception-weights, install "
                "the same plug-in everywhere, or choose --extractor cnn3"
            )
        return extractor


def without_test(data: Dataset) -> Dataset:
    """Return a data set whose test images cannot be read, because they are not there."""
    none = ImageSet(data.val.images[:0], data.val.labels[:0], (), ())
    return dataclasses.replace(data, test=none)


@functools.lru_cache(maxsize=1)
def _extractor(work: Work, name: str, gpu: bool) -> Extractor:
    # A process that runs several jobs, one after another, opens the extractor once.
    return open_extractor(
        name,
        data=work.data(),
        device=set_aside(gpu),
        weights=work.inception_weights,
        sha256=work.settings.inception_sha256,
        folder=work.store,
    )


@dataclass(frozen=True)
class Weights:
    """One candidate's generator: its name for people, its file, and the file's hash."""

    name: str
    path: Path
    sha256: str

    def load(self, device: torch.device) -> LoadedGenerator:
        """Read the generator; `InputError` if the file is no longer the one that was checked."""
        return load_generator(self.path, device=device, sha256=self.sha256)


class Job(Protocol):
    """A part of a pick."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def done(self) -> bool:
        """Whether its result is in the store."""

    def run(self, *, gpu: bool) -> None:
        """Do the work and leave the result in the store."""
