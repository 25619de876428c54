"""What every job of a pick or a study is told, and where it leaves its result.

A result is stored in the study's folder, under a name that follows from all that decides it
(weights, settings, images), and is not computed again. So a pick that is typed again, or another
one over the same candidates, computes only what is missing.
"""

import dataclasses
import functools
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open

from acgan.config import TrainConfig, derive_seed, validate
from acgan.data.dataset import Dataset, ImageSet
from acgan.errors import InputError
from acgan.files import Stored, write_json
from acgan.generation.generator import LoadedGenerator, generate_all, load_generator
from acgan.plugins import EXTRACTORS, origin
from search.nodes.sees import StudyAt, same_data, same_study, set_aside
from search.study.store.study_copy import RESULTS, run_file
from selection.extractors.base import Extractor, ExtractorInfo
from selection.extractors.choose import BUILT_IN, open_extractor
from selection.settings import SelectionConfig

RESULT_VERSION = 1


class Result(Stored):
    """What a job leaves in the folder of results.

    failed: why there is nothing more to it, "" if all is well; seconds: that the job took
    """

    failed: str = ""
    seconds: float = 0.0


ResultT_co = TypeVar("ResultT_co", bound=Result, covariant=True)
FileT = TypeVar("FileT", bound=BaseModel)


def read_stored(model: type[FileT], path: Path) -> FileT | None:
    """Read a stored result; None if there is none that can be used."""
    try:
        return model.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _is_whole(path: Path) -> bool:
    """Return whether a file exists, and one of tensors is undamaged, as far as its header tells."""
    if path.suffix != ".safetensors":
        return path.exists()
    try:
        with safe_open(path, framework="pt"):  # also compares the length with the header's
            return True
    except (OSError, SafetensorError):
        return False


@dataclass(frozen=True)
class Weights:
    """One candidate's generator: its name for people, its file, and the file's hash."""

    name: str
    path: Path
    sha256: str

    def load(self, device: torch.device) -> LoadedGenerator:
        """Read the generator; `InputError` if the file is no longer the one that was checked."""
        return load_generator(self.path, device=device, sha256=self.sha256)


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
    def folder(self) -> Path:
        """The study's folder of results."""
        return self.at.here(self.at.study / RESULTS)

    def path(self, kind: str, names: Collection[str], *parts: object) -> Path:
        """Return where a result stands that `parts` and the settings of these names decide."""
        settings = self.settings.model_dump(include=set(names))
        key = derive_seed(RESULT_VERSION, self.fingerprint, sorted(settings.items()), *parts)
        return self.folder / f"{kind}-{key:016x}.json"

    def data(self) -> Dataset:
        """Load the study's images on this node, without the test images."""
        return without_test(self.all_data())

    def all_data(self) -> Dataset:
        """Load the study's images on this node; only the last step may ask for the test images."""
        study = same_study(self.at)
        return same_data(self.at, study, validate(TrainConfig, "train", study.info.train))

    def fidelity_images(
        self, generator: LoadedGenerator, what: str = "fidelity images"
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the images of a generator that are measured, and their labels.

        what: for which measurement; each has images of its own
        """
        seed = derive_seed(self.settings.seed, what)
        return generate_all(generator, per_class=self.settings.fidelity_images, seed=seed)

    def load(self, weights: Weights, device: torch.device) -> LoadedGenerator:
        """Read a candidate's generator on this node, which fetches it from an object store."""
        path = run_file(self.at.here(weights.path))
        return dataclasses.replace(weights, path=path).load(device)

    @property
    def plugin(self) -> tuple[str, ...]:
        """The plug-in that gives features and its version; nothing for features of this package.

        The hash of its weights does not tell what its code makes of them.
        """
        name = self.settings.extractor
        return () if name in BUILT_IN else (name, self.plugin_version)

    def open_extractor(self, *, gpu: bool, known: ExtractorInfo | None = None) -> Extractor:
        """Open what turns images into features; `InputError` if this node's is not the known."""
        here = origin(EXTRACTORS, self.settings.extractor)
        if here != self.plugin_version:
            raise InputError(
                f"node {platform.node()} has the features {self.settings.extractor} of "
                f"{here or 'no package'}, the pick was begun with "
                f"{self.plugin_version or 'no package'}; install the same plug-in everywhere"
            )
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
        folder=work.folder,
    )


@dataclass(frozen=True)
class StoredJob(ABC, Generic[ResultT_co]):
    """A part of a pick or a study, whose result is stored under a name that all of it decides.

    kind: the first word of the file's name; model: of the result
    setting_names: of the settings that decide the result
    files: endings of further files that belong to a result that did not fail
    """

    kind: ClassVar[str]
    model: ClassVar[type[Result]]
    setting_names: ClassVar[frozenset[str]] = frozenset()
    files: ClassVar[tuple[str, ...]] = ()

    work: Work

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in messages."""

    @property
    @abstractmethod
    def parts(self) -> tuple[object, ...]:
        """What decides the result besides the data and the settings."""

    @abstractmethod
    def compute(self, *, gpu: bool) -> ResultT_co:
        """Do the work, and write the further files."""

    @property
    def path(self) -> Path:
        """Where the result is stored."""
        return self.work.path(self.kind, self.setting_names, *self.parts)

    def file(self, ending: str) -> Path:
        """Where the further file with this ending is stored."""
        return self.path.with_suffix(ending)

    def result(self) -> ResultT_co | None:
        """Return the stored result; None without it, or without a file that belongs to it."""
        result = read_stored(self.model, self.path)
        if result is None or result.failed or all(_is_whole(self.file(e)) for e in self.files):
            return cast("ResultT_co | None", result)
        return None

    def forget(self) -> None:
        """Remove what is stored of the result on this node."""
        for path in (self.path, *map(self.file, self.files)):
            path.unlink(missing_ok=True)

    def done(self) -> bool:
        """Whether there is a result."""
        return self.result() is not None

    def run(self, *, gpu: bool) -> None:
        """Do the work and store its result."""
        started = time.perf_counter()
        result = self.compute(gpu=gpu)
        seconds = time.perf_counter() - started
        write_json(self.path, result.model_copy(update={"seconds": seconds}))


@dataclass(frozen=True)
class CandidateJob(StoredJob[ResultT_co]):
    """A job of one candidate's generator, which names it."""

    weights: Weights

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.weights.name
