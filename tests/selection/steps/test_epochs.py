"""A trial that is as it was is not read again, and what is taken of it is the same."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import pytest

from acgan.config import cache_folder
from acgan.errors import InputError
from acgan.run.records import QUALITY, EpochRecord
from acgan.run.rundir import RunDir
from search.study.folder import Study
from selection.settings import SelectionConfig
from selection.steps.epochs import Looks, Records
from selection.steps.filter import Places
from tests import studies
from tests.kit import tiny_images

VAL = tiny_images(30)
SETTINGS = SelectionConfig(per_trial=2)
HEALTHY = {"val/g_loss": 1.0, "val/acc_generated": 0.6, "val/acc_real": 0.7, "val/acc_class": 0.8}
NAMES = ("t0000", "t0001")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two trials of eight epochs, five of them with weights, one without a finite score."""
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    made = studies.write_study(tmp_path / "demo")
    for number in range(2):
        trial = studies.write_trial(made, number)
        (trial.path / "weights").mkdir()
        lines = []
        for epoch in range(1, 9):
            score = (math.nan, math.inf)[number] if epoch == 4 else 100.5 - epoch / 3
            metrics = HEALTHY | {
                "perf/images_per_s": 2.0 * (number + 1),
                QUALITY: score,
                "val/g_loss": epoch / 7,
                "val/diversity": epoch / 9,
            }
            record = EpochRecord(epoch=epoch, time=1.0, metrics=metrics, weights=f"{epoch:064}")
            lines.append(record.model_dump_json() + "\n")
            if epoch > 3:
                RunDir(trial.path).weights_path(epoch).touch()
        (trial.path / "epochs.jsonl").write_text("".join(lines))
    return made


def look(study: Study, settings: SelectionConfig = SETTINGS) -> dict[str, Places]:
    looks = Looks(study, Records(study), VAL, settings)
    found = {name: looks(name) for name in NAMES}
    looks.save()
    return found


def same(found: Places, wanted: Places) -> bool:
    """Compare by what is written: of numbers that are not finite, one is not itself."""
    return repr(dataclasses.asdict(found)) == repr(dataclasses.asdict(wanted))


def overwrite(path: Path) -> None:
    """Put what is no record into a file, which keeps its size and its time."""
    before = path.stat()
    path.write_text("-" * (before.st_size - 1) + "\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_was_taken_is_kept_to_the_last_digit(study: Study) -> None:
    first = look(study)
    assert [epoch.epoch for epoch in first["t0000"].kept] == [4, 5, 6, 7, 8]
    assert first["t0000"].reasons == {"": 7, "not finite": 1}
    for name in NAMES:
        overwrite(study.path / name / "epochs.jsonl")
    again = look(study)
    assert all(same(again[name], first[name]) for name in NAMES)


def test_a_trial_that_has_changed_is_read_again(study: Study) -> None:
    first = look(study)
    overwrite(study.path / "t0001" / "epochs.jsonl")
    path = study.path / "t0000" / "epochs.jsonl"
    last = EpochRecord.model_validate_json(path.read_text().splitlines()[-1])
    with path.open("a") as file:
        file.write(last.model_copy(update={"epoch": 9}).model_dump_json() + "\n")
    found = look(study)
    assert found["t0000"].reasons == {"": 8, "not finite": 1}
    assert same(found["t0001"], first["t0001"])
    RunDir(study.path / "t0000").weights_path(8).unlink()
    assert [epoch.epoch for epoch in look(study)["t0000"].kept] == [4, 5, 6, 7]


@pytest.mark.parametrize(
    "changes",
    [
        {"per_trial": 3},
        {"dead_real_below": 0.8},
        {"dead_real_above": 0.6},
        {"class_margin": 0.5},
        {"collapsed_below": 0.7},
        {"require": ("val/diversity > 0.8",)},
    ],
)
def test_other_settings_read_all_again(study: Study, changes: dict[str, Any]) -> None:
    look(study)
    for name in NAMES:
        overwrite(study.path / name / "epochs.jsonl")
    with pytest.raises(InputError, match="is no epoch record"):
        look(study, SETTINGS.model_copy(update=changes))


def test_settings_that_decide_nothing_of_a_trial_do_not(study: Study) -> None:
    look(study)
    for name in NAMES:
        overwrite(study.path / name / "epochs.jsonl")
    other = {"max_candidates": 1, "seed": 5, "cnn_images": 9, "fidelity_images": 64}
    look(study, SETTINGS.model_copy(update=other))


@pytest.mark.parametrize("content", [b"", b"{", b'{"key": 1, "trials": {}}', b'{"trials": 3}'])
def test_what_is_damaged_is_made_again(study: Study, content: bytes) -> None:
    first = look(study)
    kept = cache_folder() / "step1" / f"{study.info.uuid}.json"
    before = kept.read_bytes()
    kept.write_bytes(content)
    found = look(study)
    assert all(same(found[name], first[name]) for name in NAMES)
    assert kept.read_bytes() == before


def test_the_time_of_training_is_known_without_a_second_reading(study: Study) -> None:
    images, expected = 30, 8 * 30 / 2 + 8 * 30 / 4
    assert Records(study).training_seconds(images) == expected
    for _ in range(2):  # read by step 1, then known from before
        records = Records(study)
        looks = Looks(study, records, VAL, SETTINGS)
        for name in NAMES:
            looks(name)
        looks.save()
        for name in NAMES:
            overwrite(study.path / name / "epochs.jsonl")
        assert records.training_seconds(images) == expected


def test_a_trial_without_a_rate_counts_no_time(study: Study) -> None:
    for name in NAMES:
        path = study.path / name / "epochs.jsonl"
        path.write_text(path.read_text().replace('"perf/images_per_s"', '"perf/other"'))
    assert Records(study).training_seconds(30) == 0
