"""Class folders: the images of each class in a folder of its name, by split or all together.

Kaggle's COVID-19 Radiography Database (`Normal/images`, `Normal/masks`) and Kermany's chest X-rays
(`chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}`) are such folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from acgan.data.folders import files_below, has_image_ending, stamp, visible
from acgan.data.label_files import are_covidx, covidx_class
from acgan.data.misnamed import Mend
from acgan.data.table import SPLIT_OF, TEST, TRAIN, UNKNOWN, VALIDATION, Labelled, Row, one_name
from acgan.errors import InputError

NAME = "class folders"
EXPECTED = "a folder of images for each class, in train/ and test/ or at the top"
NO_IMAGES = frozenset(("annotations", "labels", "mask", "masks", "segmentation", "segmentations"))
IMAGES = "images"
GENERATED_FOLDER = "manifest.json"  # what a folder of generated images has, see acgan.generation


def matches(root: Path) -> bool:
    """Whether a folder has two folders of images beside each other, in a split or at the top."""
    return any(len(_class_folders(root, place)) > 1 for place, _ in _places(root))


def read(root: Path) -> Labelled:
    """Return the images in class folders; each counts as a patient, named by its path.

    A class has one name however splits write it, and COVIDx's where all are COVIDx's classes.
    Raises `InputError` for a link that leads out, and for a class whose images are not found.
    """
    rows: list[Row] = []
    mends: list[Mend] = []
    for place, split in _places(root):
        folders = _class_folders(root, place)
        if not folders and any(map(has_image_ending, visible(root, place))):
            raise InputError(f"{root} has images in {place}/ itself; expected {EXPECTED}")
        for folder in folders:
            images = _images_folder(root, folder)
            paths = [path for path in _files(root, images) if has_image_ending(path)]
            name = os.path.basename(folder)
            rows += [
                Row(path, split, name, path, UNKNOWN, stamp(root, path, where=split))
                for path in paths
            ]
            if images != folder and os.path.basename(images).lower() != IMAGES and paths:
                mends.append(Mend(folder, "one folder deeper", len(paths), folder, images))
    told = tuple(
        f"{folder}/ is passed over: its images were generated ({GENERATED_FOLDER})"
        for place, _ in _places(root)
        for folder in _folders(root, place)
        if (root / folder / GENERATED_FOLDER).is_file()
    )
    names = _names(rows)
    rows = [Row(**(vars(row) | {"class_name": names[row.class_name]})) for row in rows]
    return Labelled(rows, mends=tuple(mends), warnings=told)


def _places(root: Path) -> list[tuple[str, str]]:
    """Return the folder of each split and its split, train first; ("", train) for none of train."""
    splits = [
        (name, SPLIT_OF[name.lower()])
        for name in _folders(root)
        if name.lower() in SPLIT_OF and any(files_below(root, name))
    ]
    if not any(split == TRAIN for _, split in splits):
        return [("", TRAIN)]
    return sorted(splits, key=lambda place: [TRAIN, VALIDATION, TEST].index(place[1]))


def _class_folders(root: Path, place: str) -> list[str]:
    """Return the folders in a split's that have files; at the top, those that have images.

    Folders of masks and of generated images are none.
    """
    folders = [
        folder
        for folder in _folders(root, place)
        if os.path.basename(folder).lower() not in NO_IMAGES
        and not (root / folder / GENERATED_FOLDER).is_file()
    ]
    for folder in folders:
        stamp(root, folder, where=str(root))
    return [folder for folder in folders if any(_candidates(root, folder, at_top=not place))]


def _candidates(root: Path, folder: str, *, at_top: bool) -> Iterator[str]:
    for path in files_below(root, folder):
        if not at_top or (has_image_ending(path) and os.path.splitext(path)[1]):
            yield path


def _images_folder(root: Path, class_folder: str) -> str:
    """Return where a class's images are: its folder, or one in it."""
    folders = _folders(root, class_folder)
    endings = {os.path.splitext(path)[1] for path in _files(root, class_folder)}
    if any(map(has_image_ending, (f"x{ending}" for ending in endings))) or not folders:
        return class_folder
    if len(folders) == 1:
        return folders[0]
    wanted = [path for path in folders if os.path.basename(path).lower() not in NO_IMAGES]
    named = [path for path in wanted if os.path.basename(path).lower() == IMAGES]
    for found in (named, wanted):
        if len(found) == 1:
            return found[0]
    names = ", ".join(os.path.basename(path) for path in folders[:5])
    raise InputError(
        f"{class_folder!r} has no images but {len(folders)} folders ({names}); "
        "move the images of the class into it, and all else away"
    )


def _folders(root: Path, folder: str = "") -> list[str]:
    return [path for path in visible(root, folder) if (root / path).is_dir()]


def _files(root: Path, folder: str) -> list[str]:
    return [path for path in visible(root, folder) if not (root / path).is_dir()]


def _names(rows: list[Row]) -> dict[str, str]:
    """Return folder name → class, so that letter case makes no other class; train's case counts."""
    folders = list(dict.fromkeys(row.class_name for row in rows))
    known = {name: covidx_class(name) or "" for name in folders}
    return known if are_covidx(known.values()) else one_name(folders)
