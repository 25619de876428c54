"""Metrics of features agree with torch-fidelity, closed forms, and plain recomputation."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from acgan.evaluation.frechet import frechet_distance
from acgan.evaluation.neighbours import NeighbourhoodScores
from selection.extractors.inception import enable_torchvision
from selection.metrics.bootstrap import difference_interval
from selection.metrics.features import BLOCK, FeatureSet, by_class, in_image_order, mean_distance
from selection.metrics.fid import frechet, frechet_influence, frechet_values
from selection.metrics.inception_score import inception_score
from selection.metrics.kid import kid, kid_influence, kid_values
from selection.metrics.neighbourhood import neighbourhood_scores

Array = NDArray[np.float64]
SHAPES = [(300, 200, 24), (60, 40, 96), (40, 60, 64)]  # the last two: fewer images than features


@pytest.fixture(scope="module")
def reference() -> SimpleNamespace:
    """torch-fidelity's own functions of features."""
    enable_torchvision()
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    return SimpleNamespace(fid=metric_fid, isc=metric_isc, kid=metric_kid, prc=metric_prc)


def draw(count: int, dimensions: int, *, seed: int, shift: float = 0.0) -> Array:
    """Draw features like a network's: correlated, of unequal scale, none below zero."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(dimensions, dimensions))
    scale = np.exp(-3 * np.arange(dimensions) / dimensions)
    raw = random.normal(size=(count, dimensions)) * scale @ mixing + shift
    features: Array = np.maximum(raw, 0)
    return features


def pair(shape: tuple[int, int, int], shift: float = 0.3) -> tuple[Array, Array]:
    generated, real, dimensions = shape
    return draw(generated, dimensions, seed=1, shift=shift), draw(real, dimensions, seed=2)


# --- equal to torch-fidelity -----------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_frechet_distance_is_torch_fidelitys(
    reference: SimpleNamespace, shape: tuple[int, int, int], shift: float
) -> None:
    arrays = pair(shape, shift)
    moments = [reference.fid.fid_features_to_statistics(torch.from_numpy(x)) for x in arrays]
    expected = reference.fid.fid_statistics_to_metric(*moments, verbose=False)
    found = frechet(*map(FeatureSet, arrays))
    assert found == pytest.approx(expected["frechet_inception_distance"], rel=1e-6)


@pytest.mark.parametrize("shape", [(50, 50, 24), (50, 50, 96)])
def test_kid_is_torch_fidelitys_with_one_subset_of_all_images(
    reference: SimpleNamespace, shape: tuple[int, int, int]
) -> None:
    arrays = pair(shape)
    tensors = [torch.from_numpy(x) for x in arrays]
    expected = reference.kid.kid_features_to_metric(*tensors, kid_subsets=1, kid_subset_size=50)
    found = kid(*map(FeatureSet, arrays))
    assert found == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-6)


@pytest.mark.parametrize(("images", "splits"), [(500, 10), (203, 10), (40, 3)])
def test_inception_score_is_torch_fidelitys(
    reference: SimpleNamespace, images: int, splits: int
) -> None:
    logits = torch.from_numpy(3 * np.random.default_rng(0).normal(size=(images, 7)))
    expected = reference.isc.isc_features_to_metric(logits, splits)
    mean, deviation = inception_score(logits, splits=splits)
    assert mean == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert deviation == pytest.approx(expected["inception_score_std"], rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_precision_and_recall_are_torch_fidelitys(
    reference: SimpleNamespace, shape: tuple[int, int, int]
) -> None:
    arrays = pair(shape, shift=0.1)
    expected = reference.prc.prc_features_to_metric(*(torch.from_numpy(x) for x in arrays))
    found = neighbourhood_scores(*map(FeatureSet, arrays))
    assert 0.05 < found.precision < 1
    assert 0.05 < found.recall < 1
    assert found.precision == pytest.approx(expected["precision"], rel=1e-6)
    assert found.recall == pytest.approx(expected["recall"], rel=1e-6)


# --- the Fréchet distance --------------------------------------------------------------------


def with_moments(mean: Array, covariance: Array, *, count: int, seed: int) -> Array:
    """Draw features that have exactly this mean and unbiased covariance."""
    raw = np.random.default_rng(seed).normal(size=(count, len(mean)))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    features: Array = white @ np.linalg.cholesky(covariance).T + mean
    return features


def test_frechet_distance_of_known_gaussians() -> None:
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    first, second = np.array([1.0, 4, 9, 1, 2, 3]), np.array([4.0, 1, 4, 1, 8, 3])
    shift = np.array([1.0, -2, 0, 0.5, 0, 0])
    generated = with_moments(shift, axes @ np.diag(first) @ axes.T, count=50, seed=1)
    real = with_moments(np.zeros(6), axes @ np.diag(second) @ axes.T, count=70, seed=2)
    expected = (shift**2).sum() + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert frechet(FeatureSet(generated), FeatureSet(real)) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_samples_nears_that_of_their_gaussians() -> None:
    random = np.random.default_rng(0)
    generated, real = random.normal(size=(40_000, 4)), random.normal(0.5, 2, (40_000, 4))
    expected = 4 * (0.5**2 + (2 - 1) ** 2)
    # The mean's standard error is 0.011 and the deviation's 0.008, in each of four dimensions;
    # the distance's then about 2 · √(0.5² · 0.011² + 1² · 0.008²) · √4 = 0.04.
    assert frechet(FeatureSet(generated), FeatureSet(real)) == pytest.approx(expected, abs=0.16)


@pytest.mark.parametrize("shape", SHAPES)
def test_identical_sets_have_frechet_distance_zero(shape: tuple[int, int, int]) -> None:
    _, real = pair(shape)
    scale = np.cov(real, rowvar=False).trace()
    assert frechet(FeatureSet(real), FeatureSet(real.copy())) == pytest.approx(0, abs=1e-6 * scale)


# --- KID -------------------------------------------------------------------------------------


def test_kid_of_unequal_sets_is_the_formula_written_out() -> None:
    x, y = pair((9, 14, 5))

    def kernel(a: Array, b: Array) -> float:
        return float((a @ b / 5 + 1) ** 3)

    within = [
        np.mean([kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j])
        for s in (x, y)
    ]
    across = np.mean([kernel(a, b) for a in x for b in y])
    expected = sum(within) - 2 * across
    assert kid(FeatureSet(x), FeatureSet(y)) == pytest.approx(expected, rel=1e-9)


def test_kid_of_two_points_is_the_kernels_of_the_points() -> None:
    u, v = np.array([1.0, 2]), np.array([0.0, -1])
    found = kid(FeatureSet(np.tile(u, (5, 1))), FeatureSet(np.tile(v, (8, 1))))
    assert found == pytest.approx((5 / 2 + 1) ** 3 + (1 / 2 + 1) ** 3 - 2 * (-2 / 2 + 1) ** 3)


def test_kid_of_halves_of_one_set_is_zero_on_average_and_far_below_that_of_other_sets() -> None:
    random, features = np.random.default_rng(0), draw(200, 8, seed=3)
    found = []
    for _ in range(200):
        mixed = random.permutation(features)
        found.append(kid(FeatureSet(mixed[:100]), FeatureSet(mixed[100:])))
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(len(found))
    assert kid(FeatureSet(draw(200, 8, seed=4, shift=1)), FeatureSet(features)) > 5 * max(found)


# --- the inception score ---------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_inception_score_of_one_hot_posteriors_is_the_number_of_classes(classes: int) -> None:
    labels = torch.arange(50 * classes) % classes
    logits = 1000 * torch.nn.functional.one_hot(labels).double()
    assert inception_score(logits, splits=1) == pytest.approx((classes, 0), rel=1e-9)


def test_inception_score_of_equal_posteriors_is_one() -> None:
    assert inception_score(torch.zeros(100, 5)) == pytest.approx((1, 0), abs=1e-12)
    one_class = torch.tensor([[800.0, 0, 0]]).repeat(100, 1)
    assert inception_score(one_class) == pytest.approx((1, 0), abs=1e-12)


def test_inception_score_of_images_that_stand_by_class_takes_all_classes_into_each_split() -> None:
    labels = torch.arange(3).repeat_interleave(1000)
    logits = 1000 * torch.nn.functional.one_hot(labels).double()
    assert inception_score(logits)[0] == pytest.approx(3, rel=0.01)


def test_inception_score_takes_logarithms_of_probabilities_as_well() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 4)))
    expected = inception_score(logits)
    assert inception_score(logits.softmax(dim=1).log()) == pytest.approx(expected, rel=1e-12)


# --- neighbourhoods --------------------------------------------------------------------------


def by_hand(generated: Array, real: Array) -> tuple[float, float, float, float]:
    """Compute precision, recall, density and coverage from whole matrices of distances."""

    def distances(a: Array, b: Array) -> Array:
        return np.asarray(np.linalg.norm(a[:, None] - b[None], axis=2))

    across = distances(generated, real)
    near_real, near_generated = (np.sort(distances(x, x), axis=1) for x in (real, generated))
    precision = (across <= near_real[:, 3]).any(axis=1).mean()
    recall = (across <= near_generated[:, 3][:, None]).any(axis=0).mean()
    density = (across < near_real[:, 5]).sum(axis=1).mean() / 5
    coverage = (across.min(axis=0) < near_real[:, 5]).mean()
    return precision, recall, density, coverage


@pytest.mark.parametrize("shape", SHAPES)
def test_neighbourhood_scores_are_those_of_whole_distance_matrices(
    shape: tuple[int, int, int],
) -> None:
    arrays = pair(shape, shift=0.1)
    found = neighbourhood_scores(*map(FeatureSet, arrays))
    scores = found.precision, found.recall, found.density, found.coverage
    assert scores == pytest.approx(by_hand(*arrays), rel=1e-12)


def test_identical_sets_cover_each_other() -> None:
    real = FeatureSet(np.random.default_rng(0).normal(size=(100, 8)))
    found = neighbourhood_scores(real, real)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert 1 <= found.density <= 6 / 5  # itself, four others, and by rounding perhaps the fifth


def test_samples_of_one_distribution_have_density_one() -> None:
    random = np.random.default_rng(0)
    sets = (FeatureSet(random.normal(size=(2000, 4))) for _ in range(2))
    found = neighbourhood_scores(*sets)
    assert found.density == pytest.approx(1, abs=0.05)
    # Naeem et al., lemma 2: the expected coverage of two samples of n is 1 - 1/2^k, as n grows.
    assert found.coverage == pytest.approx(1 - 0.5**5, abs=0.02)


def test_sets_far_apart_have_scores_of_zero() -> None:
    real = draw(50, 8, seed=0)
    found = neighbourhood_scores(FeatureSet(real + 100), FeatureSet(real))
    assert found == NeighbourhoodScores(0, 0, 0, 0)


def clusters(counts: list[int], seed: int) -> FeatureSet:
    random = np.random.default_rng(seed)
    parts = [random.normal(size=(n, 3)) + 50 * i for i, n in enumerate(counts)]
    return FeatureSet(np.concatenate(parts))


def test_recall_and_coverage_drop_by_the_share_of_modes_that_are_missing() -> None:
    real = clusters([200, 200, 200], seed=0)
    full = neighbourhood_scores(clusters([200, 200, 200], seed=1), real)
    dropped = neighbourhood_scores(clusters([300, 300, 0], seed=1), real)
    assert dropped.precision == pytest.approx(full.precision, abs=0.05)
    assert full.recall - dropped.recall == pytest.approx(1 / 3, abs=0.05)
    assert full.coverage - dropped.coverage == pytest.approx(1 / 3, abs=0.05)


def test_one_real_outlier_lifts_precision_but_hardly_density() -> None:
    random = np.random.default_rng(0)
    real = np.concatenate([random.normal(size=(100, 2)), [[100.0, 0]]])
    between = np.array([60.0, 0]) + random.normal(size=(100, 2))
    found = neighbourhood_scores(FeatureSet(between), FeatureSet(real))
    assert found.precision == 1
    assert found.density == pytest.approx(1 / 5)  # one ball of the five that make a density of 1
    assert found.coverage == pytest.approx(1 / 101)


# --- parts of all metrics --------------------------------------------------------------------


def everything(generated: Array, real: Array) -> list[float]:
    sets = FeatureSet(generated), FeatureSet(real)
    scores = neighbourhood_scores(*sets)
    return [
        frechet(*sets),
        kid(*sets),
        *(scores.precision, scores.recall, scores.density, scores.coverage),
        *kid_values(*sets),
        *frechet_values(*sets),
    ]


def test_results_do_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = pair((60, 40, 12))
    expected = everything(*arrays)
    for module in ("features", "kid"):
        monkeypatch.setattr(f"selection.metrics.{module}.BLOCK", 7)
    assert everything(*arrays) == pytest.approx(expected, rel=1e-9)


def test_a_reference_set_serves_many_candidates_and_either_kind_of_array() -> None:
    first, real = pair((60, 40, 12))
    second = draw(50, 12, seed=5)
    shared = FeatureSet(torch.from_numpy(real).float())
    for candidate in (first, second, first):
        found = frechet(FeatureSet(candidate), shared), kid(FeatureSet(candidate), shared)
        assert found == pytest.approx(everything(candidate, real)[:2], rel=1e-4)


def test_metrics_of_a_class_are_those_of_its_images() -> None:
    generated, real = pair((90, 60, 6))
    labels, real_labels = np.arange(90) % 3, np.arange(60) // 20
    sets = by_class(torch.from_numpy(generated), labels, 3)
    real_sets = by_class(torch.from_numpy(real), real_labels, 3)
    for c in range(3):
        own = FeatureSet(generated[c::3]), FeatureSet(real[20 * c : 20 * c + 20])
        assert frechet(sets[c], real_sets[c]) == frechet(*own)
        assert kid(sets[c], real_sets[c]) == kid(*own)


def test_a_constant_generator_has_finite_numbers() -> None:
    real = draw(40, 8, seed=0)
    numbers = everything(np.ones((30, 8)), real)
    assert np.isfinite(numbers).all()
    expected = ((real.mean(axis=0) - 1) ** 2).sum() + np.cov(real, rowvar=False).trace()
    assert numbers[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_features_and_logits_that_are_not_finite_are_refused(broken: float) -> None:
    features = np.ones((20, 3))
    features[4, 1] = broken
    with pytest.raises(ValueError, match="finite"):
        FeatureSet(features)
    with pytest.raises(ValueError, match="finite"):
        inception_score(torch.from_numpy(features))


def test_too_few_images_are_refused() -> None:
    for features in (np.ones((1, 3)), np.ones((0, 3)), np.ones(3)):
        with pytest.raises(ValueError, match="two or more images"):
            FeatureSet(features)
    with pytest.raises(ValueError, match="needs >= 10 images, got 9"):
        inception_score(torch.zeros(9, 3))
    few, many = FeatureSet(np.eye(5)), FeatureSet(np.eye(6)[:, :5])
    for sets in ((few, many), (many, few)):
        with pytest.raises(ValueError, match="neighbours need >= 6 images, got 5"):
            neighbourhood_scores(*sets)


# --- each real image's part ------------------------------------------------------------------


def weighted_frechet(generated: Array, real: Array, weights: Array) -> float:
    """Recompute the distance with weighted real images; weights of 1/M give the distance."""
    mean = weights @ real
    away = real - mean
    covariance = (away * weights[:, None]).T @ away * len(real) / (len(real) - 1)
    own = generated.mean(axis=0), np.cov(generated, rowvar=False)
    return frechet_distance((mean, covariance), own)


@pytest.mark.parametrize("shape", [(300, 80, 6), (60, 12, 20)])
def test_frechet_values_are_its_derivatives_by_the_weights_of_images(
    shape: tuple[int, int, int],
) -> None:
    generated, real = pair(shape)
    values = frechet_values(FeatureSet(generated), FeatureSet(real))
    assert values.mean() == pytest.approx(frechet(FeatureSet(generated), FeatureSet(real)))
    step, even = 1e-4, np.full(len(real), 1 / len(real))
    for i in range(0, len(real), 5):
        toward = step * (np.eye(len(real))[i] - even)
        up, down = (weighted_frechet(generated, real, even + s * toward) for s in (1, -1))
        slope = (up - down) / (2 * step)
        assert values[i] - values.mean() == pytest.approx(slope, rel=1e-3, abs=1e-3 * values.std())


@pytest.mark.parametrize(
    ("metric", "influence"), [(frechet, frechet_influence), (kid, kid_influence)]
)
def test_an_influence_is_what_a_metric_loses_without_the_generated_image(
    metric: Callable[..., float], influence: Callable[..., Array]
) -> None:
    generated, real = pair((400, 60, 6))
    known = FeatureSet(real)
    found = influence(FeatureSet(generated), known)
    assert found.mean() == pytest.approx(0, abs=1e-9)
    whole = metric(FeatureSet(generated), known)
    places = range(0, len(generated), 8)
    lost = [whole - metric(FeatureSet(np.delete(generated, i, axis=0)), known) for i in places]
    pseudo = (len(generated) - 1) * np.array(lost)
    np.testing.assert_allclose(found[places], pseudo, rtol=0.06, atol=0.05 * pseudo.std())


def weighted_kid(generated: Array, real: Array, weights: Array) -> float:
    """Recompute, but for what depends on real images alone, the KID with weighted ones."""
    kernel = (real @ generated.T / real.shape[1] + 1) ** 3
    return FeatureSet(generated).similarity - 2 * float(weights @ kernel.mean(axis=1))


def resampled(patients: NDArray[np.int64], replicates: int) -> list[Array]:
    """Return weights of images, of sum 1, in resamples of patients."""
    random, people = np.random.default_rng(0), patients.max() + 1
    drawn = random.multinomial(people, np.full(people, 1 / people), replicates)[:, patients]
    return [row / row.sum() for row in drawn]


@pytest.mark.parametrize(
    ("of", "recompute", "closeness"),
    [(kid_values, weighted_kid, 1.0), (frechet_values, weighted_frechet, 0.98)],
)
def test_values_give_the_difference_of_two_candidates_in_resamples_of_patients(
    of: Callable[[FeatureSet, FeatureSet], Array],
    recompute: Callable[[Array, Array, Array], float],
    closeness: float,
) -> None:
    real = draw(400, 6, seed=0)
    patients = np.random.default_rng(1).integers(0, 150, 400)
    candidates = draw(300, 6, seed=1, shift=0.2), draw(300, 6, seed=2) * 1.1
    sets = [FeatureSet(candidate) for candidate in candidates]
    first, second = (of(each, FeatureSet(real)) for each in sets)
    drawn = resampled(np.unique(patients, return_inverse=True)[1], 100)
    linear = np.array([weights @ (first - second) for weights in drawn])
    plain = np.array([recompute(candidates[0], real, w) for w in drawn])
    plain -= [recompute(candidates[1], real, w) for w in drawn]
    assert np.corrcoef(linear, plain)[0, 1] > closeness - 1e-9
    assert linear.std() == pytest.approx(plain.std(), rel=0.1)
    assert linear.mean() == pytest.approx(plain.mean(), abs=0.3 * plain.std())


# --- intervals of differences ----------------------------------------------------------------


def test_the_interval_lies_around_the_difference_of_mean_intra_class_metrics() -> None:
    real, labels = draw(90, 6, seed=0), np.arange(90) % 3
    real_sets = by_class(torch.from_numpy(real), labels, 3)
    values, intra = [], []
    for seed, shift in ((1, 0.0), (2, 0.5)):
        candidate = by_class(torch.from_numpy(draw(60, 6, seed=seed, shift=shift)), labels[:60], 3)
        parts = [kid_values(g, r) for g, r in zip(candidate, real_sets, strict=True)]
        values.append(in_image_order(parts, labels))
        intra.append(np.mean([kid(g, r) for g, r in zip(candidate, real_sets, strict=True)]))
    patients = [f"patient {i // 4}" for i in range(90)]
    low, high = difference_interval(*values, labels=labels, patients=patients, seed=0)
    assert (low + high) / 2 == pytest.approx(intra[0] - intra[1], rel=1e-9)
    assert low < high < 0


def test_the_interval_is_the_same_for_the_same_seed_and_turned_around_for_the_reverse() -> None:
    random = np.random.default_rng(0)
    a, b, labels, patients = random.normal(size=50), np.zeros(50), np.zeros(50, int), range(50)
    low, high = difference_interval(a, b, labels=labels, patients=patients, seed=0)
    assert (low, high) == difference_interval(a, b, labels=labels, patients=patients, seed=0)
    assert (low, high) != difference_interval(a, b, labels=labels, patients=patients, seed=1)
    turned = difference_interval(b, a, labels=labels, patients=patients, seed=0)
    assert turned == pytest.approx((-high, -low), rel=1e-12)


def test_the_interval_of_independent_images_is_students() -> None:
    values = np.random.default_rng(0).normal(size=400)
    labels, patients = np.zeros(400, int), range(400)
    low, high = difference_interval(values, 0 * values, labels=labels, patients=patients, seed=0)
    assert (high - low) / 2 == pytest.approx(1.966 * values.std(ddof=1) / 20, rel=0.06)


def test_the_draw_of_generated_images_adds_to_the_interval_in_squares() -> None:
    values = np.random.default_rng(0).normal(size=60)

    def found(a: Array, b: Array, variance: float) -> tuple[float, float]:
        labels, patients = np.zeros(60, int), range(60)
        return difference_interval(
            a, b, labels=labels, patients=patients, seed=0, variance=variance
        )

    low, high = found(values, 0 * values, 0)
    middle, half = (low + high) / 2, math.hypot((high - low) / 2, 1.96 * 0.2)
    assert found(values, 0 * values, 0.04) == pytest.approx((middle - half, middle + half))
    alike = found(np.ones(60), np.zeros(60), 0.04)
    assert alike == pytest.approx((1 - 1.96 * 0.2, 1 + 1.96 * 0.2))


def test_a_patient_with_all_images_alike_counts_once() -> None:
    once = np.random.default_rng(0).normal(size=30)
    single, sevenfold = (
        difference_interval(
            np.repeat(once, n),
            np.zeros(30 * n),
            labels=np.zeros(30 * n, int),
            patients=np.repeat(range(30), n).tolist(),
            seed=0,
        )
        for n in (1, 7)
    )
    assert single == pytest.approx(sevenfold, rel=1e-9)


def test_equal_candidates_have_no_difference_and_single_patients_tell_nothing() -> None:
    values, labels = np.arange(6.0), np.array([0, 0, 0, 1, 1, 1])
    patients = ["a", "b", "c", "d", "d", "d"]
    assert difference_interval(
        values, values, labels=labels, patients=["a", "b", "c", "d", "e", "f"], seed=0
    ) == (0, 0)
    for single in (patients, ["a"] * 6):
        found = difference_interval(values, 0 * values, labels=labels, patients=single, seed=0)
        assert found == (-math.inf, math.inf)


def simulated(
    random: np.random.Generator, people: int, mix: list[float]
) -> tuple[Array, NDArray[np.int64], list[int]]:
    """Draw values of mean 0 for patients with 1 to 20 images, alike within a patient."""
    sizes = np.minimum(20, 1 + random.pareto(1.2, people)).astype(int)
    patients = np.repeat(np.arange(people), sizes)
    label = random.choice(len(mix), people, p=mix)
    values = random.normal(size=people)[patients] + random.normal(size=len(patients))
    return values, label[patients], patients.tolist()


@pytest.mark.statistics
@pytest.mark.parametrize(("people", "mix"), [(40, [1.0]), (90, [0.54, 0.27, 0.19])])
def test_intervals_cover_the_truth_in_95_of_100_cases(
    monkeypatch: pytest.MonkeyPatch, people: int, mix: list[float]
) -> None:
    monkeypatch.setattr("selection.metrics.bootstrap.REPLICATES", 400)
    random = np.random.default_rng(0)
    covered = []
    for case in range(1000):
        values, labels, patients = simulated(random, people, mix)
        low, high = difference_interval(
            values, 0 * values, labels=labels, patients=patients, seed=case
        )
        covered.append(low <= 0 <= high)
    assert 0.92 <= np.mean(covered) <= 0.98


# --- how varied ------------------------------------------------------------------------------


def test_mean_distance_is_over_all_pairs_of_different_images() -> None:
    assert mean_distance(FeatureSet(np.array([[0.0], [3.0], [4.0]]))) == pytest.approx(8 / 3)
    corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert mean_distance(FeatureSet(corners)) == pytest.approx((4 + 2 * math.sqrt(2)) / 6)


def test_copies_of_one_image_have_no_distance() -> None:
    copies = np.repeat(draw(1, 24, seed=3), 40, axis=0)
    assert mean_distance(FeatureSet(copies)) == 0.0


def test_mean_distance_of_gaussians_is_the_closed_form_whatever_the_blocks() -> None:
    features = np.random.default_rng(4).normal(size=(2 * BLOCK + 7, 6))
    expected = 2 * math.gamma(7 / 2) / math.gamma(3)  # of |x - y| for unit normals in 6 dimensions
    assert mean_distance(FeatureSet(features)) == pytest.approx(expected, rel=0.01)
    few = features[:50]
    plain = [np.linalg.norm(a - b) for i, a in enumerate(few) for b in few[:i]]
    assert mean_distance(FeatureSet(few)) == pytest.approx(np.mean(plain), rel=1e-12)
