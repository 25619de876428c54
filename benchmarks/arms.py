"""Configurations trained with the same seeds, and what their spread allows to say of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import t as student

from acgan.config import derive_seed
from search.settings import Value

LEVEL = 0.95  # of all arms together, for each number

# Each option alone, as its paper has it.
OPTIONS: dict[str, dict[str, Value]] = {
    "discriminator's rate × 4": {"discriminator_rate": 4.0},
    "class-balanced sampling": {"class_balanced": True},
    "DiffAugment, translation": {"translation": 0.125},
    "DiffAugment, cutout": {"cutout": 0.5},
    "spectral norm": {"spectral_norm": True},
    "R1, γ = 1": {"r1_gamma": 1.0},
    "ReACGAN head": {"reacgan_head": True},
    "EMA 0.99": {"ema_decay": 0.99},
}


@dataclass(frozen=True, eq=False)
class Arm:
    """One configuration: its name, and what it changes of the baseline."""

    name: str
    changes: Mapping[str, Value]

    @property
    def point(self) -> str:
        """The changes in words."""
        parts = ((k, f"{v:.3g}" if isinstance(v, float) else v) for k, v in self.changes.items())
        return ", ".join(f"{name} {value}" for name, value in parts)

    @property
    def folder(self) -> str:
        """A folder's name that tells the changes apart."""
        return f"arm-{derive_seed(sorted(self.changes.items())):016x}"


BASELINE = Arm("baseline", {})


@dataclass(frozen=True)
class Number:
    """Something that is measured of a run, and whether a lower or a higher value is better.

    ratio: whether two values are compared by their ratio, else by their difference
    """

    name: str
    better: Literal["lower", "higher"]
    ratio: bool = False


NUMBERS = (
    Number("val/fd_cnn", "lower", ratio=True),
    Number("balanced accuracy", "higher"),
    Number("intra-KID", "lower"),
    Number("recall", "higher"),
    Number("coverage", "higher"),
    Number("memorised", "lower"),
)

Values = Mapping[str, Sequence[float]]  # by the number's name, one value per seed


def cell(values: Sequence[float]) -> str:
    """Return mean and standard deviation over the seeds, and how many have no finite value.

    Of a single seed its value alone.
    """
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < min(len(values), 2):
        return f"no value of {len(values) - len(finite)} in {len(values)} seeds"
    text = _short(statistics.mean(finite))
    text += f" ± {_short(statistics.stdev(finite))}" if len(finite) > 1 else ""
    return text if len(finite) == len(values) else f"{text} ({len(values) - len(finite)} lost)"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


@dataclass(frozen=True)
class Against:
    """An arm against the baseline in one number: difference or ratio, interval, verdict."""

    value: float
    low: float
    high: float
    verdict: Literal["better", "worse", "not told apart"]

    def __str__(self) -> str:
        known = math.isfinite(self.high - self.low)
        value, low, high = map(_short, (self.value, self.low, self.high))
        return f"{value} ({low} to {high})" if known else "–"


def against(number: Number, ours: Sequence[float], theirs: Sequence[float], arms: int) -> Against:
    """Compare an arm with the baseline, by Welch's interval.

    The intervals of all `arms` hold together with 95 % (Bonferroni). A value that is not finite,
    or a ratio of what is not positive, leaves nothing to say.
    """
    pairs = [
        [math.log(v) if v > 0 else math.nan for v in s] if number.ratio else list(s)
        for s in (ours, theirs)
    ]
    if not all(math.isfinite(value) for values in pairs for value in values):
        return Against(math.nan, math.nan, math.nan, "not told apart")
    value = statistics.mean(pairs[0]) - statistics.mean(pairs[1])
    reach = _reach(*pairs, level=1 - (1 - LEVEL) / arms)
    low, high = value - reach, value + reach
    verdict: Literal["better", "worse", "not told apart"] = "not told apart"
    if low > 0 or high < 0:
        verdict = "better" if (high < 0) is (number.better == "lower") else "worse"
    if number.ratio:
        value, low, high = (_exp(each) for each in (value, low, high))
    return Against(value, low, high, verdict)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _reach(ours: Sequence[float], theirs: Sequence[float], *, level: float) -> float:
    """Return half the width of Welch's interval; without any spread nothing is known: infinite."""
    parts = [(statistics.variance(each) / len(each), len(each) - 1) for each in (ours, theirs)]
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return math.inf
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in parts)
    return float(student.ppf((1 + level) / 2, freedom)) * math.sqrt(total)


def sentence(arm: Arm, results: Mapping[str, Against]) -> str:
    """Say of an arm what its spread allows, and no more."""
    told = [
        f"{name} {found.verdict} ({found})"
        for name, found in results.items()
        if found.verdict != "not told apart"
    ]
    rest = "no number is told apart from the baseline's" if not told else "; ".join(told)
    return f"- **{arm.name}**: {rest}."
