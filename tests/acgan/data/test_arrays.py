from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from acgan.data.arrays import save_images
from acgan.data.pack import load
from acgan.errors import InputError

SIZE = 16


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))


def pixels(count: int, *channels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, SIZE, SIZE, *channels), dtype=np.uint8)


def test_grey_images_come_back_as_they_were_with_class_patient_and_split(tmp_path: Path) -> None:
    images = pixels(120)
    labels = [number % 2 for number in range(120)]
    patients = [f"p{number // 2}" for number in range(120)]
    splits = ["train"] * 60 + ["val"] * 40 + ["test"] * 20
    folder = save_images(
        tmp_path / "d", images, labels, classes=["well", "ill"], patients=patients, splits=splits
    )
    data = load(str(folder), image_size=SIZE)
    assert data.classes == ("ill", "well")
    for own, start, end in ((data.train, 0, 60), (data.val, 60, 100), (data.test, 100, 120)):
        found = [
            (image.tobytes(), data.classes[label], patient)
            for image, label, patient in zip(own.images, own.labels, own.patients, strict=True)
        ]
        given = [
            (images[i].tobytes(), ["well", "ill"][labels[i]], patients[i])
            for i in range(start, end)
        ]
        assert sorted(found) == sorted(given)


def test_the_columns_of_a_table_of_pandas_are_taken_as_they_are(tmp_path: Path) -> None:
    splits = ["train"] * 60 + ["val"] * 40 + ["test"] * 20
    table = pd.DataFrame({"label": ["a", "b"] * 60, "split": splits, "patient": "p"})
    table.loc[:, "patient"] += [str(number // 2) for number in range(120)]
    table.loc[:3, "patient"] = np.nan
    folder = save_images(
        tmp_path / "d",
        pixels(120),
        table["label"],
        splits=table["split"],
        patients=table["patient"],
    )
    data = load(str(folder), image_size=SIZE)
    assert [len(own) for own in (data.train, data.val, data.test)] == [60, 40, 20]
    unknown = [f"images/{number:06d}.png" for number in range(4)]
    assert set(data.train.patients) == {*unknown, *(f"p{number}" for number in range(2, 30))}


@pytest.mark.parametrize("kind", [object, "string", "category", "datetime64[ns]"])
def test_whoever_a_column_of_any_kind_does_not_name_is_a_patient_of_its_own(
    tmp_path: Path, kind: Any
) -> None:
    days = ["2020-01-01", None, None, "2020-01-02"]
    patients = pd.Series(days, dtype=kind)
    folder = save_images(tmp_path / "d", pixels(4), ["a", "b"] * 2, patients=patients)
    with (folder / "labels.csv").open() as file:
        cells = [line["patient"] for line in csv.DictReader(file)]
    assert [cell[:10] for cell in cells] == ["2020-01-01", "", "", "2020-01-02"]


def test_colour_images_keep_their_channels_wherever_those_stand(tmp_path: Path) -> None:
    images = pixels(120, 3)
    labels = ["a", "b"] * 60
    last = load(str(save_images(tmp_path / "last", images, labels)), image_size=SIZE)
    first = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    moved = load(str(save_images(tmp_path / "first", first, labels)), image_size=SIZE)
    assert last.train.in_colour
    assert last.fingerprint == moved.fingerprint
    assert len(last.test) > 0  # cut by patient, where the split is not given


def test_real_numbers_from_0_to_1_are_rounded_to_255_steps(tmp_path: Path) -> None:
    images = pixels(120)
    labels = ["a", "b"] * 60
    splits = ["train"] * 60 + ["val"] * 40 + ["test"] * 20
    real = [torch.from_numpy(image / 255).float()[None] for image in images]  # [1, H, W]
    found = load(str(save_images(tmp_path / "d", real, labels, splits=splits)), image_size=SIZE)
    assert sorted(map(bytes, found.train.images)) == sorted(map(bytes, images[:60]))


def test_a_folder_of_its_own_is_replaced_and_one_of_others_is_not(tmp_path: Path) -> None:
    save_images(tmp_path / "d", pixels(4), ["a", "b"] * 2)
    save_images(tmp_path / "d", pixels(2), ["a", "b"])
    assert sorted(path.name for path in (tmp_path / "d" / "images").iterdir()) == [
        "000000.png",
        "000001.png",
    ]
    (tmp_path / "d" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files, such as notes\.txt; name a new"):
        save_images(tmp_path / "d", pixels(2), ["a", "b"])
    assert (tmp_path / "d" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "d.partial").exists()


@pytest.mark.parametrize(
    ("images", "labels", "more", "message"),
    [
        (pixels(2), ["a"], {}, "more images than the 1 labels"),
        (pixels(1), ["a", "b"], {}, "there are 1 images, but 2 labels"),
        (pixels(2), ["a", "b"], {"patients": ["x"]}, "there are 2 labels, but 1 patients"),
        (pixels(2), ["a", "b"], {"splits": ["train", "later"]}, "got 'later'"),
        (pixels(2), ["a", "c"], {"classes": ["a", "b"]}, "'c' is none of the classes a, b"),
        (pixels(2), [0, 2], {"classes": ["a", "b"]}, "2 is no place in the 2 classes"),
        (pixels(2), np.eye(2), {"classes": ["a", "b"]}, r"give the places, labels\.argmax\(1\)"),
        (pixels(2), [0.0, 1.0], {}, "0.0 is no class's name, and no whole number"),
        (pixels(2, 2), ["a", "b"], {}, r"image 0 has the shape \[16, 16, 2\]"),
        (pixels(2).astype(np.int64), ["a", "b"], {}, "image 0 has values of type int64"),
        (pixels(2) / 200, ["a", "b"], {}, "give uint8, or real numbers from 0 to 1"),
        (pixels(2), ["a", "b|c"], {}, r"'b\|c' can be no class's name"),
        (pixels(2), [0, 1], {"classes": ["a", " "]}, "' ' can be no class's name"),
        ([np.full((4, 4), np.nan)] * 2, ["a", "b"], {}, "values of type float64, nan to nan"),
    ],
)
def test_what_is_no_image_or_fits_no_label_is_one_sentence(
    tmp_path: Path,
    images: object,
    labels: list[str | int],
    more: dict[str, list[str]],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        save_images(tmp_path / "d", images, labels, **more)  # type: ignore[arg-type]
    assert list(tmp_path.glob("d*")) == []
