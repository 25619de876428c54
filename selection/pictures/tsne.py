"""A t-SNE picture of real and generated images in three panels: real, generated, both."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from acgan.config import derive_seed

MOST_IMAGES = 1000  # of each side
COMPONENTS = 50
PERPLEXITY = 30.0
SIZE_INCHES, DPI = (12.0, 4.6), 100
MARGIN = 0.05  # of the points' extent
COLOURS = (
    # Told apart by colour-blind readers: Okabe and Ito (2008), the pale yellow left out.
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000"),
    # Of further classes, by which the first ones stay as they are.
    *("#9467bd", "#8c564b", "#bcbd22", "#7f7f7f", "#17becf", "#98df8a", "#ff9896"),
)
MARKERS = {"real": "o", "generated": "^"}

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Points:
    """Images as points: features [N, D] or places [N, 2], and labels [N]."""

    values: NDArray[np.floating[Any]]
    labels: Labels


@dataclass(frozen=True)
class Embedding:
    """The places of the images that are shown, and the picture, a PNG 1,200 pixels wide."""

    real: Points
    generated: Points
    picture: bytes


def tsne_picture(
    real: Points, generated: Points, *, classes: Sequence[str], seed: int = 0
) -> Embedding:
    """Lay features out in two dimensions by one t-SNE of both sides, and draw it.

    t-SNE (van der Maaten and Hinton 2008) of at most 1,000 images per side, drawn evenly over the
    classes, on their first 50 principal components. The same input gives the same bytes.
    """
    sides = {}
    for name, points in {"real": real, "generated": generated}.items():
        rows = balanced(points.labels, seed=derive_seed(seed, "t-SNE", name))
        sides[name] = Points(points.values[rows], points.labels[rows])
    count = len(sides["real"].labels)
    places = _tsne(np.concatenate([side.values for side in sides.values()]), seed)
    shown = {
        "real": Points(places[:count], sides["real"].labels),
        "generated": Points(places[count:], sides["generated"].labels),
    }
    return Embedding(shown["real"], shown["generated"], _draw(shown, classes))


def balanced(labels: Labels, *, most: int = MOST_IMAGES, seed: int = 0) -> NDArray[np.int64]:
    """Return the places of at most `most` images, drawn evenly over the classes, in order."""
    random = np.random.default_rng(seed)
    present = np.unique(labels)
    each = most // max(len(present), 1)
    chosen = [random.permutation(np.flatnonzero(labels == c))[:each] for c in present]
    return np.sort(np.concatenate([*chosen, np.array([], np.int64)]))


def _tsne(features: NDArray[np.floating[Any]], seed: int) -> Array:
    """Return places [N, 2]; all the same where the features are."""
    values = features.astype(np.float64)
    count, width = values.shape
    if count < 2 or not np.ptp(values, axis=0).any():
        return np.zeros((count, 2))
    state = derive_seed(seed, "t-SNE") % 2**32  # as much as scikit-learn takes
    with threadpool_limits(1):  # on a busy machine several threads wait for each other
        if width > COMPONENTS and count > COMPONENTS:
            pca = PCA(COMPONENTS, svd_solver="randomized", random_state=state)
            values = pca.fit_transform(values)
        perplexity = min(PERPLEXITY, max((count - 1) / 3, 1.0))
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=state)
        places: Array = tsne.fit_transform(values).astype(np.float64)
    return places


def _draw(sides: Mapping[str, Points], classes: Sequence[str]) -> bytes:
    figure = Figure(SIZE_INCHES, DPI, layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, (name, points) in zip(panels[:2], sides.items(), strict=True):
        _scatter(axes, points, MARKERS[name])
        axes.set_title(f"{name} (n = {len(points.labels):,})")
    for name, points in sides.items():
        _scatter(panels[2], points, MARKERS[name])
    panels[2].set_title(f"both (n = {sum(len(points.labels) for points in sides.values()):,})")
    _frame(panels[0], np.concatenate([points.values for points in sides.values()]))
    figure.legend(handles=_legend(classes), loc="outside lower center", ncols=8, frameon=False)
    with io.BytesIO() as file:
        figure.savefig(file, format="png", metadata={"Software": None})
        return file.getvalue()


def _scatter(axes: Axes, points: Points, marker: str) -> None:
    colours = [_colour(label) for label in points.labels.tolist()]
    x, y = points.values.T
    axes.scatter(x, y, s=14, c=colours, marker=marker, alpha=0.65, linewidths=0)


def _colour(label: int) -> str:
    return COLOURS[label % len(COLOURS)]


def _frame(axes: Axes, places: NDArray[np.floating[Any]]) -> None:
    """Give all panels, which share their axes, the same square around the points, unlabelled."""
    low, high = places.min(axis=0), places.max(axis=0)
    middle, half = (low + high) / 2, max(float((high - low).max()) * (0.5 + MARGIN), 1.0)
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_xticks([])
    axes.set_yticks([])


def _legend(classes: Sequence[str]) -> list[Line2D]:
    of_classes = [(name, _colour(label), "s") for label, name in enumerate(classes)]
    of_sides = [(name, "0.4", marker) for name, marker in MARKERS.items()]
    return [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=name)
        for name, colour, marker in (*of_classes, *of_sides)
    ]
