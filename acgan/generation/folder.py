"""Folders of generated images, which are data folders themselves; see `acgan.generate`."""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import shlex
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from tqdm import tqdm  # type: ignore[import-untyped]

from acgan.command import typed
from acgan.config import TrainConfig, nearest_name, user_path
from acgan.cores import keep_freed_memory
from acgan.data.balance import Lack, how_to_add, lack_of, merged_labels
from acgan.data.label_files import are_covidx
from acgan.data.table import GENERATED, MERGED, file_stem
from acgan.data.tabular import write_table
from acgan.errors import InputError
from acgan.evaluation.grids import png
from acgan.files import (
    Stored,
    file_sha256,
    remove_leftovers,
    replace_all,
    replace_bytes,
    replace_text,
    visible,
)
from acgan.generation.generator import (
    BLOCK,
    LoadedGenerator,
    NotFiniteError,
    generate,
    load_generator,
)
from acgan.generation.request import FolderRequest
from acgan.run.device import named_device

MANIFEST = "manifest.json"
LABELS = "train.txt"
TABLE = "labels.csv"  # of classes that no COVIDx label file can name
IMAGES = "train"
SCREENED = "filters.json"  # what `selection.commands.screening` left out
NAMING = "{class_name}-{index:06d}.png"
FILE_OVERHEAD_BYTES = 4096  # of a PNG beyond its pixels, and of a file system's last block

ChosenImages = Mapping[str, Sequence[int]]
"""The numbers of the images that are written, by class."""


class Manifest(Stored):
    """`manifest.json`: how the images of a folder were made.

    `per_class` is what was asked for; `files` holds the SHA-256 of each image file once all are
    there, and is empty before. `balances` is the fingerprint of the images whose classes are
    filled up, `filters` says which images were left out; "" without.
    """

    weights_sha256: str
    run: str
    epoch: int
    config: TrainConfig
    seed: int
    device: str
    acgan_search: str
    torch: str
    naming: str
    per_class: dict[str, int]
    files: dict[str, str] = Field(default_factory=dict)
    balances: str = ""
    filters: str = ""


# What must be the same for images to belong into one folder.
_IDENTITY = ("weights_sha256", "seed", "device", "torch", "naming", "balances", "filters")


def write_folder(request: FolderRequest, weights: Path) -> int:
    """Write the images that are asked for; return the exit code.

    Raises `InputError`, before any image is made, for what cannot be done and for a folder
    that cannot be written or holds anything else.
    """
    request.check()
    keep_freed_memory()
    loaded = load_generator(weights, device=named_device(request.device))
    if request.per_class is not None:
        names = _named_classes(request.classes, loaded)
        wanted = manifest(loaded, request, dict.fromkeys(names, request.per_class))
        return write_images(request, loaded, wanted)
    lack = find_lack(request, loaded)
    if not lack.missing:
        return 0
    wanted = manifest(loaded, request, lack.missing, balances=lack.data.fingerprint)
    chosen = {n: range(lack.first[n], lack.first[n] + count) for n, count in lack.missing.items()}
    return write_images(request, loaded, wanted, chosen)


def find_lack(request: FolderRequest, loaded: LoadedGenerator) -> Lack:
    """Return what the data folder of --balance lacks, and say it."""
    lack = lack_of(
        request.source,
        loaded.config,
        loaded.classes,
        naming=NAMING,
        trained_on="" if request.other_data else loaded.data,
    )
    out, data = user_path(request.out), Path(request.source.folder)
    if out.resolve().is_relative_to(data.resolve()):
        raise InputError(f"--out {request.out} lies in {request.balance}; name a folder beside it")
    there = ", ".join(f"{count} {name}" for name, count in lack.there.items())
    print(f"{request.balance} has {there} training images that can be used")
    if not lack.missing:
        print("no class lacks any: nothing is written")
    return lack


def manifest(
    loaded: LoadedGenerator,
    request: FolderRequest,
    per_class: Mapping[str, int],
    *,
    balances: str = "",
    filters: str = "",
) -> Manifest:
    """Return what the options ask for, as it will stand in the folder."""
    return Manifest(
        weights_sha256=loaded.sha256,
        run=loaded.run,
        epoch=loaded.epoch,
        config=loaded.config,
        seed=request.seed,
        device=loaded.device.type,
        acgan_search=importlib.metadata.version("acgan-search"),
        torch=torch.__version__,
        naming=f"{IMAGES}/{NAMING}",
        per_class=dict(per_class),
        balances=balances,
        filters=filters,
    )


def require_free(request: FolderRequest, loaded: LoadedGenerator, wanted: Manifest) -> None:
    """Raise `InputError` for a folder that holds anything else, before any long work."""
    folder = user_path(request.out)
    try:
        recorded = _recorded(folder, loaded.classes)
    except OSError as error:
        raise _unwritable(request, error) from error
    if recorded is not None:
        _require_same(folder, recorded, wanted)


def _unwritable(request: FolderRequest, error: OSError) -> InputError:
    return InputError(
        f"cannot write to {request.out}: {error.strerror}; free some space there, or name "
        "another folder"
    )


def write_images(
    request: FolderRequest,
    loaded: LoadedGenerator,
    wanted: Manifest,
    chosen: ChosenImages | None = None,
    *,
    report: str | None = None,
) -> int:
    """Write what a folder lacks of `wanted`; return the exit code.

    chosen: which images of each class (default: the first); report: the content of filters.json
    """
    out = user_path(request.out)
    try:
        whole, made = _fill(out, loaded, wanted, chosen, report)
        if request.merged_labels:
            lines = (out / labels_of(loaded.classes)).read_text()
            replace_bytes(out / MERGED, merged_labels(request.source, lines))
    except NotFiniteError as error:
        print(f"error: {error}; choose other weights", file=sys.stderr)
        return 1
    except OSError as error:
        raise _unwritable(request, error) from error
    print(f"{request.out} holds all {len(whole.files)} images; {made} are new")
    if request.balance is not None:
        shown = Path(request.out)
        merged = shown / MERGED if request.merged_labels else None
        labels = shown / labels_of(loaded.classes)
        told = how_to_add(request.source, shown / IMAGES, labels, merged=merged)
        print("\n".join(told))
    else:
        print(_next_step(Path(request.out), loaded.classes, made=whole.per_class.keys()))
    return 0


def _next_step(folder: Path, classes: Sequence[str], *, made: Collection[str]) -> str:
    """Return what to type next; a folder of one class is no data folder by itself."""
    if len(made) > 1 or not are_covidx(classes):
        return f"next: {typed(['python', '-m', 'acgan.covidx', str(folder)])}"
    images, labels = (shlex.quote(str(folder / name)) for name in (IMAGES, LABELS))
    added = f"cp {images}/* DIR/train/; cat {labels} >> DIR/train.txt"
    return f"to add them to a folder DIR in COVIDx's layout: {added}"


def _named_classes(names: Sequence[str] | None, loaded: LoadedGenerator) -> Sequence[str]:
    for name in names or ():
        if name not in loaded.classes:
            raise InputError(
                f"--classes {name}: the weights have no such class"
                f"{nearest_name(name, loaded.classes)}"
            )
    return names or loaded.classes


def _fill(
    folder: Path,
    loaded: LoadedGenerator,
    wanted: Manifest,
    chosen: ChosenImages | None,
    report: str | None,
) -> tuple[Manifest, int]:
    """Make the images that a folder lacks; return its manifest and how many were made."""
    recorded = _recorded(folder, loaded.classes)
    manifest = wanted
    if recorded is not None:
        _require_same(folder, recorded, wanted)
        if chosen is None:
            manifest = _extended(folder, recorded, wanted)
        else:
            _require_known(folder, chosen)
    chosen = chosen or {name: range(count) for name, count in manifest.per_class.items()}
    images = folder / IMAGES
    missing = {
        name: [i for i in numbers if not (images / image_name(name, i)).exists()]
        for name, numbers in chosen.items()
    }
    count = sum(map(len, missing.values()))
    folder.mkdir(parents=True, exist_ok=True)
    if count:
        _require_space(folder, count, loaded.config.image_size)
        _write_manifest(folder, manifest)  # first: by it the folder is known as this module's
    if report is not None:
        replace_text(folder / SCREENED, report)
    if count:
        images.mkdir(exist_ok=True)
        _make(images, loaded, missing, seed=manifest.seed)
    remove_leftovers(folder)
    return _finish(folder, loaded.classes, manifest, chosen), count


def image_name(class_name: str, index: int) -> str:
    """Return the file name of an image of a class: COVID-19-000123.png."""
    return NAMING.format(class_name=file_stem(class_name), index=index)


def _recorded(folder: Path, classes: Sequence[str]) -> Manifest | None:
    """Return the manifest of a folder with images, None for one without any.

    Raises `InputError` for a folder with anything that this module does not write.
    """
    if not folder.exists():
        return None
    there = visible(folder)
    known = {MANIFEST, LABELS, TABLE, IMAGES, MERGED, SCREENED} if MANIFEST in there else set()
    images = visible(folder / IMAGES) if IMAGES in there else set()
    stems = "|".join(re.escape(file_stem(name)) for name in classes)
    own = re.compile(rf"({stems})-\d{{6,}}\.png")
    foreign = sorted(there - known)
    foreign += sorted(f"{IMAGES}/{name}" for name in images if not own.fullmatch(name))
    if foreign:
        raise InputError(f"{folder} holds other things ({foreign[0]}); name a new folder")
    if not images:
        return None
    try:
        recorded = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except ValidationError as error:
        raise InputError(f"{folder / MANIFEST} is damaged; name a new folder") from error
    if not recorded.per_class.keys() <= set(classes):
        raise InputError(f"{folder} holds images of other classes; name a new folder")
    return recorded


def _require_same(folder: Path, recorded: Manifest, wanted: Manifest) -> None:
    """Raise `InputError` if a folder's images were made otherwise."""
    different = [
        f"{key}: {str(there)[:16]} → {str(own)[:16]}"
        for key in _IDENTITY
        if (there := getattr(recorded, key)) != (own := getattr(wanted, key))
    ]
    if different:
        raise InputError(
            f"{folder} holds images that were made otherwise ({'; '.join(different)}); "
            "go back to that, or name a new folder"
        )


def _require_known(folder: Path, chosen: ChosenImages) -> None:
    """Raise `InputError` if a folder holds an image that is not among those chosen."""
    names = {image_name(name, i) for name, numbers in chosen.items() for i in numbers}
    others = sorted(visible(folder / IMAGES) - names)
    if others:
        raise InputError(
            f"{folder} holds {IMAGES}/{others[0]}, which is not chosen now; name a new folder"
        )


def _extended(folder: Path, recorded: Manifest, wanted: Manifest) -> Manifest:
    """Return `wanted` with the classes that the folder has as well."""
    for name, count in wanted.per_class.items():
        before = recorded.per_class.get(name, 0)
        if count < before:
            raise InputError(
                f"{folder} was begun with {before} images of {name}, more than {count}; "
                f"give --per-class {before}, or name a new folder"
            )
    per_class = recorded.per_class | wanted.per_class
    return wanted.model_copy(update={"per_class": per_class})


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    replace_text(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def _require_space(folder: Path, images: int, image_size: int) -> None:
    needed = images * (3 * image_size**2 + FILE_OVERHEAD_BYTES)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{images} images need up to {needed / 1e9:.2f} GB in {folder}, which has "
            f"{free / 1e9:.2f}; free some space, or name another folder"
        )


def _make(
    folder: Path, loaded: LoadedGenerator, missing: Mapping[str, Sequence[int]], *, seed: int
) -> None:
    total = sum(map(len, missing.values()))
    with tqdm(total=total, desc="generating", unit="image", disable=None) as progress:
        for name, indices in missing.items():
            label = loaded.classes.index(name)
            for block, group in itertools.groupby(indices, key=lambda index: index // BLOCK):
                own = list(group)
                start = block * BLOCK
                images = generate(loaded, label, count=BLOCK, seed=seed, start=start)
                made = ((i, images[i - start].transpose(1, 2, 0)) for i in own)  # [H, W, 3]
                replace_all(folder, {image_name(name, i): png(image) for i, image in made})
                progress.update(len(own))


def _finish(
    folder: Path, classes: Sequence[str], manifest: Manifest, chosen: ChosenImages
) -> Manifest:
    """Write the labels, then the manifest with the SHA-256 of every image; return it."""
    counts = {name: manifest.per_class[name] for name in classes if name in manifest.per_class}
    names = {image_name(name, i): name for name in counts for i in chosen[name]}
    replace_text(folder / labels_of(classes), _labels(classes, names))
    files = {f"{IMAGES}/{name}": file_sha256(folder / IMAGES / name) for name in names}
    whole = manifest.model_copy(update={"per_class": counts, "files": files})
    _write_manifest(folder, whole)
    return whole


def labels_of(classes: Sequence[str]) -> str:
    """Return the name of the file that labels images of these classes."""
    return LABELS if are_covidx(classes) else TABLE


def _labels(classes: Sequence[str], names: Mapping[str, str]) -> str:
    """Return the labels of images by name: each is a patient of its own, whose id no real one has.

    names: file name → class
    """
    patients = {name: f"{GENERATED}-{Path(name).stem}" for name in names}
    if are_covidx(classes):
        return "".join(f"{patients[n]} {n} {c} {GENERATED}\n" for n, c in names.items())
    rows = ((f"{IMAGES}/{n}", c, patients[n], GENERATED) for n, c in names.items())
    return write_table([("file", "label", "patient", "source"), *rows])
