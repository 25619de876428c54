"""A data set by name: packed once into one memory-mapped file, then opened in an instant."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, model_validator

from acgan.config import TrainConfig, cache_folder, user_path
from acgan.data import phantom
from acgan.data.curate import SPLITS, Curated, Use, curate, image_paths
from acgan.data.dataset import Dataset, ImageSet
from acgan.data.decode import Facts, examine_all, most_are_coloured
from acgan.data.layouts import read_table
from acgan.data.source import PHANTOM, DataSource
from acgan.data.split import cut, validation_warnings
from acgan.data.table import GENERATED, Table
from acgan.errors import InputError
from acgan.files import Stored, exclusive, sync

PACK_VERSION = 8  # of pixels, splits and files: a change makes every pack again
WHOLE_VERSION = 7  # whose pixels differ in this: JPEG files were decoded at their own size

SAMPLE = 64  # images that are asked whether they are coloured
_CHUNK = 1024

log = logging.getLogger(__name__)


class Settings(NamedTuple):
    """What, besides the files, decides a pack."""

    image_size: int
    split_seed: int
    val_fraction: float | None
    colour: str = "auto"


def load(  # noqa: PLR0913 - one for each thing that decides a pack
    source: DataSource | str,
    *,
    image_size: int,
    split_seed: int = 0,
    val_fraction: float | None = None,
    colour: str = "auto",
    known: str = "",
    cache: Path | None = None,
    workers: int | None = None,
) -> Dataset:
    """Load the built-in phantom data ("phantom") or a data folder.

    known: the fingerprint of the images that are meant, "" for any; where it is that of a pack of
        `WHOLE_VERSION`, these are the images

    A folder's images are decoded once, by `workers` threads (unset: one a core), into a pack
    `cache`/<key> that any later start reuses while files and settings are the same. A pack that
    is damaged is made again, and this is logged. The images are read-only views of one file.
    Raises `InputError` for a folder that cannot be used, see `acgan.data.layouts.read_table` and
    `acgan.data.curate.curate`, and for too little disk.
    """
    source = DataSource.of(source)
    if source.is_phantom:
        return _phantom(Settings(image_size, split_seed, val_fraction, colour))
    table = read_table(user_path(source.folder), source.reading)
    settings = Settings(image_size, split_seed, val_fraction, colour)
    folder = cache or cache_folder() / "packed"
    data = _packed(folder, table, settings, PACK_VERSION, workers=workers)
    if known not in ("", data.fingerprint):
        before = _packed(folder, table, settings, WHOLE_VERSION, workers=workers)
        data = before if before.fingerprint == known else data
    return dataclasses.replace(data, layout=table.layout)


def _packed(
    folder: Path, table: Table, settings: Settings, version: int, *, workers: int | None
) -> Dataset:
    """Return a table's images in a version of packs; they are packed first where they are not."""
    key = repr((version, settings, table.digest()))
    pack = folder / hashlib.sha256(key.encode()).hexdigest()
    opened = _open_pack(pack, name=table.folder.name)
    if opened is None:
        with _exclusive(pack):
            # Another process may have made it while this one waited.
            opened = _open_pack(pack, name=table.folder.name)
            if opened is None:
                whole = version == WHOLE_VERSION
                _make_pack(pack, table, settings, whole=whole, workers=workers)
                opened = _open_pack(pack, name=table.folder.name)
    assert opened is not None, f"{pack}"
    return opened


def load_for(source: DataSource | str, config: TrainConfig, *, known: str = "") -> Dataset:
    """Load the images that a configuration asks for; see `load`."""
    return load(
        source,
        image_size=config.image_size,
        split_seed=config.split_seed,
        val_fraction=config.val_fraction,
        colour=config.colour,
        known=known,
    )


def fingerprint(classes: Sequence[str], sets: Sequence[ImageSet]) -> str:
    """Return the SHA-256 of classes, and of the pixels and rows of each split."""
    digest = hashlib.sha256(json.dumps(list(classes)).encode())
    for images in sets:
        rows = [images.labels.tolist(), images.patients, images.sources, images.images.shape]
        digest.update(json.dumps(rows).encode())
        digest.update(np.ascontiguousarray(images.images).data)
    return digest.hexdigest()


class _Pack(Stored):
    """`pack.json`: what is known of the images of a pack, sorted by split.

    counts: images in train, val and test; labels, patients and sources: one for each image
    generated: images of each class that are left out because they are no real ones
    """

    classes: tuple[str, ...]
    image_size: int
    colour: bool
    counts: tuple[NonNegativeInt, ...] = Field(min_length=len(SPLITS), max_length=len(SPLITS))
    labels: tuple[NonNegativeInt, ...]
    patients: tuple[str, ...]
    sources: tuple[str, ...]
    warnings: tuple[str, ...]
    generated: tuple[NonNegativeInt, ...]
    fingerprint: str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        rows = sum(self.counts)
        if not rows or {len(self.labels), len(self.patients), len(self.sources)} != {rows}:
            raise ValueError(f"must be of {rows} images")
        if max(self.labels) >= len(self.classes):
            raise ValueError("labels must be those of classes")
        if len(self.generated) != len(self.classes):
            raise ValueError("generated must be a count for each class")
        return self


def _phantom(settings: Settings) -> Dataset:
    made, test = phantom.make(settings.image_size)
    classes = tuple(phantom.CLASSES)
    in_validation = cut(
        made.labels,
        made.patients,
        classes=classes,
        seed=settings.split_seed,
        fraction=settings.val_fraction,
    )
    train, val = made.where(~in_validation), made.where(in_validation)
    warnings = validation_warnings(val.labels, val.patients, classes=classes)
    if settings.colour == "rgb":
        warnings += (f"the {PHANTOM} is drawn in grey: colour rgb has no effect on it",)
    mark = fingerprint(classes, (train, val, test))
    return Dataset(PHANTOM, classes, train, val, test, mark, warnings)


@contextlib.contextmanager
def _exclusive(pack: Path) -> Iterator[None]:
    """Hold the lock under which a pack is made; what the disk refuses becomes an `InputError`."""
    try:
        pack.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(pack.with_name(f"{pack.name}.lock")):
            yield
    except OSError as error:
        raise InputError(
            f"cannot write the packed images to {pack.parent}: {error.strerror}; "
            "free some space, or name another folder in ACGAN_CACHE"
        ) from error


def _make_pack(
    pack: Path, table: Table, settings: Settings, *, whole: bool, workers: int | None
) -> None:
    """Decode, curate and pack a table in a temporary folder, then give it its name.

    What an earlier start left in the temporary folder is removed: no half pack is ever used.
    """
    if pack.exists():
        log.warning("the packed images in %s are damaged: they are packed again", pack)
        shutil.rmtree(pack)
    partial = pack.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _require_space(partial, 2 * len(table.rows) * settings.image_size**2)
        shape = _shape(settings.image_size, _in_colour(table, settings))
        _require_space(partial, 2 * len(table.rows) * math.prod(shape))
        facts = _decode_all(table, partial / "raw.u8", shape, whole=whole, workers=workers)
        curated = curate(
            table, facts, split_seed=settings.split_seed, val_fraction=settings.val_fraction
        )
        raw = _open_images(partial / "raw.u8", len(facts), shape)
        _write_pack(partial, curated, raw)
        (partial / "raw.u8").unlink()
        partial.rename(pack)
        sync(pack.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"packing needs {needed / 1e9:.2f} GB in {folder.parent}, which has {free / 1e9:.2f}; "
            "free some space, or name another folder in ACGAN_CACHE"
        )


def _in_colour(table: Table, settings: Settings) -> bool:
    """Whether images are packed in colour: as asked for, else as most of a sample are."""
    if settings.colour != "auto":
        return settings.colour == "rgb"
    rows = [row for row in table.rows if row.stamp]
    real = [row for row in rows if row.source != GENERATED] or rows  # what a generator made is odd
    paths = [str(table.folder / row.path) for row in real]
    sample = paths[:: -(-len(paths) // SAMPLE)]
    return most_are_coloured(fact for fact, _ in examine_all(sample, image_size=16, whole=True))


def _shape(image_size: int, colour: bool) -> tuple[int, ...]:
    return (3, image_size, image_size) if colour else (image_size, image_size)


def _decode_all(
    table: Table, path: Path, shape: tuple[int, ...], *, whole: bool, workers: int | None
) -> list[Facts]:
    """Write the pixels of all rows in their order, zeros where there are none."""
    facts = []
    blank = np.zeros(shape, np.uint8)
    with path.open("wb") as file:
        paths = image_paths(table)
        for fact, pixels in examine_all(
            paths, image_size=shape[-1], colour=len(shape) == 3, whole=whole, workers=workers
        ):
            facts.append(fact)
            file.write((blank if pixels is None else pixels).tobytes())
    return facts


def _write_pack(folder: Path, curated: Curated, raw: NDArray[np.uint8]) -> None:
    """Write images sorted by split, so that each split is one slice, and what is known of them."""
    indices = [curated.indices(use) for use in SPLITS]
    order = [index for own in indices for index in own]
    rows = [curated.table.rows[index] for index in order]
    classes = curated.table.classes
    generated = Counter(curated.table.rows[i].class_name for i in curated.indices(Use.GENERATED))
    with (folder / "images.u8").open("wb") as file:
        for start in range(0, len(order), _CHUNK):
            file.write(raw[order[start : start + _CHUNK]].tobytes())
    sync(folder / "images.u8")
    content = _Pack(
        classes=classes,
        image_size=raw.shape[-1],
        colour=raw.ndim == 4,
        counts=tuple(len(own) for own in indices),
        labels=tuple(classes.index(row.class_name) for row in rows),
        patients=tuple(row.patient for row in rows),
        sources=tuple(row.source for row in rows),
        warnings=curated.warnings,
        generated=tuple(generated[name] for name in classes),
        fingerprint="",
    )
    mark = fingerprint(classes, _sets(folder, content))
    content = content.model_copy(update={"fingerprint": mark})
    # Not pydantic's JSON: file names that are no UTF-8 are patients too.
    (folder / "pack.json").write_text(json.dumps(content.model_dump()))
    sync(folder / "pack.json")


def _open_pack(pack: Path, *, name: str) -> Dataset | None:
    """Return a pack's data set; None where it is not there or is damaged."""
    try:
        content = _Pack.model_validate(json.loads((pack / "pack.json").read_bytes()))
        size = (pack / "images.u8").stat().st_size
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
    if size != sum(content.counts) * math.prod(_shape(content.image_size, content.colour)):
        return None
    train, val, test = _sets(pack, content)
    return Dataset(
        name,
        content.classes,
        train,
        val,
        test,
        content.fingerprint,
        content.warnings,
        content.generated,
    )


def _sets(folder: Path, content: _Pack) -> list[ImageSet]:
    """Return train, val and test as views of one memory-mapped file."""
    shape = _shape(content.image_size, content.colour)
    images = _open_images(folder / "images.u8", sum(content.counts), shape)
    labels = np.array(content.labels, np.int64)
    sets, start = [], 0
    for count in content.counts:
        own = slice(start, start + count)
        patients, sources = content.patients[own], content.sources[own]
        sets.append(ImageSet(images[own], labels[own], patients, sources))
        start += count
    return sets


def _open_images(path: Path, count: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.memmap(path, np.uint8, "r", shape=(count, *shape))
