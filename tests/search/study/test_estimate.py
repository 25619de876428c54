from __future__ import annotations

from pathlib import Path

import pytest
import torch

from acgan.config import TrainConfig
from acgan.errors import InputError
from acgan.training import train
from search.study import estimate
from tests.kit import tiny_config, tiny_dataset


def test_a_full_size_trial_leaves_one_and_a_half_gigabytes() -> None:
    parameters = 22_301_316 + 1_670_916
    states, weights = 2 * 12 * parameters, 9 * 4 * 22_301_316
    grids = 388 * 3 * 8 * 3 * 112**2
    assert estimate.disk(TrainConfig(), 3) == states + weights + grids


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9}], ids=["plain", "average"])
def test_a_trial_leaves_no_more_than_was_estimated(
    tmp_path: Path, changes: dict[str, float]
) -> None:
    from acgan.run.rundir import RunDir

    config = tiny_config(width=0.25, epochs=6, **changes)
    for _ in train(config, tiny_dataset(), RunDir(tmp_path)):
        pass
    used = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    estimated = estimate.disk(config, 3)
    assert 0.5 * estimated < used < 1.1 * estimated


def test_too_little_disk_is_one_sentence(tmp_path: Path) -> None:
    estimate.check_disk(tmp_path / "not" / "yet", 1000)
    with pytest.raises(InputError, match="name another with --storage-path"):
        estimate.check_disk(tmp_path, 10**18)


def test_what_is_written_already_needs_no_disk_any_more(tmp_path: Path) -> None:
    for name, size in (("t0000", 900), ("t0001", 3000)):
        (tmp_path / name / "weights").mkdir(parents=True)
        (tmp_path / name / "weights" / "x").write_bytes(bytes(size))
    begun = [tmp_path / name for name in ("t0000", "t0001", "t0002")]
    assert estimate.still_needed(1000, 4, []) == 4000
    assert estimate.still_needed(1000, 4, begun) == 4000 - 900 - 1000
    assert estimate.still_needed(1000, 0, begun) == 0


def test_time_grows_with_the_work() -> None:
    small, large = (estimate.trial_seconds(TrainConfig(epochs=n), 1000) for n in (1, 100))
    assert 0 < small < large


def test_an_update_of_the_cnn_has_the_operations_of_its_convolutions_and_matrices() -> None:
    batch, side, third = 5, 12, 4
    first = 2 * batch * side**2 * 9 * 3 * 16
    others = 2 * batch * side**2 * 9 * 16 * 32
    others += 2 * batch * third**2 * (9 * 32 * 64 + 4 * 64 * 128)
    others += 2 * batch * (128 * 128 + 128 * 3)
    # Forward, and backward to weights and inputs; images need no gradient.
    expected = 2 * first + 3 * others
    assert estimate.fit_flop(classes=3, image_size=side, batch_size=batch) == expected


def test_a_fit_and_generated_images_take_as_long_as_there_are_many() -> None:
    cpu = torch.device("cpu")
    few, many = (
        estimate.fit_seconds(classes=3, image_size=16, batch_size=8, updates=n, device=cpu)
        for n in (10, 10_000)
    )
    assert 0 < few < many
    small, full = (
        estimate.generate_seconds(config, 1000, cpu) for config in (tiny_config(), TrainConfig())
    )
    assert 0 < small < full


def test_bytes_are_shown_in_a_fitting_unit() -> None:
    assert estimate.gigabytes(13_400_000) == "13 MB"
    assert estimate.gigabytes(1_450_000_000) == "1.4 GB"


@pytest.mark.parametrize(
    ("cpus_each", "gpus_each", "wanted"),
    [(1, 0, 8), (0.1, 0, 80), (0.14, 0, 57), (1, 0.6, 2), (1, 0.4, 4), (1, 0.3, 6), (4, 1, 2)],
)
def test_a_trials_part_of_a_gpu_is_of_one_of_the_two(
    cpus_each: float, gpus_each: float, wanted: int
) -> None:
    assert estimate.places(8, 2, cpus_each=cpus_each, gpus_each=gpus_each) == wanted


def test_the_places_are_whole_where_parts_of_cores_are_rounded() -> None:
    assert estimate.places(7, 0, cpus_each=0.14, gpus_each=0) == 50  # 7 / 0.14 < 50


def test_all_trials_take_as_long_as_the_places_need_one_after_another() -> None:
    assert estimate.search_seconds(10, [(1, 60.0)]) == 600
    assert estimate.search_seconds(10, [(2, 60.0)]) == 300
    assert estimate.search_seconds(10, [(2, 60.0)], most=1) == 600
    assert estimate.search_seconds(1, [(8, 60.0)]) == 60
    assert estimate.search_seconds(30, [(1, 60.0), (1, 30.0)]) == pytest.approx(600)
    assert estimate.search_seconds(0, [(1, 60.0)]) == 0


def test_memory_grows_with_networks_and_images() -> None:
    small = estimate.memory(tiny_config(), 3)
    full = estimate.memory(TrainConfig(), 3)
    assert 0.4e9 < small < 0.7e9
    assert 4 * 4 * 23_972_232 < full < 8e9  # at least weights, gradients and two moments


def test_what_is_not_there_yet_will_be_made_in_the_nearest_folder_that_is(tmp_path: Path) -> None:
    assert estimate.existing(tmp_path / "a" / "b") == tmp_path
    assert estimate.existing(tmp_path) == tmp_path


def test_a_place_that_cannot_hold_a_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="name another folder with --storage-path"):
        estimate.check_folder(tmp_path / "file" / "study")
    estimate.check_folder(tmp_path / "new" / "study")
    assert not (tmp_path / "new").exists()
