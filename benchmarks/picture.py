"""The picture of replayed searches: best value against epochs spent."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from acgan.records import QUALITY
from benchmarks.replay import Searcher
from benchmarks.standing import Band

# Okabe and Ito's colours, which colour-blind people tell apart.
COLOURS = {"tpe": "#d55e00", "random": "#0072b2"}
ORACLE = "#000000"


def draw(bands: Mapping[Searcher, Band], *, oracle: float) -> bytes:
    """Draw each search's median and 10–90 % band; return a PNG.

    oracle: the best value that can be found
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for searcher, found in bands.items():
        _draw(axes, searcher, found)
    axes.axhline(oracle, color=ORACLE, linestyle=":", label="best of all configurations")
    axes.set_yscale("log")
    axes.set_xlabel("epochs spent by all trials together")
    axes.set_ylabel(f"best {QUALITY} so far: median, 10–90 %")
    axes.legend(frameon=False)
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
        return file.getvalue()


def _draw(axes: Axes, searcher: Searcher, found: Band) -> None:
    colour = COLOURS[searcher.sampler]
    spent = np.arange(1, len(found.median) + 1)
    style = "-" if searcher.stopping else "--"
    axes.fill_between(spent, found.low, found.high, color=colour, alpha=0.12, linewidth=0)
    axes.plot(spent, found.median, style, color=colour, label=searcher.name)
