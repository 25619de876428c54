"""How sure a score is, and which candidates the data cannot tell apart.

A candidate is scored by several CNNs, one per seed, on images of patients. Patients and seeds are
both samples: others would have given another score. Every measure is a mean of answers, so each
patient's pull on a score says what resampling patients does to all candidates at once; the seeds
add a variance of their own, which must be estimated from few.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import binomtest

from acgan.config import derive_seed
from selection.metrics.estimate import Estimate, Images

ERROR = 0.05
PRIOR = 2.0  # degrees of freedom with which all candidates' seed variance counts in each one's
REPLICATES = 10_000
AT_ONCE = 500  # of them, in memory
ROUNDING = 1e-9  # of one image's variance: below it, all answers are equal

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Answers = NDArray[np.float64]
"""float64 [S, N] in [0, 1]: how often the CNN of seed s classified image i right; S >= 2."""
Measure = Literal["balanced_accuracy", "accuracy"] | int
"""An integer: the recall of that class. Balanced accuracy is over the classes that are there."""


@dataclass(frozen=True)
class BehindBest:
    """All candidates against each other, by balanced accuracy.

    scores: [K], the mean over seeds
    margins: [K, K], half the width of each difference's interval; all intervals hold together
    """

    scores: Array
    margins: Array

    @property
    def best(self) -> int:
        """The candidate with the highest score, the first of equals."""
        return int(self.scores.argmax())

    @property
    def behind(self) -> list[Estimate]:
        """How far each candidate's score is below the best one."""
        below, margins = self.scores.max() - self.scores, self.margins[self.best]
        return [_estimate(*each, lowest=-1) for each in zip(below, margins, strict=True)]

    @property
    def tied(self) -> list[bool]:
        """Which candidates the data cannot tell from the best.

        The truly best one is among them with the comparison's confidence.
        """
        return [estimate.low <= 0 for estimate in self.behind]


@dataclass(frozen=True)
class _Scored:
    """What an interval needs to know of K candidates, P patients and one measure.

    scores: [K]
    pulls: [K, P], each patient's pull on the score; their squares add up to its variance
    patients: how many have an image that counts
    one_image: the variance if one image of each class were answered otherwise
    seeds: [K], what the seeds add to the score's variance
    seed_weights: [K, K], with which each one's variance over its seeds entered `seeds`
    seed_spread: [K], the sampling variance of each one's variance over its seeds
    """

    scores: Array
    pulls: Array
    patients: int
    one_image: float
    seeds: Array
    seed_weights: Array
    seed_spread: Array


def interval(
    answers: Answers, images: Images, measure: Measure = "balanced_accuracy"
) -> Estimate | None:
    """Return a candidate's score with its interval over patients and seeds.

    None where the measure has no image; few patients give a wide interval, never none.
    """
    return _contrast([answers], [1.0], images, measure, lowest=0)


def difference(
    first: Answers, second: Answers, images: Images, measure: Measure = "balanced_accuracy"
) -> Estimate | None:
    """Return the first candidate's score minus the second's, paired by patient.

    None where the measure has no image; few patients give a wide interval, never none.
    """
    return _contrast([first, second], [1.0, -1.0], images, measure, lowest=-1)


def paired(
    first: Answers,
    second: Answers,
    images: Images,
    measure: Measure = "balanced_accuracy",
    *,
    together: int = 1,
) -> Estimate | None:
    """Return the first score minus the second, paired by seed and by patient.

    For CNNs whose seeds belong together: the variance over seeds is that of their differences.
    The intervals of `together` such differences hold together at 95 % (Bonferroni). None where the
    measure has no image.
    """
    return _contrast([first - second], [1.0], images, measure, lowest=-1, error=ERROR / together)


def compare_with_best(
    candidates: Sequence[Answers],
    images: Images,
    *,
    seed: int,
    rungs: int = 1,
    replicates: int = REPLICATES,
) -> BehindBest:
    """Compare candidates by balanced accuracy, with intervals that hold together at 95 %.

    Which one is best is itself uncertain, so the intervals of all pairs hold together: patients
    are resampled with all their images, the same for all candidates, and seeds redrawn with their
    corrected variance. Racing looks at the data `rungs` times, so each look gets an equal part of
    the error (Bonferroni). Candidates may differ in their number of seeds.
    """
    scored = _score(candidates, images, "balanced_accuracy")
    assert scored is not None  # there are images
    count = len(candidates)
    margins = np.zeros((count, count))
    if count > 1:
        first, second = np.triu_indices(count, 1)
        pairs = np.eye(count)[first] - np.eye(count)[second]
        random = np.random.default_rng(derive_seed(seed, "comparison"))
        errors, free = _errors(scored, pairs)
        deviations = _resample(scored, replicates, random) @ pairs.T
        critical = _critical(deviations, float(np.median(free)), ERROR / rungs, random)
        margins[first, second] = margins[second, first] = critical * errors
    return BehindBest(scored.scores, margins)


def _contrast(
    candidates: Sequence[Answers],
    factors: Sequence[float],
    images: Images,
    measure: Measure,
    *,
    lowest: int,
    error: float = ERROR,
) -> Estimate | None:
    """Return the sum of scores times factors, with Student's margin; None without an image."""
    scored = _score(candidates, images, measure)
    if scored is None:
        return None
    errors, free = _errors(scored, np.array([factors]))
    margin = errors[0] * stdtrit(free[0], 1 - error / 2)
    return _estimate(float(np.array(factors) @ scored.scores), margin, lowest=lowest)


def _estimate(value: float, margin: float, *, lowest: int) -> Estimate:
    low, high = max(value - margin, lowest), min(value + margin, 1)
    return Estimate(value=float(value), low=float(low), high=float(high))


def _score(candidates: Sequence[Answers], images: Images, measure: Measure) -> _Scored | None:
    strata = _strata(np.array(images.labels), measure)
    if not strata:
        return None
    patients = np.unique(images.patients, return_inverse=True)[1]
    answers = np.concatenate(candidates)
    ends = np.cumsum([len(each) for each in candidates])[:-1]
    scores = np.split(np.mean([answers[:, part].mean(axis=1) for part in strata], axis=0), ends)
    pulls = np.split(_pulls(answers, patients, strata), ends)
    seeds, seed_weights, seed_spread = _seed_variance(scores, pulls)
    return _Scored(
        scores=np.array([each.mean() for each in scores]),
        pulls=np.array([each.mean(axis=0) for each in pulls]),
        patients=len(np.unique(patients[np.concatenate(strata)])),
        one_image=sum((len(strata) * len(part)) ** -2.0 for part in strata),
        seeds=seeds,
        seed_weights=seed_weights,
        seed_spread=seed_spread,
    )


def _strata(labels: NDArray[np.int64], measure: Measure) -> list[Indices]:
    """Return the images of each mean that the measure is the mean of."""
    if measure == "accuracy":
        parts = [np.arange(len(labels))]
    elif measure == "balanced_accuracy":
        parts = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    else:
        parts = [np.flatnonzero(labels == measure)]
    return [part for part in parts if len(part)]


def _pulls(answers: Answers, patients: Indices, strata: Sequence[Indices]) -> Array:
    """Return each patient's pull on the score of each CNN, one per row of answers, [rows, P].

    It is the sum of the patient's deviations from a mean that the patient itself has moved, which
    the root of one minus the patient's share of the images makes good: CR2, Bell and McCaffrey
    2002, Survey Methodology 28, 169-181.
    """
    pulls = np.zeros((patients.max() + 1, len(answers)))
    for part in strata:
        deviations = answers[:, part] - answers[:, part].mean(axis=1, keepdims=True)
        sums = np.zeros_like(pulls)
        np.add.at(sums, patients[part], deviations.T)
        others = 1 - np.bincount(patients[part], minlength=len(pulls)) / len(part)
        others[others == 0] = 1  # a patient who has all the images has no deviation
        pulls += sums / np.sqrt(others)[:, None] / (len(strata) * len(part))
    return pulls.T


def _seed_variance(scores: Sequence[Array], pulls: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Return what the seeds add to each score's variance, and how well that is known.

    Seeds differ in how good they are, and in which of these patients they get right. The latter is
    part of the patients' variance already, so it is taken off. Each variance has few degrees of
    freedom and is drawn towards the mean of all candidates: moderated as in Smyth 2004, Stat.
    Appl. Genet. Mol. Biol. 3, with a fixed prior instead of an estimated one.
    """
    seeds = np.array([len(each) for each in scores])
    assert (seeds > 1).all()  # the settings ask for three
    free = seeds - 1.0
    own = (free / (free + PRIOR))[:, None]
    moderate = own * np.eye(len(seeds)) + (1 - own) * free / free.sum()
    total = moderate @ [each.var(ddof=1) for each in scores]
    of_patients = moderate @ [each.var(axis=0, ddof=1).sum() for each in pulls]
    added = np.maximum(total - of_patients, 0) / seeds
    return added, moderate / seeds[:, None], 2 * total**2 / free


def _errors(scored: _Scored, contrasts: Array) -> tuple[Array, Array]:
    """Return each contrast's standard error and its degrees of freedom, [Q]; contrasts [Q, K].

    The patients' variance is never below that of one image, because equal answers are no
    certainty. Its degrees of freedom follow from how few patients make it up, by the spread of
    their squares; those of its sum with the seeds' variance are Satterthwaite's (1946, Biometrics
    Bulletin 2, 110-114).
    """
    pulls = contrasts @ scored.pulls
    squares, fourths = (pulls**2).sum(axis=1), (pulls**4).sum(axis=1)
    varied = squares > ROUNDING * scored.one_image
    concentration = np.divide(fourths, squares**2, where=varied, out=np.ones_like(squares))
    most = max(scored.patients - 1, 1)
    free = 2 / np.maximum(concentration - 1 / scored.patients, 2 / most)
    of_patients = np.maximum(squares, scored.one_image)
    variance = of_patients + contrasts**2 @ scored.seeds
    seed_spread = (contrasts**2 @ scored.seed_weights) ** 2 @ scored.seed_spread
    return np.sqrt(variance), 2 * variance**2 / (2 * of_patients**2 / free + seed_spread)


def _resample(scored: _Scored, replicates: int, random: np.random.Generator) -> Array:
    """Draw deviations of the scores, [R, K]: other patients, the same for all, and other seeds."""
    _, people = scored.pulls.shape
    drawn = np.empty((replicates, len(scored.pulls)))
    for start in range(0, replicates, AT_ONCE):  # all at once would be gigabytes
        own = drawn[start : start + AT_ONCE]
        times = random.multinomial(people, np.full(people, 1 / people), len(own))
        own[:] = (times - 1) @ scored.pulls.T
    drawn += random.standard_normal(drawn.shape) * np.sqrt(scored.seeds)
    return drawn


def _critical(deviations: Array, free: float, error: float, random: np.random.Generator) -> float:
    """Return how many standard errors hold all contrasts together but for `error`.

    deviations: [R, Q], of the contrasts in each draw. The largest standardised one counts (the
    maximum statistic; Hothorn, Bretz and Westfall 2008, Biometrical Journal 50, 346-363), over a
    standard error with its own chance: together, a multivariate t with `free` degrees of freedom.
    """
    sizes = np.sqrt((deviations**2).mean(axis=0))
    standard = np.divide(deviations, sizes, where=sizes > 0, out=np.zeros_like(deviations))
    chance = np.sqrt(random.chisquare(free, len(standard)) / free)
    largest = np.abs(standard).max(axis=1) / chance
    return float(max(np.quantile(largest, 1 - error), stdtrit(free, 1 - error / 2)))


def proportion(hits: int, count: int) -> Estimate:
    """Return a share of `count` independent answers with its interval.

    The score interval of Wilson 1927, J. Am. Stat. Assoc. 22, 209-212, which is an interval also
    where all or none hit.
    """
    assert 0 <= hits <= count > 0, f"{hits=}, {count=}"
    value = hits / count
    interval = binomtest(hits, count).proportion_ci(1 - ERROR, method="wilson")
    low, high = min(interval.low, value), max(interval.high, value)  # despite rounding
    return Estimate(value=value, low=low, high=high)


def proportion_difference(first: Estimate, second: Estimate) -> Estimate:
    """Return the first share minus the second, both from `proportion` and of different answers.

    The square-and-add interval, method 10 of Newcombe 1998, Stat. Med. 17, 873-890.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value=value, low=value - below, high=value + above)
