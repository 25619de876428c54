"""The scoring CNN of a study: made once, and never another one while trials were judged by it."""

from __future__ import annotations

import errno
import platform
from pathlib import Path

import pytest

from acgan.data.source import DataSource
from acgan.errors import InputError
from acgan.evaluation.fit import FitConfig
from acgan.files import file_sha256
from search.nodes.sees import StudyAt
from search.study.folder import Study
from search.tune.trial import disk_error, prepare_scoring
from tests.picks import write_covidx
from tests.selection.steps.test_plan import write_small_study
from tests.studies import write_epochs, write_trial

pytestmark = pytest.mark.process


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Study, StudyAt]:
    """A study whose scoring CNN is there."""
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("acgan.evaluation.scorer.scorer_fit", lambda images: FitConfig(2e-3, 3, 16))
    write_covidx(tmp_path / "ramps", train=150, test=30)
    study = write_small_study(tmp_path / "demo", tmp_path / "ramps", trials=0)
    (study.path / "quality.json").unlink(missing_ok=True)
    study.scorer_path.unlink(missing_ok=True)
    at = StudyAt(study.path, study.info.uuid, DataSource(folder=str(tmp_path / "ramps")))
    prepare_scoring(at, gpu=False)
    return study, at


def another_cnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the scoring CNN come out otherwise from now on, as on another device."""
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("acgan.evaluation.scorer.scorer_fit", lambda images: FitConfig(1e-3, 3, 16))


def test_lost_numbers_are_measured_again_with_the_cnn_that_judged_the_trials(
    scored: tuple[Study, StudyAt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, at = scored
    before = study.quality()
    write_epochs(write_trial(study, 0), [1])
    another_cnn(tmp_path, monkeypatch)
    (study.path / "quality.json").unlink()
    prepare_scoring(at, gpu=False)
    assert study.quality() == before


def test_without_a_trial_a_start_that_came_to_no_end_leaves_nothing(
    scored: tuple[Study, StudyAt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, at = scored
    before = file_sha256(study.scorer_path)
    another_cnn(tmp_path, monkeypatch)
    (study.path / "quality.json").unlink()
    prepare_scoring(at, gpu=False)
    assert file_sha256(study.scorer_path) != before


def test_numbers_and_cnn_both_lost_after_trials_are_refused(
    scored: tuple[Study, StudyAt],
) -> None:
    study, at = scored
    write_epochs(write_trial(study, 0), [1])
    (study.path / "quality.json").unlink()
    study.scorer_path.write_bytes(b"broken")
    with pytest.raises(InputError, match=r"restore scorer\.safetensors"):
        prepare_scoring(at, gpu=False)
    study.scorer_path.unlink()
    with pytest.raises(InputError, match=r"restore scorer\.safetensors"):
        prepare_scoring(at, gpu=False)


def test_of_a_full_disk_of_a_node_the_node_is_named_where_each_has_its_own() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/cache/x")
    assert disk_error(full, copied=False) == (errno.ENOSPC, "/cache/x")
    assert disk_error(full, copied=True) == (errno.ENOSPC, f"/cache/x on node {platform.node()}")
