"""The picture of replayed searches: best value against epochs spent."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from acgan.run.records import QUALITY
from benchmarks.replay import RANDOM, Searcher
from benchmarks.standing import Band

# Okabe and Ito's colours, which colour-blind people tell apart.
COLOURS = {"tpe": "#d55e00", "random": "#0072b2"}
REFERENCE = "#000000"
CUT = 0.1  # of the compute: all values after it fit into the picture


def draw(bands: Mapping[Searcher, Band], *, oracle: float) -> bytes:
    """Draw each search's median and 10–90 % band, early stopping apart; return a PNG.

    oracle: the best value that can be found
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, stopping in zip(panels, (False, True), strict=True):
        axes.set_title("with early stopping" if stopping else "without early stopping", fontsize=10)
        for searcher, found in bands.items():
            if searcher.stopping is stopping:
                _draw(axes, searcher, found)
        if stopping:
            _line(axes, bands[RANDOM], "--", COLOURS["random"], RANDOM.name)
        axes.axhline(oracle, color=REFERENCE, linestyle=":", label="best of all configurations")
        axes.legend(frameon=False)
        axes.set_xlabel("epochs spent by all trials together")
    panels[0].set_ylabel(f"best {QUALITY} so far: median, 10–90 %")
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_formatter("{x:g}")
    panels[0].yaxis.set_minor_formatter("{x:g}")
    panels[0].set_ylim(*_limits(bands, oracle))
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
        return file.getvalue()


def _draw(axes: Axes, searcher: Searcher, found: Band) -> None:
    colour, spent = COLOURS[searcher.sampler], np.arange(1, len(found.median) + 1)
    axes.fill_between(spent, found.low, found.high, color=colour, alpha=0.15, linewidth=0)
    _line(axes, found, "-", colour, searcher.name)


def _line(axes: Axes, found: Band, style: str, colour: str, label: str) -> None:
    axes.plot(np.arange(1, len(found.median) + 1), found.median, style, color=colour, label=label)


def _limits(bands: Mapping[Searcher, Band], oracle: float) -> tuple[float, float]:
    """Return the range in which every value after the first epochs lies."""
    tops = [each.high[int(CUT * len(each.high)) :] for each in bands.values()]
    finite = (float(value) for row in tops for value in row if np.isfinite(value))
    top = max(finite, default=2 * oracle)  # with few epochs there may be no value at all
    return oracle * (oracle / top) ** 0.05, top
