"""Nothing that identifies a patient, a file or the images' folder reaches MLflow.

A study is trained, sent and picked from as a user does it, over images whose patients, files and
folder have unmistakable names. Then all that MLflow keeps is searched for them: every text of its
database and every byte of its artifacts, compressed parts of pictures included.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import selection.pick as pick
from acgan.config import TrainConfig, validate
from acgan.data.source import DataSource
from acgan.errors import InputError
from acgan.files import write_json
from search.nodes.sees import StudyAt, same_data
from search.study.folder import Outcome, TrialEnd, open_study
from selection import study
from tests.augmentations import study_here
from tests.kit import CLASSES, tiny_images
from tests.picks import Place, pick_here, send, train_study

pytestmark = pytest.mark.process

pytest_plugins = ["tests.mlflow_stores"]

PATIENT, FILE, FOLDER = "Zaphod-Beeblebrox", "thorax-of-march", "hospital-of-vogsphere"
SECRETS = (PATIENT, FILE, FOLDER)


def write_named_images(folder: Path) -> None:
    """Write grey ramps in the COVIDx layout, with names also in the texts of the files."""
    note = PngInfo()
    note.add_text("Comment", f"{PATIENT} {FILE} {FOLDER}")
    for split, count, seed in (("train", 240, 0), ("test", 60, 1)):
        (folder / split).mkdir(parents=True)
        images = tiny_images(count, seed=seed)
        lines = []
        for index, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
            file = f"{FILE}-{split}-{index}.png"
            Image.fromarray(pixels).save(folder / split / file, pnginfo=note)
            source = "cohen" if index % 2 else "fig1"
            lines.append(f"{PATIENT}-{split}-{index} {file} {CLASSES[label]} {source}\n")
        (folder / f"{split}.txt").write_text("".join(lines))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Place]:
    """A study over such images, searched, picked from and augmented with, and MLflow with it."""
    place = Place(tmp_path_factory.mktemp("place"))
    shutil.copy(migrated_database, place.database)
    images = place.folder / FOLDER / "images"
    write_named_images(images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACGAN_CACHE", str(place.folder / "cache"))
        train_study(place.folder / "runs" / "tiny", images, trials=2, epochs=3)
        send(place.study, place.uri)
        pick_here(place.options())
        assert pick.main(place.options()) == 0
        augmented = place.options("--updates", "6", "--cnn-epochs", "3", "--test")
        study_here(augmented)
        assert study.main(augmented) == 0
        yield place


def texts(database: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the place and content of every cell of a database that is not a number."""
    with closing(sqlite3.connect(database)) as connection:
        connection.text_factory = bytes
        tables = [
            name.decode()
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                yield from ((table, cell) for cell in row if isinstance(cell, bytes))


def stored(place: Place) -> dict[Path, bytes]:
    """Return the artifacts of a store, with what their compressed parts hold."""
    files = [path for path in (place.folder / "mlartifacts").rglob("*") if path.is_file()]
    return {path: unpacked(path.read_bytes()) for path in files}


def unpacked(content: bytes) -> bytes:
    """Return a file and, behind it, whatever zlib can expand in it, as in a picture's texts."""
    parts, whole = [content], memoryview(content)
    start = content.find(b"x")
    while start >= 0:
        if content[start + 1 : start + 2] in (b"\x01", b"\x5e", b"\x9c", b"\xda"):
            expander = zlib.decompressobj()
            with suppress(zlib.error):
                parts.append(expander.decompress(whole[start:], 10_000_000))
        start = content.find(b"x", start + 1)
    return b"\n".join(parts)


def names_in(content: bytes) -> list[str]:
    """Return the names of which nothing may be known that a content holds, in any notation."""
    folded = content.lower()
    return [
        name
        for name in SECRETS
        if any(name.lower().encode(code) in folded for code in ("utf-8", "utf-16-le", "utf-32-le"))
    ]


def test_a_name_is_found_where_it_is_hidden(tmp_path: Path) -> None:
    note = PngInfo()
    note.add_text("Comment", PATIENT, zip=True)
    Image.new("L", (8, 8)).save(tmp_path / "x.png", pnginfo=note)
    content = (tmp_path / "x.png").read_bytes()
    assert PATIENT.encode() not in content
    assert names_in(unpacked(content)) == [PATIENT]
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("CREATE TABLE t (a, b)")
        connection.execute("INSERT INTO t VALUES (1, ?)", (f"in {FILE.upper()}",))
        connection.commit()
    assert [names_in(cell) for _, cell in texts(tmp_path / "x.db")] == [[FILE]]


def test_the_study_knows_where_the_images_are(place: Place) -> None:
    started = place.study.last_start()
    assert started is not None
    assert FOLDER in started.source.folder


def test_no_patient_file_or_folder_of_images_is_named_in_mlflows_database(place: Place) -> None:
    found = list(texts(place.database))
    assert len(found) > 100
    assert [(table, cell) for table, cell in found if names_in(cell)] == []


def test_no_patient_file_or_folder_of_images_is_named_in_an_artifact(place: Place) -> None:
    files = stored(place)
    kinds = {path.suffix for path in files}
    assert "study.json" in {path.name for path in files}
    assert {".png", ".html", ".csv", ".json", ".safetensors", ".webp", ".txt"} <= kinds
    assert [path.name for path, content in files.items() if names_in(content)] == []


def test_no_artifact_has_such_a_name(place: Place) -> None:
    assert [str(path) for path in stored(place) if names_in(os.fsencode(path))] == []


def test_why_a_trial_crashed_is_told_without_the_path_of_the_images(
    place: Place, migrated_database: Path, tmp_path: Path
) -> None:
    """As where one node of a cluster does not have the folder of the images."""
    elsewhere = Place(tmp_path)
    shutil.copy(migrated_database, elsewhere.database)
    shutil.copytree(place.folder / "runs", tmp_path / "runs")
    study = elsewhere.study
    config = validate(TrainConfig, "train", study.info.train)
    at = StudyAt(study.path, study.info.uuid, DataSource(folder=str(tmp_path / FOLDER)))
    with pytest.raises(InputError) as crash:
        same_data(at, open_study(at.study), config)
    assert FOLDER in str(crash.value)
    reason = f"acgan.errors.InputError: {crash.value}"
    end = TrialEnd(outcome=Outcome.CRASHED, reason=reason, time=1_700_000_100.0)
    write_json(study.path / "t0001" / "end.json", end)
    send(study, elsewhere.uri)
    assert [(table, cell) for table, cell in texts(elsewhere.database) if names_in(cell)] == []
