"""Pictures of a search, drawn from its directories: history, importances, slices, parallel axes.

Drawn with figures of their own, not by `optuna.visualization.matplotlib`: that keeps figures and a
style in pyplot, which is global, while these are drawn in a thread of the driver; it shows neither
pruned trials nor the baseline, and cuts off the labels of a space of ten fields.
"""

import contextlib
import functools
import io
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from optuna.exceptions import ExperimentalWarning
from optuna.trial import create_trial

from acgan.config import TrainConfig, validate
from search.settings import SearchConfig, Value
from search.study import space, table
from search.study.folder import Study
from search.study.optuna_ledger import distributions
from search.study.space import Dimension, Range, Space

SAME = 1e-6  # of the values: in less a forest finds no variance to share out
FEWEST_FOR_IMPORTANCES = 8  # finished trials; the shares of fewer are noise
MOST_FOR_IMPORTANCES = 200  # a thousand take a minute
MOST_LINES = 300  # across parallel axes
PANELS_A_ROW = 3
DPI = 110
MARGIN = 0.05  # of an axis
# Okabe and Ito's colours, which colour-blind people tell apart; the same roles as in a pick's
# report.
BEST, BASELINE, FINISHED, ENDED_EARLY = "#d55e00", "#0072b2", "#000000", "#8a8a8a"


@dataclass(frozen=True)
class Point:
    """One trial of the search that has ended: what it was, and what it is judged by."""

    number: int
    params: dict[str, Value]
    value: float
    finished: bool


@dataclass(frozen=True)
class SearchPoints:
    """All trials of a search that have ended with a finite value, by number."""

    points: tuple[Point, ...]
    space: Space
    objective: str
    minimize: bool

    @functools.cached_property
    def finished(self) -> list[Point]:
        """Those that ran to their last epoch."""
        return [point for point in self.points if point.finished]

    @functools.cached_property
    def best(self) -> Point | None:
        """The best one that finished."""
        sign = 1 if self.minimize else -1
        return min(self.finished, key=lambda point: sign * point.value, default=None)

    @functools.cached_property
    def logarithmic(self) -> bool:
        """Whether values are shown by their logarithm: where they span more than ten-fold."""
        values = [point.value for point in self.points]
        return min(values) > 0 and max(values) > 10 * min(values)


def read_points(study: Study, names: Iterable[str]) -> SearchPoints:
    """Read what the pictures show of these trials of a study.

    Trials that have not ended, that crashed or whose value is not finite are left out, and so are
    those with a damaged file or a point outside of the space.
    """
    config = SearchConfig.model_validate(study.info.search)
    searched = space.read(study.info.space, validate(TrainConfig, "train", study.info.train))
    points = []
    for name in names:
        with contextlib.suppress(ValueError):
            line = table.line_of(study.trial(name), config)
            ended = line.outcome is not None and line.outcome.counts
            if ended and math.isfinite(line.value) and _inside(line.trial.info.params, searched):
                own = line.trial.info
                points.append(Point(own.number, own.params, line.value, finished=line.finished))
    return SearchPoints(
        tuple(sorted(points, key=lambda point: point.number)),
        searched,
        config.objective,
        minimize=config.direction == "minimize",
    )


def _inside(params: Mapping[str, Value], searched: Space) -> bool:
    return all(name in params and params[name] in d for name, d in searched.items())


def draw_search(found: SearchPoints) -> dict[str, bytes]:
    """Return the pictures that so many trials allow, as PNGs by file name."""
    if not found.points:
        return {}
    pictures = {"history.png": history(found)}
    if found.space:
        pictures["slices.png"] = slices(found)
        pictures["parallel.png"] = parallel(found)
    shares = importances(found)
    if shares:
        pictures["importances.png"] = importances_picture(shares, found)
    return pictures


def history(found: SearchPoints) -> bytes:
    """Draw the trials' values by number, and the best so far of those that finished."""
    figure = Figure(figsize=(8, 4.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    keep = min if found.minimize else max
    numbers = [point.number for point in found.finished]
    values = [point.value for point in found.finished]
    best = list(itertools.accumulate(values, keep))
    axes.step(numbers, best, where="post", color=BEST, linewidth=1.2, label="best so far")
    _scatter(axes, found, [point.number for point in found.points])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    _value_axis(axes, found)
    figure.legend(loc="outside upper center", ncols=5, frameon=False)
    return _png(figure)


def slices(found: SearchPoints) -> bytes:
    """Draw the trials' values over each searched field."""
    count = len(found.space)
    columns = min(count, PANELS_A_ROW)
    rows = -(-count // columns)
    size = (max(3.2 * columns, 5.5), 2.8 * rows + 0.6)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for place, (name, dimension) in enumerate(found.space.items()):
        axes = panels[place]
        _scatter(axes, found, [_position(point.params[name], dimension) for point in found.points])
        _dimension_axis(axes, dimension)
        axes.set_xlabel(name)
        if place % columns == 0:
            _value_axis(axes, found)
    for axes in panels[count:]:
        axes.set_axis_off()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return _png(figure)


def parallel(found: SearchPoints) -> bytes:
    """Draw each trial as a line across parallel axes, one a field and the last its value."""
    names = [*found.space, found.objective]
    figure = Figure(figsize=(max(1.5 * len(names), 6), 4.8), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    values = np.array([_on_scale(point.value, found) for point in found.points])
    low, high = values.min(), values.max()
    heights = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    good = 1 - heights if found.minimize else heights
    best = found.best
    shown = np.argsort(good, kind="stable")[-MOST_LINES:].tolist()
    for place in sorted(shown, key=lambda place: found.points[place] is best):  # the best on top
        point = found.points[place]
        own = [_height(point.params[name], d) for name, d in found.space.items()]
        colour, width = (BEST, 2.2) if point is best else (str(0.85 - 0.75 * good[place]), 1.0)
        style = "-" if point.finished else ":"
        axes.plot([*own, heights[place]], color=colour, linewidth=width, linestyle=style)
    for place, name in enumerate(names):
        axes.axvline(place, color=ENDED_EARLY, linewidth=0.8, zorder=0)
        ends = (
            _ends(found.space[name])
            if name in found.space
            else [_short(keep(p.value for p in found.points)) for keep in (min, max)]
        )
        for height, text, side in ((-0.03, ends[0], "top"), (1.03, ends[1], "bottom")):
            axes.text(place, height, text, ha="center", va=side, fontsize=8)
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.set_ylim(-0.12, 1.12)
    axes.set_yticks([])
    axes.set_xticks(range(len(names)), names, rotation=25, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    which = f"the best {len(shown)} of {len(values)} trials; " if len(shown) < len(values) else ""
    axes.set_title(f"{which}orange: best; dark: good; dotted: ended early", fontsize=10)
    return _png(figure)


def importances(found: SearchPoints) -> dict[str, float]:
    """Return each field's share of the variance between finished trials, the largest first.

    By functional ANOVA of a random forest (Hutter, Hoos and Leyton-Brown 2014), of at most 200
    trials, evenly spaced. Empty where too few trials finished, or all with (nearly) the same value.
    """
    points = _for_importances(found)
    values = [_on_scale(point.value, found) for point in points]
    if len(points) < FEWEST_FOR_IMPORTANCES or not found.space:
        return {}
    if np.ptp(values) <= SAME * max(1.0, *map(abs, values)):
        return {}
    from optuna.importance import (  # noqa: PLC0415 (scikit-learn, which no small search needs)
        FanovaImportanceEvaluator,
        get_param_importances,
    )

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spread = distributions(found.space)
    study = optuna.create_study(direction="minimize" if found.minimize else "maximize")
    study.add_trials(
        create_trial(
            params={name: point.params[name] for name in found.space},
            distributions=spread,
            value=value,
        )
        for point, value in zip(points, values, strict=True)
    )
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _for_importances(found: SearchPoints) -> list[Point]:
    points = found.finished
    return points[:: -(-len(points) // MOST_FOR_IMPORTANCES) or 1]


def importances_picture(shares: dict[str, float], found: SearchPoints) -> bytes:
    """Draw each field's share as a bar, the largest on top."""
    figure = Figure(figsize=(7, 1.3 + 0.36 * len(shares)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    names = list(shares)[::-1]
    bars = axes.barh(names, [shares[name] for name in names], color=BASELINE)
    axes.bar_label(bars, fmt="{:.2f}", padding=3)
    axes.set_xlim(0, 1.1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(
        f"share of the variance of {found.objective}, {len(_for_importances(found))} trials"
    )
    return _png(figure)


def _scatter(axes: Axes, found: SearchPoints, places: Sequence[float]) -> None:
    """Mark each trial: whether it finished, which is the baseline and which the best."""
    looks = {
        "ended early": ("o", ENDED_EARLY, "none", 4.5),
        "finished": ("o", FINISHED, FINISHED, 4.5),
        "baseline": ("s", BASELINE, BASELINE, 6),
        "best": ("*", BEST, BEST, 12),
    }
    roles = [_role(point, found) for point in found.points]
    for role, (marker, edge, face, size) in looks.items():
        own = [place for place, name in enumerate(roles) if name == role]
        x = [places[place] for place in own]
        y = [found.points[place].value for place in own]
        axes.plot(
            x, y, marker, color=edge, markerfacecolor=face, markersize=size, label=role, zorder=3
        )


def _role(point: Point, found: SearchPoints) -> str:
    if point is found.best:
        return "best"
    if point.number == 0:
        return "baseline"
    return "finished" if point.finished else "ended early"


def _value_axis(axes: Axes, found: SearchPoints) -> None:
    axes.set_ylabel(found.objective)
    if found.logarithmic:
        axes.set_yscale("log")


def _on_scale(value: float, found: SearchPoints) -> float:
    return math.log(value) if found.logarithmic else value


def _dimension_axis(axes: Axes, dimension: Dimension) -> None:
    if not isinstance(dimension, Range):
        labels = [_short(choice) for choice in dimension.choices]
        axes.set_xticks(range(len(labels)), labels, rotation=20 if len(labels) > 3 else 0)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        return
    low, high = dimension.low, dimension.high
    if dimension.log:
        margin = (high / low) ** MARGIN
        axes.set_xscale("log")
        axes.set_xlim(low / margin, high * margin)
        # Of a wide range powers of ten alone, so that the labels do not meet.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = (high - low) * MARGIN
        axes.set_xlim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(4))


def _position(value: Value, dimension: Dimension) -> float:
    """Return where a value stands on its axis: itself, or its place among the choices."""
    if isinstance(dimension, Range):
        return float(value)
    return float(dimension.choices.index(value))


def _height(value: Value, dimension: Dimension) -> float:
    """Return where a value stands on its axis of height 1."""
    place = _position(value, dimension)
    if not isinstance(dimension, Range):
        return place / (len(dimension.choices) - 1)
    low, high = dimension.low, dimension.high
    if dimension.log:
        return math.log(place / low) / math.log(high / low)
    return (place - low) / (high - low)


def _ends(dimension: Dimension) -> list[str]:
    if isinstance(dimension, Range):
        return [_short(dimension.low), _short(dimension.high)]
    return [_short(dimension.choices[0]), _short(dimension.choices[-1])]


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _png(figure: Figure) -> bytes:
    with io.BytesIO() as file:
        figure.savefig(file, format="png", metadata={"Software": None})
        return file.getvalue()
