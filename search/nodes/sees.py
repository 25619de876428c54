"""What a process on any node is told of a study, and how it makes sure that it sees the same."""

import functools
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from acgan.config import TrainConfig
from acgan.data.dataset import Dataset
from acgan.data.pack import load
from acgan.data.source import DataSource
from acgan.errors import InputError
from acgan.plugins import versions
from search.study.folder import Study, open_study
from search.study.store.objects import StoreError
from search.study.store.study_copy import StudyCopy, address_of, local_folder


@dataclass(frozen=True)
class StudyAt:
    """Where a study and its images are, as the driver sees them.

    study: its folder there; address: that of the studies in an object store, of which each node
        has a copy, "" where all nodes see the folder
    """

    study: Path
    uuid: str
    source: DataSource
    address: str = ""

    @classmethod
    def of(cls, study: Study, source: DataSource) -> Self:
        """Return where a study is that this process has opened."""
        return cls(study.path, study.info.uuid, source, address_of(study.path.parent))

    def here(self, path: Path) -> Path:
        """Return where a path of the study's folder is on this node."""
        if not self.address:
            return path
        return local_folder(self.address, self.study.name) / path.relative_to(self.study)

    def copy(self) -> StudyCopy | None:
        """Return this node's copy of a study in an object store; None of a folder."""
        return StudyCopy.of(self.here(self.study))


def set_aside(gpu: bool) -> torch.device:
    """Return where a task computes; `InputError` for a GPU set aside that PyTorch cannot use."""
    if gpu and not torch.cuda.is_available():
        raise InputError(
            f"Ray sees a GPU on node {platform.node()}, but PyTorch does not; install its build "
            "for CUDA, or a driver, there, or name --gpus-per-trial 0 (of a pick: --gpus-per-task)"
        )
    return torch.device("cuda" if gpu else "cpu")


def same_study(at: StudyAt, own: StudyCopy | None = None) -> Study:
    """Open the study on this node; `InputError` if it is not the driver's.

    own: this node's copy, which may wait for an object store
    """
    node, path = platform.node(), at.here(at.study)
    try:
        if (own := own or at.copy()) is not None:
            own.fetch("study.json", "quality.json")
        study = open_study(path)
    except StoreError as error:
        raise InputError(f"node {node}: {error}") from error
    except InputError as error:
        raise InputError(f"node {node} does not see the study's folder: {error}") from error
    if study.info.uuid != at.uuid:
        raise InputError(
            f"node {node} sees another study at {at.study}; --storage-path must be a folder "
            "that all nodes share"
        )
    return study


def same_plugins(config: TrainConfig, layout: str, plugins: Mapping[str, str]) -> None:
    """Raise `InputError` if this node has not the plug-ins in the versions that the driver has.

    layout: as which the driver read the data folder; plugins: see `acgan.plugins.versions`
    """
    own = versions(config, layout=layout)
    for name, version in plugins.items():
        if own.get(name) != version:
            raise InputError(
                f"node {platform.node()} has {own.get(name, 'no package')} for {name}, and the "
                f"driver has {version}; install the same on every node"
            )


def same_data(at: StudyAt, study: Study, config: TrainConfig) -> Dataset:
    """Load the study's images on this node; `InputError` if they are not the driver's."""
    settings = config.image_size, config.split_seed, config.val_fraction, config.colour
    data = _load(at.source, *settings, study.info.fingerprint)
    if data.fingerprint != study.info.fingerprint:
        raise InputError(
            f"node {platform.node()} has other images at {at.source} than the study was begun "
            "with; copy the same folder there"
        )
    return data


@functools.lru_cache(maxsize=1)
def _load(
    source: DataSource,
    image_size: int,
    split_seed: int,
    val_fraction: float | None,
    colour: str,
    known: str,
) -> Dataset:
    # A process that runs several trials, one after another, opens the images once.
    return load(
        source,
        image_size=image_size,
        split_seed=split_seed,
        val_fraction=val_fraction,
        colour=colour,
        known=known,
    )
