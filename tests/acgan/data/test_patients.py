from __future__ import annotations

import pytest

from acgan.data.patients import name_patients
from acgan.data.table import Row
from acgan.errors import InputError


def rows(*names: str) -> list[Row]:
    return [Row(f"a/{name}", "train", "a", f"a/{name}", "unknown", (1, 1)) for name in names]


def patients(pattern: str | None, *names: str) -> list[str]:
    return [row.patient for row in name_patients(rows(*names), pattern)[0]]


def test_a_pattern_has_the_patient_in_its_group_and_others_stay_their_own() -> None:
    named, how = name_patients(rows("p1_a.png", "p1_b.png", "x.png"), "^(p[0-9]+)_")
    assert [row.patient for row in named] == ["p1", "p1", "a/x.png"]
    assert how.endswith("by '^(p[0-9]+)_'; 1 names do not fit, each a patient of its own")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "is no pattern"),
        ("p", "must have one group"),
        ("(p)(q)", "must have one group"),
        ("(z)", "fits no file name, such as 'p1.png'"),
    ],
)
def test_a_pattern_that_cannot_serve_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        name_patients(rows("p1.png"), pattern)


def test_known_names_are_read_where_all_have_their_form() -> None:
    assert patients(None, "00000013_005.png", "00000013_006.png") == ["00000013"] * 2
    kermany = ("person63_bacteria_306.jpeg", "IM-0115-0001.jpeg", "NORMAL2-IM-0027-0001.jpeg")
    assert patients(None, *kermany) == ["person63", "IM-0115", "NORMAL2-IM-0027"]
    later = ("BACTERIA-1008087-0001.jpeg", "VIRUS-1-0002.jpeg", "NORMAL-28501-0001.jpeg")
    assert patients(None, *later) == ["BACTERIA-1008087", "VIRUS-1", "NORMAL-28501"]
    assert patients(None, "00000013_005.png", "x.png") == ["a/00000013_005.png", "a/x.png"]
