"""Intervals agree with closed forms, and cover the truth as often as they say in simulated worlds.

A simulated world answers by a probit model: an image is classified right if the sum of normal
effects (class, patient, image, candidate, seed, and what they have to do with each other) is above
zero, so that the true scores, over all patients and seeds, are known in closed form.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from selection.metrics.estimate import Estimate, Images
from selection.metrics.intervals import (
    Answers,
    Measure,
    compare_with_best,
    difference,
    interval,
    paired,
    proportion,
    proportion_difference,
)

pytestmark = pytest.mark.statistics

Array = NDArray[np.float64]
CASES = 1000
REPLICATES = 200
SMALL, LARGE = 0.003, 0.05  # deviation of one seed's true balanced accuracy
PATIENT, IMAGE = 0.8, 0.6  # effects that all candidates share
OWN_PATIENT, OWN_IMAGE = 0.3, 0.5  # a candidate's
SEED_PATIENT, SEED_IMAGE = 0.3, 0.6  # a seed's
EPOCH = 0.5
VARIANCE = sum(
    x * x for x in (PATIENT, IMAGE, OWN_PATIENT, OWN_IMAGE, SEED_PATIENT, SEED_IMAGE, EPOCH)
)


@dataclass(frozen=True)
class World:
    """Candidates, and how their CNNs answer.

    deviations: of one seed's true balanced accuracy, one a candidate
    gaps: what each candidate's classes are shifted by in the probit model
    levels: the classes' means in the probit model; shares: of the patients by class
    tail: of the Pareto distribution of images a patient, cut at 20
    """

    deviations: tuple[float, ...]
    gaps: tuple[float, ...] = ()
    seeds: int = 3
    patients: int = 90
    levels: tuple[float, ...] = (0.3, 0.9, 0.6)
    shares: tuple[float, ...] = (0.2, 0.45, 0.35)
    tail: float = 1.5

    @cached_property
    def effects(self) -> Array:
        """The deviation of each candidate's seed effects, overall and of a class, [K]."""
        slopes = stats.norm.pdf(np.array(self.levels) / math.sqrt(VARIANCE)) / math.sqrt(VARIANCE)
        return np.array(self.deviations) / math.hypot(slopes.mean(), np.linalg.norm(slopes) / 3)

    @cached_property
    def recalls(self) -> Array:
        """The true recalls, [K, 3]."""
        shifts = np.array(self.gaps or (0.0,) * len(self.deviations))
        means = np.array(self.levels) + shifts[:, None]
        deviation = np.sqrt(VARIANCE + 2 * self.effects**2)
        recalls: Array = stats.norm.cdf(means / deviation[:, None])
        return recalls

    def draw(self, random: np.random.Generator) -> tuple[list[Answers], Images]:
        """Draw patients, their images, and the answers of new CNNs to them."""
        sizes = np.minimum(20, random.pareto(self.tail, self.patients) + 1).astype(int)
        classes = random.choice(3, self.patients, p=self.shares)
        classes[:3] = range(3)
        who = np.repeat(np.arange(self.patients), sizes)
        labels = np.where(
            random.random(len(who)) < 0.04, random.integers(3, size=len(who)), classes[who]
        )
        answers = self._answers(labels, who, random)
        return list(answers), Images(labels=labels.tolist(), patients=who.tolist())

    def _answers(
        self, labels: NDArray[np.int64], who: NDArray[np.int64], random: np.random.Generator
    ) -> Array:
        """Return the share of right answers in three epochs, [K, S, N]."""
        count, seeds, size = len(self.deviations), self.seeds, len(labels)
        normal = random.standard_normal
        shifts = np.array(self.gaps or (0.0,) * count)[:, None, None]
        effects = self.effects[:, None, None]
        shared = np.array(self.levels)[labels] + IMAGE * normal(size)
        shared += PATIENT * normal(self.patients)[who]
        own = OWN_IMAGE * normal((count, 1, size))
        own += OWN_PATIENT * normal((count, 1, self.patients))[..., who]
        seed = effects * (normal((count, seeds, 1)) + normal((count, seeds, 3))[..., labels])
        seed += SEED_PATIENT * normal((count, seeds, self.patients))[..., who]
        seed += SEED_IMAGE * normal((count, seeds, size))
        epochs = EPOCH * normal((3, count, seeds, size))
        right: Array = (shared + shifts + own + seed + epochs > 0).mean(axis=0)
        return right


@dataclass(frozen=True)
class Covered:
    """In which share of the cases the intervals held the truth.

    score: of one candidate; pair: of the first two's difference; together: of all differences
    best: the truly best is in the tie set; alone: and nothing else is
    """

    score: float
    pair: float
    together: float
    best: float
    alone: float


def covered(world: World, cases: int = CASES) -> Covered:
    """Count over new draws of a world of two or more candidates."""
    random = np.random.default_rng(0)
    rows = [_case(world, random) for _ in range(cases)]
    return Covered(*np.mean(rows, axis=0).tolist())


def _case(world: World, random: np.random.Generator) -> tuple[bool, ...]:
    answers, images = world.draw(random)
    truth = world.recalls.mean(axis=1)
    compared = compare_with_best(answers, images, seed=0, replicates=REPLICATES)
    found = compared.scores[:, None] - compared.scores
    together = np.abs(found - (truth[:, None] - truth)) <= compared.margins
    best = compared.tied[truth.argmax()]
    return (
        holds(interval(answers[0], images), truth[0]),
        holds(difference(answers[0], answers[1], images), truth[0] - truth[1]),
        bool(together.all()),
        best,
        best and sum(compared.tied) == 1,
    )


def holds(estimate: Estimate | None, truth: float) -> bool:
    assert estimate is not None
    return estimate.low <= truth <= estimate.high


# --- simulated worlds ------------------------------------------------------------------------

WORLDS = {
    "two candidates, small seed noise": World((SMALL,) * 2),
    "two candidates, large seed noise": World((LARGE,) * 2),
    "four candidates, five seeds": World((SMALL,) * 4, seeds=5),
    "eight candidates, some twice as noisy": World((LARGE, LARGE / 2) * 4),
}


@pytest.mark.parametrize("name", WORLDS)
def test_intervals_hold_the_truth_in_92_to_98_of_100_cases(name: str) -> None:
    found = covered(WORLDS[name])
    assert 0.92 <= found.score <= 0.98
    assert 0.92 <= found.pair <= 0.98
    assert 0.92 <= found.together <= 0.98  # of equal candidates: also how often all of them tie
    assert found.best >= 0.95


@pytest.mark.parametrize("deviation", [SMALL, LARGE])
def test_paired_differences_hold_the_truth_in_92_to_98_of_100_cases(deviation: float) -> None:
    world = World((deviation,) * 2, gaps=(0.2, 0), seeds=5)
    random, recalls = np.random.default_rng(0), world.recalls.mean(axis=1)
    held = []
    for _ in range(CASES):
        (first, second), images = world.draw(random)
        held.append(holds(paired(first, second, images), recalls[0] - recalls[1]))
    assert 0.92 <= np.mean(held) <= 0.98


def test_a_candidate_that_is_better_by_far_wins_alone() -> None:
    found = covered(World((LARGE,) * 4, gaps=(2, 0, 0, 0)), cases=200)
    assert found.alone >= 0.95
    assert found.score >= 0.92


def test_the_best_stays_through_all_rungs_of_a_race_and_two_that_are_equal_stay_together() -> None:
    world = World((SMALL, SMALL, LARGE, LARGE), gaps=(0.1, 0.1, 0, -1), seeds=5)
    random = np.random.default_rng(0)
    races = np.array([_race(world, random) for _ in range(400)])
    assert races[:, :2].all(axis=1).mean() >= 0.95
    assert races[:, 3].mean() < 0.05


def _race(world: World, random: np.random.Generator) -> list[bool]:
    """Say who is still in after a rung of three and one of five CNNs."""
    answers, images = world.draw(random)
    running = list(range(len(answers)))
    for seeds in (3, 5):
        shares = [answers[i][:seeds] for i in running]
        tied = compare_with_best(shares, images, rungs=2, seed=0, replicates=REPLICATES).tied
        running = [i for i, stays in zip(running, tied, strict=True) if stays]
    return [i in running for i in range(len(answers))]


# --- closed forms ----------------------------------------------------------------------------


def each_its_own_patient(labels: Sequence[int]) -> Images:
    return Images(labels=list(labels), patients=list(range(len(labels))))


def seeds_alike(answers: Array | list[float]) -> Answers:
    return np.tile(np.array(answers, np.float64), (3, 1))


def bounds(estimate: Estimate | None) -> tuple[float, float]:
    assert estimate is not None
    return estimate.low, estimate.high


def width(estimate: Estimate | None) -> float:
    low, high = bounds(estimate)
    return high - low


def test_without_seed_noise_a_score_of_patients_with_one_image_has_students_interval() -> None:
    answers = [0.25, 0.75] * 15
    found = bounds(interval(seeds_alike(answers), each_its_own_patient([1] * 30), "accuracy"))
    expected = stats.ttest_1samp(answers, 0).confidence_interval(0.95)
    assert found == pytest.approx((expected.low, expected.high))


def test_without_seed_noise_a_difference_has_the_interval_of_the_paired_t_test() -> None:
    first = np.random.default_rng(0).uniform(0.5, 1, 40)
    second = first - np.tile([0.0, 0.4], 20)
    answers = seeds_alike(first), seeds_alike(second)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    for found in (difference, paired):
        estimate = found(*answers, each_its_own_patient([0] * 40))
        assert bounds(estimate) == pytest.approx((expected.low, expected.high))


def test_differences_that_hold_together_have_their_part_of_the_error_each() -> None:
    first = np.random.default_rng(0).uniform(0.5, 1, 40)
    second = first - np.tile([0.0, 0.4], 20)
    images = each_its_own_patient([0] * 40)
    found = paired(seeds_alike(first), seeds_alike(second), images, together=3)
    expected = stats.ttest_rel(first, second).confidence_interval(1 - 0.05 / 3)
    assert bounds(found) == pytest.approx((expected.low, expected.high))


def test_where_only_seeds_differ_a_paired_difference_is_the_paired_t_test_over_seeds() -> None:
    first, second = np.array([0.61, 0.64, 0.68, 0.60]), np.array([0.58, 0.62, 0.63, 0.59])
    one, two = (np.tile(each[:, None], 9000) for each in (first, second))
    found = paired(one, two, each_its_own_patient([0, 1, 2] * 3000))
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert bounds(found) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_what_a_seed_does_to_both_does_not_blur_a_paired_difference() -> None:
    lift = np.linspace(-0.2, 0.2, 5)[:, None]
    first, second = 0.6 + lift + np.zeros((5, 900)), 0.55 + lift + np.zeros((5, 900))
    images = each_its_own_patient([0, 1, 2] * 300)
    assert width(paired(first, second, images)) < 0.02
    assert width(difference(first, second, images)) > 0.2
    low, high = bounds(paired(first, second, images))
    assert bounds(paired(second, first, images)) == pytest.approx((-high, -low))


def test_where_only_seeds_differ_a_score_has_students_interval_over_seeds() -> None:
    of_seeds = [0.61, 0.64, 0.68]
    answers = np.tile(np.array(of_seeds)[:, None], 9000)
    found = bounds(interval(answers, each_its_own_patient([0, 1, 2] * 3000)))
    expected = stats.ttest_1samp(of_seeds, 0).confidence_interval(0.95)
    assert found == pytest.approx((expected.low, expected.high), rel=1e-3)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_margins_of_equal_independent_candidates_are_tukeys(count: int) -> None:
    patients = 1000
    answers = np.random.default_rng(0).random((count, patients))
    images = each_its_own_patient([0] * patients)
    margins = compare_with_best([seeds_alike(a) for a in answers], images, seed=0).margins
    errors = [stats.sem(a - b) for a, b in itertools.combinations(answers, 2)]
    found = margins[np.triu_indices(count, 1)] / errors
    expected = stats.studentized_range.ppf(0.95, count, patients - 1) / math.sqrt(2)
    np.testing.assert_allclose(found, expected, rtol=0.03)


def test_a_rung_of_a_race_has_its_part_of_the_error() -> None:
    patients = 1000
    answers = np.random.default_rng(0).random((2, patients))
    candidates = [seeds_alike(a) for a in answers]
    margins = compare_with_best(
        candidates, each_its_own_patient([0] * patients), seed=0, rungs=5
    ).margins
    expected = stats.norm.isf(0.01 / 2) * stats.sem(answers[0] - answers[1])
    assert margins[0, 1] == pytest.approx(expected, rel=0.05)


# --- properties ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn() -> tuple[list[Answers], Images]:
    return World((0.02,) * 3, gaps=(0.6, 0, -0.6)).draw(np.random.default_rng(0))


def test_values_are_the_means_they_are_named_after(drawn: tuple[list[Answers], Images]) -> None:
    (answers, other, _), images = drawn
    labels, mean = np.array(images.labels), answers.mean(axis=0)
    recalls = [mean[labels == c].mean() for c in range(3)]
    expected: dict[Measure, float] = {
        "accuracy": mean.mean(),
        "balanced_accuracy": np.mean(recalls),
        2: recalls[2],
    }
    for measure, value in expected.items():
        score, zero = interval(answers, images, measure), interval(other, images, measure)
        less = difference(answers, other, images, measure)
        assert score is not None
        assert zero is not None
        assert less is not None
        assert score.value == pytest.approx(value)
        assert less.value == pytest.approx(score.value - zero.value)
    assert compare_with_best([answers, other], images, seed=0).scores[0] == pytest.approx(
        np.mean(recalls)
    )


def test_more_images_of_the_same_kind_of_the_same_patients_make_nothing_surer() -> None:
    random = np.random.default_rng(0)
    answers = seeds_alike(random.integers(0, 4, 600) / 3)
    once = each_its_own_patient([0, 1, 2] * 200)
    thrice = Images(labels=once.labels * 3, patients=once.patients * 3)
    assert bounds(interval(np.tile(answers, 3), thrice)) == pytest.approx(
        bounds(interval(answers, once))
    )
    apart = Images(labels=once.labels * 3, patients=list(range(1800)))
    assert width(interval(np.tile(answers, 3), apart)) < 0.8 * width(interval(answers, once))


def test_order_of_images_and_names_of_patients_do_not_matter(
    drawn: tuple[list[Answers], Images],
) -> None:
    answers, images = drawn
    order = np.random.default_rng(1).permutation(len(images.labels))
    shuffled = Images(
        labels=np.array(images.labels)[order].tolist(),
        patients=(7 * np.array(images.patients)[order] + 5).tolist(),
    )
    moved = [a[:, order] for a in answers]
    assert bounds(interval(moved[0], shuffled)) == pytest.approx(
        bounds(interval(answers[0], images))
    )
    expected = compare_with_best(answers, images, seed=3).margins
    np.testing.assert_allclose(compare_with_best(moved, shuffled, seed=3).margins, expected)


def test_a_difference_turned_round_has_the_opposite_interval(
    drawn: tuple[list[Answers], Images],
) -> None:
    (first, second, _), images = drawn
    low, high = bounds(difference(first, second, images))
    assert bounds(difference(second, first, images)) == pytest.approx((-high, -low))


def test_patients_who_are_hard_for_all_candidates_do_not_blur_their_differences() -> None:
    hard = np.random.default_rng(0).uniform(0.2, 1, 600)
    images = each_its_own_patient([0, 1, 2] * 200)
    first, second = seeds_alike(hard), seeds_alike(hard - np.tile([0, 0.2], 300))
    assert width(difference(first, second, images)) < width(interval(first, images)) / 2


def test_the_tie_set_says_who_is_behind_the_best_by_more_than_the_margin(
    drawn: tuple[list[Answers], Images],
) -> None:
    answers, images = drawn
    found = compare_with_best(answers, images, seed=0)
    assert found.best == 0
    assert found.tied[0]
    for place, behind in enumerate(found.behind):
        margin = found.margins[0, place]
        assert behind.value == found.scores[0] - found.scores[place]
        assert bounds(behind) == pytest.approx((behind.value - margin, behind.value + margin))
        assert found.tied[place] == (behind.value <= margin)
    np.testing.assert_array_equal(found.margins, found.margins.T)
    assert bounds(found.behind[0]) == (0, 0)


def test_candidates_may_have_different_numbers_of_seeds_and_more_make_surer() -> None:
    answers, images = World((0.1,) * 3, seeds=12).draw(np.random.default_rng(0))
    margins = compare_with_best([answers[0], answers[1], answers[2][:3]], images, seed=0).margins
    assert margins[0, 1] < 0.9 * margins[0, 2]


def test_one_candidate_is_the_best(drawn: tuple[list[Answers], Images]) -> None:
    found = compare_with_best(drawn[0][:1], drawn[1], seed=0)
    assert found.tied == [True]
    assert bounds(found.behind[0]) == (0, 0)


# --- too little to tell ----------------------------------------------------------------------


def test_what_has_no_image_has_no_interval() -> None:
    images, answers = each_its_own_patient([0, 2, 0, 2]), seeds_alike([0, 1, 1, 0])
    assert interval(answers, images, 1) is None
    assert difference(answers, answers, images, 1) is None
    assert paired(answers, answers, images, 1) is None
    nothing = Images(labels=[], patients=[])
    assert interval(np.zeros((3, 0)), nothing) is None
    assert difference(np.zeros((3, 0)), np.zeros((3, 0)), nothing, "accuracy") is None


def test_balanced_accuracy_of_a_subset_is_over_the_classes_that_are_there() -> None:
    found = interval(seeds_alike([0, 0, 0, 1]), each_its_own_patient([0, 0, 0, 2]))
    assert found is not None
    assert found.value == 0.5


@pytest.mark.parametrize("images", [1, 4])
def test_one_patient_tells_nothing(images: int) -> None:
    sample = Images(labels=[0] * images, patients=[0] * images)
    low, high = bounds(interval(seeds_alike([0.5] * images), sample))
    assert (low, high) == (0, 1) if images == 1 else low < 0.1 < 0.9 < high
    low, high = bounds(difference(seeds_alike([1] * images), seeds_alike([0] * images), sample))
    assert low <= 0
    assert high == 1


@pytest.mark.parametrize("value", [0, 1 / 3, 1])
def test_equal_answers_are_no_certainty(value: float) -> None:
    sample = each_its_own_patient([0] * 10)
    low, high = bounds(interval(seeds_alike([value] * 10), sample))
    assert 0 <= low <= value <= high <= 1
    assert high - low > 0.15
    low, high = bounds(difference(seeds_alike([value] * 10), seeds_alike([value] * 10), sample))
    assert low == pytest.approx(-high)
    assert high > 0.15


def test_candidates_with_the_same_answers_tie_and_ones_that_are_never_right_do_not() -> None:
    answers, images = World((0.02,)).draw(np.random.default_rng(0))
    never = np.zeros_like(answers[0])
    assert compare_with_best([answers[0]] * 3, images, seed=0).tied == [True] * 3
    assert compare_with_best([never] * 3, images, seed=0).tied == [True] * 3
    assert compare_with_best([never, answers[0], never], images, seed=0).tied == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("count", [1, 8, 24, 168])
def test_a_proportions_interval_is_wilsons(count: int) -> None:
    for hits in range(count + 1):
        found = proportion(hits, count)
        wanted = stats.binomtest(hits, count).proportion_ci(method="wilson")
        assert found.value == hits / count
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_a_proportions_interval_is_that_of_the_published_pick() -> None:
    found = proportion(248, 400)
    assert (found.low, found.high) == pytest.approx((0.571, 0.666), abs=1e-3)


def test_a_proportions_interval_covers_the_truth_as_often_as_it_says() -> None:
    truths = np.linspace(0.05, 0.95, 91)
    for count in (24, 168):
        hits = np.arange(count + 1)
        found = [proportion(int(k), count) for k in hits]
        low, high = (np.array([getattr(each, end) for each in found]) for end in ("low", "high"))
        covered = [stats.binom.pmf(hits, count, p)[(low <= p) & (p <= high)].sum() for p in truths]
        assert 0.945 < np.mean(covered) < 0.96
        assert min(covered) > 0.9


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [  # Newcombe 1998, table II, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_a_difference_of_proportions_is_newcombes(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    found = proportion_difference(proportion(*first), proportion(*second))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    back = proportion_difference(proportion(*second), proportion(*first))
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=1e-12)
