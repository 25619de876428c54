from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from acgan.evaluation.classifier import fit_last, predict
from acgan.evaluation.fit import FitConfig
from selection.augmentation.arms import ArmPool
from selection.augmentation.fit import Budget, _batches, _loss, answers, augment_batch, fit_arm
from selection.augmentation.result import Run, measured
from selection.jobs.results import read_stored
from selection.metrics.estimate import Images
from tests.kit import tiny_images

CPU = torch.device("cpu")
IMAGES = tiny_images(48)
EVERY = ArmPool(IMAGES.images, IMAGES.labels, np.arange(48))
BUDGET = Budget(updates=18, epochs=6, batch_size=16, learning_rate=1e-3)


def weights_of(
    pool: ArmPool = EVERY, budget: Budget = BUDGET, *, augmented: bool = False
) -> torch.Tensor:
    models = fit_arm(pool, budget, augmented=augmented, classes=3, seed=5, device=CPU)
    return torch.stack(
        [torch.cat([p.flatten() for p in model.state_dict().values()]) for model in models]
    )


def test_with_all_real_images_it_is_the_published_fit_bit_for_bit() -> None:
    expected = fit_last(
        IMAGES.images,
        IMAGES.labels,
        config=FitConfig(learning_rate=1e-3, epochs=6, batch_size=16),
        classes=3,
        seed=5,
        count=3,
    )
    found = fit_arm(EVERY, BUDGET, augmented=False, classes=3, seed=5, device=CPU)
    assert len(found) == 3
    for one, two in zip(found, expected, strict=True):
        for name, tensor in two.state_dict().items():
            assert torch.equal(one.state_dict()[name], tensor), name


def test_it_is_the_same_each_time_and_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights_of(augmented=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights_of(augmented=True), first)
    assert not torch.equal(weights_of(), first)


def test_equal_class_weights_change_nothing_and_unequal_ones_do() -> None:
    def weighted(*weights: float) -> torch.Tensor:
        return weights_of(ArmPool(IMAGES.images, IMAGES.labels, np.arange(48), np.array(weights)))

    torch.testing.assert_close(weighted(1, 1, 1), weights_of(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(weighted(3, 1, 1), weights_of(), rtol=1e-2, atol=1e-3)


def test_a_weighted_loss_is_the_sum_over_images_divided_by_their_number() -> None:
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(10, 3, generator=random), torch.arange(10) % 3
    weights = torch.tensor([4.0, 0.5, 1.0], dtype=torch.float64)
    each = [functional.cross_entropy(logits[i], labels[i]) * weights[labels[i]] for i in range(10)]
    assert _loss(logits, labels, weights).item() == pytest.approx(sum(map(float, each)) / 10)


def test_every_batch_is_full_and_rows_are_drawn_equally_often() -> None:
    torch.manual_seed(0)
    rows = torch.tensor([3, 5, 5, 8, 9, 11, 20])
    batches = list(itertools.islice(_batches(rows, 4), 14))
    assert all(len(batch) == 4 for batch in batches)
    whole = torch.cat(batches)
    for start in range(0, 56, 7):  # one random order of all after another
        assert sorted(whole[start : start + 7].tolist()) == rows.tolist()
    (small,) = itertools.islice(_batches(torch.tensor([1, 2]), 5), 1)
    assert sorted(small.tolist())[1:4] in ([1, 1, 2], [1, 2, 2])


@pytest.mark.parametrize(
    ("updates", "epochs", "expected"),
    [(18, 6, (12, 15, 18)), (500, 15, (434, 467, 500)), (3, 3, (1, 2, 3))],
)
def test_the_last_three_parts_count(updates: int, epochs: int, expected: tuple[int, ...]) -> None:
    assert Budget(updates, epochs, 64, 1e-4).counted == expected


def test_a_cnn_that_was_fitted_knows_its_images_and_says_how_sure_it_is() -> None:
    budget = Budget(updates=120, epochs=6, batch_size=16, learning_rate=1e-3)
    models = fit_arm(EVERY, budget, augmented=False, classes=3, seed=0, device=CPU)
    predicted, confidence = answers(models, IMAGES.images)
    labels = "".join(map(str, IMAGES.labels.tolist()))
    assert np.mean([p == t for p, t in zip(predicted[-1], labels, strict=True)]) > 0.9
    assert np.shape(confidence) == (3, 48)
    assert all(1 / 3 <= sure <= 1 for row in confidence for sure in row)


def test_each_image_has_one_answer_of_however_many_classes() -> None:
    images = tiny_images(24).images
    labels = np.arange(24) % 12
    pool = ArmPool(images, labels, np.arange(24))
    budget = Budget(updates=200, epochs=4, batch_size=24, learning_rate=3e-3)
    models = fit_arm(pool, budget, augmented=False, classes=12, seed=0, device=CPU)
    predicted, confidence = answers(models, images)
    real = Images(labels=labels.tolist(), patients=list(range(24)))
    names = [f"class {label}" for label in range(12)]
    run = Run(predicted=predicted, confidence=confidence)
    found = measured([run, run], None, real, sources=["nih"] * 24, classes=names)
    right = [(predict(m, images).argmax(1).numpy() == labels) for m in models]
    for label in (9, 10, 11):
        recall = np.mean([own[labels == label].mean() for own in right])
        assert found[f"recall of class {label}"].value == pytest.approx(recall)
    assert found["accuracy"].value == pytest.approx(np.mean(right))
    assert found["accuracy"].value > 0.3, "else the test says little"


def test_a_stored_run_whose_answers_are_not_one_an_image_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "study-1.json"
    path.write_text('{"predicted": ["11110"], "confidence": [[0.5, 0.5, 0.5]]}')
    assert read_stored(Run, path) is None
    path.write_text('{"predicted": ["110"], "confidence": [[0.5, 0.5, 0.5]]}')
    assert read_stored(Run, path) is not None


# --- augmentation ----------------------------------------------------------------------------


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmentation_is_drawn_anew_for_each_image_and_the_same_for_a_seed() -> None:
    images = torch.from_numpy(np.repeat(IMAGES.images[:1], 8, axis=0))
    found = augment_batch(images, generator())
    assert found.dtype == torch.uint8
    assert found.shape == images.shape
    assert len({each.numpy().tobytes() for each in found}) == 8
    assert torch.equal(found, augment_batch(images, generator()))
    assert not torch.equal(found, augment_batch(images, generator(1)))


def test_an_even_image_only_changes_its_brightness_by_at_most_a_tenth() -> None:
    images = torch.full((500, 12, 12), 100, dtype=torch.uint8)
    found = augment_batch(images, generator()).float()
    assert (found.amax(dim=(1, 2)) == found.amin(dim=(1, 2))).all()
    values = found[:, 0, 0]
    assert 90 <= values.min() < 91
    assert 109 < values.max() <= 110
    assert augment_batch(torch.full((9, 12, 12), 255, dtype=torch.uint8), generator()).max() == 255


def test_a_point_moves_by_the_drawn_shift_turn_and_zoom() -> None:
    """Where the brightest pixel of a blurred point lands follows from the inverse of its map."""
    side, count = 65, 200
    grid = torch.arange(side) - side // 2
    x, y = torch.meshgrid(grid, grid, indexing="xy")
    point = (20.0, -10.0)  # pixels from the centre
    blob = torch.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 8)
    images = (200 * blob).to(torch.uint8).expand(count, -1, -1)
    found = augment_batch(images, generator(3)).double()
    mass = found.sum(dim=(1, 2))
    centre = (
        torch.stack([(found * x).sum(dim=(1, 2)), (found * y).sum(dim=(1, 2))], 1) / mass[:, None]
    )

    u = torch.rand(6, count, generator=generator(3)) * 2 - 1
    for i in range(count):
        turn = math.radians(10) * float(u[0, i])
        zooms = 1 + 0.15 * np.array([float(u[1, i]), float(u[2, i])])
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        shift = 0.1 * side * np.array([float(u[3, i]), float(u[4, i])])
        expected = np.linalg.solve(rotation @ np.diag(zooms), np.array(point) - shift)
        if np.abs(expected).max() < side / 2 - 8:
            assert centre[i].numpy() == pytest.approx(expected, abs=0.35)
