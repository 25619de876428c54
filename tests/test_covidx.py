"""Which image is used for what, with one planted case of everything that can be wrong."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acgan.covidx import Curated, Use, curate, image_paths, main, report
from acgan.data import load
from acgan.decode import examine_all
from acgan.errors import InputError
from acgan.labels import GENERATED, read_table

MINI = Path(__file__).parents[2] / "shared" / "data" / "covidx-mini"
needs_mini = pytest.mark.skipif(not MINI.is_dir(), reason="no covidx-mini images here")
CLASSES = ("COVID-19", "normal", "pneumonia")


class Folder:
    """A data folder that is built line by line; every image shows smooth noise of its own."""

    def __init__(self, root: Path, patients: int = 4) -> None:
        self.root = root
        self.rng = np.random.default_rng(0)
        for split in ("train", "test"):
            (root / split).mkdir(parents=True)
        for class_name in CLASSES:
            for number in range(patients):
                name = f"{class_name}{number}"
                self.add("train", name, f"{name}.png", class_name)
                self.add("test", f"t{name}", f"{name}.png", class_name)

    def add(
        self,
        split: str,
        patient: str,
        file: str,
        class_name: str = "normal",
        *,
        source: str = "rsna",
    ) -> Path:
        path = self.root / split / file
        noise = Image.fromarray(self.rng.integers(0, 256, (12, 12), np.uint8))
        noise.resize((64, 64), Image.Resampling.BICUBIC).save(path)
        with (self.root / f"{split}.txt").open("a") as labels:
            labels.write(f"{patient} {file} {class_name} {source}\n")
        return path

    def curate(self) -> Curated:
        table = read_table(self.root)
        facts = [fact for fact, _ in examine_all(image_paths(table), image_size=16)]
        return curate(table, facts, split_seed=0, val_fraction=None)

    def uses(self) -> dict[str, Use]:
        curated = self.curate()
        return {row.path: use for row, use in zip(curated.table.rows, curated.uses, strict=True)}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "d")


def test_good_images_are_all_used_and_one_patient_of_four_is_for_validation(
    folder: Folder,
) -> None:
    curated = folder.curate()
    assert [len(curated.indices(u)) for u in (Use.TRAIN, Use.VALIDATION, Use.TEST)] == [9, 3, 12]
    assert curated.notes == {}
    assert curated.near == ()


def test_missing_and_unreadable_images_are_left_out_and_noted(folder: Folder) -> None:
    folder.add("train", "x", "missing.png").unlink()
    folder.add("train", "y", "broken.png").write_bytes(b"broken")
    folder.add("test", "z", "folder.png").unlink()
    (folder.root / "test" / "folder.png").mkdir()
    uses = folder.uses()
    assert uses["train/missing.png"] == Use.MISSING
    assert uses["train/broken.png"] == uses["test/folder.png"] == Use.UNREADABLE
    assert len(folder.curate().notes) == 3


def test_of_identical_files_the_first_is_kept_and_test_before_train(folder: Folder) -> None:
    train, test = folder.root / "train", folder.root / "test"
    copies = {
        "train/within.png": train / "normal0.png",
        "test/within.png": test / "normal0.png",
        "train/across.png": test / "normal1.png",
    }
    for path, original in copies.items():
        split, file = path.split("/")
        folder.add(split, f"copy of {split}", file).write_bytes(original.read_bytes())
    uses = folder.uses()
    assert [uses[path] for path in copies] == [Use.DUPLICATE] * 3
    assert uses["test/normal1.png"] == uses["test/normal0.png"] == Use.TEST
    assert uses["train/normal0.png"] in (Use.TRAIN, Use.VALIDATION)


def test_identical_files_with_different_labels_are_pointed_out(folder: Folder) -> None:
    original = folder.root / "train" / "normal0.png"
    folder.add("train", "x", "x.png", "pneumonia").write_bytes(original.read_bytes())
    (note,) = folder.curate().notes.values()
    told = "which is labelled normal, of patient 'normal0'"
    assert note == f"same content as 'train/normal0.png', {told}"


def test_a_file_that_is_labelled_twice_is_used_once(folder: Folder) -> None:
    with (folder.root / "train.txt").open("a") as labels:
        labels.write("normal0 normal0.png normal rsna\n")
    assert list(folder.curate().notes.values()) == ["same content as 'train/normal0.png'"]


def test_train_images_of_a_patient_in_test_are_left_out(folder: Folder) -> None:
    folder.add("train", "shared", "a.png")
    folder.add("test", "shared", "b.png")
    uses = folder.uses()
    assert uses["train/a.png"] == Use.PATIENT_IN_TEST
    assert uses["test/b.png"] == Use.TEST


def test_a_patient_whose_test_image_is_missing_stays_in_train(folder: Folder) -> None:
    folder.add("train", "shared", "a.png")
    folder.add("test", "shared", "b.png").unlink()
    assert folder.uses()["train/a.png"] in (Use.TRAIN, Use.VALIDATION)


def test_patients_with_near_duplicates_stay_together_in_train(folder: Folder) -> None:
    for number in range(40):
        path = folder.add("train", f"a{number}", f"a{number}.png")
        twin = folder.add("train", f"b{number}", f"b{number}.jpg")
        Image.open(path).resize((96, 96), Image.Resampling.BICUBIC).save(twin, quality=90)
    curated = folder.curate()
    names = [row.path for row in curated.table.rows]
    found = {(names[a], names[b]) for a, b in curated.near}
    assert found == {(f"train/a{n}.png", f"train/b{n}.jpg") for n in range(40)}
    uses = folder.uses()
    assert all(uses[a] == uses[b] for a, b in found)
    assert {uses[a] for a, _ in found} == {Use.TRAIN, Use.VALIDATION}


def test_near_duplicates_across_train_and_test_are_a_warning(folder: Folder) -> None:
    twin = folder.add("train", "x", "x.png")
    Image.open(folder.root / "test" / "normal0.png").resize((96, 96)).save(twin)
    curated = folder.curate()
    assert any("near-duplicate images (1 pair of" in text for text in curated.warnings)
    assert folder.uses()["train/x.png"] != Use.DUPLICATE


def test_patients_with_one_and_the_same_file_stay_together_also_through_a_third(
    folder: Folder,
) -> None:
    for number in range(40):
        files = [folder.add("train", f"{own}{number}", f"{own}{number}.png") for own in "abcd"]
        folder.add("train", f"mid{number}", f"mid{number}.png").write_bytes(files[0].read_bytes())
        folder.add("train", f"mid{number}", f"end{number}.png").write_bytes(files[1].read_bytes())
    curated = folder.curate()
    noted = {curated.table.rows[i].path: note for i, note in curated.notes.items()}
    assert noted["train/mid7.png"] == "same content as 'train/a7.png', of patient 'a7'"
    assert len(noted) == 80
    uses = folder.uses()
    assert all(uses[f"train/a{n}.png"] == uses[f"train/b{n}.png"] for n in range(40))
    assert any(uses[f"train/c{n}.png"] != uses[f"train/d{n}.png"] for n in range(40))
    assert not any("share identical" in text for text in curated.warnings)


def test_the_same_file_of_two_patients_across_train_and_test_is_a_warning(folder: Folder) -> None:
    folder.add("train", "x", "y.png")
    twin = folder.add("train", "x", "x.png")
    twin.write_bytes((folder.root / "test" / "normal0.png").read_bytes())
    curated = folder.curate()
    assert any("share identical or near-duplicate images (1 pair of" in t for t in curated.warnings)
    assert folder.uses()["train/x.png"] == Use.DUPLICATE
    assert folder.uses()["train/y.png"] in (Use.TRAIN, Use.VALIDATION)


def test_beside_real_images_generated_ones_are_left_out(folder: Folder) -> None:
    before, warnings = folder.uses(), folder.curate().warnings
    for number in range(40):
        folder.add("train", f"made{number}", f"made{number}.png", source=GENERATED)
    uses = folder.uses()
    assert {use for path, use in uses.items() if "made" in path} == {Use.GENERATED}
    assert {path: use for path, use in uses.items() if "made" not in path} == before
    assert folder.curate().warnings == warnings


def test_generated_images_alone_are_divided_however_alike_they_are(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "d", patients=0)
    for class_name in CLASSES:
        for number in range(10):
            name = f"{class_name}{number}"
            path = folder.add("train", name, f"{name}.png", class_name, source=GENERATED)
            picture = Image.new("L", (64, 64), 128)
            picture.putpixel((number, 0), 129)
            picture.putpixel((0, 1 + CLASSES.index(class_name)), 129)
            picture.save(path)
    (folder.root / "test.txt").unlink(missing_ok=True)
    curated = folder.curate()
    assert [len(curated.indices(u)) for u in (Use.TRAIN, Use.VALIDATION, Use.TEST)] == [24, 6, 0]
    assert curated.near == ()


def test_a_class_that_ends_up_empty_is_refused(folder: Folder) -> None:
    for path in (folder.root / "train").glob("pneumonia*"):
        path.write_bytes(b"broken")
    with pytest.raises(InputError, match="'pneumonia' has no image in train"):
        folder.curate()


def test_a_class_that_test_lacks_is_a_warning(folder: Folder) -> None:
    for path in (folder.root / "test").glob("pneumonia*"):
        path.unlink()
    assert "test has no image of pneumonia" in folder.curate().warnings


def test_the_report_counts_and_lists_what_was_planted(folder: Folder) -> None:
    folder.add("train", "x", "missing.png").unlink()
    folder.add("train", "both", "a.png")
    folder.add("train", "both", "b.png", "pneumonia")
    lines = list(report(folder.curate()))
    assert "missing: 'train/missing.png' (No such file or directory)" in lines
    assert "patients in several classes: 'both'" in lines
    words = [line.split() for line in lines]
    assert ["train", "4", "6", "5", "15"] in words
    assert ["rsna", "4", "4", "4", "12"] in words
    assert ["missing", "1"] in words
    assert ["patients", "in", "several", "classes", "1"] in words
    assert any(line.startswith("warning: validation has only") for line in lines)


def test_the_command_ends_with_what_to_type_next(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder.root)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    expected = "next: python -m search.run --config configs/covidx.yaml --data "
    assert last == f"{expected}{folder.root} --num-samples 32 --dry-run"


def test_the_command_cuts_validation_as_a_search_with_the_same_flags_does(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    for seed in range(4):
        words = ["--split-seed", str(seed), "--val-fraction", "0.4"]
        assert main([str(folder.root), *words]) == 0
        *report, last = capsys.readouterr().out.splitlines()
        assert last.endswith(f"--num-samples 32 {shlex.join(words)} --dry-run")
        data = load(str(folder.root), image_size=16, split_seed=seed, val_fraction=0.4)
        counts = [line.split()[-1] for line in report if line.startswith("  validation  ")]
        assert counts == [str(len(data.val))]
        seen.append(data.val.patients)
    assert len(set(map(tuple, seen))) > 1
    assert main([str(folder.root), "--val-fraction", "2"]) == 2
    assert "train.val_fraction" in capsys.readouterr().err


def test_the_command_refuses_a_bad_folder_in_one_line_with_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "acgan.covidx", str(tmp_path / "missing")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no data folder")
    assert done.stderr.count("\n") == 1


@needs_mini
def test_real_x_rays_have_the_pairs_that_were_seen_to_be_one_image_and_no_others() -> None:
    table = read_table(MINI)
    facts = [fact for fact, _ in examine_all(image_paths(table), image_size=16)]
    curated = curate(table, facts, split_seed=0, val_fraction=None)
    names = [Path(row.path).stem for row in table.rows]
    # Looked at one by one: each pair shows one and the same exposure.
    assert {(names[a][:11], names[b][:11]) for a, b in curated.near} == {
        ("9C34AF49-E5", "COVID-00022"),
        ("COVID-00033", "COVID-00037"),
        ("E63574A7-41", "F4341CE7-73"),
    }
    assert [names[index] for index in curated.notes] == ["00002658_002"]
    assert len(curated.indices(Use.TEST)) == 178
    assert len(curated.indices(Use.TRAIN)) + len(curated.indices(Use.VALIDATION)) == 823


@needs_mini
def test_a_class_from_other_hospitals_than_the_others_is_a_warning() -> None:
    table = read_table(MINI)
    facts = [fact for fact, _ in examine_all(image_paths(table), image_size=16)]
    warnings = curate(table, facts, split_seed=0, val_fraction=None).warnings
    assert any("COVID-19 and the other classes have 2% of their sources" in w for w in warnings)
    assert not any(w.startswith(("normal and", "pneumonia and")) for w in warnings)
