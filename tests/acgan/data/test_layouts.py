from __future__ import annotations

from pathlib import Path

import pytest

from acgan.data.balance import how_to_add
from acgan.data.layouts import FEW_PATIENTS, LAYOUTS, all_layouts, expected, read_table
from acgan.data.source import DataSource
from acgan.data.table import Reading
from acgan.errors import InputError
from acgan.plugins import LAYOUTS as PLUGINS
from tests.folders import make_files
from tests.plugins import plugin_installed

# Images `CLASS-PATIENT-NUMBER.png` in a folder beside a file `by-name`.
BY_NAME = """
from acgan.data.layouts import Layout
from acgan.data.table import Labelled, Row

def read(root, reading):
    rows = []
    for path in sorted((root / "images").glob("*.png")):
        name, patient, _ = path.stem.rsplit("-", 2)
        found = path.stat()
        stamp = found.st_size, found.st_mtime_ns
        rows.append(Row(f"images/{path.name}", "train", name, patient, "mine", stamp))
    return Labelled(rows, patients=True)

by_name = Layout("by name", "a file by-name", lambda root, _: (root / "by-name").exists(), read)
"""
OTHERS = (
    BY_NAME
    + """
def other(**changes):
    return by_name._replace(name="other", **changes)

fails = other(read=lambda root, reading: reading["x"])
unsure = other(matches=lambda root, reading: root / 2)
dict_of = other(read=lambda root, reading: {})
row_of = other(read=lambda root, reading: Labelled(["a.png"]))
split_of = other(read=lambda root, reading: Labelled([Row("a.png", "dev", "a", "", "", None)]))
outside = other(read=lambda root, reading: Labelled([Row("../a.png", "test", "a", "", "", None)]))
taken = by_name._replace(name="class folders")
"""
)


def test_what_is_expected_names_every_layout() -> None:
    assert all(layout.expected in expected() for layout in LAYOUTS)
    assert all_layouts() == LAYOUTS
    assert [layout.name for layout in LAYOUTS] == [
        "COVIDx label files",
        "table of labels",
        "class folders",
    ]


@pytest.mark.parametrize("patients", [FEW_PATIENTS, FEW_PATIENTS - 1])
def test_a_folders_own_validation_counts_where_each_class_has_enough_patients(
    tmp_path: Path, patients: int
) -> None:
    names = [("train", 30), ("valid", patients), ("test", 5)]
    files = [f"{s}/{c}/{s}{n}.png" for s, count in names for c in "ab" for n in range(count)]
    table = read_table(make_files(tmp_path, files))
    own = [row for row in table.rows if row.path.startswith("valid/")]
    enough = patients == FEW_PATIENTS
    assert {row.split for row in own} == {"validation" if enough else "train"}
    assert ("validation is the folder's own: 40 images" in table.warnings) == enough
    assert any("patients of a class: 19)" in text for text in table.warnings) != enough


@pytest.mark.parametrize(("lost", "made"), [(0, 0), (1, 0), (0, 1)])
def test_neither_missing_nor_generated_images_make_a_validation_large_enough(
    tmp_path: Path, lost: int, made: int
) -> None:
    rows = [(f"t{n}.png", "ab"[n % 2], "train", "here") for n in range(4)]
    for name in "ab":
        own = [(f"{name}{n}.png", name, "val", "here") for n in range(FEW_PATIENTS)]
        rows += [*own[made:], *((*each[:3], "generated") for each in own[:made])]
    lines = [",".join(row) for row in rows]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label,split,source", *lines]))
    make_files(tmp_path, [file for file, *_ in rows][: len(rows) - lost])
    kept = any(row.split == "validation" for row in read_table(tmp_path).rows)
    assert kept == (lost == made == 0)


def test_a_pattern_of_patients_goes_before_what_is_known(tmp_path: Path) -> None:
    folder = make_files(tmp_path, [f"{c}/{n}_{c}_1.png" for c in "ab" for n in (1, 2)])
    table = read_table(folder, Reading(patient_pattern="^([0-9])_"))
    assert [row.patient for row in table.rows] == ["1", "2"] * 2
    with pytest.raises(InputError, match="must have one group"):
        read_table(folder, Reading(patient_pattern="x"))


def test_columns_are_refused_where_the_labels_are_in_no_table(tmp_path: Path) -> None:
    folders = make_files(tmp_path / "folders", [f"{name}/{n}.png" for name in "ab" for n in "12"])
    (folders / "few.csv").write_text("name,dx\n1.png,a\n")
    covidx = make_files(
        tmp_path / "covidx",
        {"train/1.png": "", "train/2.png": "", "train.txt": "p 1.png normal\nq 2.png pneumonia\n"},
    )
    for folder, layout in ((folders, "class folders"), (covidx, "COVIDx label files")):
        read_table(folder)
        for column in ("file_column", "label_column"):
            why = rf"name columns of a table, but .* is read as {layout}; leave them out, or name"
            with pytest.raises(InputError, match=why):
                read_table(folder, Reading(**{column: "dx"}))
    assert read_table(folders, Reading(patient_pattern="(.)")).layout == "class folders"


def test_a_packages_layout_is_asked_before_those_that_are_built_in(tmp_path: Path) -> None:
    names = [f"{c}-{patient}-{n}.png" for c in "ab" for patient in range(9) for n in range(2)]
    folder = make_files(tmp_path / "data", ["by-name", *(f"images/{name}" for name in names)])
    plain = make_files(tmp_path / "plain", [f"{c}/{n}.png" for c in "ab" for n in range(4)])
    before = read_table(plain)
    with pytest.raises(InputError, match="/data holds no labelled images"):
        read_table(folder)
    with plugin_installed(tmp_path / "own", PLUGINS, {"by name": "by_name"}, BY_NAME):
        table = read_table(folder)
        assert (table.layout, table.classes) == ("by name", ("a", "b"))
        assert [row.path for row in table.rows] == [f"images/{name}" for name in sorted(names)]
        assert {row.patient for row in table.rows} == set(map(str, range(9)))
        assert read_table(plain) == before
        (text,) = how_to_add(DataSource(folder=str(folder)), tmp_path, tmp_path, merged=None)
        assert "as the layout 'by name' has its images: with the source generated they" in text
        with pytest.raises(InputError, match=r"^there is no data folder .*; expected a file by-n"):
            read_table(tmp_path / "none")
        with pytest.raises(InputError, match=r"but '.*/data' does; give that"):
            read_table(tmp_path / "data" / "images")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("other", "fails", r"layout 'other' cannot read .* \(TypeError: .*\); mend the package"),
        ("other", "unsure", r"layout 'other' cannot read .* \(TypeError: unsupported operand"),
        ("other", "dict_of", r"\(it returns no acgan\.data\.table\.Labelled\)"),
        ("other", "row_of", r"\(it is no Row of train, validation, test: 'a\.png'\)"),
        ("other", "split_of", r"\(it is no Row of train, validation, test: Row\(path='a\.png'"),
        ("other", "outside", r"\('\.\./a\.png' lies outside of the folder\)"),
        ("another", "fails", r"'another' of .* must have the name of its layout \('other'\)"),
        ("class folders", "taken", r"'class folders' of .* and of no other; mend the package"),
        ("other", "read", r"must name an acgan\.data\.layouts\.Layout; mend"),
        ("other", "nowhere", r"cannot be loaded \(AttributeError: "),
    ],
)
def test_a_layout_that_fails_is_one_sentence(
    tmp_path: Path, name: str, value: str, problem: str
) -> None:
    folder = make_files(tmp_path / "data", ["by-name", "images/a-1-1.png", "images/b-1-1.png"])
    with (
        plugin_installed(tmp_path / "own", PLUGINS, {name: value}, OTHERS),
        pytest.raises(InputError, match=problem) as caught,
    ):
        read_table(folder)
    assert "\n" not in str(caught.value)
