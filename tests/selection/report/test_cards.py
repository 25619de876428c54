"""The cards say what a pick measured, what it did not, and what its images' labels tell."""

from __future__ import annotations

import ast
import dataclasses
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

import selection.pick as pick_command
from acgan.config import TrainConfig
from acgan.data import phantom
from acgan.data.dataset import Dataset, ImageSet
from acgan.data.pack import load
from selection.ledgers.reviews import Entry
from selection.metrics.confounding import DataFacts
from selection.metrics.estimate import Images
from selection.metrics.memorisation import CopyCheck
from selection.metrics.wording import interval_text, percent, plain
from selection.registry.versions import CHAMPION, NAME, usage
from selection.report.cards import (
    DESCRIPTION_LIMIT,
    cards,
    confounding,
    description,
    validation_rows,
)
from selection.report.page import DATA_CARD, MODEL_CARD, page
from selection.steps.result import Pick
from tests.kit import CLASSES
from tests.pages import read_page
from tests.picks import Place, pick_here, plan_of, send
from tests.selection.report.test_page import TOUCH, changed, make_pick, with_candidate

pytest_plugins = ["tests.mlflow_stores", "tests.trained"]

TRAIN = TrainConfig().model_dump()


def images(labels: list[int], sources: list[str]) -> ImageSet:
    return ImageSet(
        np.zeros((len(labels), 16, 16), np.uint8),
        np.array(labels, np.int64),
        tuple(str(i) for i in range(len(labels))),
        tuple(sources),
    )


def facts_of(pick: Pick, *, of_covid: str = "cohen", others: str = "nih") -> DataFacts:
    """Return facts of images whose COVID-19 is of one source and all else of another."""

    def own(labels: list[int]) -> ImageSet:
        return images(labels, [of_covid if label == 0 else others for label in labels])

    train = [label for label, n in enumerate(pick.train_images) for _ in range(n)]
    val = pick.validation.labels
    return DataFacts.of(Dataset("mini", CLASSES, own(train), own(val), own([0, 1, 2]), "f"))


def table_row(text: str, start: str) -> list[str]:
    """Return the cells of the first table row whose first cell begins so."""
    (line, *_) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def made(pick: Pick, facts: DataFacts | None = None) -> tuple[str, str]:
    texts = cards(pick, facts or facts_of(pick), TRAIN)
    assert set(texts) == {MODEL_CARD, DATA_CARD}
    for text in texts.values():
        assert not re.search(r"\{\{|\{%|None|Undefined", text)
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert all(row.endswith("|") for row in rows)
    return texts[MODEL_CARD], texts[DATA_CARD]


def test_every_table_has_as_many_cells_in_each_row() -> None:
    for text in made(changed(make_pick(), test=TOUCH)):
        for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(widths) == 1, table


def test_the_images_are_called_grey_or_in_colour_as_they_are() -> None:
    pick = make_pick()
    facts = facts_of(pick)
    model, data = made(pick, facts)
    assert "trained on grey images" in model
    assert "Images are grey" in data
    model, data = made(pick, dataclasses.replace(facts, in_colour=True))
    assert "trained on colour images" in model
    assert "Images are in colour" in data
    shaped = [np.zeros((3, *shape), np.uint8) for shape in ((16, 16), (3, 16, 16))]
    labels = np.arange(3)
    for pixels, colour in zip(shaped, (False, True), strict=True):
        own = ImageSet(pixels, labels, ("a", "b", "c"), ("nih",) * 3)
        assert DataFacts.of(Dataset("mini", CLASSES, own, own, own, "f")).in_colour == colour


def test_images_are_called_chest_x_rays_where_they_are_known_to_be_some() -> None:
    pick = make_pick()
    facts = facts_of(pick)
    for layout, known in (("COVIDx label files", True), ("class folders", False), ("", False)):
        own = dataclasses.replace(facts, layout=layout)
        model, data = made(pick, own)
        told = (model, data, description(pick, own))
        for text in (each.lower() for each in told):
            assert bool(re.search("x-ray|chest", text)) == known
        assert ("generator of chest X-rays" in model) == known
    assert load("phantom", image_size=16).layout == ""
    drawn = DataFacts.of(load("phantom", image_size=16))
    assert description(pick, drawn).startswith("Generator of chest X-rays (COVID-19, normal, ")


def test_names_of_classes_are_shown_as_they_are() -> None:
    pick = changed(make_pick(), classes=["a|b", "<b>c", "*d*"])
    facts = dataclasses.replace(facts_of(pick), classes=tuple(pick.classes))
    model, data = made(pick, facts)
    for text in (model, data, description(pick, facts)):
        assert r"a\|b" in text
        assert not re.search(r"(?<!\\)<b>", text.partition("```")[0])
    for text in (model, data):
        for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(widths) == 1, table


def test_class_and_source_are_counted_and_their_confounding_is_named() -> None:
    pick = make_pick()
    _, data = made(pick)
    assert table_row(data, "COVID-19") == ["COVID-19", "97", "0", "97"]
    assert table_row(data, "normal") == ["normal", "0", "275", "275"]
    found = confounding(facts_of(pick))
    assert found.v == pytest.approx(1)
    assert found.classes["COVID-19"] == pytest.approx(1)
    assert found.known == 1
    assert "Cramér's V of class and source is 1.00" in data
    assert "strongly confounded" in data
    assert f"right for **{100 * (found.right_by_source or 0):.0f} %**" in data


def test_sources_that_nobody_knows_are_said_to_be_not_measured() -> None:
    pick = make_pick()
    facts = facts_of(pick, of_covid="unknown", others="unknown")
    model, data = made(pick, facts)
    assert "could not be measured**: no source is known" in data
    assert "strongly confounded" not in data + model
    assert "Whether class and source are confounded is **not measured**" in model
    assert "By source: **not measured**" in model
    assert "is not known" in description(pick, facts)


def test_a_model_of_one_picture_a_class_is_called_so() -> None:
    pick = make_pick()
    varied, _ = made(pick)
    assert "where it is least: **0.80**." in varied
    assert "one picture per class" not in varied + description(pick, facts_of(pick))
    pick = with_candidate(pick, 1, diversity=0.07)
    model, _ = made(pick)
    head = model.partition("## Intended use")[0]
    assert "**Against using it**: its images are one picture per class. One picture" in head
    assert "where it is least: **0.07** (one picture per class)." in model
    told = description(pick, facts_of(pick))
    assert "**Against using it**: its images are one picture per class." in told
    unknown, _ = made(with_candidate(pick, 1, diversity=None))
    assert "where it is least: **not measured**." in unknown


def test_no_command_of_the_card_takes_another_model_for_this_one() -> None:
    model, _ = made(make_pick())
    code = "".join(re.findall(r"^```.*?^```", model, re.M | re.S))
    assert f'load_model("models:/{NAME}/VERSION")' in code
    assert code.count(f"--model models:/{NAME}/VERSION") == 2
    assert "@champion" not in code


@pytest.mark.parametrize("name", ["normal", 'lung "x" \\ y', "it's", "Größe"])
def test_the_code_of_a_card_is_python_whatever_a_class_is_called(name: str) -> None:
    *_, predict = ast.parse(usage(name)).body
    labels = [node.value for node in ast.walk(predict) if isinstance(node, ast.Constant)]
    assert name in labels


def test_images_of_a_class_are_called_few_where_the_smallest_class_has_few() -> None:
    few = "For a distance of distributions these are few."
    for counts, expected in (((2048, 2048, 2048), False), ((2047, 3000, 3000), True)):
        labels = [label for label, count in enumerate(counts) for _ in range(count)]
        real = Images(labels=labels, patients=list(range(len(labels))))
        pick = changed(make_pick(), validation=real)
        pick = with_candidate(pick, pick.decision.winner, utility=None)
        model, _ = made(pick, facts_of(pick))
        assert (few in model) == expected
        assert 'id="small-reference"' in page(pick, {}) or not expected


def test_one_known_source_is_no_comparison() -> None:
    _, data = made(make_pick(), facts_of(make_pick(), of_covid="nih"))
    assert "there are not two sources and two classes to compare" in data


def test_the_phantom_is_called_drawn_and_generated_images_are_named() -> None:
    assert {"phantom-a", "phantom-b"} == set(phantom.SOURCES)
    drawn = DataFacts.of(load("phantom", image_size=16))
    pick = changed(
        make_pick(),
        warnings=[],
        validation=make_pick().validation.model_copy(
            update={"labels": [0] * len(drawn.validation_sources)}
        ),
    )
    text = cards(with_candidate(pick, pick.decision.winner, utility=None), drawn, TRAIN)[DATA_CARD]
    assert "of no patient" in text
    assert "strongly confounded" not in text
    assert "licences" not in text
    _, data = made(make_pick(), facts_of(make_pick(), others="generated"))
    assert "source `generated` are no patient's" in data


def test_the_model_card_says_who_looked() -> None:
    pick = make_pick()
    assert "**Nobody has looked** at its images" in made(pick)[0]
    seen = {"candidate": pick.winner.name, "weights": pick.winner.weights, "reviewer": "anna"}
    kept = Entry.model_validate({"time": 1_764_000_000.0, "action": "kept", **seen})
    of_another = kept.model_copy(update={"weights": "0" * 64, "reviewer": "ben"})
    text = cards(pick, facts_of(pick), TRAIN, [kept, of_another])[MODEL_CARD]
    assert "t0000, epoch 11: kept by anna (2025-11-24 16:00 UTC)" in text
    assert "ben" not in text.partition("## How useful")[0].partition("## How it was picked")[2]
    assert "Nobody has looked" not in text


def test_scores_stand_with_their_intervals_by_class_and_source() -> None:
    pick = make_pick()
    model, _ = made(pick)
    for row in validation_rows(pick, facts_of(pick)):
        found = table_row(model, row.name)
        assert found[1:] == [interval_text(row.winner), interval_text(row.baseline)]
    names = [row.name for row in validation_rows(pick, facts_of(pick))]
    assert [name for name in names if "recall of" in name] == [f"recall of {c}" for c in CLASSES]
    assert [name for name in names if "source" in name] == [
        f"accuracy on {pick.validation.labels.count(0)} images of source cohen",
        f"accuracy on {len(pick.validation.labels) - pick.validation.labels.count(0)} images "
        "of source nih",
    ]


def test_the_test_images_are_not_measured_or_shown_with_the_number_of_the_look() -> None:
    model, _ = made(make_pick())
    assert "**Not measured**: the test images were not looked at." in model
    model, _ = made(changed(make_pick(), test=TOUCH))
    assert "look number 2" in model
    row = TOUCH.rows[0]
    assert table_row(model, "balanced accuracy") == [
        row.name,
        interval_text(row.winner),
        interval_text(row.baseline),
        interval_text(row.difference, 3),
    ]


def test_memorisation_stands_by_class_and_what_was_not_judged_says_why() -> None:
    pick = make_pick()
    fidelity = pick.winner.fidelity
    assert fidelity is not None
    spaces = [
        fidelity.memorisation[0],
        CopyCheck(
            label=1, space="pixels", share=None, not_judged="held-out patients: 3, needed: 10"
        ),
    ]
    changed_fidelity = fidelity.model_copy(update={"memorisation": spaces})
    pick = with_candidate(pick, pick.decision.winner, fidelity=changed_fidelity)
    model, _ = made(pick)
    assert table_row(model, "COVID-19 | pixels")[2] == percent(spaces[0].share)
    assert "not judged: held-out patients: 3, needed: 10" in model
    assert "Result: **not judged: normal**" in model


def test_a_failed_check_is_loud_and_a_missing_one_is_not_measured() -> None:
    model, _ = made(make_pick(memorised=True))
    assert "**The check failed" in model
    assert "Do not share" in model
    model, _ = made(make_pick())
    assert "The check failed" not in model
    pick = make_pick()
    unmeasured = with_candidate(pick, pick.decision.winner, fidelity=None, utility=None)
    model, _ = made(unmeasured)
    assert model.count("**Not measured.**") == 3  # validation, fidelity, memorisation


def test_what_no_pick_can_measure_is_never_claimed() -> None:
    model, data = made(changed(make_pick(), test=TOUCH))
    assert "anatomically or clinically right is **not measured**" in model
    assert "makes a classifier better is **not measured**" in model
    assert "Not for diagnosis" in model
    assert "Not for diagnosis" in data
    assert "Whether the labels are right" in data


def test_names_that_others_gave_break_no_table_and_no_link() -> None:
    assert plain("a|b\n`c` [d](e) <f>") == "a\\|b \\`c\\` \\[d\\](e) \\<f\\>"
    pick = changed(make_pick(), data_name="x|y<img>", warnings=["a | b\n\n# c"])
    model, data = made(pick)
    assert "# Data card: x\\|y\\<img\\>" in data
    assert "- a \\| b \\# c" in data
    assert "<img>" not in model + data


def test_the_description_is_short_and_says_the_same() -> None:
    pick = changed(make_pick(), test=TOUCH)
    text = description(pick, facts_of(pick))
    assert len(text) < DESCRIPTION_LIMIT // 2
    assert "**Not for diagnosis.**" in text
    assert interval_text(TOUCH.rows[0].winner) in text
    assert f"--study {pick.study} --trial {pick.winner.trial}" in text
    assert "Check for copies of training images: passed." in text


def test_the_commands_of_the_card_name_the_study_and_the_trial() -> None:
    pick = make_pick()
    model, _ = made(pick)
    assert f"python -m search.reproduce --study mini --trial {pick.winner.trial}" in model
    assert "python -m selection.pick --study mini" in model
    for text in (pick.fingerprint, pick.winner.weights):
        assert text in model


# --- a real pick ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picked(
    tmp_path_factory: pytest.TempPathFactory, picked_runs: Path, migrated_database: Path
) -> Iterator[tuple[Place, Pick]]:
    """A study over images of two sources, picked from by the command."""
    place = Place(tmp_path_factory.mktemp("place"))
    shutil.copy(migrated_database, place.database)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACGAN_CACHE", str(place.folder / "cache"))
        shutil.copytree(picked_runs, place.folder / "runs")
        send(place.study, place.uri)
        found = pick_here(place.options())
        assert pick_command.main(place.options("--promote")) == 0  # tiny networks teach little
        yield place, found


@pytest.mark.process
def test_both_cards_stand_beside_the_pick_in_its_run_and_beside_the_model(
    picked: tuple[Place, Pick],
) -> None:
    place, pick = picked
    folder = place.study.path / "selection" / pick.id
    client = MlflowClient(place.uri)
    version = client.get_model_version_by_alias(NAME, CHAMPION)
    assert version.run_id is not None
    beside = Path(str(version.source).removeprefix("file://"))
    for name in (MODEL_CARD, DATA_CARD):
        text = (folder / name).read_text(encoding="utf-8")
        assert (beside / name).read_text(encoding="utf-8") == text
        assert f'href="{name}"' in read_page(folder / "report.html")
    sent = {Path(file.path).name for file in client.list_artifacts(version.run_id, "selection")}
    assert {MODEL_CARD, DATA_CARD} <= sent
    assert version.description == description(pick, plan_of(place.options()).facts)
    assert len(version.description) < DESCRIPTION_LIMIT


@pytest.mark.process
def test_the_cards_of_a_real_pick_hold_its_numbers(
    picked: tuple[Place, Pick], covidx: Path
) -> None:
    place, pick = picked
    folder = place.study.path / "selection" / pick.id
    model = (folder / MODEL_CARD).read_text(encoding="utf-8")
    data = (folder / DATA_CARD).read_text(encoding="utf-8")
    utility = pick.winner.utility
    assert utility is not None
    validation = model.partition("### On validation images")[2]
    scores = [utility.balanced_accuracy, utility.accuracy, *utility.recall]
    names = ["balanced accuracy", "accuracy |", *(f"recall of {name}" for name in CLASSES)]
    for name, estimate in zip(names, scores, strict=True):
        assert table_row(validation, name)[1] == interval_text(estimate)
    assert pick.test is not None
    for row in pick.test.rows:
        assert interval_text(row.winner) in table_row(model, row.name)
    whole = load(str(covidx), image_size=16)
    for split, own in (("Training", whole.train), ("Validation", whole.val), ("Test", whole.test)):
        table = data.partition(f"{split} images:")[2]
        for label, name in enumerate(CLASSES):
            sources = [s for s, k in zip(own.sources, own.labels, strict=True) if k == label]
            expected = [str(sources.count("cohen")), str(sources.count("fig1"))]
            assert table_row(table, name)[1:3] == expected
    assert str(place.folder) not in model + data
    assert str(covidx) not in model + data
