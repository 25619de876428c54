"""Which image is used for what, with one planted case of everything that can be wrong."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acgan.command import typed
from acgan.covidx import main, report
from acgan.data.curate import SPLITS, Curated, Use, curate, image_paths
from acgan.data.decode import Facts, examine_all
from acgan.data.layouts import FEW_PATIENTS, read_table
from acgan.data.pack import load
from acgan.data.table import GENERATED, Row, Table
from acgan.errors import InputError
from tests.dicoms import dicom
from tests.kit import MINI, needs_mini

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
        table, facts = read_and_examine(self)
        return curate(table, facts, split_seed=0, val_fraction=None)

    def uses(self) -> dict[str, Use]:
        curated = self.curate()
        return {row.path: use for row, use in zip(curated.table.rows, curated.uses, strict=True)}


def read_and_examine(folder: Folder) -> tuple[Table, list[Facts]]:
    table = read_table(folder.root)
    return table, [fact for fact, _ in examine_all(image_paths(table), image_size=16)]


def folder_patient(curated: Curated, index: int) -> str:
    return curated.table.rows[index].patient


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "d")


def without_test(folder: Folder) -> None:
    shutil.rmtree(folder.root / "test")
    (folder.root / "test.txt").unlink()


def test_without_a_test_one_is_cut_by_patient_before_validation(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "d", patients=20)
    folder.add("train", "normal7", "normal7b.png")  # a second image of a patient
    without_test(folder)
    curated = folder.curate()
    counts = [len(curated.indices(use)) for use in (Use.TRAIN, Use.VALIDATION, Use.TEST)]
    assert counts[2] in (9, 10)  # 3 of 20 patients of each class
    assert sum(counts) == 61
    splits = [{folder_patient(curated, i) for i in curated.indices(use)} for use in SPLITS]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 60
    (said,) = (text for text in curated.warnings if "has no test" in text)
    assert said.startswith(f"the folder has no test: {counts[2]} images of 9 patients, 15% of each")
    table, facts = read_and_examine(folder)
    other = curate(table, facts, split_seed=1, val_fraction=None)
    assert other.indices(Use.TEST) != curated.indices(Use.TEST)
    assert curate(table, facts, split_seed=0, val_fraction=None) == curated


def test_a_class_with_too_few_patients_for_three_splits_says_how_many_it_needs(
    tmp_path: Path,
) -> None:
    folder = Folder(tmp_path / "d", patients=2)
    without_test(folder)
    with pytest.raises(InputError, match="too few patients in train to keep one for test; it need"):
        folder.curate()
    folder = Folder(tmp_path / "three", patients=3)
    without_test(folder)
    uses = list(folder.uses().values())
    assert [uses.count(use) for use in (Use.TRAIN, Use.VALIDATION, Use.TEST)] == [3, 3, 3]


def test_a_folders_own_validation_is_kept_and_its_patients_leave_train(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "d")
    (folder.root / "val").mkdir()
    for class_name in CLASSES:
        for number in range(FEW_PATIENTS):
            name = f"{class_name}{number}"
            folder.add("val", f"v{name}", f"{name}.png", class_name)
    folder.add("val", "tnormal0", "test.png")
    folder.add("train", "vnormal3", "train.png")
    curated = folder.curate()
    validation = {curated.table.rows[i].path for i in curated.indices(Use.VALIDATION)}
    assert validation == {row.path for row in curated.table.rows if row.patient.startswith("v")} - {
        "train/train.png"
    }
    uses = folder.uses()
    assert uses["val/test.png"] == Use.PATIENT_IN_TEST
    assert uses["train/train.png"] == Use.PATIENT_IN_VALIDATION
    assert len(curated.indices(Use.TRAIN)) == 12
    assert "validation is the folder's own: 61 images" in curated.warnings


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


def test_near_duplicates_across_train_and_the_folders_own_validation_are_a_warning(
    folder: Folder,
) -> None:
    (folder.root / "val").mkdir()
    for class_name in CLASSES:
        for number in range(FEW_PATIENTS):
            folder.add("val", f"v{class_name}{number}", f"{class_name}{number}.png", class_name)
    twin = folder.add("train", "x", "x.png")
    Image.open(folder.root / "val" / "normal0.png").resize((96, 96)).save(twin)
    same = folder.add("train", "y", "y.png")
    same.write_bytes((folder.root / "val" / "normal1.png").read_bytes())
    told = [text for text in folder.curate().warnings if "near-duplicate" in text]
    assert len(told) == 1
    assert told[0].startswith("train and validation share identical or near-duplicate images (2 p")


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


def test_blank_images_are_left_out_and_named_in_the_report(folder: Folder) -> None:
    window = {"WindowCenter": 50_000, "WindowWidth": 10}  # beside all values
    ramp = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)
    files = {"black.png": None, "beside.png": dicom(ramp, bits=16, **window)}
    for name, content in files.items():
        path = folder.add("train", f"patient-{name}", name)
        if content is None:
            Image.new("L", (64, 64)).save(path)
        else:
            path.write_bytes(content)
    curated = folder.curate()
    left_out = {curated.table.rows[i].path for i in curated.indices(Use.BLANK)}
    assert left_out == {f"train/{name}" for name in files}
    lines = list(report(curated))
    for name in files:
        (line,) = [line for line in lines if line.startswith(f"blank: 'train/{name}' (")]
        assert "0 of 255 greys; 16 are needed" in line
    assert f"  {'blank':<32}{2:>8}" in lines


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


def test_a_class_that_ends_up_empty_is_refused_with_the_causes(folder: Folder) -> None:
    folder.add("test", "pneumonia3", "again.png")
    for number in range(3):
        (folder.root / "train" / f"pneumonia{number}.png").write_bytes(b"broken")
    with pytest.raises(InputError) as caught:
        folder.curate()
    assert str(caught.value).startswith(
        "class 'pneumonia' has no image in train that can be used; left out: 3 unreadable, "
        "1 patient also in test; the first: 'train/pneumonia0.png' (not an image"
    )


def test_a_test_that_ends_up_empty_is_refused_with_the_cause(folder: Folder) -> None:
    for path in (folder.root / "test").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(InputError, match=r"^test has no image .* left out: 12 unreadable; the fir"):
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
    assert any(line.startswith("warning: validation has few patients") for line in lines)


def test_mended_names_are_told_in_the_report_and_in_warnings_without_names(
    folder: Folder,
) -> None:
    before = folder.uses()
    labels = folder.root / "train.txt"
    labels.write_text(labels.read_text().replace(".png ", ".PNG "))
    curated = folder.curate()
    assert folder.uses() == before
    told = "file names mended in train.txt: 12 (letter case of the ending)"
    assert told in curated.warnings
    lines = list(report(curated))
    assert f"{told}, the first: 'COVID-190.PNG' is read as 'COVID-190.png'" in lines
    assert f"warning: {told}" in lines
    assert told in load(str(folder.root), image_size=16).warnings


def test_missing_files_at_the_top_are_told_in_one_line(
    tmp_path: Path,
) -> None:
    count = 1_000  # each a folder of its own would take a second, and of 30,000 minutes
    rows = tuple(
        Row(f"{number}.png", "train", "ab"[number % 2], f"{number}", "x", (1, 1))
        for number in range(count)
    )
    lost = Row("lost.png", "train", "a", "lost", "x", None)
    table = Table(tmp_path, "table of labels", ("a", "b"), (*rows, lost), ("labels.csv",))
    curated = Curated(table, (*[Use.TRAIN] * count, Use.MISSING), {}, (), ())
    (told,) = [line for line in report(curated) if "missing files" in line]
    assert told.startswith(f"(at the top): 1 of {count + 1:,} lines name missing files")


def test_the_report_says_what_missing_files_may_be_and_counts_files_without_a_label(
    folder: Folder,
) -> None:
    folder.add("train", "x", "missing.jpg").rename(folder.root / "test" / "Missing.png")
    (folder.root / "test" / "sub").mkdir()
    for number in range(20):
        (folder.root / "test" / "sub" / f"{number}.png").touch()
    lines = list(report(folder.curate()))
    assert (
        "train: 1 of 13 lines name missing files, the first of them 'train/missing.jpg': "
        "'missing.jpg' may be 'test/Missing.png'; correct the labels, or move or rename files"
    ) in lines
    assert "in no label, by folder" in lines
    counts = [line.split() for line in lines]
    assert ["test/", "1"] in counts
    assert ["test/sub/", "20"] in counts


def test_the_command_ends_with_what_to_type_next(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder.root)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    words = ["python", "-m", "search.run", "--config", "configs/small.yaml"]
    words += ["--data", str(folder.root), "--num-samples", "8", "--dry-run"]
    assert last == f"next: {typed(words)}"


def test_the_command_cuts_validation_as_a_search_with_the_same_flags_does(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    for seed in range(4):
        words = ["--split-seed", str(seed), "--val-fraction", "0.4"]
        assert main([str(folder.root), *words]) == 0
        *report, last = capsys.readouterr().out.splitlines()
        assert last.endswith(f"--num-samples 8 {shlex.join(words)} --dry-run")
        data = load(str(folder.root), image_size=16, split_seed=seed, val_fraction=0.4)
        counts = [line.split()[-1] for line in report if line.startswith("  validation  ")]
        assert counts == [str(len(data.val))]
        seen.append(data.val.patients)
    assert len(set(map(tuple, seen))) > 1
    assert main([str(folder.root), "--val-fraction", "2"]) == 2
    assert "train.val_fraction" in capsys.readouterr().err


@pytest.mark.process
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
    (warning,) = (warning for warning in warnings if warning.startswith("sources are hardly"))
    assert "with the other classes (COVID-19 2%): a score may" in warning
