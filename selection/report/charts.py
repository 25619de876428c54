"""The pictures of a pick's numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from acgan.run.records import EpochRecord, metric
from selection.report.svg import BASELINE, CEILING, LEFT, TIED, WINNER, figure_svg
from selection.report.tables import ranked
from selection.steps.result import Pick

WIDE_INCHES, NARROW_INCHES = 8.0, 3.9  # the narrow ones are as wide as a phone
MANY_TRIALS = 50  # beyond, the grey curves are pixels: as lines they are megabytes


def narrow_name(name: str) -> str:
    """Return what a chart is called that is drawn for a phone's width: `scores-narrow.svg`."""
    stem, _, ending = name.rpartition(".")
    return f"{stem}-narrow.{ending}"


def scores_picture(pick: Pick, *, narrow: bool = False) -> bytes:
    """Draw step 2's scores as dots with their intervals, best on top; return an SVG."""
    places = [place for place in ranked(pick) if pick.candidates[place].utility][::-1]
    width = NARROW_INCHES if narrow else WIDE_INCHES
    figure = Figure(figsize=(width, 1.2 + 0.27 * len(places)), layout="constrained")
    axes = figure.add_subplot()
    ceiling, chance = pick.ceiling.balanced_accuracy, 1 / len(pick.classes)
    axes.axvspan(ceiling.low, ceiling.high, color=CEILING, alpha=0.15, linewidth=0)
    axes.axvline(ceiling.value, color=CEILING, label="CNNs trained on real images")
    axes.axvline(chance, color=LEFT, linestyle=":", label="chance")
    for height, place in enumerate(places):
        _draw_score(axes, pick, place, height=height)
    axes.set_yticks(range(len(places)), [pick.candidates[place].name for place in places])
    axes.set_ylim(-0.7, len(places) - 0.3)
    where = "\n" if narrow else " "
    text = f"balanced accuracy{where}on real validation images, 95 % interval"
    figure.supxlabel(text, fontsize=9 if narrow else 10)
    figure.legend(loc="outside upper right", ncols=1 if narrow else 2, frameon=False)
    return figure_svg(figure)


def _draw_score(axes: Axes, pick: Pick, place: int, *, height: int) -> None:
    utility, colour = pick.candidates[place].utility, _colour(pick, place)
    assert utility is not None
    score, tied = utility.balanced_accuracy, place in pick.decision.tie_set
    axes.plot([score.low, score.high], [height, height], color=colour)
    axes.plot(score.value, height, "o", color=colour, markerfacecolor=colour if tied else "white")


def _colour(pick: Pick, place: int) -> str:
    if place == pick.decision.winner:
        return WINNER
    if pick.candidates[place].baseline:
        return BASELINE
    return TIED if place in pick.decision.tie_set else LEFT


class Curve(NamedTuple):
    """A trial's objective: epochs [N] and values [N], of which the first `young` are not judged."""

    epochs: NDArray[np.int64]
    values: NDArray[np.float64]
    young: int


def read_curves(pick: Pick, records: Mapping[str, Sequence[EpochRecord]]) -> dict[str, Curve]:
    """Return all trials' curves, each read once: those of a large study take minutes to read."""
    return {trial: _curve(own, pick.objective) for trial, own in records.items()}


def _curve(records: Sequence[EpochRecord], objective: str) -> Curve:
    epochs = np.array([record.epoch for record in records], np.int64)
    young = sum(record.young for record in records)  # they come first
    return Curve(epochs, np.array(metric(records, objective)), young)


def curves_picture(pick: Pick, curves: Mapping[str, Curve], *, narrow: bool = False) -> bytes:
    """Draw the objective of all trials and mark the candidates; return an SVG.

    The first epochs, in which a trial is not judged, are dotted.
    """
    size = (NARROW_INCHES, 4.2) if narrow else (WIDE_INCHES, 4.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    looks = {pick.baseline.trial: (BASELINE, "baseline")} if pick.baseline else {}
    looks[pick.winner.trial] = (WINNER, "winner's trial")
    for trial in sorted(curves, key=lambda name: name in looks):
        colour, role = looks.get(trial, (LEFT, ""))
        label = f"{role}, {trial}" if role else None
        for line in _draw_curve(axes, curves[trial], colour=colour, label=label):
            line.set_rasterized(label is None and len(curves) > MANY_TRIALS)
    at = [candidate.epoch for candidate in pick.candidates]
    values = [candidate.quality for candidate in pick.candidates]
    axes.plot(at, values, "o", color=TIED, markerfacecolor="white", label="candidate")
    axes.plot(
        pick.winner.epoch, pick.winner.quality, "*", color=WINNER, markersize=16, label="picked"
    )
    axes.set_xlabel("epoch")
    axes.set_ylabel(pick.objective)
    if min(values) > 1:  # a distance; shares end at 1
        axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure_svg(figure)


def _draw_curve(axes: Axes, curve: Curve, *, colour: str, label: str | None) -> list[Line2D]:
    epochs, values, grown = curve
    young = slice(grown + 1)  # up to the first that is not, so that the line is whole
    look: dict[str, Any] = {"color": colour, "linewidth": 1.8 if label else 0.8}
    return [
        *axes.plot(epochs[young], values[young], ":", **look),
        *axes.plot(epochs[grown:], values[grown:], label=label, **look),
    ]
