"""A study in a few lines: the table of its trials, and what may be said of the best."""

import contextlib
import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from acgan.command import significant
from acgan.evaluation.variety import ONE_PICTURE, is_one_picture
from acgan.run.records import EpochRecord
from search.settings import SearchConfig
from search.study.folder import BASELINE, Outcome, Study, Trial, trial_name
from search.study.objective import judged_diversity, objective_value


@dataclass(frozen=True)
class Line:
    """One trial of the table.

    diversity: `val/diversity` where `value` was best; None where it is not known
    """

    trial: Trial
    epochs: int
    value: float
    diversity: float | None
    outcome: Outcome | None
    reason: str

    @property
    def finished(self) -> bool:
        """Whether the trial ran to its last epoch."""
        return self.outcome is Outcome.FINISHED

    @property
    def called(self) -> str:
        """What its images are called, after what is said of it; "" where they vary."""
        return f", {ONE_PICTURE}" if is_one_picture(self.diversity) else ""


def table_lines(study: Study, config: SearchConfig) -> list[Line]:
    """Read one line for each trial, the repeats too."""
    return [line_of(trial, config) for trial in study.trials()]


def line_of(trial: Trial, config: SearchConfig) -> Line:
    """Read one trial's line; of one whose records are damaged without epochs."""
    end = trial.end()
    if end is not None and end.epochs is not None and end.value is not None:
        diversity = end.diversity
        if diversity is None:  # the end is of a version before
            diversity = judged_diversity(_records(trial), config)
        return Line(trial, end.epochs, end.value, diversity, end.outcome, end.reason)
    records = _records(trial)
    value, diversity = objective_value(records, config), judged_diversity(records, config)
    outcome, reason = (None, "") if end is None else (end.outcome, end.reason)
    return Line(trial, len(records), value, diversity, outcome, reason)


def _records(trial: Trial) -> list[EpochRecord]:
    with contextlib.suppress(ValueError):  # a damaged line: its next process mends it
        return trial.records()
    return []


def best(found: Sequence[Line], config: SearchConfig) -> Line | None:
    """Return the finished trial of the search itself with the best value."""
    finished = [line for line in found if line.finished and line.trial.info.origin == "search"]
    return min(finished, key=lambda line: config.ranking.sign * line.value, default=None)


def table(found: Sequence[Line], config: SearchConfig, *, width: int | None = None) -> str:
    """Return the trials as a plain table, the best finished one marked with a star.

    width: of the terminal, in columns; in a narrow one headings stand in two lines
    """
    chosen = best(found, config)
    names = list(found[0].trial.info.params) if found else []
    rows = [["trial", *names, "epochs", f"best {config.objective}", "outcome"]]
    for line in found:
        params = [short(line.trial.info.params[name]) for name in names]
        value = "–" if not line.epochs else significant(line.value) + " *" * (chosen is line)
        outcome = f"{line.outcome or 'open'}"
        if line.outcome is Outcome.CRASHED:
            outcome += f": {line.reason}"
        else:
            outcome += ("" if line.finished else f" at {line.epochs}") + line.called
        if line.trial.info.repeats:
            outcome += f", repeat of {line.trial.info.repeats}"
        rows.append([line.trial.name, *params, str(line.epochs), value, outcome])
    lines = _aligned(rows)
    if width is not None and max(map(len, lines)) > width:
        lines = _aligned([*_in_two_lines(rows[0]), *rows[1:]])
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _in_two_lines(heads: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return headings cut in two where their last word begins: `learning_` over `rate`."""
    cuts = [head.rfind(" " if " " in head else "_") + 1 for head in heads]
    above = [head[:cut].rstrip() for head, cut in zip(heads, cuts, strict=True)]
    return above, [head[cut:] for head, cut in zip(heads, cuts, strict=True)]


def ranking(found: Sequence[Line], config: SearchConfig, *, most: int) -> str:
    """Return the best trials of the search in order of their values as a Markdown table."""
    own = [line for line in found if line.epochs and line.trial.info.origin == "search"]
    sign = config.ranking.sign
    ranked = sorted(own, key=lambda line: (sign * line.value, line.trial.name))[:most]
    names = list(found[0].trial.info.params) if found else []
    rows = [["trial", *names, "epochs", f"best {config.objective}", "outcome"]]
    rows.append(["---"] * len(rows[0]))
    for line in ranked:
        params = [short(line.trial.info.params[name]) for name in names]
        outcome = f"{line.outcome or 'open'}{line.called}"
        rows.append([line.trial.name, *params, str(line.epochs), significant(line.value), outcome])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def short(value: object) -> str:
    """Return a setting as it can be typed again, a number with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def scale(study: Study) -> str:
    """Return the sentence that says what the quality score's values mean in this study."""
    quality = study.quality()
    assert quality is not None, "the scoring CNN is trained before the first trial"
    return (
        f"the scoring CNN's accuracy on real validation images is "
        f"{quality.classifier_accuracy:.2f}; by it real images have val/fd_cnn "
        f"{significant(quality.floor)} (the floor), an untrained generator "
        f"{significant(quality.untrained)}"
    )


def comparison(found: Sequence[Line], config: SearchConfig) -> str:
    """Return what may be said of the best trial against the baseline.

    One run of each says nothing of chance, and the best was picked on its own value: only the
    repeats (further seeds) of both can tell, by Welch's 95 % interval of the difference.
    """
    chosen = best(found, config)
    baseline = next((line for line in found if line.trial.name == trial_name(BASELINE)), None)
    if chosen is None or baseline is None:
        return "no trial has finished yet"
    value = significant(chosen.value)
    head = f"best: {chosen.trial.name} with {config.objective} {value}{chosen.called}"
    if chosen is baseline:
        return f"{head}, the baseline itself"
    head += f"; the baseline t0000 has {significant(baseline.value)}{baseline.called}"
    repeats = {line.trial.name: _repeats(found, line.trial.name) for line in (chosen, baseline)}
    if min(map(len, repeats.values())) < 2:
        seeds = "one repeat of each" if any(repeats.values()) else "one seed of each"
        return f"{head} ({seeds}: the difference may be chance, and --repeats 3 measures it)"
    notes = []
    for name, own in repeats.items():
        if lost := sum(not line.finished for line in own):
            notes.append(f"{lost} of {len(own)} repeats of {name} diverged")
    ended = [[line.value for line in own if line.finished] for own in repeats.values()]
    ours, theirs = ([value for value in values if math.isfinite(value)] for values in ended)
    if lost := sum(map(len, ended)) - len(ours) - len(theirs):
        notes.append(f"{lost} without a finite value left out")
    note = f" ({'; '.join(notes)})" if notes else ""
    if min(len(ours), len(theirs)) < 2:
        return f"{head}. Over fresh seeds: too few have a finite value to compare{note}"
    verdict = _verdict(ours, theirs, config, of_all=len(ours) == len(repeats[chosen.trial.name]))
    return f"{head}. {verdict}{note}"


def _repeats(found: Sequence[Line], name: str) -> list[Line]:
    """Return the repeats of a trial that count, those that diverged too."""
    return [
        line
        for line in found
        if line.trial.info.repeats == name and line.outcome and line.outcome.counts
    ]


def _verdict(
    ours: Sequence[float], theirs: Sequence[float], config: SearchConfig, *, of_all: bool
) -> str:
    """Compare values of fresh seeds; of_all: every repeat of the best trial has one."""
    from scipy.stats import ttest_ind  # noqa: PLC0415 (half a second, for a few)

    means = f"{_spread(ours)} against {_spread(theirs)}"
    if len({*ours}) == len({*theirs}) == 1:  # as of shares that are all 1
        return f"Over fresh seeds: {means}; without any spread nothing can be told"
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of one without spread
        interval = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    lower, upper = sorted([config.ranking.sign * interval.low, config.ranking.sign * interval.high])
    word = "not told apart"
    if upper < 0:
        word = "better than the baseline" + ("" if of_all else " where it comes to an end")
    if lower > 0:
        word = "worse than the baseline"
    return (
        f"Over fresh seeds: {means}; difference {interval.low:.4g} to {interval.high:.4g} "
        f"(95 %): {word}"
    )


def _spread(values: Sequence[float]) -> str:
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{mean:.4g} ± {deviation:.2g} ({len(values)} seeds)"


def missing_repeats(study: Study, config: SearchConfig) -> dict[str, str]:
    """Return the repeats that have not ended, as name → the trial that each repeats."""
    if not config.repeats:
        return {}
    found = table_lines(study, config)
    top = best(found, config)
    repeated = dict.fromkeys([trial_name(BASELINE), *([top.trial.name] if top else [])])
    ended = {line.trial.name for line in found if line.outcome and line.outcome.counts}
    names = {f"{t}r{k}": t for t in repeated for k in range(1, config.repeats + 1)}
    return {name: trial for name, trial in names.items() if name not in ended}
