from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selection.augmentation.page import (
    arms_picture,
    curve_picture,
    study_csv,
    study_page,
    write_study_report,
)
from selection.augmentation.result import AugmentationStudy
from selection.steps.scores import BALANCED
from selection.wording import interval_text
from tests.augmentations import made_study
from tests.pages import read_page, searchable

PICTURES = {"arms.png": b"arms", "curve.png": b"curve"}


@pytest.fixture(scope="module")
def study() -> AugmentationStudy:
    return made_study({"gan": 0.8, "real-only": 0.5})


def test_a_report_is_a_page_a_table_and_two_pictures(
    study: AugmentationStudy, tmp_path: Path
) -> None:
    write_study_report(study, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"study.html", "study.csv", "arms.png", "curve.png"}
    page = read_page(tmp_path / "study.html")
    assert page.count('src="data:"') == 2
    for forbidden in ("<script", "http://", "https://"):
        assert forbidden not in page
    for name in ("arms.png", "curve.png"):
        picture = np.asarray(Image.open(tmp_path / name).convert("L"))
        assert min(picture.shape) > 300
        assert picture.std() > 5


def test_the_page_has_every_score_and_difference(study: AugmentationStudy) -> None:
    page = searchable(study_page(study, PICTURES))
    for arm in study.arms:
        for score in arm.scores.values():
            assert interval_text(score) in page
        for difference in (*arm.against_real.values(), *arm.against_classical.values()):
            assert interval_text(difference, 3) in page


def test_differences_whose_interval_excludes_zero_are_bold_and_no_score_is(
    study: AugmentationStudy,
) -> None:
    page = searchable(study_page(study, PICTURES))
    bold = re.findall(r'<td class="n sure">([^<]*)</td>', page)
    expected = [
        interval_text(difference, 3)
        for arm in study.arms
        for found in (arm.against_real, arm.against_classical)
        for difference in found.values()
        if difference.low > 0 or difference.high < 0
    ]
    assert sorted(bold) == sorted(expected) != []


def test_on_validation_images_everything_is_optimistic_and_there_is_no_answer(
    study: AugmentationStudy,
) -> None:
    page = searchable(study_page(study, PICTURES))
    assert "<b>Optimistic.</b>" in page
    assert 'class="answer"' not in page


def test_on_test_images_the_sentence_stands_first_with_the_number_of_the_touch() -> None:
    page = searchable(study_page(made_study(split="test", sentence="It & helps."), PICTURES))
    assert '<p class="answer">It &amp; helps.</p>' in page
    assert "touch number 2" in page
    assert "Optimistic" not in page
    assert page.index("It &amp; helps") < page.index("<h2>")


def test_notes_are_at_the_top() -> None:
    page = searchable(study_page(made_study(notes=("only 20 of the 80 <images>",)), PICTURES))
    assert "<b>Read with care.</b> Only 20 of the 80 &lt;images&gt;." in page
    assert "0.25 of COVID-19" in page


def test_the_csv_has_every_number_at_full_precision(study: AugmentationStudy) -> None:
    rows = list(csv.DictReader(io.StringIO(study_csv(study))))
    assert len(rows) == sum(len(arm.scores) for arm in study.arms)
    arm = study.arm("gan")
    (row,) = [r for r in rows if (r["arm"], r["measure"]) == ("gan", BALANCED)]
    assert float(row["value"]) == arm.scores[BALANCED].value
    assert float(row["minus_real_low"]) == arm.against_real[BALANCED].low
    assert float(row["minus_classical_high"]) == arm.against_classical[BALANCED].high
    assert row["generated_images"] == "80"
    (row,) = [r for r in rows if (r["arm"], r["measure"]) == ("real-only", BALANCED)]
    assert row["minus_real_value"] == ""
    assert row["split"] == "validation"


def test_pictures_are_the_same_each_time_and_change_with_the_numbers() -> None:
    one, two = made_study(), made_study({"gan": 0.9})
    for draw in (arms_picture, curve_picture):
        assert draw(one) == draw(one)
        assert draw(one) != draw(two)
