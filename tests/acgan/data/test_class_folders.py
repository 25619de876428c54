"""Class folders as people have them, and every way in which they can be wrong."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from acgan.data.layouts import read_table
from acgan.data.table import unlabelled
from acgan.errors import InputError
from tests.folders import make_class_folders, make_files, placed


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_table(folder)
    return str(caught.value)


def test_class_folders_are_read_and_every_image_is_its_own_patient(tmp_path: Path) -> None:
    folder = make_class_folders(tmp_path / "d")
    (folder / "train" / ".DS_Store").touch()
    table = read_table(folder)
    assert table.classes == ("COVID-19", "normal", "pneumonia")
    assert table.rows[0].path == "train/NORMAL/1.png"
    assert len({row.patient for row in table.rows}) == len(table.rows) == 6


def test_a_folder_of_generated_images_beside_the_classes_is_none(tmp_path: Path) -> None:
    folder = make_class_folders(tmp_path / "d")
    classes = read_table(folder).classes
    for place in ("train", "filled"), ("", "filled"):
        made = folder.joinpath(*place)
        make_files(made, {"train/normal-000000.png": "", "train.txt": "", "manifest.json": "{}"})
    table = read_table(folder)
    assert table.classes == classes
    assert len(table.rows) == 6
    assert any("train/filled/ is passed over" in warning for warning in table.warnings)


def test_class_folders_refuse_links_out_and_empty_classes(tmp_path: Path) -> None:
    linked = make_class_folders(tmp_path / "linked")
    (linked / "train" / "pneumonia" / "2.png").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="leads out"):
        read_table(linked)
    far = make_class_folders(tmp_path / "far", ("covid", "normal"))
    (far / "train" / "pneumonia").symlink_to(tmp_path / "linked" / "train" / "pneumonia")
    with pytest.raises(InputError, match="leads out"):
        read_table(far)
    empty = make_class_folders(tmp_path / "empty")
    (empty / "train" / "pneumonia" / "1.png").unlink()
    with pytest.raises(InputError, match="'pneumonia' has no image in train"):
        read_table(empty)


def test_stray_files_do_not_decide_that_there_are_no_class_folders(tmp_path: Path) -> None:
    folder = make_class_folders(tmp_path / "d")
    before = read_table(folder)
    strays = ("train/README.md", "test/Thumbs.db", "train_notes.txt", "values.txt", "test.txt")
    for name in strays:
        (folder / name).write_text("two weeks of training\n\n")
    for name in ("train/__MACOSX", "test/empty"):
        (folder / name).mkdir()
    (folder / "train" / "__MACOSX" / "._1.png").touch()
    table = read_table(folder)
    assert (table.rows, table.label_files) == (before.rows, ())
    assert unlabelled(table) == {"train": 1}


def test_the_images_of_a_class_may_lie_in_the_only_folder_of_its_folder(tmp_path: Path) -> None:
    folder = make_class_folders(tmp_path / "d")
    before = read_table(folder)
    for class_folder in [path for path in folder.glob("*/*") if path.is_dir()]:
        images = [path.name for path in class_folder.iterdir()]
        (class_folder / "images").mkdir()
        for name in images:
            (class_folder / name).rename(class_folder / "images" / name)
        (class_folder / "metadata.txt").touch()
    table = read_table(folder)
    assert [row.class_name for row in table.rows] == [row.class_name for row in before.rows]
    assert table.rows[0].path == "train/NORMAL/images/1.png"
    assert (table.mends, unlabelled(table)["train/NORMAL"]) == ((), 1)
    (folder / "train" / "NORMAL" / "images").rename(folder / "train" / "NORMAL" / "part")
    (mend,) = read_table(folder).mends
    assert str(mend) == "file names mended in train/NORMAL: 1 (one folder deeper)"
    (folder / "train" / "NORMAL" / "rest").mkdir()
    assert "'train/NORMAL' has no images but 2 folders (part, rest); move" in refusal(folder)


def test_a_name_that_is_no_text_is_read_in_a_class_folder_but_is_no_label_file(
    tmp_path: Path,
) -> None:
    folder = make_class_folders(tmp_path / "d")
    (folder / "train.txt\n.txt").touch()
    odd = "2\n\udcff.png"
    (folder / "train" / "covid" / odd).touch()
    table = read_table(folder)
    assert len(table.rows) == 7
    assert table.digest() == read_table(folder).digest()
    (folder / "train" / "covid" / odd).unlink()
    (folder / "train" / "covid" / odd).symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="leads out") as caught:
        read_table(folder)
    assert str(caught.value).isprintable()


def test_the_radiography_database_is_read_as_it_comes(tmp_path: Path) -> None:
    names = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
    files = [f"{name}/{kind}/{name}-1.png" for name in names for kind in ("images", "masks")]
    others = [*(f"{name}.metadata.xlsx" for name in names), "README.md.txt", ".DS_Store"]
    table = read_table(make_files(tmp_path / "d", [*files, *others]))
    assert table.classes == names
    assert placed(table) == {f"{name}/images/{name}-1.png": ("train", name) for name in names}
    assert unlabelled(table) == {f"{name}/masks": 1 for name in names}
    assert (table.layout, table.mends) == ("class folders", ())


def test_kermanys_folders_are_read_as_they_come(tmp_path: Path) -> None:
    files: dict[str, tuple[str, ...]] = {
        "train": ("NORMAL/IM-0115-0001.jpeg", "NORMAL/NORMAL2-IM-0384-0001.jpeg"),
        "val": ("NORMAL/NORMAL2-IM-1427-0001.jpeg", "PNEUMONIA/person1946_bacteria_4874.jpeg"),
        "test": ("NORMAL/IM-0001-0001.jpeg", "PNEUMONIA/person1_virus_6.jpeg"),
    }
    files["train"] += tuple(f"PNEUMONIA/person63_bacteria_{n}.jpeg" for n in (306, 307))
    paths = [f"chest_xray/{split}/{name}" for split, own in files.items() for name in own]
    folder = make_files(tmp_path / "d", [*paths, "chest_xray/__MACOSX/._train", ".DS_Store"])
    assert f"but '{folder}/chest_xray' does; give that" in refusal(folder)
    table = read_table(folder / "chest_xray")
    assert table.classes == ("normal", "pneumonia")
    patients = [row.patient for row in table.rows]
    assert patients[:4] == ["IM-0115", "NORMAL2-IM-0384", "person63", "person63"]
    assert patients[4:] == ["NORMAL2-IM-1427", "person1946", "IM-0001", "person1"]
    assert [row.split for row in table.rows] == ["train"] * 6 + ["test"] * 2
    assert table.warnings == (
        "patients are read from the file names, which are Kermany's",
        "the folder's own validation is too small (fewest patients of a class: 1): its "
        "2 images are joined with train, and validation is cut from both by patient",
    )


@pytest.mark.parametrize("split", ["", "train/"])
def test_any_names_are_classes_in_alphabetical_order(tmp_path: Path, split: str) -> None:
    names = ("nevus", "Melanoma", "actinic keratosis", "éphélide", "covid")
    folder = make_files(tmp_path / "d", [f"{split}{name}/1.jpg" for name in names])
    table = read_table(folder)
    assert table.classes == ("actinic keratosis", "covid", "Melanoma", "nevus", "éphélide")
    assert {row.split for row in table.rows} == {"train"}


def test_a_class_is_one_in_any_letter_case_and_has_trains(tmp_path: Path) -> None:
    files = ["Training/Nevus/1.png", "Training/mel/2.png", "TEST/nevus/3.png", "TEST/MEL/4.png"]
    table = read_table(make_files(tmp_path / "d", files))
    assert list(placed(table).values()) == [
        ("train", "Nevus"),
        ("train", "mel"),
        ("test", "mel"),
        ("test", "Nevus"),
    ]


def test_a_class_is_one_in_any_unicode_form(tmp_path: Path) -> None:
    here, mac = unicodedata.normalize("NFC", "Neumonía"), unicodedata.normalize("NFD", "Neumonía")
    assert here != mac
    files = ["train/Normal/1.png", "test/Normal/2.png", f"train/{here}/3.png", f"test/{mac}/4.png"]
    table = read_table(make_files(tmp_path, files))
    assert table.classes == (here, "Normal")
    assert [row.split for row in table.rows if row.class_name == here] == ["train", "test"]


def test_files_beside_the_images_are_no_images(tmp_path: Path) -> None:
    files = [f"{name}/{number}.png" for name in "ab" for number in (1, 2)]
    others = ["a/Thumbs.db", "a/desktop.ini", "a/._1.png", "b/notes.txt", "docs/guide.md"]
    table = read_table(make_files(tmp_path / "d", [*files, *others]))
    assert [row.path for row in table.rows] == files
    assert unlabelled(table) == {"b": 1, "docs": 1}


def test_one_folder_of_images_is_no_classes(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "d", ["images/1.png", "masks/1.png"])
    assert "holds no labelled images" in refusal(folder)
    assert "a folder of images for each class" in refusal(folder)


def test_images_at_the_top_that_no_folder_holds_are_counted(tmp_path: Path) -> None:
    files = ["train/a/1.png", "train/b/2.png", "3.png", "README", "notes.txt", "LICENSE.md"]
    table = read_table(make_files(tmp_path, files))
    assert unlabelled(table) == {"": 1}
