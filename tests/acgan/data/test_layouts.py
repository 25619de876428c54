from __future__ import annotations

from pathlib import Path

import pytest

from acgan.data.layouts import EXPECTED, FEW_PATIENTS, LAYOUTS, read_table
from acgan.data.table import Reading
from acgan.errors import InputError
from tests.folders import make_files


def test_what_is_expected_names_every_layout() -> None:
    assert all(layout.expected in EXPECTED for layout in LAYOUTS)
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


def test_a_pattern_of_patients_goes_before_what_is_known(tmp_path: Path) -> None:
    folder = make_files(tmp_path, [f"{c}/{n}_{c}_1.png" for c in "ab" for n in (1, 2)])
    table = read_table(folder, Reading(patient_pattern="^([0-9])_"))
    assert [row.patient for row in table.rows] == ["1", "2"] * 2
    with pytest.raises(InputError, match="must have one group"):
        read_table(folder, Reading(patient_pattern="x"))
