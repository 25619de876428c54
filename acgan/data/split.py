"""Which patients are cut from train: for validation, and for test where a folder has none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from acgan.config import derive_seed
from acgan.errors import InputError

SMALL_DATA = 5_000
FEW_PATIENTS = 20
# Of 512 bits. In 1,002 real chest X-rays the four true pairs lie at 0, 2, 11 and 28, the nearest
# pair of different images at 55; scaled or recompressed copies stay below 35.
NEAR_DISTANCE = 32

_BLOCK = 256


def near_duplicates(hashes: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return the pairs [P, 2] of rows of [N, 64] whose hashes differ in at most 32 bits.

    Each pair has the smaller row first; the pairs are sorted.
    """
    signs = 2 * np.unpackbits(hashes, axis=1).astype(np.float32) - 1  # [N, 512]
    # Equal bits add 1, different ones -1: a matrix product of small integers, exact in float32.
    least = signs.shape[1] - 2 * NEAR_DISTANCE
    found = [np.empty((0, 2), np.intp)]
    for start in range(0, len(signs), _BLOCK):
        agreement = signs[start : start + _BLOCK] @ signs[start:].T
        found.append(np.argwhere(np.triu(agreement >= least, k=1)) + start)
    return np.concatenate(found)


def group_patients(patients: Sequence[str], pairs: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    """Return each row's group: the first id of all patients that its patient is joined with.

    Pairs of rows join their patients, also through other patients.
    """
    parent = {patient: patient for patient in patients}

    def root(patient: str) -> str:
        while parent[patient] != patient:
            parent[patient] = patient = parent[parent[patient]]
        return patient

    for first, second in pairs:
        low, high = sorted((root(patients[first]), root(patients[second])))
        parent[high] = low
    return tuple(root(patient) for patient in patients)


LEAST_PATIENTS = {"validation": 2, "test": 3}  # of a class: validation is cut after test


def cut(
    labels: NDArray[np.int64],
    groups: Sequence[str],
    *,
    classes: Sequence[str],
    what: str = "validation",
    seed: int,
    fraction: float | None = None,
) -> NDArray[np.bool_]:
    """Return which training images [N] belong to `what`, "validation" or "test".

    A group is never divided.

    By class, `fraction` of the groups (unset: 0.2 below 5,000 images, else 0.1), rounded, at least
    one; a group of two classes counts for the one with fewer images. A group's place in the order
    depends on its name and the seed only, so new patients leave most others where they were.
    Raises `InputError` where a class would have no group on one of the sides.
    """
    if fraction is None:
        fraction = 0.2 if len(labels) < SMALL_DATA else 0.1
    images = np.bincount(labels, minlength=len(classes))
    stratum: dict[str, int] = {}
    for group, label in zip(groups, labels.tolist(), strict=True):
        stratum[group] = min(stratum.get(group, label), label, key=lambda c: (images[c], c))
    chosen: set[str] = set()
    for label in range(len(classes)):
        members = [group for group, own in stratum.items() if own == label]
        members.sort(key=lambda group: (derive_seed(what, seed, group), group))
        count = max(1, round(fraction * len(members)))
        chosen.update(members[: min(count, len(members) + 1 - LEAST_PATIENTS[what])])
    taken = np.array([group in chosen for group in groups])
    for label, name in enumerate(classes):
        if len(set(taken[labels == label].tolist())) < 2:
            raise InputError(
                f"class {name!r} has too few patients in train to keep one for {what}; "
                f"it needs at least {LEAST_PATIENTS[what]}: add images of other patients"
            )
    return taken


def validation_warnings(
    labels: NDArray[np.int64], groups: Sequence[str], *, classes: Sequence[str]
) -> tuple[str, ...]:
    """Return a warning of the classes with fewer than 20 patients among validation's images."""
    members: list[set[str]] = [set() for _ in classes]
    for group, label in zip(groups, labels.tolist(), strict=True):
        members[label].add(group)
    few = [
        f"{len(own)} of {name}"
        for name, own in zip(classes, members, strict=True)
        if len(own) < FEW_PATIENTS
    ]
    if not few:
        return ()
    return (
        f"validation has few patients ({', '.join(few)}): differences between models there may "
        "be chance",
    )
