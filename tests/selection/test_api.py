"""What Python code is given by a pick."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from acgan.errors import InputError
from acgan.files import file_sha256
from selection.api import Picked
from selection.ledgers.reviews import Entry, add_review
from selection.metrics.wording import interval_text
from selection.registry.versions import Standing
from tests.acgan.test_generate import write_weights
from tests.selection.report.test_page import make_pick
from tests.studies import write_study


@pytest.fixture
def picked(tmp_path: Path) -> Picked:
    weights = write_weights(tmp_path / "generator.safetensors")
    pick = make_pick()
    own = pick.winner.model_copy(update={"weights": file_sha256(weights)})
    pick.candidates[pick.decision.winner] = own
    study = write_study(tmp_path / "runs" / "demo")
    return Picked(pick, study, "", tmp_path, weights, Standing(1, 1, ""))


def test_a_number_of_images_may_be_numpys(picked: Picked) -> None:
    images, names = picked.images(3, device="cpu")
    assert names.tolist() == [name for name in picked.pick.classes for _ in range(3)]
    found, _ = picked.images(np.int64(3), device="cpu")  # type: ignore[arg-type]
    assert np.array_equal(found, images)
    (first,) = picked.pick.classes[:1]
    found, names = picked.images({first: np.int64(2)}, device="cpu")  # type: ignore[dict-item]
    assert np.array_equal(found, images[:2])
    assert names.tolist() == [first] * 2


def test_no_images_and_no_class_are_refused(picked: Picked) -> None:
    for per_class in (0, {"COVID-19": 0}, {}):
        with pytest.raises(InputError, match="per_class must be 1 or more"):
            picked.images(per_class, device="cpu")
    with pytest.raises(InputError, match="there is no class 'COVID'"):
        picked.images({"COVID": 1}, device="cpu")


def test_a_pick_says_of_itself_how_good_it_is_and_what_speaks_against_it(picked: Picked) -> None:
    winner = picked.pick.winner
    assert winner.utility is not None
    score = interval_text(winner.utility.balanced_accuracy)
    assert str(picked).startswith("t0000, epoch 11 (rule: lowest mean intra-KID); CNNs trained on")
    assert f"have balanced accuracy {score} on validation images" in str(picked)
    assert "Do not use" not in str(picked)
    known = {"candidate": winner.name, "weights": winner.weights, "reviewer": "anna"}
    add_review(picked.study, Entry.model_validate({"time": 1.0, "action": "rejected", **known}))
    assert ". Do not use it: a person rejected its images. Pick again" in str(picked)


def test_the_table_has_the_metric_that_ranks_where_one_does(picked: Picked) -> None:
    table = picked.candidates
    winner = picked.pick.winner
    assert winner.fidelity is not None
    shown = table.loc[(winner.trial, winner.epoch), "intra_kid_cnn3"]
    assert shown == winner.fidelity.metrics["validation"]["intra_kid_cnn3"]
    decision = picked.pick.decision.model_copy(update={"rank_metric": ""})
    pick = picked.pick.model_copy(update={"decision": decision})
    assert set(dataclasses.replace(picked, pick=pick).candidates) == set(table) - {"intra_kid_cnn3"}
