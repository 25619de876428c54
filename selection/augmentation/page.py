"""What a person reads after an augmentation study: `study.html`, `study.csv` and two pictures.

The page needs nothing but itself, as a pick's report does; what it says stands in `study.html.j2`.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from acgan.files import replace_bytes, replace_text
from selection.augmentation.arms import BOTH, CLASSICAL, GAN, REAL
from selection.augmentation.result import (
    COMPARED,
    AugmentationStudy,
    answer_sentence,
    comparisons,
    headline,
)
from selection.ledgers.reviews import moment
from selection.metrics.estimate import Estimate
from selection.metrics.wording import counted
from selection.report.charts import NARROW_INCHES, WIDE_INCHES, narrow_name
from selection.report.first import Line
from selection.report.page import embedded, page_template
from selection.report.svg import BASELINE, CEILING, GRID, LEFT, TIED, WINNER, figure_svg
from selection.steps.scores import BALANCED

TEMPLATE = Path(__file__).with_name("study.html.j2")
COLOURS = {REAL.name: BASELINE, CLASSICAL.name: CEILING, GAN.name: WINNER, BOTH.name: WINNER}


def write_study_report(study: AugmentationStudy, folder: Path) -> None:
    """Write `study.csv`, `arms.svg`, `curve.svg` and `study.html` into a folder.

    The two charts are there a second time for a phone's width (`arms-narrow.svg`).
    """
    pictures = {"arms.svg": arms_picture(study), "curve.svg": curve_picture(study)}
    pictures[narrow_name("arms.svg")] = arms_picture(study, narrow=True)
    pictures[narrow_name("curve.svg")] = curve_picture(study, narrow=True)
    for name, picture in pictures.items():
        replace_bytes(folder / name, picture)
    replace_text(folder / "study.csv", study_csv(study))
    replace_text(folder / "study.html", study_page(study, pictures))


def study_page(study: AugmentationStudy, pictures: dict[str, bytes]) -> str:
    """Return `study.html` with these charts inside it."""
    measures = list(study.arms[0].scores)
    differences = comparisons({arm.name: arm for arm in study.arms}, study.images)
    lines = compared(differences)
    return page_template(TEMPLATE).render(
        study=study,
        headline=headline(differences),
        lines=lines,
        reach=max(abs(end) for each in differences for end in (each.low, each.high)) or 1.0,
        created=moment(study.created),
        measures=[name for name in measures if " of source " not in name],
        by_source=[name for name in measures if " of source " in name],
        seconds=sum(run.seconds for arm in study.arms for run in arm.runs),
        pictures={name: embedded(name, chart) for name, chart in pictures.items()},
    )


THIRD = {"yes": "better", "no, they harm": "worse", "not shown": "no difference shown"}
VERDICTS = {"yes": "they help", "no, they harm": "they harm", "not shown": "no effect shown"}


def compared(differences: Sequence[Estimate]) -> list[Line]:
    """Return the sentence's three comparisons, each with what it shows."""
    lines = []
    for (first, second, how), estimate in zip(COMPARED, differences, strict=True):
        words = THIRD if (first, second) == (GAN, CLASSICAL) else VERDICTS
        verdict = words[answer_sentence(estimate)]
        note = f"{first.title} minus {second.title}"
        kind = "other" if estimate.low <= 0 <= estimate.high else "picked"
        lines.append(Line(f"{how[:1].upper()}{how[1:]}: {verdict}", estimate, kind, note))
    return lines


def study_csv(study: AugmentationStudy) -> str:
    """Return one line for each arm and measure, numbers at full precision."""
    with io.StringIO() as file:
        writer = csv.writer(file, lineterminator="\n")
        kinds = ("", "minus_real_", "minus_classical_")
        cells = [f"{kind}{part}" for kind in kinds for part in ("value", "low", "high")]
        writer.writerow(["arm", "generated_images", "split", "measure", *cells])
        for arm in study.arms:
            for measure, score in arm.scores.items():
                beside = (arm.against_real.get(measure), arm.against_classical.get(measure))
                numbers = [part for each in (score, *beside) for part in _numbers(each)]
                writer.writerow([arm.name, sum(arm.generated), study.split, measure, *numbers])
        return file.getvalue()


def _numbers(estimate: Estimate | None) -> Sequence[float | str]:
    return ("", "", "") if estimate is None else (estimate.value, estimate.low, estimate.high)


def arms_picture(study: AugmentationStudy, *, narrow: bool = False) -> bytes:
    """Draw each arm's balanced accuracy, and what it is above real only and classical.

    The three panels stand side by side, or, narrow, one above another.
    """
    arms = study.arms[::-1]
    rows, width = (3, NARROW_INCHES) if narrow else (1, 11.0)
    height = 0.8 + rows * (0.8 + 0.34 * len(arms) * (0.75 if narrow else 1.0))
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, 3 // rows, sharey=True)
    titles = ("balanced accuracy", "minus real only", "minus classical oversampling")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=4 if narrow else 5)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    for height, arm in enumerate(arms):
        beside = (arm.scores, arm.against_real, arm.against_classical)
        for axes, found in zip(panels, beside, strict=True):
            _draw(axes, found.get(BALANCED), height, COLOURS.get(arm.name, LEFT))
    for axes in panels[1:]:
        axes.axvline(0, color=TIED, linewidth=1)
    for axes in panels if narrow else panels[:1]:
        axes.set_yticks(range(len(arms)), [arm.title for arm in arms])
    panels[0].set_ylim(-0.6, len(arms) - 0.4)
    figure.supxlabel(f"{_on(study, narrow)}; bars: 95 % intervals", fontsize=9 if narrow else 10)
    return figure_svg(figure)


def _draw(axes: Axes, estimate: Estimate | None, height: int, colour: str) -> None:
    if estimate is not None:
        axes.plot([estimate.low, estimate.high], [height, height], color=colour)
        axes.plot(estimate.value, height, "o", color=colour)


def curve_picture(study: AugmentationStudy, *, narrow: bool = False) -> bytes:
    """Draw balanced accuracy against the number of generated images that were added."""
    size = (NARROW_INCHES, 4.2) if narrow else (WIDE_INCHES, 4.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    curve = study.curve
    counts = [sum(arm.generated) for arm in curve]
    scores = [arm.scores[BALANCED] for arm in curve]
    classical = study.arm(CLASSICAL.name).scores[BALANCED]
    axes.axhspan(classical.low, classical.high, color=CEILING, alpha=0.12, linewidth=0)
    axes.axhline(
        classical.value, color=CEILING, label="classical oversampling, no generated images"
    )
    real_and_made = {"fmt": "o-", "color": WINNER, "label": "real images and generated ones"}
    _draw_bars(axes, counts, scores, **real_and_made)
    both = study.arm(BOTH.name)
    beside = sum(both.generated) + 0.015 * max(counts)  # not on top of the curve's own point
    look = {"fmt": "s", "color": TIED, "markerfacecolor": "white", "label": "classical + GAN"}
    _draw_bars(axes, [beside], [both.scores[BALANCED]], **look)
    real = sum(study.arm(REAL.name).real)
    axes.set_xlabel(f"generated images beside the {counted(real, 'real one')}")
    axes.set_ylabel(BALANCED)
    axes.set_title(f"{_on(study, narrow)}, 95 % intervals", fontsize=9 if narrow else 10)
    axes.legend(frameon=False, loc="best", fontsize=7 if narrow else 9)
    return figure_svg(figure)


def _draw_bars(axes: Axes, at: Sequence[float], scores: Sequence[Estimate], **look: Any) -> None:
    below, above = [s.value - s.low for s in scores], [s.high - s.value for s in scores]
    axes.errorbar(at, [s.value for s in scores], yerr=[below, above], capsize=3, **look)


def _on(study: AugmentationStudy, narrow: bool) -> str:
    if study.split == "test":
        return study.where
    between = "\n" if narrow else " "
    return f"{study.where}{between}(optimistic: the generator was picked on them)"
