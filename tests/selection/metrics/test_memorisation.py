"""The memorisation check finds copies and lets new images pass; its interval covers the truth."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from acgan.data.dataset import ImageSet
from acgan.data.pack import load
from acgan.evaluation.fit import FitConfig
from acgan.evaluation.scorer import Scorer
from selection.metrics.intervals import proportion
from selection.metrics.memorisation import (
    CopyReference,
    Memorisation,
    Pair,
    Sample,
    check_copies,
    near_copies,
    not_judgeable,
    prepare,
    ratios,
    share_below,
)
from selection.pictures.sheets import contact_sheet
from tests.kit import MINI, tiny_config

CPU = torch.device("cpu")
Array = NDArray[np.float64]
Pictures = NDArray[np.uint8]


# --- closed forms ----------------------------------------------------------------------------


def points(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_ratio_is_the_nearest_distance_over_the_mean_of_the_next_twenty() -> None:
    train = points(*range(30))
    found = ratios([points(0.25, 29.0)], [train])
    assert found.values == pytest.approx([0.25 / (10.5 - 0.25), 0], rel=1e-6)
    assert found.nearest.tolist() == [0, 29]


def test_a_class_with_fewer_images_has_fewer_neighbours() -> None:
    found = ratios([points(1.0)], [points(0, 3, 5, 9)])
    assert found.values == pytest.approx([1 / ((2 + 4 + 8) / 3)])


def test_views_are_averaged_and_the_nearest_is_that_of_the_smallest_ratio() -> None:
    first, second = points(0, 4, 8), points(7, 6, 2)
    found = ratios([points(1.0), points(2.5)], [first, second])
    assert found.values == pytest.approx([(1 / 5 + 0.5 / 4) / 2])
    assert found.nearest.tolist() == [2]


def test_blocks_change_nothing() -> None:
    random = np.random.default_rng(0)
    train = torch.from_numpy(random.normal(size=(40, 3)))
    images = torch.from_numpy(random.normal(size=(600, 3)))
    distances = np.sort(np.linalg.norm(images[:, None] - train[None], axis=2), axis=1)
    expected = distances[:, 0] / distances[:, 1:21].mean(axis=1)
    assert ratios([images], [train]).values == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [0, 1])
def test_where_there_are_no_neighbours_no_training_image_stands_out(count: int) -> None:
    assert ratios([torch.zeros(3, 2)], [torch.zeros(count, 2)]).values.tolist() == [1, 1, 1]


def test_among_identical_training_images_none_stands_out() -> None:
    same = torch.full((25, 4), 0.1)
    assert ratios([same[:2]], [same]).values.tolist() == [1, 1]


def test_counted_are_ratios_below_the_smallest_one_that_5_percent_of_the_images_reach() -> None:
    held_out = np.random.default_rng(0).permutation(np.arange(1, 141) / 100)
    patients = [str(i) for i in range(140)]
    found = share_below(np.array([0.01, 0.069, 0.07, 0.5]), held_out, patients, seed=0)
    assert found.value == 0.5  # 7 of 140 have at most 0.07


def test_with_a_sure_threshold_the_interval_is_wilsons() -> None:
    generated = np.repeat([0.1, 0.9], [30, 70])
    held_out, patients = np.full(40, 0.5), [str(i) for i in range(40)]
    found = share_below(generated, held_out, patients, seed=0)
    wilson = proportion(30, 100)
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), rel=1e-9)


def test_an_interval_follows_from_its_seed_and_holds_the_share() -> None:
    random = np.random.default_rng(0)
    generated, held_out = random.normal(size=200), random.normal(size=60)
    patients = [str(i % 20) for i in range(60)]
    first, same, other = (share_below(generated, held_out, patients, seed=s) for s in (1, 1, 2))
    assert first == same
    assert first != other
    assert first.low <= first.value <= first.high


# --- the interval covers the truth -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Clouds:
    """Ratios to 120 points of a Gaussian cloud: of many patients, of new points, of copies."""

    sizes: NDArray[np.int64]
    held_out: Array
    fresh: Array
    copies: Array


@pytest.fixture(scope="module")
def clouds() -> Clouds:
    """Patients have 1 to 20 images, few of them many; half of the variance is the patient's."""
    random = np.random.default_rng(0)
    sizes = np.minimum(1 + random.pareto(1.2, 6000).astype(np.int64), 20)
    train = random.normal(size=(120, 8))
    own = np.repeat(random.normal(size=(len(sizes), 8)), sizes, axis=0)
    images = (own + random.normal(size=own.shape)) / math.sqrt(2)
    copies = train[random.integers(0, 120, 4000)] + 0.1 * random.normal(size=(4000, 8))

    def ratio(x: Array) -> Array:
        return ratios([torch.from_numpy(x)], [torch.from_numpy(train)]).values

    return Clouds(sizes, ratio(images), ratio(random.normal(size=(20000, 8))), ratio(copies))


@pytest.mark.statistics
@pytest.mark.parametrize(("patients", "copied"), [(10, 0.06), (25, 0.0), (25, 0.3)])
def test_the_interval_covers_the_share_in_92_to_98_percent_of_cases(
    clouds: Clouds, patients: int, copied: float
) -> None:
    point = np.quantile(clouds.held_out, 0.05)
    truth = (1 - copied) * (clouds.fresh < point).mean() + copied * (clouds.copies < point).mean()
    starts = np.concatenate([[0], clouds.sizes.cumsum()])
    random = np.random.default_rng(1)
    covered = 0
    for case in range(1000):
        drawn = random.choice(len(clouds.sizes), patients, replace=False)
        rows = np.concatenate([np.arange(starts[p], starts[p + 1]) for p in drawn])
        names = [str(p) for p in np.repeat(drawn, clouds.sizes[drawn])]
        count = random.binomial(2000, copied)
        generated = np.concatenate(
            [random.choice(clouds.copies, count), random.choice(clouds.fresh, 2000 - count)]
        )
        found = share_below(generated, clouds.held_out[rows], names, seed=case)
        covered += found.low <= truth <= found.high
    assert 920 <= covered <= 980


# --- copies and new images -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Chests:
    """Images to copy, new ones of other patients, and what both are compared with."""

    train: ImageSet
    fresh: ImageSet
    scorer: Scorer
    reference: CopyReference

    def check(self, images: Pictures, labels: NDArray[np.int64]) -> Memorisation:
        return check_copies(described(self.scorer, images, labels), self.reference)


def described(scorer: Scorer, images: Pictures, labels: NDArray[np.int64]) -> Sample:
    return Sample(images, labels, (scorer.project(images),))


def part(images: ImageSet, chosen: NDArray[np.bool_]) -> ImageSet:
    rows = np.flatnonzero(chosen)
    names = tuple(images.patients[i] for i in rows.tolist())
    return ImageSet(images.images[rows], images.labels[rows], names, names)


@pytest.fixture(scope="module", params=["phantom", "covidx-mini"])
def chests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chests:
    """Half of the validation patients are held out, the other half plays an honest generator."""
    if request.param == "covidx-mini" and not MINI.is_dir():
        pytest.skip("no covidx-mini images here")
    source, size = ("phantom", 32) if request.param == "phantom" else (str(MINI), 64)
    data = load(source, image_size=size, val_fraction=0.4, cache=tmp_path_factory.mktemp("packed"))
    with pytest.MonkeyPatch.context() as patch:  # a few updates do: its features need no accuracy
        patch.setattr("acgan.evaluation.scorer.scorer_fit", lambda images: FitConfig(5e-4, 1, 32))
        scorer = Scorer.train(data, tiny_config(image_size=size), CPU)
    names = np.array(data.val.patients)
    others = np.random.default_rng(0).permutation(np.unique(names))[::2]
    held_out, fresh = (part(data.val, np.isin(names, others, invert=i)) for i in (False, True))
    train, held = (described(scorer, s.images, s.labels) for s in (data.train, held_out))
    reference = prepare(train, held, held_out.patients, classes=data.classes, device=CPU)
    return Chests(data.train, fresh, scorer, reference)


def altered(images: Pictures, *, zoom: float = 1.03, contrast: float = 0.85) -> Pictures:
    """Zoom into the middle of images and change their contrast."""
    size = images.shape[-1]
    margin = (size - size / zoom) / 2
    box = (margin, margin, size - margin, size - margin)
    bicubic = Image.Resampling.BICUBIC
    zoomed = [np.asarray(Image.fromarray(x).resize((size, size), bicubic, box)) for x in images]
    grey = (np.stack(zoomed) - 128.0) * contrast + 128
    return grey.round().clip(0, 255).astype(np.uint8)


def mixed(chests: Chests, copied: float) -> Pictures:
    """Return the new images, a share of each class replaced by altered copies."""
    random = np.random.default_rng(0)
    images = chests.fresh.images.copy()
    for label in range(3):
        rows = np.flatnonzero(chests.fresh.labels == label)
        rows = rows[: round(copied * len(rows))]
        own = np.flatnonzero(chests.train.labels == label)
        if len(rows):
            images[rows] = altered(chests.train.images[random.choice(own, len(rows))])
    return images


def failures(found: Memorisation, space: str) -> list[int]:
    judged = [f for f in found.spaces if f.space == space and f.share is not None]
    assert len(judged) == 3
    return [f.label for f in judged if f.share is not None and f.share.low > 0.1]


def test_new_images_of_other_patients_pass(chests: Chests) -> None:
    assert not chests.check(chests.fresh.images, chests.fresh.labels).reasons


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_blurred_new_images_pass(chests: Chests, sigma: float) -> None:
    blurred = ndimage.gaussian_filter(chests.fresh.images, (0, sigma, sigma))
    assert not chests.check(blurred, chests.fresh.labels).reasons


def test_averages_of_five_training_images_pass(chests: Chests) -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 60)
    own = [np.flatnonzero(chests.train.labels == label) for label in range(3)]
    five = [chests.train.images[random.choice(own[c], 5, replace=False)] for c in labels]
    averages = np.stack([images.mean(axis=0).round().astype(np.uint8) for images in five])
    assert not chests.check(averages, labels).reasons


@pytest.mark.parametrize("contrast", [0.85, 1.15])
def test_copies_with_3_percent_zoom_and_another_contrast_fail(
    chests: Chests, contrast: float
) -> None:
    copies = altered(chests.train.images[::3], contrast=contrast)
    found = chests.check(copies, chests.train.labels[::3])
    assert found.reasons
    assert failures(found, "pixels") == [0, 1, 2]


def test_exact_copies_fail_in_every_class_and_both_spaces(chests: Chests) -> None:
    found = chests.check(chests.train.images[::4], chests.train.labels[::4])
    assert failures(found, "pixels") == failures(found, "features") == [0, 1, 2]
    assert len(found.reasons) == 6
    assert all(p.ratio < 1e-3 and p.train == 4 * p.generated for p in found.pairs)


def test_a_set_with_30_percent_copies_fails(chests: Chests) -> None:
    found = chests.check(mixed(chests, 0.3), chests.fresh.labels)
    assert found.reasons
    assert failures(found, "pixels")


def test_a_set_with_2_percent_copies_passes(chests: Chests) -> None:
    images = mixed(chests, 0.02)
    assert (images != chests.fresh.images).any()
    assert not chests.check(images, chests.fresh.labels).reasons


# --- the spaces ------------------------------------------------------------------------------


def noise(count: int, *, seed: int = 0, size: int = 20) -> Pictures:
    small = np.random.default_rng(seed).integers(40, 216, (count, 5, 5)).astype(np.uint8)
    pillow = [Image.fromarray(x).resize((size, size), Image.Resampling.BICUBIC) for x in small]
    return np.stack([np.asarray(x) for x in pillow])


def two_classes(count: int) -> NDArray[np.int64]:
    return np.arange(count) % 2


def compare(
    *,
    train: Pictures | None = None,
    held_out: Pictures | None = None,
    generated: Pictures | None = None,
    patients: Callable[[int], str] = str,
    views: Callable[[int, int], Any] | None = None,
) -> Memorisation:
    """Check noise of two classes: 60 training images, 40 held out, 50 generated."""
    sets = [
        noise(count, seed=seed) if images is None else images
        for seed, (images, count) in enumerate([(train, 60), (held_out, 40), (generated, 50)])
    ]
    samples = [
        Sample(images, two_classes(len(images)), (views(len(images), seed),) if views else ())
        for seed, images in enumerate(sets)
    ]
    names = [patients(i) for i in range(len(sets[1]))]
    reference = prepare(samples[0], samples[1], names, classes=("cat", "dog"), device=CPU)
    return check_copies(samples[2], reference)


def test_pixels_do_not_see_brightness_contrast_or_equal_colour_channels() -> None:
    images = noise(50, seed=2)
    fainter = np.repeat(images[:, None] // 2 + 60, 3, axis=1)
    first, second = (compare(generated=x) for x in (images // 2 * 2, fainter))
    assert first.spaces == second.spaces
    assert [p.train for p in first.pairs] == [p.train for p in second.pairs]


def test_features_do_not_see_the_units_and_axes_of_a_network() -> None:
    turn = np.random.default_rng(9).normal(size=(6, 6)) * [1, 10, 100, 1, 1, 0.1]

    def plain(count: int, seed: int) -> Array:
        return np.random.default_rng(seed).normal(size=(count, 6))

    first = compare(views=plain)
    second = compare(views=lambda count, seed: plain(count, seed) @ turn + 3)
    assert len(first.spaces) == 4
    for one, other in zip(first.pairs, second.pairs, strict=True):
        assert dataclasses.replace(one, ratio=0) == dataclasses.replace(other, ratio=0)
        assert one.ratio == pytest.approx(other.ratio, rel=1e-4)


def test_only_training_images_of_the_class_count() -> None:
    train = noise(60)
    found = compare(generated=np.repeat(train[7:8], 50, axis=0))
    assert {p.train for p in found.pairs if p.label == 1} == {7}
    assert all(p.train % 2 == 0 and p.ratio > 0.1 for p in found.pairs if p.label == 0)


def test_the_closest_pairs_name_images_by_their_places() -> None:
    generated = noise(50, seed=2)
    generated[[8, 31]] = noise(60)[[52, 17]]
    first, second, *others = compare(generated=generated).pairs
    assert {(p.label, p.generated, p.train) for p in (first, second)} == {(0, 8, 52), (1, 31, 17)}
    assert len(others) == 10
    assert [p.ratio for p in others] == sorted(p.ratio for p in others)
    assert others[0].ratio > 0.3


# --- what cannot be judged -------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 10])
def test_a_class_with_fewer_than_six_training_images_is_not_judged(count: int) -> None:
    found = compare(train=noise(count))
    assert [f.not_judged for f in found.spaces] == [
        f"training images: {own}, needed: 6" for own in ((count + 1) // 2, count // 2)
    ]
    assert not found.reasons
    assert found.reasons == ()
    assert all(space.not_judged for space in found.spaces)
    assert found.pairs == ()


def test_six_training_images_are_enough() -> None:
    found = compare(train=noise(12))
    assert all(f.share for f in found.spaces)


def test_one_held_out_patient_is_not_enough_but_pairs_are_shown() -> None:
    found = compare(patients=lambda i: "the one")
    assert {f.not_judged for f in found.spaces} == {"held-out patients: 1, needed: 10"}
    assert all(f.share is None for f in found.spaces)
    assert len(found.pairs) == 12


def test_a_class_without_held_out_or_generated_images_is_not_judged() -> None:
    alone = {f.not_judged for f in compare(held_out=noise(1)).spaces}
    assert alone == {f"held-out patients: {count}, needed: 10" for count in (0, 1)}
    found = compare(generated=noise(1, seed=2))
    assert [f.not_judged for f in found.spaces] == ["", "no generated image"]
    assert not found.reasons
    nothing = compare(generated=noise(50)[:0])
    assert {f.not_judged for f in nothing.spaces} == {"no generated image"}


def test_where_all_images_are_the_same_no_training_image_stands_out() -> None:
    grey = np.full((60, 20, 20), 127, np.uint8)
    for image in (grey, np.repeat(noise(1), 60, axis=0)):
        found = compare(train=image, held_out=image[:40], generated=image[:50])
        assert not found.reasons
        assert {f.share.value for f in found.spaces if f.share} == {0.0}


def test_a_generator_of_one_grey_passes() -> None:
    found = compare(generated=np.full((50, 20, 20), 127, np.uint8))
    assert not found.reasons
    assert all(p.ratio == pytest.approx(1, abs=1e-5) for p in found.pairs)


def test_constant_features_say_nothing() -> None:
    found = compare(views=lambda count, seed: np.full((count, 8), 0.1))
    shares = [f.share.value for f in found.spaces if f.space == "features" and f.share]
    assert shares == [0, 0]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(broken: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        compare(views=lambda count, seed: np.full((count, 8), broken if seed == 2 else seed))


# --- the contact sheet -----------------------------------------------------------------------


def test_contact_sheet_shows_each_pair_side_by_side() -> None:
    generated, train = noise(4, size=64), np.repeat(noise(9, seed=1, size=64)[:, None], 3, axis=1)
    pairs = [Pair("pixels", i % 2, i % 4, 8 - i, 0.3) for i in range(6)]
    with Image.open(io.BytesIO(contact_sheet(pairs, generated, train, classes=("a", "b")))) as file:
        assert file.format == "PNG"
        sheet = np.asarray(file)
    assert sheet.shape == (2 * (128 + 16), 4 * (256 + 8), 3)
    cell = sheet[144:272:2, 264:520:2, 0]  # the sixth pair, each pixel shown as four
    np.testing.assert_array_equal(cell, np.hstack([generated[1], train[3, 0]]))
    assert sheet[272:288, 264:520].any()  # its caption


# --- single images ---------------------------------------------------------------------------


def test_every_copy_is_near_and_the_share_of_new_ones_is_that_of_the_check(chests: Chests) -> None:
    copies = described(chests.scorer, chests.train.images[:60], chests.train.labels[:60])
    assert near_copies(copies, chests.reference).all()
    fresh = described(chests.scorer, chests.fresh.images, chests.fresh.labels)
    near = near_copies(fresh, chests.reference)
    for label in range(3):
        shares = [
            f.share.value
            for f in check_copies(fresh, chests.reference).spaces
            if f.label == label and f.share is not None
        ]
        assert len(shares) == 2  # pixels and features
        found = near[chests.fresh.labels == label].mean()
        assert max(shares) - 1e-12 <= found <= sum(shares) + 1e-12
    assert near.sum() < near_copies(fresh, chests.reference, quantile=0.5).sum()


def test_a_class_with_too_few_patients_is_not_judged_image_by_image(chests: Chests) -> None:
    few = [
        dataclasses.replace(c, patients=("a",) * len(c.patients)) for c in chests.reference.groups
    ]
    reference = dataclasses.replace(chests.reference, groups=tuple(few))
    assert set(not_judgeable(reference)) == set(reference.classes)
    assert not_judgeable(chests.reference) == {}
    fresh = described(chests.scorer, chests.fresh.images, chests.fresh.labels)
    with pytest.raises(ValueError, match=r"cannot be judged \(held-out patients: 1, needed: 10\)"):
        near_copies(fresh, reference)
