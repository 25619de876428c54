"""Step 3's metrics are those of `selection.metrics`, put together by class, view and reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from acgan.evaluation.classifier import Images
from selection.extractors.base import Extractor, View
from selection.metrics import fid, kid
from selection.metrics.bootstrap import difference_interval
from selection.metrics.features import FeatureSet
from selection.metrics.inception_score import inception_score
from selection.metrics.metric import Part
from selection.metrics.neighbourhood import neighbourhood_scores
from selection.metrics.reference import (
    Reference,
    at_most,
    in_the_mix_of,
    inception_scores,
    rank_metric,
    rank_values,
    rank_variance,
    reference,
)
from selection.metrics.reference import metrics as fidelity_metrics
from selection.metrics.registry import METRICS
from tests.kit import CLASSES

Labels = NDArray[np.int64]
REAL = np.repeat([2, 0, 1, 0, 2], [8, 10, 15, 20, 37])  # 30, 15 and 45 images, not in order
MADE = np.repeat(np.arange(3), 40)


class Named(Extractor):
    """An extractor by name alone: the features are drawn by the tests."""

    def __init__(self, *, standard: bool) -> None:
        super().__init__("plain", "0" * 64, independent=True)
        self.standard = standard

    def extract(self, images: Images) -> tuple[View, ...]:
        raise AssertionError("features are given")


PLAIN, STANDARD = Named(standard=False), Named(standard=True)


def features(labels: Labels, *, seed: int, shift: float = 0.0, size: int = 6) -> Tensor:
    """Draw features whose mean and spread differ between the classes."""
    random = np.random.default_rng(seed)
    raw = random.normal(size=(len(labels), size)) * (1 + labels[:, None]) + shift * labels[:, None]
    return torch.from_numpy(raw)


def generated(views: Sequence[Tensor]) -> Reference:
    return reference(views, MADE, classes=3)


def test_overall_metrics_take_generated_images_in_the_references_class_mix() -> None:
    real, made = features(REAL, seed=0), features(MADE, seed=1, shift=0.5)
    found = fidelity_metrics(PLAIN, generated([made]), reference([real], REAL, classes=3), CLASSES)
    # 40 of the largest class, so 40 · 30 / 45 and 40 · 15 / 45 of the others
    chosen = np.r_[0:27, 40:53, 80:120]
    sets = FeatureSet(made[torch.from_numpy(chosen)]), FeatureSet(real)
    near = neighbourhood_scores(*sets)
    assert found["fd_plain"] == pytest.approx(fid.frechet(*sets))
    assert found["kid_plain"] == pytest.approx(kid.kid(*sets))
    assert found["precision_plain"] == near.precision
    assert found["recall_plain"] == near.recall
    assert found["density_plain"] == near.density
    assert found["coverage_plain"] == near.coverage


def test_metrics_of_a_class_are_those_of_its_images_and_intra_is_their_mean() -> None:
    real, made = features(REAL, seed=0), features(MADE, seed=1, shift=0.5)
    found = fidelity_metrics(PLAIN, generated([made]), reference([real], REAL, classes=3), CLASSES)
    own: dict[str, list[float]] = {}
    for label, name in enumerate(CLASSES):
        sets = (
            FeatureSet(made[torch.from_numpy(label == MADE)]),
            FeatureSet(real[torch.from_numpy(label == REAL)]),
        )
        near = neighbourhood_scores(*sets)
        values = {
            "fd": fid.frechet(*sets),
            "kid": kid.kid(*sets),
            "precision": near.precision,
            "recall": near.recall,
            "density": near.density,
            "coverage": near.coverage,
        }
        for metric, value in values.items():
            assert found[f"{metric}_plain/{name}"] == pytest.approx(value)
            own.setdefault(metric, []).append(value)
    for metric, of_classes in own.items():
        assert found[f"intra_{metric}_plain"] == pytest.approx(np.mean(of_classes))
    computed = [metric for metric in METRICS if metric.compute]
    assert len(found) == len(computed) * (1 + 3 + 1)


def test_a_class_may_be_called_as_a_part_of_a_metric_is() -> None:
    real, made = features(REAL, seed=0), features(MADE, seed=1, shift=0.5)
    sets = generated([made]), reference([real], REAL, classes=3)
    usual = fidelity_metrics(PLAIN, *sets, CLASSES)
    names = [str(part) for part in Part]
    found = fidelity_metrics(PLAIN, *sets, names)
    for name, other in zip(CLASSES, names, strict=True):
        usual = {key.replace(f"/{name}", f"/{other}"): value for key, value in usual.items()}
    assert found == usual


def test_several_views_are_averaged() -> None:
    real = [features(REAL, seed=seed) for seed in (0, 1, 2)]
    made = [features(MADE, seed=seed, shift=seed / 5) for seed in (3, 4, 5)]
    together = fidelity_metrics(PLAIN, generated(made), reference(real, REAL, classes=3), CLASSES)
    alone = [
        fidelity_metrics(PLAIN, generated([a]), reference([b], REAL, classes=3), CLASSES)
        for a, b in zip(made, real, strict=True)
    ]
    for name, value in together.items():
        assert value == pytest.approx(np.mean([own[name] for own in alone])), name


def test_inception_scores_are_averaged_over_views() -> None:
    logits = [torch.from_numpy(np.random.default_rng(i).normal(size=(5000, 5))) for i in range(2)]
    found = inception_scores(PLAIN, [View(own[:, :2], own) for own in logits])
    means, deviations = zip(*(inception_score(own) for own in logits), strict=True)
    assert found == pytest.approx({"is_plain": np.mean(means), "is_std_plain": np.mean(deviations)})
    few = [View(own[:4999, :2], own[:4999]) for own in logits]
    assert inception_scores(PLAIN, few) == {}


def test_only_the_standard_extractor_gives_what_is_called_fid() -> None:
    real, made = features(REAL, seed=0), features(MADE, seed=1)
    sets = reference([real], REAL, classes=3)
    names = {"fid", "intra_fid", "fid/normal", "kid", "intra_kid"}
    standard, plain = (
        fidelity_metrics(extractor, generated([made]), sets, CLASSES)
        for extractor in (STANDARD, PLAIN)
    )
    assert names <= standard.keys()
    assert not any("fid" in name for name in plain)
    assert list(standard.values()) == list(plain.values())


def test_features_that_are_not_finite_are_refused() -> None:
    made = features(MADE, seed=1)
    made[3, 2] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        fidelity_metrics(
            PLAIN, generated([made]), reference([features(REAL, seed=0)], REAL, classes=3), CLASSES
        )


@pytest.mark.parametrize(("fewest", "name"), [(2047, "intra_kid"), (2048, "intra_fid")])
def test_the_rank_metric_is_a_frechet_distance_from_2048_images_of_each_class(
    fewest: int, name: str
) -> None:
    labels = np.repeat(np.arange(3), [2500, fewest, 2048])
    real = reference([torch.zeros(len(labels), 2)], labels, classes=3)
    assert rank_metric(STANDARD, real) == name
    assert rank_metric(PLAIN, real) == name.replace("fid", "fd") + "_plain"


def mean_over_classes(values: NDArray[np.float64], labels: Labels) -> float:
    return float(np.mean([values[labels == label].mean() for label in np.unique(labels)]))


def test_the_rank_values_of_few_images_average_to_the_mean_kid() -> None:
    real = [features(REAL, seed=seed) for seed in (0, 1)]
    made = [features(MADE, seed=seed, shift=0.3) for seed in (2, 3)]
    sets = reference(real, REAL, classes=3)
    found = rank_values(generated(made), sets)
    name = rank_metric(PLAIN, sets)
    assert name == "intra_kid_plain"
    value = fidelity_metrics(PLAIN, generated(made), sets, CLASSES)[name]
    assert mean_over_classes(found, REAL) == pytest.approx(value)


def test_a_rank_value_belongs_to_its_own_image() -> None:
    real, made = features(REAL, seed=0), features(MADE, seed=1)
    order = np.random.default_rng(0).permutation(len(REAL))
    values = rank_values(generated([made]), reference([real], REAL, classes=3))
    mixed = reference([real[torch.from_numpy(order)]], REAL[order], classes=3)
    np.testing.assert_allclose(rank_values(generated([made]), mixed), values[order])


def test_resampling_rank_values_moves_kid_differences_as_resampled_real_images_do() -> None:
    """Two candidates' difference under new weights of the real images is that of the kernels."""
    real, weights = features(REAL, seed=0), np.random.default_rng(9).uniform(size=len(REAL))
    sets = reference([real], REAL, classes=3)
    made = [features(MADE, seed=seed, shift=shift) for seed, shift in ((1, 0.2), (2, 0.6))]
    first, second = (rank_values(generated([own]), sets) for own in made)
    found, wanted = [], []
    for label in range(3):
        rows = label == REAL
        share = weights[rows] / weights[rows].sum()
        found.append(share @ (first - second)[rows])
        x = real[torch.from_numpy(rows)].numpy()
        parts = []
        for own in made:
            y = own[torch.from_numpy(label == MADE)].numpy()
            inner = (y @ y.T / 6 + 1) ** 3
            within = (inner.sum() - np.trace(inner)) / (len(y) * (len(y) - 1))
            parts.append(within - 2 * share @ ((x @ y.T / 6 + 1) ** 3).mean(axis=1))
        wanted.append(parts[0] - parts[1])
    assert np.mean(found) == pytest.approx(np.mean(wanted))


def test_the_rank_values_of_many_images_follow_the_frechet_distance_to_first_order() -> None:
    labels = np.repeat(np.arange(3), 2048)
    real, made = features(labels, seed=0, size=3), features(MADE, seed=1, shift=0.5, size=3)
    sets = reference([real], labels, classes=3)
    values = rank_values(generated([made]), sets)

    def distance(rows: Tensor) -> float:
        kept = reference([real[rows]], labels[rows.numpy()], classes=3)
        found = fidelity_metrics(PLAIN, generated([made]), kept, CLASSES)
        return found["intra_fd_plain"]

    everything = torch.arange(len(labels))
    whole = distance(everything)
    assert mean_over_classes(values, labels) == pytest.approx(whole)
    # Without the twenty images of a class that count most, and without its twenty that count least
    own = np.flatnonzero(labels == 1)
    ranked = own[values[own].argsort()]
    for gone in (ranked[:20], ranked[-20:]):
        kept = np.setdiff1d(everything.numpy(), gone)
        expected = mean_over_classes(values[kept], labels[kept]) - whole
        assert distance(torch.from_numpy(kept)) - whole == pytest.approx(expected, rel=0.1)


def made_views(seed: int) -> list[Tensor]:
    """Draw images of one generator, as two networks that have much in common see them."""
    first = features(MADE, seed=seed, shift=0.6)
    return [first, 0.7 * first + 0.3 * features(MADE, seed=seed + 10_000)]


def test_the_variance_of_the_rank_metric_is_that_over_draws_of_generated_images() -> None:
    sets = reference([features(REAL, seed=seed) for seed in (0, 1)], REAL, classes=3)
    name = rank_metric(PLAIN, sets)
    drawn = [generated(made_views(seed)) for seed in range(200)]
    values = [fidelity_metrics(PLAIN, own, sets, CLASSES)[name] for own in drawn]
    variance = np.mean([rank_variance(own, sets) for own in drawn])
    assert variance / np.var(values, ddof=1) == pytest.approx(1, abs=0.3)  # 200 draws: ± 0.2


def test_samples_of_one_generator_are_told_apart_as_seldom_as_intervals_say() -> None:
    sets = reference([features(REAL, seed=seed) for seed in (0, 1)], REAL, classes=3)
    patients = [i // 2 for i in range(len(REAL))]
    apart = {"patients alone": 0, "the draw too": 0}
    for seed in range(100):
        pair = [generated(made_views(2 * seed + i)) for i in range(2)]
        first, second = (rank_values(own, sets) for own in pair)
        variance = sum(rank_variance(own, sets) for own in pair)
        for name, known in zip(apart, (0.0, variance), strict=True):
            low, high = difference_interval(
                first, second, labels=REAL, patients=patients, seed=seed, variance=known
            )
            apart[name] += not low <= 0 <= high
    assert apart["the draw too"] <= 10
    assert apart["patients alone"] >= 30


def test_at_most_draws_the_same_images_of_each_class_in_order() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 500)
    found = at_most(labels, 40)
    assert np.bincount(labels[found]).tolist() == [40, 40, 40]
    assert (np.diff(found) > 0).all()
    assert (at_most(labels, 40) == found).all()
    assert set(found.tolist()) != set(
        np.concatenate([np.flatnonzero(labels == c)[:40] for c in range(3)]).tolist()
    )


def test_at_most_takes_all_of_a_class_that_has_fewer() -> None:
    labels = np.repeat(np.arange(3), [5, 50, 10])
    found = at_most(labels, 10)
    assert np.bincount(labels[found]).tolist() == [5, 10, 10]
    assert at_most(labels, 1000).tolist() == list(range(65))


def test_a_limited_reference_holds_the_features_of_its_images() -> None:
    real = [features(REAL, seed=0), features(REAL, seed=1, size=2)]
    found = reference(real, REAL, classes=3, limit=20)
    chosen = at_most(REAL, 20)
    assert found.labels.tolist() == REAL[chosen].tolist()
    for view, whole, classes in zip(real, found.whole, found.classes, strict=True):
        assert torch.equal(whole.features, view[torch.from_numpy(chosen)])
        for label, own in enumerate(classes):
            assert torch.equal(
                own.features, whole.features[torch.from_numpy(found.labels == label)]
            )


@pytest.mark.parametrize(
    ("real", "wanted"),
    [((10, 10, 10), [40, 40, 40]), ((45, 30, 15), [40, 27, 13]), ((1, 1000, 1), [2, 40, 2])],
)
def test_as_many_as_possible_are_taken_and_never_fewer_than_a_metric_needs(
    real: tuple[int, ...], wanted: list[int]
) -> None:
    found = in_the_mix_of(MADE, np.repeat(np.arange(3), real), 3)
    assert np.bincount(MADE[found]).tolist() == wanted
    assert len(set(found.tolist())) == len(found)
