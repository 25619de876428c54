"""What a search was asked for, read from the command line and checked before any long work."""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acgan.config import TrainConfig, find_file, read_file, resolve, validate
from acgan.data import load, named_source
from acgan.dataset import Dataset
from acgan.errors import InputError
from acgan.train import METRIC_NAMES, check_fits
from search import estimate, space
from search.searcher import Ledger
from search.settings import SearchConfig, identity
from search.study import FORMAT, LastStart, StudyInfo, new_uuid, study_path
from search.tracking import resolve_uri

DEMO = Path("configs/demo.yaml")


@dataclass(frozen=True)
class Plan:
    """All that was asked for, checked."""

    train: TrainConfig
    search: SearchConfig
    space: space.Space
    last_start: LastStart
    data: Dataset
    info: StudyInfo
    folder: Path
    tracking_uri: str
    address: str | None
    time_budget_s: float | None
    verbose: bool

    def ledger(self, path: Path | None) -> Ledger:
        """Open the study's ledger at `path`; None: one in memory, as of a study that is new."""
        start = space.baseline(self.space, self.train)
        return Ledger(path, self.space, start=start, config=self.search)

    def disk(self, trials: int) -> int:
        """Return the bytes that so many trials leave on disk, each as large as any can be."""
        largest = {
            name: space.largest(self.space, self.train, name)
            for name in ("width", "latent_size", "embedding_size")
        }
        config = validate(TrainConfig, "train", self.train.model_dump() | largest)
        return estimate.disk(config, len(self.data.classes)) * trials


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Check everything that was asked for, before any long work; `InputError` says what is not."""
    if arguments.config is None:
        print(f"no --config given: using {DEMO}, the demo on phantom images")
    file = find_file(arguments.config or DEMO)
    content = read_file(file)
    flags = vars(arguments)
    config = _train_config(content.get("train"), flags)
    settings = resolve(SearchConfig, "search", content.get("search"), flags)
    if settings.objective not in METRIC_NAMES:
        raise InputError(
            f"--objective {settings.objective!r} is not recorded; "
            f"recorded are {', '.join(METRIC_NAMES)}"
        )
    searched = space.read(content.get("space"), config)
    space.check_size(searched, settings.num_samples)
    folder = study_path(arguments.storage_path, _study_name(arguments.study, file))
    tracking_uri = resolve_uri(arguments.tracking_uri)
    source = named_source(arguments.data, content)
    data = load(
        source,
        image_size=config.image_size,
        split_seed=config.split_seed,
        val_fraction=config.val_fraction,
    )
    largest_batch = int(space.largest(searched, config, "batch_size"))
    check_fits(config.model_copy(update={"batch_size": largest_batch}), data)
    return Plan(
        train=config,
        search=settings,
        space=searched,
        last_start=LastStart(source=source, selection=content.get("selection") or {}),
        data=data,
        info=_study_info(folder.name, config, settings, searched, data),
        folder=folder,
        tracking_uri=tracking_uri,
        address=arguments.address,
        time_budget_s=arguments.time_budget,
        verbose=arguments.verbose,
    )


def _study_name(flag: str | None, file: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", file.stem) if flag is None else flag


def _train_config(section: Mapping[str, Any] | None, flags: Mapping[str, Any]) -> TrainConfig:
    flags = {name: value for name, value in flags.items() if name != "seed"}
    config = resolve(TrainConfig, "train", section, flags)
    if config.seed != TrainConfig().seed:
        raise InputError(
            "configuration key 'train.seed': each trial of a search has its own seed, derived "
            "from 'search.seed'; set that one"
        )
    return config


def _study_info(
    name: str, config: TrainConfig, settings: SearchConfig, searched: space.Space, data: Dataset
) -> StudyInfo:
    return StudyInfo(
        format=FORMAT,
        uuid=new_uuid(),
        name=name,
        created=time.time(),
        code_version=importlib.metadata.version("acgan-search"),
        train=config.model_dump(exclude={"seed"}),
        space=space.dump(searched),
        search=identity(settings),
        data_name=data.name,
        classes=data.classes,
        fingerprint=data.fingerprint,
    )
