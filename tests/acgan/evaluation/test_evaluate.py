"""What is measured after an epoch agrees with closed forms, numpy and plain recomputation."""

import copy
import io
import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import linalg, ndimage, stats
from scipy.spatial.distance import cdist
from torch import nn

from acgan.config import TrainConfig
from acgan.data.dataset import Dataset, ImageSet
from acgan.data.pack import load
from acgan.errors import InputError
from acgan.evaluation.classifier import embed, predict
from acgan.evaluation.evaluate import Evaluation, class_mix, class_spread, make_pool, to_signed_rgb
from acgan.evaluation.fit import FitConfig
from acgan.evaluation.frechet import frechet_distance, moments
from acgan.evaluation.grids import to_uint8
from acgan.evaluation.scorer import Scorer, cached_scorer, scorer_fit
from acgan.gan.step import Training, train_step
from acgan.run.weights import parse_weights, weights_bytes
from tests.kit import tiny_config, tiny_dataset, tiny_images

QUALITIES = ("val/fd_cnn", "val/intra_fd_cnn", "val/diversity", "val/recall", "val/coverage")

CPU = torch.device("cpu")
Array = NDArray[np.float64]
CONFIG = tiny_config(width=1 / 16)


def briefly_trained(data: Dataset, config: TrainConfig) -> Scorer:
    """Train a scorer for a few updates: these tests need its form, not its accuracy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("acgan.evaluation.scorer.scorer_fit", lambda images: FitConfig(5e-4, 3, 32))
        return Scorer.train(data, config, CPU)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return tiny_dataset()


@pytest.fixture(scope="module")
def scorer(data: Dataset) -> Scorer:
    return briefly_trained(data, CONFIG)


@pytest.fixture(scope="module")
def evaluation(data: Dataset, scorer: Scorer) -> Evaluation:
    return Evaluation(data, CONFIG, scorer, CPU)


@pytest.fixture(scope="module")
def training(data: Dataset) -> Training:
    """Networks after a few updates, so that their moving statistics are not the initial ones."""
    training = Training(CONFIG, classes=3, device=CPU)
    noise = torch.Generator().manual_seed(0)
    for _ in range(5):
        images = to_signed_rgb(torch.from_numpy(data.train.images[:12]))
        train_step(training, images, torch.from_numpy(data.train.labels[:12]), noise)
    return training


# --- the Fréchet distance --------------------------------------------------------------------


def covariance(size: int, seed: int) -> Array:
    root = np.random.default_rng(seed).normal(size=(size, 2 * size))
    product: Array = root @ root.T / size
    return product


def test_identical_gaussians_have_distance_zero() -> None:
    gaussian = np.ones(32), covariance(32, 0)
    assert frechet_distance(gaussian, gaussian) == pytest.approx(0, abs=1e-10)


def test_a_shifted_mean_adds_its_squared_length() -> None:
    cov, shift = covariance(5, 0), np.array([1.0, -2, 0, 3, 0.5])
    distance = frechet_distance((np.zeros(5), cov), (shift, cov))
    assert distance == pytest.approx((shift**2).sum(), rel=1e-9)


@pytest.mark.parametrize("factor", [0.0, 0.25, 1, 9])
def test_a_scaled_covariance_adds_its_trace_times_the_squared_difference_of_roots(
    factor: float,
) -> None:
    cov, zero = covariance(6, 0), np.zeros(6)
    expected = (1 - math.sqrt(factor)) ** 2 * np.trace(cov)
    distance = frechet_distance((zero, cov), (zero, factor * cov))
    assert distance == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_commuting_covariances_add_the_squared_differences_of_deviations() -> None:
    a, b = np.array([1.0, 4, 9, 0]), np.array([4.0, 1, 0.25, 1])
    rotation = np.linalg.qr(covariance(4, 0))[0]
    first, second = (rotation @ np.diag(values) @ rotation.T for values in (a, b))
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance((np.zeros(4), first), (np.zeros(4), second)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_other_covariances_agree_with_scipys_matrix_root_either_way_round(seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = ((random.normal(size=32), covariance(32, 10 * seed + i)) for i in range(2))
    root = linalg.sqrtm(a[1] @ b[1]).real
    expected = ((a[0] - b[0]) ** 2).sum() + np.trace(a[1] + b[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", [0, 1])
def test_what_is_not_finite_is_infinitely_far(broken: float, part: int) -> None:
    fine = np.zeros(3), np.eye(3)
    bad = np.zeros(3), np.eye(3)
    bad[part].flat[0] = broken
    assert frechet_distance(fine, bad) == math.inf
    assert frechet_distance(bad, fine) == math.inf


def test_features_with_nan_are_infinitely_far() -> None:
    features = np.random.default_rng(0).normal(size=(20, 4))
    fine = moments(features)
    features[3, 2] = math.nan
    assert frechet_distance(moments(features), fine) == math.inf


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_degenerate_features_have_a_finite_distance(scale: float) -> None:
    few = scale * np.random.default_rng(0).normal(size=(3, 32))  # fewer than dimensions
    other = moments(np.random.default_rng(1).normal(size=(40, 32)))
    assert 0 <= frechet_distance(moments(few), other) < math.inf
    assert 0 <= frechet_distance(moments(few), moments(few)) < math.inf


def test_moments_are_mean_and_covariance_shrunk_by_a_thousandth() -> None:
    features = np.random.default_rng(0).normal(size=(50, 4)) * [1, 2, 3, 4] + 5
    mean, cov = moments(features)
    centred = features - features.mean(axis=0)
    plain = centred.T @ centred / 49
    np.testing.assert_allclose(mean, features.mean(axis=0))
    expected = 0.999 * plain + 0.001 * np.diag(plain).mean() * np.eye(4)
    np.testing.assert_allclose(cov, expected, rtol=1e-12, atol=1e-12)
    assert np.trace(cov) == pytest.approx(np.trace(plain))


def test_moments_of_fewer_images_than_features_are_regular() -> None:
    _, cov = moments(np.random.default_rng(0).normal(size=(5, 32)))
    assert np.linalg.eigvalsh(cov).min() > 0


def test_spread_is_the_root_mean_square_distance_from_the_class_mean() -> None:
    features = np.array([[0.0, 0], [6, 8], [1, 1], [1, 1], [7, 7]])
    found = class_spread(features, np.array([0, 0, 1, 1, 2]), 4)
    np.testing.assert_allclose(found, [5, 0, math.nan, math.nan])  # one image and none: unknown


# --- the pool --------------------------------------------------------------------------------

counts = st.lists(st.integers(0, 5000), min_size=1, max_size=5).filter(any)


@given(counts, st.integers(0, 20_000))
def test_class_mix_is_by_largest_remainders(counts: list[int], total: int) -> None:
    mix = class_mix(tuple(counts), total)
    shares = [Fraction(total * count, sum(counts)) for count in counts]
    assert sum(mix) == total
    up = [s - math.floor(s) for m, s in zip(mix, shares, strict=True) if m == math.floor(s) + 1]
    down = [s - math.floor(s) for m, s in zip(mix, shares, strict=True) if m == math.floor(s)]
    assert len(up) + len(down) == len(mix)
    assert min(up, default=1) >= max(down, default=0)


def labelled(labels: list[int]) -> ImageSet:
    images = np.zeros((len(labels), 16, 16), np.uint8)
    names = ("",) * len(labels)
    return ImageSet(images, np.array(labels, np.int64), names, names)


@pytest.mark.parametrize(("val", "pool"), [(10, 1024), (256, 1024), (257, 1028), (600, 2400)])
def test_pool_has_four_latents_a_validation_image_but_at_least_1024(val: int, pool: int) -> None:
    made = make_pool(tiny_config(), labelled([0] * (val - 1) + [1]), 2)
    assert made.latents.shape == (pool, 6)
    assert made.labels.dtype == torch.int64
    assert made.labels.bincount().tolist() == class_mix((val - 1, 1), pool)


def test_pool_keeps_the_validation_mix_exactly_and_leaves_out_an_absent_class() -> None:
    pool = make_pool(tiny_config(), labelled([2] * 100 + [0] * 300), 3)
    assert pool.labels.bincount(minlength=3).tolist() == [1200, 0, 400]
    assert torch.equal(pool.labels, pool.labels.sort().values)


def test_pool_follows_from_the_evaluation_seed_and_not_from_the_seed() -> None:
    val = labelled([0, 1, 2])
    first, same, other = (
        make_pool(tiny_config(**seeds), val, 3).latents
        for seeds in ({"seed": 1}, {"seed": 2}, {"seed": 1, "evaluation_seed": 1})
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert stats.kstest(first.flatten().double().numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


# --- pictures --------------------------------------------------------------------------------


def test_to_uint8_is_the_inverse_of_scaling_to_signed() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    signed = to_signed_rgb(every)
    assert signed.min() == -1
    assert signed.max() == 1
    assert torch.equal(to_uint8(signed), every[:, None].expand(1, 3, 16, 16))


def opened(picture: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(picture)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def test_sample_grid_has_a_row_a_class_of_the_same_eight_latents(
    evaluation: Evaluation, training: Training
) -> None:
    training.generator.train()
    before = copy.deepcopy(training.generator.state_dict())
    shown = opened(evaluation.sample_grid(training.generator))
    assert shown.shape == (3 * 112, 8 * 112, 3)
    grid = shown[::7, ::7]  # 16 px are shown as squares of 7
    assert (shown == grid.repeat(7, axis=0).repeat(7, axis=1)).all()
    latents = evaluation.grid_latents.reshape(3, 8, -1)
    assert torch.equal(latents[0], latents[1])
    assert torch.equal(latents[0], latents[2])
    with torch.no_grad():
        image = training.generator.eval()(latents[0][4:5], torch.tensor([2]))
    cell = grid[32:48, 64:80].astype(int)
    np.testing.assert_allclose(cell, to_uint8(image)[0].permute(1, 2, 0), atol=1)
    assert all(torch.equal(v, before[k]) for k, v in training.generator.state_dict().items())


# --- the scorer ------------------------------------------------------------------------------


def test_features_of_the_training_images_have_principal_components(
    data: Dataset, scorer: Scorer
) -> None:
    features = scorer.project(data.train.images)
    assert features.shape == (48, 32)
    assert features.dtype == np.float64
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-9)
    pooled = embed(scorer.classifier, data.train.images).double().numpy()
    alive = pooled[:, pooled.max(axis=0) > 0]
    logarithm = np.log(0.1 + alive / alive.mean(axis=0))
    standard = (logarithm - logarithm.mean(axis=0)) / logarithm.std(axis=0)
    eigenvalues = np.linalg.svd(standard, compute_uv=False)[:32] ** 2 / 47
    cov = np.cov(features, rowvar=False)
    np.testing.assert_allclose(np.diag(cov), eigenvalues, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(cov - np.diag(np.diag(cov)), 0, atol=1e-6 * eigenvalues[0])
    np.testing.assert_allclose(scorer.axes.T @ scorer.axes, np.eye(32), atol=1e-12)


def test_a_saved_scorer_projects_identically(data: Dataset, scorer: Scorer, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "scorer.safetensors"
    scorer.save(path)
    loaded = Scorer.load(path, classes=3, image_size=16, device=CPU)
    images = data.val.images
    np.testing.assert_array_equal(loaded.project(images), scorer.project(images))
    assert torch.equal(predict(loaded.classifier, images), predict(scorer.classifier, images))


def test_what_is_no_scorer_of_these_images_is_refused(
    data: Dataset, scorer: Scorer, tmp_path: Path
) -> None:
    path = tmp_path / "scorer.safetensors"
    scorer.save(path)
    with pytest.raises(InputError, match="is not the scoring CNN of these images"):
        Scorer.load(path, classes=2, image_size=16, device=CPU)
    whole = path.read_bytes()
    tensors, _ = parse_weights(whole)
    axes = tensors.pop("axes")
    cut, short = whole[:-1], weights_bytes(tensors, {})
    other = weights_bytes({**tensors, "axes": axes.bfloat16()}, {})
    for content in (b"", cut, short, other):
        path.write_bytes(content)
        with pytest.raises(InputError, match="delete it to have it made again"):
            Scorer.load(path, classes=3, image_size=16, device=CPU)


def test_grey_and_three_equal_channels_project_alike(data: Dataset, scorer: Scorer) -> None:
    grey = torch.from_numpy(data.val.images)
    colour = grey[:, None].expand(-1, 3, -1, -1)
    np.testing.assert_allclose(scorer.project(colour), scorer.project(grey), atol=1e-4)


@pytest.mark.parametrize("images", [386, 4_999, 29_404])
def test_scoring_cnn_has_the_published_epochs_and_some_hundred_updates(images: int) -> None:
    config = scorer_fit(images)
    assert config.epochs == 15
    assert config.epochs * images / config.batch_size > 350


def test_the_cached_scorer_is_trained_once_a_data_set_size_and_evaluation_seed(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path))
    monkeypatch.setattr("acgan.evaluation.scorer.scorer_fit", lambda images: FitConfig(5e-4, 1, 32))
    path = cached_scorer(data, tiny_config(), CPU)
    written = path.stat().st_mtime_ns
    assert cached_scorer(data, tiny_config(seed=9, dropout=0.1), CPU) == path
    assert path.stat().st_mtime_ns == written
    assert cached_scorer(data, tiny_config(evaluation_seed=1), CPU) != path
    assert cached_scorer(tiny_dataset(train=45), tiny_config(), CPU) != path


@pytest.mark.parametrize("left", [0, 1000])
def test_a_scorer_of_the_cache_that_was_cut_is_made_again(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path))
    monkeypatch.setattr("acgan.evaluation.scorer.scorer_fit", lambda images: FitConfig(5e-4, 1, 32))
    path = cached_scorer(data, tiny_config(), CPU)
    os.truncate(path, left)
    assert cached_scorer(data, tiny_config(), CPU) == path
    Scorer.load(path, classes=len(data.classes), image_size=16, device=CPU)


# --- an epoch's evaluation -------------------------------------------------------------------


def cross_entropy(logits: Array, labels: NDArray[np.int64]) -> float:
    exponential = np.exp(logits)
    p = exponential / exponential.sum(axis=1, keepdims=True)
    return float(-np.log(p[np.arange(len(p)), labels]).mean())


def by_hand(evaluation: Evaluation, training: Training, val: ImageSet) -> dict[str, float]:
    """Recompute losses and accuracies in one float64 pass, without batches."""
    generator = copy.deepcopy(training.generator).double().eval()
    discriminator = copy.deepcopy(training.discriminator).double().eval()
    real = val.images[:, None].repeat(3, axis=1).astype(np.float64) / 127.5 - 1
    fake_labels = evaluation.pool.labels.numpy()
    with torch.no_grad():
        fake = generator(evaluation.pool.latents.double(), evaluation.pool.labels)
        real_source, real_class = (x.numpy() for x in discriminator(torch.from_numpy(real)))
        fake_source, fake_class = (x.numpy() for x in discriminator(fake))
    p_real, p_fake = (1 / (1 + np.exp(-source)) for source in (real_source, fake_source))
    d_source = (-np.log(p_real).mean() - np.log(1 - p_fake).mean()) / 2
    fake_class_loss = cross_entropy(fake_class, fake_labels)
    d_class = (cross_entropy(real_class, val.labels) + fake_class_loss) / 2
    right = real_class.argmax(axis=1) == val.labels
    g_source = -np.log(p_fake).mean()
    return {
        "val/d_loss": d_source + d_class,
        "val/d_loss_source": d_source,
        "val/d_loss_class": d_class,
        "val/g_loss": g_source + fake_class_loss,
        "val/g_loss_source": g_source,
        "val/g_loss_class": fake_class_loss,
        "val/acc_real": (p_real > 0.5).mean(),
        "val/acc_generated": (p_fake <= 0.5).mean(),
        "val/acc_overall": ((p_real > 0.5).mean() + (p_fake <= 0.5).mean()) / 2,
        "val/acc_class": right.mean(),
        "val/acc_class_balanced": np.mean([right[val.labels == c].mean() for c in range(3)]),
    }


def test_losses_and_accuracies_are_those_recomputed_by_hand(
    data: Dataset, evaluation: Evaluation, training: Training
) -> None:
    found = evaluation.measure(training.generator, training.discriminator)
    expected = by_hand(evaluation, training, data.val)
    assert found.keys() == {*expected, *QUALITIES}
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-3)
    assert found["val/d_loss"] == pytest.approx(expected["val/d_loss"], abs=1e-5)
    assert found["val/g_loss"] == pytest.approx(expected["val/g_loss"], abs=1e-5)


def test_quality_is_the_distance_of_the_pool_at_the_precision_of_saved_images(
    data: Dataset, evaluation: Evaluation, scorer: Scorer, training: Training
) -> None:
    found = evaluation.measure(training.generator, training.discriminator)
    with torch.no_grad():
        images = training.generator.eval()(evaluation.pool.latents, evaluation.pool.labels)
    features = scorer.project(to_uint8(images))
    real = scorer.project(data.val.images)
    expected = frechet_distance(moments(features), moments(real))
    assert found["val/fd_cnn"] == pytest.approx(expected, rel=1e-3)
    ratios = [
        math.sqrt(features[evaluation.pool.labels.numpy() == c].var(axis=0).sum())
        / math.sqrt(real[data.val.labels == c].var(axis=0).sum())
        for c in range(3)
    ]
    assert found["val/diversity"] == pytest.approx(min(ratios), rel=1e-3)


def test_what_is_measured_within_classes_is_their_mean(
    data: Dataset, evaluation: Evaluation, scorer: Scorer, training: Training
) -> None:
    found = evaluation.measure(training.generator, training.discriminator)
    with torch.no_grad():
        images = training.generator.eval()(evaluation.pool.latents, evaluation.pool.labels)
    generated, real = scorer.project(to_uint8(images)), scorer.project(data.val.images)
    rows = []
    for label in range(3):
        fake, true = (
            generated[evaluation.pool.labels.numpy() == label],
            real[data.val.labels == label],
        )
        between = cdist(fake, true)
        of_real, of_fake = (np.sort(cdist(x, x), axis=1) for x in (true, fake))
        rows.append(
            (
                frechet_distance(moments(fake), moments(true)),
                (between <= of_fake[:, 3, None]).any(axis=0).mean(),
                (between.min(axis=0) < of_real[:, 5]).mean(),
            )
        )
    names = ("val/intra_fd_cnn", "val/recall", "val/coverage")
    for name, expected in zip(names, np.mean(rows, axis=0), strict=True):
        assert found[name] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_measuring_changes_no_weight_and_no_moving_statistic_and_repeats_itself(
    evaluation: Evaluation, training: Training
) -> None:
    networks = training.generator.train(), training.discriminator.train()
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    random = torch.get_rng_state()
    first, again = (evaluation.measure(*networks) for _ in range(2))
    assert first == again
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_evaluation_is_the_same_whatever_the_seed_of_the_run(
    data: Dataset, scorer: Scorer, evaluation: Evaluation, training: Training
) -> None:
    other = Evaluation(data, CONFIG.model_copy(update={"seed": 9}), scorer, CPU)
    networks = training.generator, training.discriminator
    assert other.measure(*networks) == evaluation.measure(*networks)
    assert other.sample_grid(training.generator) == evaluation.sample_grid(training.generator)


def broken_generator(training: Training, bias: float) -> Training:
    broken = copy.deepcopy(training)
    nn.init.zeros_(broken.generator.get_parameter("image.weight"))
    nn.init.constant_(broken.generator.get_parameter("image.bias"), bias)
    return broken


def test_a_constant_generator_is_far_away_and_has_no_diversity(
    evaluation: Evaluation, training: Training
) -> None:
    broken = broken_generator(training, 0.3)
    found = evaluation.measure(broken.generator, broken.discriminator)
    usual = evaluation.measure(training.generator, training.discriminator)
    assert 0 < found["val/fd_cnn"] < math.inf
    assert found["val/diversity"] == pytest.approx(0, abs=1e-6)
    assert usual["val/diversity"] > 0.001


def test_a_generator_that_gives_nan_is_infinitely_far(
    evaluation: Evaluation, training: Training
) -> None:
    broken = broken_generator(training, math.nan)
    found = evaluation.measure(broken.generator, broken.discriminator)
    assert found["val/fd_cnn"] == math.inf
    assert math.isnan(found["val/diversity"])
    assert math.isnan(found["val/g_loss"])


def test_a_class_with_one_validation_image_does_not_decide_the_diversity(
    data: Dataset, scorer: Scorer, training: Training
) -> None:
    val = tiny_images(25, seed=3)
    chosen = np.flatnonzero((val.labels != 2) | (np.arange(25) == 2))
    names = ("",) * len(chosen)
    rare = ImageSet(val.images[chosen], val.labels[chosen], names, names)
    few = Dataset("few", data.classes, data.train, rare, data.test, "few")
    found = Evaluation(few, CONFIG, scorer, CPU).measure(training.generator, training.discriminator)
    assert 0 < found["val/diversity"] < math.inf


# --- the score orders images as an eye does --------------------------------------------------


@pytest.fixture(scope="module")
def chests() -> tuple[Evaluation, Dataset, TrainConfig]:
    config = tiny_config(image_size=32)
    data = load("phantom", image_size=32)
    return Evaluation(data, config, briefly_trained(data, config), CPU), data, config


def distance(evaluation: Evaluation, images: NDArray[np.uint8]) -> float:
    return frechet_distance(moments(evaluation.scorer.project(images)), evaluation.real_moments)


def test_the_floor_is_small_and_the_same_every_time(
    chests: tuple[Evaluation, Dataset, TrainConfig],
) -> None:
    evaluation, data, config = chests
    floor = evaluation.floor(data, config)
    assert floor == evaluation.floor(data, config)
    assert 0 < floor < distance(evaluation, data.val.images[:, ::-1].copy()) / 5  # upside down


def test_blur_and_noise_raise_the_distance_step_by_step_beyond_the_floor(
    chests: tuple[Evaluation, Dataset, TrainConfig],
) -> None:
    evaluation, data, config = chests
    images = data.val.images
    noise = np.random.default_rng(0).normal(size=images.shape)
    blurred = [ndimage.gaussian_filter(images, (0, s, s)) for s in (0.5, 1, 2)]
    noisy = [(images + s * noise).clip(0, 255).astype(np.uint8) for s in (8, 16, 32)]
    for worse_and_worse in (blurred, noisy):
        distances = [distance(evaluation, each) for each in (images, *worse_and_worse)]
        assert distances[0] == pytest.approx(0, abs=1e-6)
        assert distances == sorted(distances)
        assert distances[-1] > 10 * evaluation.floor(data, config)


def test_accuracy_of_the_scoring_cnn_is_counted_on_validation_images(
    chests: tuple[Evaluation, Dataset, TrainConfig],
) -> None:
    evaluation, data, _ = chests
    predicted = predict(evaluation.scorer.classifier, data.val.images).argmax(dim=1).numpy()
    right = sum(int(p == t) for p, t in zip(predicted, data.val.labels, strict=True))
    assert evaluation.classifier_accuracy() == pytest.approx(right / len(data.val))
