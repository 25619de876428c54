from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from selection.augmentation.page import (
    arms_picture,
    compared,
    curve_picture,
    study_csv,
    study_page,
    write_study_report,
)
from selection.augmentation.result import AugmentationStudy, headline
from selection.metrics.estimate import Estimate
from selection.metrics.wording import interval_text
from selection.report.svg import inside_page
from selection.steps.scores import BALANCED
from tests.augmentations import made_study
from tests.browser import Browser, browser
from tests.pages import searchable

PICTURES = {"arms.svg": b"<svg></svg>", "curve.svg": b"<svg></svg>"}


@pytest.fixture(scope="module")
def study() -> AugmentationStudy:
    return made_study({"gan": 0.8, "real-only": 0.5})


def test_a_report_is_a_page_a_table_and_two_pictures(
    study: AugmentationStudy, tmp_path: Path
) -> None:
    write_study_report(study, tmp_path)
    charts = {"arms.svg", "arms-narrow.svg", "curve.svg", "curve-narrow.svg"}
    assert {path.name for path in tmp_path.iterdir()} == {"study.html", "study.csv", *charts}
    page = (tmp_path / "study.html").read_text(encoding="utf-8")
    assert page.count("<svg ") == 4
    for forbidden in ("<script", "http://", "https://"):
        assert forbidden not in page
    for name in charts:
        drawn = (tmp_path / name).read_bytes()
        assert inside_page(drawn, name.removesuffix(".svg")) in page
        texts = ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")
        assert "balanced accuracy" in [each.text for each in texts]


def test_the_page_has_every_score_and_difference(study: AugmentationStudy) -> None:
    page = searchable(study_page(study, PICTURES))
    for arm in study.arms:
        for score in arm.scores.values():
            assert interval_text(score) in page
        for difference in (*arm.against_real.values(), *arm.against_classical.values()):
            assert interval_text(difference, 3) in page


def test_chance_is_that_of_the_classes_that_are_scored(study: AugmentationStudy) -> None:
    assert "Chance is 0.33." in study_page(study, PICTURES)
    places = np.flatnonzero(np.array(study.images.labels) < 2)
    two = study.model_copy(update={"images": study.images.only(places)})
    assert two.chance == 0.5


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
    assert "<h2>Not answered yet</h2>" in page


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ([(-1, 1), (-1, 1), (-1, 1)], "No effect shown"),
        ([(1, 2), (-1, 1), (-1, 1)], "They help by themselves"),
        ([(-1, 1), (-2, -1), (-2, -1)], "They harm beside classical oversampling"),
        ([(1, 2), (1, 2), (-2, -1)], "They help"),
        ([(1, 2), (-2, -1), (-1, 1)], "They help by themselves and harm beside classical"),
        ([(-1, 1), (-1, 1), (1, 2)], "No effect shown"),  # better than classical is no help
    ],
)
def test_the_headline_says_what_the_comparisons_with_the_same_training_show(
    ends: list[tuple[float, float]], words: str
) -> None:
    found = [Estimate(value=(low + high) / 2, low=low, high=high) for low, high in ends]
    assert headline(found).startswith(words)
    lines = compared(found)
    assert [line.estimate for line in lines] == found
    assert lines[0].name.startswith("By themselves: ")
    verdicts = ("better", "worse", "no difference shown")
    low, high = ends[2]
    assert lines[2].name == f"In its place: {verdicts[0 if low > 0 else 1 if high < 0 else 2]}"


def test_generated_images_that_help_are_said_to_in_the_headline_and_in_its_rows() -> None:
    study = made_study({"gan": 0.9, "real-only": 0.5}, split="test", sentence="x")
    page = searchable(study_page(study, PICTURES))
    found = re.search(r'id="answer"><h2>(.*?)</h2>', page)
    assert found is not None
    assert found[1].startswith("They help by themselves")
    assert "By themselves: they help" in page
    assert page.index("By themselves: they help") < page.index('<h2 id="arms">')


def test_on_test_images_the_sentence_stands_first_with_the_number_of_the_touch() -> None:
    page = searchable(study_page(made_study(split="test", sentence="It & helps."), PICTURES))
    assert "<p>It &amp; helps.</p>" in page
    assert "number 2 of the study's test images" in page
    assert "Optimistic" not in page
    assert page.index("It &amp; helps") < page.index('<h2 id="arms">')


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.browser
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_everybody_can_read_it_on_a_screen_and_on_a_phone(
    chromium: Browser, tmp_path: Path, width: int, colours: str
) -> None:
    write_study_report(made_study(split="test", sentence="It helps."), tmp_path)
    chromium.colours(colours)
    chromium.open((tmp_path / "study.html").as_uri(), width=width)
    chromium.value("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert chromium.violations() == []
    assert chromium.value("document.documentElement.scrollWidth") <= width


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
