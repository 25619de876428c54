"""What a person reads after a pick: every number is there, and nothing is said that is not so."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import math
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from acgan.command import significant
from acgan.evaluation.grids import png
from acgan.run.records import QUALITY, EpochRecord
from selection.extractors.base import ExtractorInfo
from selection.ledgers.reviews import Entry, Quiz
from selection.metrics.estimate import Estimate, Images
from selection.metrics.memorisation import CopyCheck
from selection.metrics.wording import counted, interval_text, number, percent
from selection.pictures.names import changes_name, film_name, grid_name, walks_name
from selection.report.charts import MANY_TRIALS, curves_picture, read_curves, scores_picture
from selection.report.page import PAGE_BYTES, TrackingLinks, films, fitting, page, write_report
from selection.report.svg import BASELINE, CEILING, LEFT, WINNER, inside_page
from selection.report.tables import (
    candidates_csv,
    finalists,
    funnel,
    metric_tables,
    ranked,
    reference_counts,
)
from selection.settings import SelectionConfig
from selection.steps import result
from selection.steps.result import (
    Candidate,
    Decision,
    Difference,
    Fidelity,
    FilterReport,
    Pick,
    Utility,
)
from tests.kit import CLASSES
from tests.pages import searchable

COUNTS = (33, 70, 56)  # validation images of each class
MEASURES = ("kid_cnn3", "fd_cnn3", "precision_cnn3", "coverage_cnn3")
EPOCHS = 40
LINKS = TrackingLinks(
    run_id="4f0c",
    model="cxr-acgan-generator",
    version="3",
    alias="champion",
    code='model = mlflow.pyfunc.load_model("models:/cxr-acgan-generator@champion")\n'
    'images = model.predict([{"label": "normal", "seed": 0}])',
)


def estimate(value: float, half: float = 0.05) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half)


def make_utility(score: float, seeds: int = 3) -> Utility:
    return Utility(
        hits=["3" * sum(COUNTS)] * seeds,
        accuracy=estimate(score + 0.01),
        balanced_accuracy=estimate(score),
        recall=[estimate(score + shift) for shift in (-0.1, 0.03, 0.07)],
    )


def make_fidelity(quality: float, *, memorised: bool = False) -> Fidelity:
    values = {
        f"{name}{part}": quality + shift
        for name in MEASURES
        for shift, part in enumerate(("", *(f"/{c}" for c in CLASSES)))
    }
    share = estimate(0.31 if memorised else 0.04, 0.02)
    return Fidelity(
        metrics={
            "validation": {"intra_kid_cnn3": quality, **values},
            "training": {"intra_kid_cnn3": quality / 2, **{k: v / 2 for k, v in values.items()}},
            "generated": {"is_cnn3": 2.25, "is_std_cnn3": 0.125},
        },
        rank_metric="intra_kid_cnn3",
        influence=[0.0] * sum(COUNTS),
        reverse=[0.91, 0.82, 0.73],
        memorisation=[
            CopyCheck(label=label, space=space, share=share)
            for space in ("pixels", "cnn3")
            for label in range(3)
        ],
        memorised=["COVID-19 in pixels"] if memorised else [],
    )


def make_candidate(place: int, *, tied: bool, memorised: bool = False) -> Candidate:
    """Return candidate `place`: two of each trial, the later the worse."""
    score = 0.68 - 0.012 * place
    return Candidate(
        trial=f"t{place // 2:04d}",
        epoch=10 + place,
        weights=f"{place:064x}",
        params={"learning_rate": 2e-4 * (1 + place // 2), "dropout": 0.5},
        quality=100.0 + 10 * place,
        diversity=0.8,
        filter_score=0.1 + 0.01 * place,
        baseline=place == 0,
        utility=make_utility(score, 5 if tied else 3),
        left_at=None if tied else 3,
        behind_best=estimate(0.012 * place, 0.03 if tied else 0.005),
        fidelity=make_fidelity(0.02 + 0.001 * place, memorised=memorised) if tied else None,
        verdict="tied with the best" if tied else "told apart from the best",
    )


def make_pick(candidates: int = 4, *, ties: int = 2, memorised: bool = False) -> Pick:
    """Return a pick whose last tied candidate won."""
    return Pick(
        format=1,
        id="pick-1",
        study="mini",
        study_id="0b3e",
        run_id="a17c",
        scope="study",
        created=1_700_000_000.0,
        code_version="0.2.0",
        versions={"torch": "2.13.0"},
        settings=SelectionConfig(reference_limit=100).model_dump(),
        data_name="covidx-mini",
        fingerprint="0123456789abcdef" * 4,
        classes=list(CLASSES),
        warnings=["sources are hardly shared with the other classes (COVID-19 2%)"],
        train_images=[97, 275, 293],
        validation=Images(
            labels=[label for label, n in enumerate(COUNTS) for _ in range(n)],
            patients=[i // 2 for i in range(sum(COUNTS))],
        ),
        filter=FilterReport(
            trials=8,
            recorded=8 * EPOCHS,
            passed=250,
            kept=48,
            reasons={"young": 60, "dead discriminator": 10},
            better_without_weights=7,
            over_per_trial=5,
            over_cap=2,
        ),
        candidates=[
            make_candidate(place, tied=place < ties, memorised=memorised)
            for place in range(candidates)
        ],
        ceiling=make_utility(0.75),
        extractor=ExtractorInfo(name="cnn3", sha256="f" * 64, standard=False, independent=False),
        decision=Decision(
            winner=ties - 1,
            tie_set=list(range(ties)),
            tied=[ties - 1],
            rank_metric="intra_kid_cnn3",
            rule="lowest mean intra-KID",
            memorisation_failed=memorised,
        ),
        against_baseline=Difference(
            name="balanced accuracy",
            winner=estimate(0.668),
            baseline=estimate(0.68),
            difference=estimate(-0.012, 0.03),
        ),
        test=None,
        cost={"seconds": 512.0},
    )


def changed(pick: Pick, **changes: Any) -> Pick:
    return pick.model_copy(update=changes)


def with_candidate(pick: Pick, place: int, **changes: Any) -> Pick:
    found = list(pick.candidates)
    found[place] = found[place].model_copy(update=changes)
    return changed(pick, candidates=found)


def make_records(trials: int = 8) -> dict[str, list[EpochRecord]]:
    return {
        f"t{trial:04d}": [
            EpochRecord(
                epoch=epoch,
                time=epoch,
                metrics={"val/fd_cnn": 1000 / epoch + 50 * trial + 10 * math.sin(epoch)},
                young=epoch < 5,
            )
            for epoch in range(1, EPOCHS + 1)
        ]
        for trial in range(trials)
    }


TOUCH = result.LookAtTest(
    number=2,
    time=1_700_000_100.0,
    images=178,
    rows=[
        Difference(
            name="balanced accuracy",
            winner=estimate(0.61),
            baseline=estimate(0.55),
            difference=estimate(0.06),
        ),
        Difference(name="accuracy on images of figure1", winner=estimate(0.5, 0.3)),
    ],
    metrics={"winner": {"kid_cnn3": 0.031}, "baseline": {"kid_cnn3": 0.042}},
)


class Page(HTMLParser):
    """A parsed page: its text, its tables' rows, what it links to, and whether all tags close."""

    VOID = ("meta", "img", "br", "source")

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.feed(content)
        self.close()
        assert self.open == []
        self.text = " ".join("".join(self.words).split())
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> is not HTML"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids |= {value or "" for name, value in attrs if name == "id"}
        sources = ("src", "srcset", "href", "action")
        links = [value or "" for name, value in attrs if name in sources]
        self.anchors += [link[1:] for link in links if link.startswith("#")]
        self.links += [link for link in links if not link.startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "br":
            self.handle_data(" ")
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)
        if self.open and {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, start: str) -> list[str]:
        """Return the first row whose first cell begins so."""
        return next(row for row in self.rows if row[0].startswith(start))


def report(
    pick: Pick,
    pictures: Mapping[str, bytes] | None = None,
    *,
    tracking: TrackingLinks | None = LINKS,
) -> Page:
    return Page(page(pick, pictures or {}, tracking=tracking))


def read_csv(pick: Pick) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(candidates_csv(pick))))


def picture(seed: int) -> bytes:
    return png(np.random.default_rng(seed).integers(0, 256, (24, 64, 3), np.uint8))


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.6249, "0.62"),
        (-0.031, "\N{MINUS SIGN}0.03"),
        (-0.001, "0.00"),
        (None, "–"),
        (math.nan, "not finite"),
        (-math.inf, "not finite"),
    ],
)
def test_a_number_has_two_digits_and_no_negative_zero(value: float | None, text: str) -> None:
    assert number(value) == text


def test_an_interval_stands_in_brackets_behind_its_number() -> None:
    assert interval_text(Estimate(value=0.62, low=0.571, high=0.666)) == "0.62 (0.57 to 0.67)"
    assert (
        interval_text(Estimate(value=0.01, low=-0.0004, high=0.02), 3) == "0.010 (0.000 to 0.020)"
    )
    assert interval_text(None) == "–"


def test_a_share_is_written_in_percent() -> None:
    assert percent(Estimate(value=0.04, low=0.021, high=0.0701)) == "4 % (2 % to 7 %)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1218.4, "1,218"),
        (0.012345, "0.0123"),
        (-0.5, "\N{MINUS SIGN}0.5"),
        (math.inf, "not finite"),
        (None, "–"),
        (64, "64"),
        ("tpe", "tpe"),
    ],
)
def test_a_measured_value_has_three_significant_digits(value: object, text: str) -> None:
    assert significant(value) == text


def test_one_of_a_thing_is_not_many() -> None:
    assert [counted(n, "image") for n in (0, 1, 2048)] == ["0 images", "1 image", "2,048 images"]


# --- what follows from a pick --------------------------------------------------------------------


def test_candidates_are_ranked_by_score_and_failed_ones_come_last() -> None:
    pick = with_candidate(make_pick(), 0, utility=None, failed="its images are not finite")
    assert ranked(pick) == [1, 2, 3, 0]


def test_the_winner_comes_first_among_the_finalists() -> None:
    assert finalists(make_pick(5, ties=3)) == [2, 0, 1]


def test_the_funnel_never_widens_and_ends_with_one() -> None:
    counts = [stage.count for stage in funnel(make_pick(24, ties=5))]
    assert counts == [320, 250, 31, 24, 5, 5, 1]


def test_the_funnel_says_where_epochs_went() -> None:
    notes = " ".join(note for stage in funnel(make_pick(6)) for note in stage.notes)
    for words in (
        "60 young, 10 dead discriminator",
        "7 that passed looked better",
        "weights are kept of 48 epochs",
        "5 cut by per_trial = 3",
        "2 cut by max_candidates = 24",
        "whether they would have tied is not known",
        "4 told apart from the best with 3 CNNs",
        "lowest mean intra-KID",
    ):
        assert words in notes


def test_a_funnel_without_losses_mentions_none() -> None:
    pick = make_pick(2)
    nothing = pick.filter.model_copy(
        update={"reasons": {}, "better_without_weights": 0, "over_per_trial": 0, "over_cap": 0}
    )
    stages = funnel(changed(pick, filter=nothing))
    assert stages[1].notes == ("did not pass: none",)
    assert [stage.notes for stage in stages[3:6]] == [(), (), ()]


def test_failed_memorisation_empties_its_stage() -> None:
    assert funnel(make_pick(memorised=True))[5].count == 0


def test_reference_sets_are_counted_by_class_and_the_training_one_is_limited() -> None:
    assert reference_counts(make_pick()) == {
        "validation": [33, 70, 56],
        "training": [97, 100, 100],
    }


def test_every_metric_keeps_its_name_and_both_reference_sets_stand_side_by_side() -> None:
    tables = {table.name: table for table in metric_tables(make_pick())}
    assert list(tables) == [*MEASURES, "is_cnn3"]
    own = [(c.name, str(c.part), c.images) for c in tables["is_cnn3"].columns]
    assert own == [("is_cnn3", "all", None), ("is_std_cnn3", "deviation", None)]
    columns = [(c.reference, c.name, str(c.part), c.images) for c in tables["kid_cnn3"].columns]
    assert columns[:3] == [
        ("validation", "intra_kid_cnn3", "class mean", 33),
        ("validation", "kid_cnn3", "all", 159),
        ("validation", "kid_cnn3/COVID-19", "COVID-19", 33),
    ]
    assert columns[-1] == ("training", "kid_cnn3/pneumonia", "pneumonia", 100)
    assert len(columns) == 10


def test_every_metric_is_explained_and_one_of_a_plug_in_need_not_be() -> None:
    tables = {table.name: table.meaning for table in metric_tables(make_pick())}
    assert "not comparable with FID" in tables["fd_cnn3"]
    assert all(tables.values())
    own = make_fidelity(0.02).model_copy(update={"metrics": {"validation": {"sharpness": 0.5}}})
    (table,) = metric_tables(with_candidate(make_pick(1, ties=1), 0, fidelity=own))
    assert (table.name, table.meaning) == ("sharpness", "")


# --- the table for other programs ----------------------------------------------------------------


def test_the_csv_has_a_row_a_candidate_with_every_number_whole() -> None:
    pick = make_pick(24, ties=3)
    rows = read_csv(pick)
    assert len(rows) == 24
    for row, place in zip(rows, ranked(pick), strict=True):
        candidate = pick.candidates[place]
        assert candidate.utility is not None
        assert candidate.behind_best is not None
        assert (row["trial"], int(row["epoch"])) == (candidate.trial, candidate.epoch)
        assert float(row["balanced_accuracy"]) == candidate.utility.balanced_accuracy.value
        assert float(row["behind_best_high"]) == candidate.behind_best.high
        assert float(row["val/fd_cnn"]) == candidate.quality
        assert float(row["params/learning_rate"]) == candidate.params["learning_rate"]
        assert row["weights"] == candidate.weights
        assert row["verdict"] == candidate.verdict
    assert [row["picked"] for row in rows].count("True") == 1
    assert [row["tied"] for row in rows].count("True") == 3


def test_the_csv_has_the_finalists_measurements_and_leaves_the_others_empty() -> None:
    first, *_, last = read_csv(make_pick(4, ties=2, memorised=True))
    assert float(first["validation/kid_cnn3/normal"]) == 2.02
    assert float(first["training/intra_kid_cnn3"]) == 0.01
    assert first["memorised"] == "COVID-19 in pixels"
    assert float(first["near_copies/pixels/normal_low"]) == pytest.approx(0.29)
    assert float(first["reverse/pneumonia"]) == 0.73
    assert last["left_at"] == "3"
    assert last["validation/kid_cnn3/normal"] == last["memorised"] == last["reverse/normal"] == ""


def test_a_candidate_that_could_not_be_scored_has_its_reason_in_the_csv() -> None:
    changes = {"utility": None, "behind_best": None, "failed": "its images are not finite"}
    last = read_csv(with_candidate(make_pick(), 3, **changes))[-1]
    assert (last["verdict"], last["cnns"]) == ("its images are not finite", "0")
    assert last["balanced_accuracy"] == last["behind_best"] == last["recall/normal_low"] == ""


# --- the page ------------------------------------------------------------------------------------


def test_the_written_page_is_whole_and_needs_nothing_but_itself(tmp_path: Path) -> None:
    pick = make_pick()
    finalists, trials = pick.candidates[:2], films(pick)
    assert len(trials) == 1
    names = (
        *("real.png", "tsne.png", "closest.png"),
        *(name(one) for one in finalists for name in (grid_name, walks_name, changes_name)),
        *map(film_name, trials),
    )
    assert names[-4:] == (
        "grid-t0000-0011.png",
        "walks-t0000-0011.png",
        "classes-t0000-0011.png",
        "film-t0000.webp",
    )
    for seed, name in enumerate(names):
        (tmp_path / name).write_bytes(picture(seed))
    write_report(pick, tmp_path, records=make_records(), tracking=LINKS)
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = Page(content)
    assert content.startswith("<!doctype html>")
    assert all(re.match(r"data:image/(png|webp);base64,", link) for link in shown.links)
    inside = sorted(base64.b64decode(link.partition(",")[2]) for link in shown.links)
    pictures = (path for path in tmp_path.iterdir() if path.suffix in (".png", ".webp"))
    assert inside == sorted(path.read_bytes() for path in pictures)
    assert len(inside) == len(names)
    assert "not made" not in shown.text
    assert not shown.tags & {"script", "link", "iframe", "object", "form"}
    words = searchable(content)
    assert not [word for word in ("url(", "@import", str(tmp_path)) if word in words]
    assert "www.w3.org" not in content
    ids = re.findall(r'\bid="([^"]+)"', content)
    assert len(ids) == len(set(ids)) > 100
    references = re.findall(r'(?:xlink:href="|clip-path="url\()#([^")]+)', content)
    assert {name.partition("-")[0] for name in references} == {"scores", "curves"}
    assert set(references) <= set(ids)
    assert (tmp_path / "candidates.csv").read_text() == candidates_csv(pick)


def test_a_page_that_would_be_too_large_holds_the_first_finalists_and_names_the_rest() -> None:
    pick = make_pick(24, ties=24)
    shown = [pick.candidates[place] for place in finalists(pick)]
    own = [
        (grid_name(one), walks_name(one), changes_name(one), film_name(one.trial)) for one in shown
    ]
    names = ["real.png", *dict.fromkeys(name for group in own for name in group)]
    large = dict.fromkeys(names, bytes(2_000_000))
    inside = fitting(pick, large)
    # Twelve times 2 MB are 32 MB in base64: the whole pick's, then one finalist after another.
    assert inside == ["real.png", *dict.fromkeys(name for group in own for name in group)][:11]
    content = page(pick, large)
    assert len(content) < PAGE_BYTES + 1_000_000
    words = searchable(content)
    left = [name for name in names if name not in inside]
    assert len(left) > 30
    assert all(f"<code>{name}</code> stands beside the page" in words for name in left)
    assert fitting(pick, dict.fromkeys(names, b"x")) == names


def test_missing_pictures_are_named_and_break_nothing() -> None:
    shown = report(make_pick())
    assert shown.text.count("not made") == 12
    assert "The samples of t0000, epoch 11 were not made." in shown.text
    assert shown.links == []


@pytest.mark.parametrize(("candidates", "ties"), [(1, 1), (24, 1), (24, 24)])
def test_every_candidate_stands_in_the_table_with_its_interval(candidates: int, ties: int) -> None:
    pick = make_pick(candidates, ties=ties)
    shown = report(pick)
    for candidate in pick.candidates:
        assert candidate.utility is not None
        row = shown.row(candidate.name)
        assert row[2] == "0.80"
        assert interval_text(candidate.utility.balanced_accuracy) in row[5]
        assert row[6] == interval_text(candidate.behind_best, 3)
        assert row[-1] == candidate.verdict
    assert interval_text(pick.ceiling.balanced_accuracy) in shown.text


def test_step_3_shows_its_numbers_under_their_names() -> None:
    shown = report(make_pick())
    header = next(row for row in shown.rows if "validation all n = 159*" in row)
    assert header[:2] == ["finalist", "validation class mean ranks n = 33*"]
    assert header[-1] == "training pneumonia n = 100*"
    for words in (
        "kid_cnn3, by class",
        "is_cnn3, by class",
        "The rank uses intra_kid_cnn3",
        "lower is better",
    ):
        assert words in shown.text
    winner = [row[1:] for row in shown.rows if row[0].startswith("t0000, epoch 11 picked")]
    assert ["0.91", "0.82", "0.73"] in winner
    assert ["4 % (2 % to 6 %)"] * 6 + ["passed"] in winner
    assert any(row[:3] == ["0.021", "0.021", "1.02"] for row in winner)


def test_the_winners_validation_score_is_called_optimistic() -> None:
    shown = report(make_pick())
    assert "0.67 (0.62 to 0.72), is optimistic: it was picked on these very images" in shown.text
    assert shown.row("t0000, epoch 11")[5].endswith("optimistic")
    assert not shown.row("t0000, epoch 10")[5].endswith("optimistic")


@pytest.mark.parametrize(("score", "teaches"), [(0.39, True), (0.38, False), (0.32, False)])
def test_a_winner_at_chance_is_said_to_teach_nothing(score: float, teaches: bool) -> None:
    pick = make_pick()  # three classes: chance is 0.33, intervals are ± 0.05
    pick = with_candidate(pick, pick.decision.winner, utility=make_utility(score))
    shown = report(pick)
    assert ("at-chance" not in shown.ids) == teaches
    assert teaches or f"balanced accuracy {score} (" in shown.text
    assert teaches or "one constant answer has 0.33" in shown.text


def test_ties_are_called_ties_and_named() -> None:
    shown = report(make_pick(5, ties=3))
    words = "from 2 other candidates: they are ties (t0000, epoch 10; t0000, epoch 11 )"
    assert words.replace(" )", ")") in shown.text
    assert "lowest mean intra-KID" in shown.text


def test_a_clear_winner_and_an_only_candidate_are_no_ties() -> None:
    clear = report(make_pick(5, ties=1)).text
    assert "tells it apart from every other candidate" in clear
    alone = report(make_pick(1, ties=1)).text
    assert "no other to compare it with" in alone
    assert "they are ties" not in clear + alone


@pytest.mark.parametrize("memorised", [True, False])
def test_the_memorisation_banner_is_there_if_and_only_if_it_failed(memorised: bool) -> None:
    shown = report(make_pick(memorised=memorised))
    assert ("memorisation-failed" in shown.ids) is memorised
    assert ("memorisation check failed" in shown.text) is memorised
    assert ("failed: COVID-19 in pixels" in shown.text) is memorised
    assert "not-measured" not in shown.ids


def test_a_winner_that_step_3_could_not_measure_is_told_to_be_unchecked() -> None:
    shown = report(with_candidate(make_pick(1, ties=1), 0, fidelity=None))
    assert "not-measured" in shown.ids
    assert "memorisation-failed" not in shown.ids


def test_banners_follow_what_they_warn_of() -> None:
    pick = make_pick()
    own = report(pick)
    assert {"no-independent-extractor", "small-reference"} <= own.ids
    assert "33 COVID-19, 70 normal, 56 pneumonia" in own.text
    assert pick.warnings[0] in own.text
    assert "Nobody has looked at the samples yet" in own.text

    many = Images(labels=[0, 1, 2] * 2048, patients=list(range(3 * 2048)))
    inception = ExtractorInfo(name="inception", sha256="e" * 64, standard=True, independent=True)
    other = report(changed(pick, validation=many, extractor=inception, warnings=[]))
    assert not {"no-independent-extractor", "small-reference"} & other.ids
    assert "About the images:" not in other.text


def test_the_comparison_with_the_baseline_says_what_its_interval_allows() -> None:
    pick = make_pick()
    unsure = report(pick).text
    assert "cannot tell the winner from the baseline" in unsure
    assert pick.against_baseline is not None
    clear = pick.against_baseline.model_copy(update={"difference": estimate(0.2)})
    assert "the difference is optimistic" in report(changed(pick, against_baseline=clear)).text
    without = changed(pick, against_baseline=None)
    assert "The winner is the baseline's" in report(with_candidate(without, 1, baseline=True)).text
    assert "no comparison with the baseline" in report(without).text


def test_the_test_touch_is_shown_with_its_number_or_said_not_to_be() -> None:
    untouched = report(make_pick()).text
    assert "The test images were not touched: nothing on this page" in untouched
    shown = report(changed(make_pick(), test=TOUCH))
    assert "not touched" not in shown.text
    assert "touch number 2 of this study's 178 test images: each further touch" in shown.text
    assert shown.row("balanced accuracy")[1:] == [
        "0.61 (0.56 to 0.66)",
        "0.55 (0.50 to 0.60)",
        "0.060 (0.010 to 0.110)",
    ]
    assert shown.row("accuracy on images of figure1")[2:] == ["–", "–"]
    assert shown.row("kid_cnn3")[1:] == ["0.031", "0.042"]


def test_a_first_touch_is_not_called_optimistic() -> None:
    first = TOUCH.model_copy(update={"number": 1})
    assert "each further touch" not in report(changed(make_pick(), test=first)).text


def test_names_are_escaped() -> None:
    pick = with_candidate(
        make_pick(), 0, verdict="<script>alert(1)</script>", params={"a&b": "<i>"}
    )
    shown = report(changed(pick, study='<b>"mini"</b>', warnings=["<img src=x>"]))
    assert not shown.tags & {"script", "i"}
    for text in ("<script>alert(1)</script>", "a&b", "<i>", '<b>"mini"</b>', "<img src=x>"):
        assert text in shown.text


def test_a_winner_of_one_picture_a_class_is_called_so_above_all_and_in_the_table() -> None:
    usual = report(make_pick())
    assert "one-picture" not in usual.ids
    assert not any("one picture per class" in row[0] for row in usual.rows)
    alike = with_candidate(make_pick(), 1, diversity=0.07)
    shown = report(alike)
    assert "one-picture" in shown.ids
    assert "Its images are one picture per class." in shown.text
    assert "they spread 0.07 times as far as real ones do" in shown.text
    assert "below 0.30 is called so" in shown.text
    assert "Every candidate's are" not in shown.text
    assert shown.row("t0000, epoch 11 picked")[0].endswith("one picture per class")
    assert shown.row("t0000, epoch 11 picked")[2] == "0.07"
    row = next(row for row in read_csv(alike) if row["epoch"] == "11")
    assert row["val/diversity"] == "0.07"


def test_where_every_candidate_is_one_picture_a_class_the_page_says_so() -> None:
    pick = make_pick()
    for place in range(len(pick.candidates)):
        pick = with_candidate(pick, place, diversity=0.1)
    assert "Every candidate's are: the best of them was picked all the same." in report(pick).text
    stage = next(stage for stage in funnel(pick) if stage.name == "not one picture per class")
    assert stage.count == 0


def test_epochs_of_one_picture_a_class_are_counted_in_the_funnel() -> None:
    pick = make_pick()
    counted = pick.filter.model_copy(update={"one_picture": 40})
    passed = funnel(changed(pick, filter=counted))[1]
    assert passed.notes[-1] == "40 are one picture per class"


def test_a_winner_that_was_held_back_is_named_by_its_version_and_the_page_says_why() -> None:
    held = dataclasses.replace(LINKS, alias="", held_back="its images are one picture per class")
    shown = report(make_pick(), tracking=held)
    assert "version 3. It was not made the champion, because its images are one" in shown.text
    assert "typed again with --promote" in shown.text
    assert "selection.generate --model models:/cxr-acgan-generator/3 --per-class" in shown.text
    assert "not made the champion" not in report(make_pick()).text


def test_the_page_says_how_to_use_what_was_registered() -> None:
    shown = report(make_pick())
    assert " ".join(LINKS.code.split()) in shown.text
    command = "python -m selection.generate --model models:/cxr-acgan-generator@champion"
    assert f"{command} --per-class 1000 --out DIR" in shown.text
    assert "version 3, alias champion" in shown.text
    assert "Not for diagnosis" in shown.text


def test_cards_that_stand_beside_the_page_are_linked_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "data_card.md").write_text("x")
    write_report(make_pick(), tmp_path, records=make_records(), tracking=None)
    shown = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [link for link in shown.links if not link.startswith("data:")] == ["data_card.md"]
    assert "data card" in shown.text


def test_without_a_registered_model_the_weights_file_is_named() -> None:
    shown = report(make_pick(), tracking=None)
    assert "--weights t0000/weights/epoch-0011.safetensors --per-class 1000" in shown.text
    assert "models:/" not in shown.text


def test_every_setting_stands_in_the_protocol_and_no_folder_of_the_machine() -> None:
    pick = make_pick()
    shown = report(pick)
    assert shown.row("reference_limit")[1] == "100"
    assert shown.row("cnn_seeds")[1] == "3, 5"
    assert shown.row("gpus_per_task")[1] == "–"
    for name in pick.settings:
        assert shown.row(name)[2] == SelectionConfig.model_fields[name].description
    for text in (pick.fingerprint, pick.extractor.sha256, pick.winner.weights, pick.code_version):
        assert text in shown.text
    assert str(Path.home()) not in shown.text


def test_a_setting_that_the_pick_does_not_name_is_not_made_up() -> None:
    pick = make_pick()
    fewer = {name: value for name, value in pick.settings.items() if name != "cpus_per_task"}
    assert "cpus_per_task" in report(pick).text
    assert "cpus_per_task" not in report(changed(pick, settings=fewer)).text


def test_the_page_names_the_number_by_which_the_trials_were_judged() -> None:
    for objective in (QUALITY, "val/coverage"):
        pick = make_pick().model_copy(update={"objective": objective})
        found = Page(page(pick, {}))
        assert any(row[:2] == ["candidate", objective] for row in found.rows)
        text = " ".join(found.words)
        assert f"between trials only the objective {objective} orders" in " ".join(text.split())
        assert ("a Fréchet distance in features of the search's own CNN" in text) == (
            objective == QUALITY
        )


def test_a_pick_that_was_read_from_its_file_gives_the_same_page() -> None:
    pick = make_pick()
    again = Pick.model_validate_json(pick.model_dump_json())
    assert page(again, {}) == page(pick, {})
    assert candidates_csv(again) == candidates_csv(pick)


def test_a_candidate_that_could_not_be_scored_is_in_the_table_with_its_reason() -> None:
    changes = {"utility": None, "behind_best": None, "failed": "its images are not finite"}
    shown = report(with_candidate(make_pick(), 3, **changes))
    row = shown.row("t0001, epoch 13")
    assert row[4:6] == ["0", "–"]
    assert row[-1] == "could not be scored: its images are not finite"


def test_a_winner_without_a_score_and_a_metric_that_is_not_finite_are_shown() -> None:
    fidelity = make_fidelity(math.inf)
    pick = with_candidate(make_pick(1, ties=1), 0, utility=None, failed="x", fidelity=fidelity)
    shown = report(pick)
    assert "not finite" in shown.text
    assert "validation images, –, is optimistic" in shown.text


def test_the_same_pick_gives_the_same_page_and_pictures() -> None:
    first, again = make_pick(3), make_pick(3)
    assert page(first, {}) == page(again, {})
    assert scores_picture(first) == scores_picture(again)
    assert curves_of(first, make_records(2)) == curves_of(again, make_records(2))


# --- pictures ------------------------------------------------------------------------------------


def has_colour(drawn: bytes, colour: str) -> bool:
    return f"stroke: {colour}" in drawn.decode()


def curves_of(pick: Pick, records: Mapping[str, Sequence[EpochRecord]]) -> bytes:
    return curves_picture(pick, read_curves(pick, records))


def height(drawn: bytes) -> float:
    return float(ElementTree.fromstring(drawn).attrib["height"].removesuffix("pt"))


def words_of(drawn: bytes) -> list[str]:
    """Return the texts of an SVG."""
    found = ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")
    return [each.text or "" for each in found]


def test_scores_are_drawn_with_winner_baseline_and_ceiling_in_their_colours() -> None:
    few, many = scores_picture(make_pick(3)), scores_picture(make_pick(24))
    assert all(has_colour(few, colour) for colour in (WINNER, BASELINE, CEILING))
    assert height(many) > 2 * height(few)  # the candidates do not crowd


def test_what_a_chart_says_is_text() -> None:
    pick = make_pick(3)
    words = words_of(scores_picture(pick))
    assert {candidate.name for candidate in pick.candidates} <= set(words)
    assert "CNNs trained on real images" in words


def test_curves_show_the_winners_trial_apart_from_the_baseline() -> None:
    pick = changed(make_pick(8, ties=7), against_baseline=None)
    drawn = curves_of(pick, make_records())
    assert has_colour(drawn, WINNER)
    assert has_colour(drawn, BASELINE)
    assert not has_colour(curves_of(pick, {}), BASELINE)


def test_the_curves_of_very_many_trials_are_pixels_but_for_those_that_are_named() -> None:
    few, many = (curves_of(make_pick(), make_records(n)) for n in (6, MANY_TRIALS + 1))
    assert b"data:image/png;base64," not in few
    assert b"data:image/png;base64," in many
    assert has_colour(few, LEFT)
    assert not has_colour(many, LEFT)
    assert has_colour(many, WINNER)
    assert inside_page(many, "curves").count("data:image/png;base64,") == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_epochs_that_no_logarithm_can_show_are_left_out(value: float) -> None:
    record = EpochRecord(epoch=3, time=0.0, metrics={"val/fd_cnn": value})
    records = {name: [*epochs, record] for name, epochs in make_records(2).items()}
    broken: dict[str, Sequence[EpochRecord]] = {**records, "t0002": [record], "t0003": []}
    drawn = curves_of(make_pick(), broken).decode()
    assert "nan" not in drawn
    assert "inf" not in drawn


def seen(pick: Pick, place: int, action: str, **changes: Any) -> Entry:
    candidate = pick.candidates[place]
    known = {"candidate": candidate.name, "weights": candidate.weights, "reviewer": "anna"}
    return Entry.model_validate({"time": 1.764e9, "action": action, **known, **changes})


def test_without_a_review_the_page_says_that_nobody_looked() -> None:
    text = page(make_pick(), {})
    assert 'id="nobody-looked"' in text
    assert "Nobody looked at the samples." in text


def test_the_page_shows_who_looked_at_what_and_when() -> None:
    pick = make_pick()
    winner, other = pick.decision.winner, 0
    quiz = Quiz(truth="GGGGRRRR", said="RGGGRRRG")
    reviews = [
        seen(pick, winner, "kept", note="lungs & heart are clear"),
        seen(pick, winner, "quiz", quiz=quiz, time=1.764e9 + 3600),
        seen(pick, other, "rejected", reviewer="<b>bob</b>", blind=False),
    ]
    text = page(pick, {}, reviews=reviews)
    assert "obody" not in text.split('<h2 id="picked">')[0].split("</style>")[-1]
    _, table = text.split('<h2 id="looked">Who looked</h2>')
    rows = re.findall(r"<tr.*?</tr>", table.split("</table>")[0], re.S)[1:]
    cells = [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in rows
    ]
    assert [row[1:] for row in cells] == [
        ["anna", "2025-11-24 16:00 UTC", "2025-11-24 17:00 UTC", "kept",
         "lungs &amp; heart are clear", "1 of 4, 25 % (5 % to 70 %)",
         "3 of 4, 75 % (30 % to 95 %)"],
        ["&lt;b&gt;bob&lt;/b&gt;", "2025-11-24 16:00 UTC", "2025-11-24 16:00 UTC",
         "rejected, knowing its numbers", "–", "–", "–"],
    ]  # fmt: skip
    assert cells[0][0].startswith(pick.winner.name)
    assert "picked" in cells[0][0]


def test_looking_at_others_is_no_look_at_the_winner() -> None:
    pick = make_pick()
    text = page(pick, {}, reviews=[seen(pick, 0, "kept")])
    assert 'id="winner-not-looked-at"' in text
    assert 'id="nobody-looked"' not in text


def test_a_winner_that_was_rejected_since_is_said_to_be() -> None:
    pick = make_pick()
    mark = 'id="winner-rejected"'
    winner = pick.decision.winner
    assert mark not in page(pick, {}, reviews=[seen(pick, winner, "kept")])
    assert mark in page(pick, {}, reviews=[seen(pick, winner, "rejected")])


def test_the_funnel_says_what_people_took_out_and_kept() -> None:
    pick = with_candidate(make_pick(4, ties=2), 3, review="rejected", competes=False, utility=None)
    pick = changed(pick, decision=pick.decision.model_copy(update={"kept": [1]}))
    before, after = funnel(make_pick(4, ties=2)), funnel(pick)
    assert after[2].count == before[2].count
    assert after[3].count == before[3].count - 1
    assert "1 rejected by people who saw the images" in after[3].notes
    assert [(stage.count, stage.name) for stage in after[-2:]] == [
        (1, "kept by a person"),
        (1, "picked"),
    ]
    (row,) = [row for row in read_csv(pick) if row["review"]]
    assert (row["review"], row["trial"], row["cnns"]) == ("rejected", "t0001", "0")
    assert "rejected" in page(pick, {})


def test_numbers_that_are_all_zero_are_said_in_a_sentence() -> None:
    pick = changed(make_pick(), test=TOUCH.model_copy(update={"metrics": _metrics_of_the_look()}))
    for place in pick.decision.tie_set:
        fidelity = pick.candidates[place].fidelity
        assert fidelity is not None
        metrics = {
            reference: {k: 0.0 if "precision" in k else v for k, v in values.items()}
            for reference, values in fidelity.metrics.items()
        }
        own = fidelity.model_copy(update={"metrics": metrics})
        pick = with_candidate(pick, place, fidelity=own)
    shown = report(pick)
    assert "precision_cnn3 is 0 for every finalist" in shown.text
    assert "precision_cnn3, by class" not in shown.text
    assert "kid_cnn3 is 0" not in shown.text
    assert "as reference set: recall_cnn3." in shown.text
    assert shown.row("kid_cnn3")[1:] == ["0.031", "0"]


def _metrics_of_the_look() -> dict[str, dict[str, float]]:
    return {
        "winner": {"kid_cnn3": 0.031, "recall_cnn3": 0.0},
        "baseline": {"kid_cnn3": 0.0, "recall_cnn3": 0.0},
    }


def test_charts_are_drawn_for_a_phone_too_and_named_so(tmp_path: Path) -> None:
    pick = make_pick(6)
    write_report(pick, tmp_path, records=make_records(), tracking=None)
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name in ("scores", "curves"):
        for ending, where in (("", "for-screen"), ("-narrow", "for-phone")):
            own = inside_page((tmp_path / f"{name}{ending}.svg").read_bytes(), f"{name}{ending}")
            assert own in content
            assert f'<div class="chart {where}" role="img"' in content
            assert "<style" not in own


def test_charts_of_an_earlier_version_are_not_beside_the_new_ones(tmp_path: Path) -> None:
    (tmp_path / "scores.png").write_bytes(picture(0))
    write_report(make_pick(), tmp_path, records=make_records(), tracking=None)
    assert not (tmp_path / "scores.png").exists()
    assert (tmp_path / "scores.svg").exists()


def test_a_long_table_of_candidates_is_folded_and_a_short_one_is_not() -> None:
    assert "<details open>" in page(make_pick(4), {})
    assert "<details open>" not in page(make_pick(24), {})


def test_where_step_3_measured_nobody_no_metric_is_said_to_rank() -> None:
    pick = make_pick()
    unmeasured = [one.model_copy(update={"fidelity": None}) for one in pick.candidates]
    decision = pick.decision.model_copy(update={"rank_metric": ""})
    shown = report(changed(pick, candidates=unmeasured, decision=decision)).text
    assert "The rank uses" not in shown
    assert "No candidate of the tie set could be measured" in shown
    assert "The rank uses intra_kid_cnn3 on validation" in report(pick).text


def test_where_nobody_passed_the_check_for_copies_it_left_nobody_out() -> None:
    found = {stage.name: stage for stage in funnel(make_pick(memorised=True))}
    stage = found["passed the memorisation check"]
    assert (stage.count, stage.notes) == (0, ("so this left nobody out",))


def test_a_check_for_copies_that_could_not_judge_is_not_called_passed() -> None:
    pick = make_pick()
    winner = pick.winner.fidelity
    assert winner is not None
    unknown = {"share": None, "not_judged": "held-out patients: 3, needed: 10"}
    checks = [check.model_copy(update=unknown) for check in winner.memorisation]
    for own, words, cell in (
        (checks, "not judged", "not judged"),
        ([*winner.memorisation[:1], *checks[1:]], "passed where it could judge", "no"),
    ):
        fidelity = winner.model_copy(update={"memorisation": own})
        found = with_candidate(pick, pick.decision.winner, fidelity=fidelity)
        assert [row[-1] for row in report(found).rows if row[-1] == words] == [words]
        (row,) = [row for row in read_csv(found) if row["picked"] == "True"]
        assert row["memorised"] == cell
        notes = {stage.name: stage.notes for stage in funnel(found)}
        told = ("1 of them could not be judged in every class",)
        assert notes["passed the memorisation check"] == told
