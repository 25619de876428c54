"""What a search is asked for, by flags or from Python, checked before any long work."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from acgan.command import FromFlags
from acgan.config import TrainConfig, check_sections, find_file, read_file, resolve, validate
from acgan.data.dataset import Dataset
from acgan.data.layouts import read_table
from acgan.data.pack import load_for
from acgan.data.source import PHANTOM, DataSource, named_source
from acgan.data.table import GENERATED, TEST
from acgan.errors import InputError
from acgan.evaluation.evaluate import check_numbers
from acgan.evaluation.numbers import how_to_record
from acgan.gan.networks import check_networks
from acgan.plugins import other_versions, versions
from acgan.run.device import default_device
from acgan.run.machine import CPU
from acgan.run.records import grace_epochs
from acgan.training import check_fits, metric_names
from search.settings import SearchConfig, identity
from search.study import estimate, space
from search.study.folder import (
    FEWEST_TRAINING,
    FEWEST_VALIDATION,
    STUDY_FORMAT,
    LastStart,
    StudyInfo,
    begun_study,
    begun_with,
    new_uuid,
    started_with,
    study_path,
)
from search.study.optuna_ledger import Ledger
from search.tracking.uris import resolve_uri

DEMO = Path("configs/demo.yaml")
SMALL = Path("configs/small.yaml")
FULL_SIZE = Path("configs/covidx-modern.yaml")
MANY_IMAGES = 2_000  # below, 112 px and width 1 are more than the images can fill


@dataclass(frozen=True, kw_only=True)
class SearchRequest(FromFlags):
    """What a search is asked for; None: as the configuration says, else the default.

    config: a YAML file, or what one would hold
    space: its section of that name, instead of the configuration's
    study: its name; storage_path: the folder that holds it; time_budget_s: of this start
    values: settings by their names, of `SearchConfig`, `TrainConfig` and `DataSource`, whose
        folder is `data`; they come before the configuration's
    """

    config: Path | Mapping[str, Any] | None = None
    space: Mapping[str, Any] | None = None
    study: str | None = None
    storage_path: str = "runs"
    tracking_uri: str | None = None
    address: str | None = None
    time_budget_s: float | None = None
    verbose: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, arguments: argparse.Namespace, **more: Any) -> Self:
        """Return what the flags of `search.flags.search_parser` say."""
        return super().of(arguments, time_budget_s=arguments.time_budget, **more)


@dataclass(frozen=True)
class Asked:
    """What the configuration, the environment and the flags say, checked without images.

    configuration: the file, or "search" where the values came from Python
    note: why it is this file, "" if it was named
    folder: the study's; None where `study_folder` says what is wrong with its name or place
    images: the fingerprint of those with which the study was begun, "" for a new one
    source: where these were, of a study that goes on with its own configuration
    """

    configuration: str
    note: str
    content: Mapping[str, Any]
    train: TrainConfig
    search: SearchConfig
    space: space.Space
    folder: Path | None = None
    images: str = ""
    source: DataSource | None = None


@dataclass(frozen=True)
class SearchPlan:
    """All that was asked for, checked.

    note: why it is this configuration, "" if it was named
    """

    note: str
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

    @property
    def warnings(self) -> list[str]:
        """What a person should know before the search starts."""
        now = versions(self.train, layout=self.data.layout)
        others = other_versions(self.last_start.plugins, now)
        return [*self.data.warnings, *unpickable(self.train, self.data), *others]

    def ledger(self, path: Path | None) -> Ledger:
        """Open the study's ledger at `path`; None: one in memory, as of a study that is new."""
        start = space.baseline(self.space, self.train)
        return Ledger(path, self.space, start=start, config=self.search)

    def disk(self, trials: int, begun: Iterable[Path] = ()) -> int:
        """Return the bytes that so many trials still write, each as large as any can be.

        begun: folders of those of them that have written a part of it
        """
        each = estimate.disk(largest(self.train, self.space), len(self.data.classes))
        return estimate.still_needed(each, trials, begun)


def unpickable(config: TrainConfig, data: Dataset) -> Iterator[str]:
    """Yield why `selection.pick` can pick nothing of such a search, before it starts."""
    grace = grace_epochs(config, len(data.train))
    if grace >= config.epochs:
        yield (
            f"all {config.epochs} epochs of a trial are young, so none can be picked: ask for more "
            f"than {grace} with --epochs, or call fewer young with --grace-updates"
        )
    for images, least, what in (
        (data.train, FEWEST_TRAINING, "training"),
        (data.val, FEWEST_VALIDATION, "validation"),
    ):
        counts = zip(data.classes, images.per_class(len(data.classes)), strict=True)
        few = [f"{count} of {name}" for name, count in counts if count < least]
        if few:
            yield (
                f"there are too few {what} images to pick anything ({', '.join(few)}): each class "
                f"needs {least}"
            )


def largest(config: TrainConfig, searched: space.Space) -> TrainConfig:
    """Return the configuration of a trial that is as large as any can be."""
    names = ("width", "latent_size", "embedding_size", "batch_size", "ema_decay")
    values = {name: space.largest(searched, config, name) for name in names}
    return validate(TrainConfig, "train", config.model_dump() | values)


def make_search_plan(
    request: SearchRequest, say: Callable[[str], None] = lambda _: None
) -> SearchPlan:
    """Check everything that was asked for, before any long work; `InputError` says what is not.

    say: is told which configuration is used where none is named
    """
    asked = read_asked(request)
    folder = study_folder(request, asked)
    tracking_uri = resolve_uri(request.tracking_uri)
    source = named_source(request.values, asked.content, default=asked.source)
    asked = in_colour(request, asked, source)
    if asked.note:
        say(asked.note)
    data = load_images(asked, source)
    return SearchPlan(
        note=asked.note,
        train=asked.train,
        search=asked.search,
        space=asked.space,
        last_start=LastStart(
            source=source,
            selection=asked.content.get("selection") or {},
            plugins=begun_with(folder, versions(asked.train, layout=data.layout)),
        ),
        data=data,
        info=study_info(folder.name, asked, data),
        folder=folder,
        tracking_uri=tracking_uri,
        address=request.address,
        time_budget_s=request.time_budget_s,
        verbose=request.verbose,
    )


def read_asked(request: SearchRequest) -> Asked:
    """Read and check the configuration; `InputError` names what is wrong in it."""
    configuration, note, content = _configuration(request)
    folder = None
    with contextlib.suppress(InputError):  # which is said where the study is opened
        folder = _folder(request, configuration)
    there = None if folder is None else begun_study(folder)
    started = None if folder is None else started_with(folder)
    if there is not None:
        note, content = _going_on(request, there, started, note, content)
    config = _train_config(content.get("train"), request.values)
    settings = resolve(SearchConfig, "search", content.get("search"), request.values)
    if settings.objective not in (recorded := metric_names(config)):
        raise InputError(
            f"--objective {settings.objective!r} is not recorded; "
            f"recorded are {', '.join(recorded)}{how_to_record(settings.objective)}"
        )
    named = content.get("space") if request.space is None else request.space
    searched = space.read(named, config)
    space.check_size(searched, settings.num_samples)
    images = "" if there is None else there.fingerprint
    source = started.source if started is not None and request.config is None else None
    return Asked(configuration, note, content, config, settings, searched, folder, images, source)


def _going_on(
    request: SearchRequest,
    there: StudyInfo,
    started: LastStart | None,
    note: str,
    content: Mapping[str, Any],
) -> tuple[str, Mapping[str, Any]]:
    """Return why it is this configuration, and what it says, where the study has been begun.

    Where no configuration is named it is the study's own, its images and the settings of its picks
    among it: recipes change from version to version, and it may not have been begun by one. An
    objective that is not named is the study's, too.
    """
    if request.config is not None:
        named = content.get("search") or {}
        if "objective" in named or request.values.get("objective") is not None:
            return note, content
        own = {name: there.search[name] for name in ("objective", "direction")}
        return note, {**content, "search": {**named, **own}}
    search_section = {**(content.get("search") or {}), **there.search}
    note = f"no --config given: study {there.name} goes on with its own configuration"
    own = {"train": there.train, "space": there.space, "search": search_section}
    if started is not None:
        own |= {"data": None, "selection": started.selection}
    return note, {**content, **own}


def _configuration(request: SearchRequest) -> tuple[str, str, Mapping[str, Any]]:
    """Return which configuration it is, why this one, and what it says."""
    named = request.config
    if isinstance(named, Mapping):
        check_sections(named, "the configuration")
        return "search", "", named
    path, note = (named, "") if named is not None else _default_config(request.values)
    file = find_file(path)
    return str(file), note, read_file(file)


def _default_config(values: Mapping[str, Any]) -> tuple[Path, str]:
    """Return the configuration where none is named, and why: the demo's, or a recipe."""
    if values.get("data") in (None, PHANTOM):
        return DEMO, f"no --config given: using {DEMO}, the demo on phantom images"
    source = named_source(values, {})
    rows = read_table(Path(source.folder), source.reading).rows
    there = [row for row in rows if row.stamp and row.split != TEST]
    # Beside real images generated ones are left out, so they make no other search.
    images = sum(row.source != GENERATED for row in there) or len(there)
    device = default_device()
    if device.type != CPU and images >= MANY_IMAGES:
        return (
            FULL_SIZE,
            f"no --config given: using {FULL_SIZE}, the recipe at full size on {images:,} images",
        )
    return (
        SMALL,
        f"no --config given: using {SMALL}, the recipe at 32 px, for {images:,} images on a "
        f"{'CPU' if device.type == CPU else 'GPU'}; at full size: --config {FULL_SIZE}",
    )


def in_colour(request: SearchRequest, asked: Asked, source: DataSource) -> Asked:
    """Return what was asked for, in colour where the images are and nobody asked for a grey recipe.

    A configuration that is named stands as it is: grey images of colour ones are then refused.
    """
    if not (asked.note and asked.train.grey) or request.values.get("grey") is not None:
        return asked
    if not load_for(source, asked.train).train.in_colour:
        return asked
    coloured = read_asked(replace(request, values={**request.values, "grey": False}))
    note = f"{asked.note}; the images are in colour, so it generates colour (grey: false)"
    return replace(coloured, note=note)


def study_folder(request: SearchRequest, asked: Asked) -> Path:
    """Return the study's folder; `InputError` for a name or place that cannot be one."""
    return asked.folder or _folder(request, asked.configuration)


def _folder(request: SearchRequest, configuration: str) -> Path:
    name = request.study
    if name is None:
        name = re.sub(r"[^A-Za-z0-9._-]", "-", Path(configuration).stem)
    return study_path(request.storage_path, name)


def load_images(asked: Asked, source: DataSource) -> Dataset:
    """Load the images of a search; `InputError` if they cannot serve it."""
    data = load_for(source, asked.train, known=asked.images)
    check_networks(asked.train, len(data.classes))
    check_numbers(asked.train, data)
    check_fits(largest(asked.train, asked.space), data)
    if data.train.in_colour and "grey" in asked.space and True in asked.space["grey"]:
        raise InputError(
            "the images are in colour, and trials with grey: true generate none; take grey out of "
            "the section 'space', or read them with --colour grey"
        )
    return data


def _train_config(section: Mapping[str, Any] | None, flags: Mapping[str, Any]) -> TrainConfig:
    flags = {name: value for name, value in flags.items() if name != "seed"}
    config = resolve(TrainConfig, "train", section, flags)
    if config.seed != TrainConfig().seed:
        raise InputError(
            "configuration key 'train.seed': each trial of a search has its own seed, derived "
            "from 'search.seed'; set that one"
        )
    return config


def study_info(name: str, asked: Asked, data: Dataset) -> StudyInfo:
    """Return what identifies the study that was asked for."""
    return StudyInfo(
        format=STUDY_FORMAT,
        uuid=new_uuid(),
        name=name,
        created=time.time(),
        code_version=importlib.metadata.version("acgan-search"),
        train=asked.train.model_dump(exclude={"seed"}),
        space=space.dump(asked.space),
        search=identity(asked.search),
        data_name=data.name,
        classes=data.classes,
        fingerprint=data.fingerprint,
    )
