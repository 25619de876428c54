"""Does a generator repeat its training images? The memorisation check of selection's step 3.

A generated image's ratio is its distance to the nearest training image of its class over the mean
distance to the next twenty: low where one single training image stands out. The ratios of held-out
patients' images against the same training images say what is usual. The check fails where clearly
more than a tenth of a class's generated images lie below the 5 % point of the held-out ones.

Each of two spaces is judged alone:

- pixels: the image reduced to 16 x 16 by area averaging, less its mean, scaled to length 1, so
  that neither contrast nor a small zoom hides a copy;
- features: each view (the features of one network) on its first 64 principal components over the
  training images, scaled to variance 1; an image's ratio is the mean over the views.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from acgan.config import derive_seed
from acgan.grids import png, tile
from selection.intervals import proportion
from selection.result import Estimate, Space

PIXELS, FEATURES = "pixels", "features"
NEIGHBOURS = 20
FEWEST_NEIGHBOURS = 5  # so a class needs six training images
FEWEST_PATIENTS = 10  # with fewer the interval covers the truth too rarely
QUANTILE = 0.05
LIMIT = 0.1
CONFIDENCE = 0.95
REPLICATES = 1000
SIDE = 16
COMPONENTS = 64
IMAGES_PER_COMPONENT = 4  # with one image a component all whitened images are equally far apart
SILENT = 1e-10  # directions below this share of the largest variance are rounding errors
BLOCK = 256  # images whose distances to all training images are in memory at a time
PAIRS = 12  # of each space
SHEET_COLUMNS = 4
SHEET_TILE = 112  # pixels a side, at least: what a person can see
CAPTION = 16
GAP = 8  # pixels between two pairs

Array = NDArray[np.float64]
Features = Tensor | NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Sample:
    """Images as they are, and as networks see them.

    images: uint8 [N, H, W], or [N, 3, H, W]
    labels: int64 [N]
    views: the features [N, D] that each network gives; with none, pixels alone are judged
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    views: Sequence[Features] = ()


@dataclass(frozen=True)
class Pair:
    """A generated image and the training image nearest to it, by their places in the samples."""

    space: str
    label: int
    generated: int
    train: int
    ratio: float


@dataclass(frozen=True)
class Memorisation:
    """The outcome of the check.

    reasons: why it did not pass, one a class and space; none where no class that was judged failed
    pairs: the closest of each space, the smallest ratio first
    """

    reasons: tuple[str, ...]
    spaces: tuple[Space, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Ratios:
    """The ratio [N] of each image, and its nearest training image [N]."""

    values: Array
    nearest: NDArray[np.int64]


@dataclass(frozen=True)
class Whitening:
    """The principal axes [D, C] of a view over the training images, and its mean there [D]."""

    mean: Tensor
    axes: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Map features [N, D] to components of variance 1, float32 [N, C]."""
        return ((features - self.mean) @ self.axes).float()


@dataclass(frozen=True)
class Cell:
    """One space and class, and what its generated images are compared with.

    rows: the class's places among the training images [n]; views: these images as points [n, C]
    ratios, patients: of the class's held-out images [M]
    """

    space: str
    label: int
    rows: NDArray[np.int64]
    views: tuple[Tensor, ...]
    ratios: Array
    patients: tuple[str, ...]

    @property
    def neighbours(self) -> int:
        """How many training images after the nearest a ratio divides by."""
        return max(min(NEIGHBOURS, len(self.rows) - 1), 0)


@dataclass(frozen=True)
class Reference:
    """What all generators of one data set are compared with."""

    classes: tuple[str, ...]
    whitenings: tuple[Whitening, ...]
    cells: tuple[Cell, ...]
    device: torch.device


def prepare(
    train: Sample,
    held_out: Sample,
    patients: Sequence[str],
    *,
    classes: tuple[str, ...],
    device: torch.device,
) -> Reference:
    """Place the training images in both spaces, and take the held-out images' ratios there.

    train: all images that the generator was trained on; patients: one a held-out image
    Raises `ValueError` for features that are not finite.
    """
    whitenings = tuple(_whitening(_finite(view, device)) for view in train.views)
    trained, held = (_points(sample, whitenings, device) for sample in (train, held_out))
    cells = []
    for space in trained:
        for label in range(len(classes)):
            rows = np.flatnonzero(train.labels == label)
            others = np.flatnonzero(held_out.labels == label)
            views = tuple(view[rows] for view in trained[space])
            found = ratios([view[others] for view in held[space]], views)
            names = tuple(patients[i] for i in others.tolist())
            cells.append(Cell(space, label, rows, views, found.values, names))
    return Reference(classes, whitenings, tuple(cells), device)


def check(
    generated: Sample, reference: Reference, *, limit: float = LIMIT, seed: int = 0
) -> Memorisation:
    """Compare generated images with the training images; fail where too many are near-copies.

    A class fails in a space where the interval of its share lies above `limit`. It is not judged
    with fewer than six training images or ten held-out patients. `generated` has as many views as
    the reference, in their order. Raises `ValueError` for features that are not finite.
    """
    points = _points(generated, reference.whitenings, reference.device)
    spaces, pairs = [], []
    for cell in reference.cells:
        rows = np.flatnonzero(generated.labels == cell.label)
        found = ratios([view[rows] for view in points[cell.space]], cell.views)
        spaces.append(_judge(cell, found.values, seed))
        pairs.extend(_closest(cell, rows, found))
    reasons = [
        _reason(found, found.share, reference.classes)
        for found in spaces
        if found.share is not None and found.share.low > limit
    ]
    shown = [pair for space in points for pair in _smallest(pairs, space)]
    return Memorisation(tuple(reasons), tuple(spaces), tuple(shown))


def near_copies(
    generated: Sample, reference: Reference, *, quantile: float = QUANTILE
) -> NDArray[np.bool_]:
    """Return which generated images lie nearer to a training image than is usual, [N].

    An image does in a space where its ratio is below the held-out images' `quantile` point of its
    class. Raises `ValueError` for a class whose images cannot be judged (see `not_judgeable`), and
    for features that are not finite.
    """
    points = _points(generated, reference.whitenings, reference.device)
    near = np.zeros(len(generated.labels), bool)
    for cell in reference.cells:
        rows = np.flatnonzero(generated.labels == cell.label)
        if not len(rows):
            continue
        if missing := _missing(cell, len(set(cell.patients)), len(rows)):
            raise ValueError(f"{reference.classes[cell.label]} cannot be judged ({missing})")
        found = ratios([view[rows] for view in points[cell.space]], cell.views)
        threshold = _low_points(cell.ratios, np.ones((1, len(cell.ratios)), int), quantile)[0]
        near[rows] |= found.values < threshold
    return near


def not_judgeable(reference: Reference) -> dict[str, str]:
    """Return the classes that have too few real images to be judged, and of what."""
    missing = {
        reference.classes[cell.label]: _missing(cell, len(set(cell.patients)), 1)
        for cell in reference.cells
    }
    return {name: reason for name, reason in missing.items() if reason}


def _reason(space: Space, share: Estimate, classes: Sequence[str]) -> str:
    return (
        f"{share.value:.0%} of {classes[space.label]} ({share.low:.0%} to {share.high:.0%}) "
        f"are near-copies in {space.space}"
    )


def _judge(cell: Cell, generated: Array, seed: int) -> Space:
    missing = _missing(cell, len(set(cell.patients)), len(generated))
    share = None
    if not missing:
        own_seed = derive_seed(seed, "memorisation", cell.space, cell.label)
        share = share_below(generated, cell.ratios, cell.patients, seed=own_seed)
    return Space(space=cell.space, label=cell.label, share=share, not_judged=missing)


def _missing(cell: Cell, patients: int, generated: int) -> str:
    if cell.neighbours < FEWEST_NEIGHBOURS:
        return f"training images: {len(cell.rows)}, needed: {FEWEST_NEIGHBOURS + 1}"
    if patients < FEWEST_PATIENTS:
        return f"held-out patients: {patients}, needed: {FEWEST_PATIENTS}"
    return "" if generated else "no generated image"


def share_below(
    generated: Array, held_out: Array, patients: Sequence[str], *, seed: int
) -> Estimate:
    """Return the share of generated ratios below the held-out 5 % point, with its interval.

    The share is a true-positive rate at a fixed false-positive rate. As in Zhou and Qin (2005,
    Statistics in Medicine 24, 465-477) its interval lies around a shrunken share, here Wilson's
    centre, and adds to the variance of the generated sample that of the threshold, by a bootstrap,
    here of patients with all their images. That part has a t quantile with as many degrees of
    freedom as equally large patients would give (Kish), less one.
    """
    random = np.random.default_rng(seed)
    patient = np.unique(patients, return_inverse=True)[1]
    sizes = np.bincount(patient)
    count, effective = len(sizes), sizes.sum() ** 2 / np.square(sizes).sum()
    drawn = random.multinomial(count, np.full(count, 1 / count), REPLICATES)
    thresholds = _low_points(held_out, np.vstack([np.ones(len(patient), int), drawn[:, patient]]))
    below = np.searchsorted(np.sort(generated), thresholds)  # [1 + replicates]
    variance = (below[1:] / len(generated)).var(ddof=1) * count / max(count - 1, 1)
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, max(effective - 1, 1)))
    wilson = proportion(int(below[0]), len(generated))
    centre = (wilson.low + wilson.high) / 2
    half = math.hypot((wilson.high - wilson.low) / 2, t * math.sqrt(variance))
    return Estimate(
        value=wilson.value,
        low=max(centre - half, 0.0),
        high=min(centre + half, 1.0),
    )


def _low_points(values: Array, weights: NDArray[np.int64], quantile: float = QUANTILE) -> Array:
    """Return the smallest of the values [M] that reaches 5 % of each row of weights [R, M]."""
    order = values.argsort()
    reached = weights[:, order].cumsum(axis=1)
    wanted = np.ceil(quantile * reached[:, -1:] - 1e-9)  # 0.05 · 140 is a little above 7
    points: Array = values[order][(reached >= wanted).argmax(axis=1)]
    return points


def ratios(views: Sequence[Tensor], train: Sequence[Tensor]) -> Ratios:
    """Return each image's distance to the nearest training image over the mean to the next 20.

    views: the images as points [N, C], one tensor a view; train: training images [n, C]. The
    ratio is the mean over the views, the nearest that of the view with the smallest ratio. Fewer
    than two training images, and images with no distance even to the neighbours, have 1: no
    training image stands out.
    """
    if len(train[0]) < 2:
        count = len(views[0])
        return Ratios(np.ones(count), np.zeros(count, np.int64))
    found = [_ratios_in(*pair) for pair in zip(views, train, strict=True)]
    values, nearest = (np.stack(parts) for parts in zip(*found, strict=True))  # [views, N]
    first = values.argmin(axis=0)[None]
    return Ratios(values.mean(axis=0), np.take_along_axis(nearest, first, axis=0)[0])


def _ratios_in(points: Tensor, train: Tensor) -> tuple[Array, NDArray[np.int64]]:
    values, nearest = [], []
    for block in points.split(BLOCK):
        distances, places = _nearest(block, train)
        first, rest = distances[:, 0], distances[:, 1:].mean(dim=1)
        values.append(torch.where(rest > 0, first / rest, 1.0))
        nearest.append(places[:, 0])
    return torch.cat(values).double().cpu().numpy(), torch.cat(nearest).cpu().numpy()


def _nearest(points: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances to the nearest training images and their places, [N, up to 21] each."""
    count = min(NEIGHBOURS + 1, len(train))
    places = torch.cdist(points, train).topk(count, largest=False).indices
    # cdist multiplies matrices, which leaves rounding errors where a distance is zero
    exact = (points[:, None] - train[places]).norm(dim=2)
    distances, order = exact.sort(dim=1)
    return distances, places.gather(1, order)


def _points(
    sample: Sample, whitenings: Sequence[Whitening], device: torch.device
) -> dict[str, tuple[Tensor, ...]]:
    """Return a sample as points [N, C], one tensor a view, of each space."""
    spaces: dict[str, tuple[Tensor, ...]] = {
        PIXELS: (torch.cat(list(_reduced(sample.images, device))),)
    }
    if whitenings:
        views = zip(whitenings, sample.views, strict=True)
        spaces[FEATURES] = tuple(whiten(_finite(view, device)) for whiten, view in views)
    return spaces


def _reduced(images: NDArray[np.uint8], device: torch.device) -> Iterator[Tensor]:
    """Yield blocks of images as points [B, 256]: reduced, less their mean, of length 1.

    An image of one grey stays zero, equally far from all others.
    """
    for start in range(0, max(len(images), 1), BLOCK):
        block = torch.tensor(images[start : start + BLOCK]).to(device).float()
        grey = block.mean(dim=1) if block.ndim == 4 else block
        small = F.adaptive_avg_pool2d(grey, SIDE).flatten(1)
        yield F.normalize(small - small.mean(dim=1, keepdim=True))


def _whitening(features: Tensor) -> Whitening:
    """Return the first principal axes of training features [N, D], scaled to variance 1."""
    mean = features.mean(dim=0)
    centred = features - mean
    variances, vectors = torch.linalg.eigh(centred.T @ centred / max(len(features), 1))
    most = max(min(COMPONENTS, len(features) // IMAGES_PER_COMPONENT), 1)
    variances, vectors = variances[-most:], vectors[:, -most:]
    kept = variances > SILENT * variances[-1]
    return Whitening(mean, vectors[:, kept] / variances[kept].sqrt())


def _finite(view: Features, device: torch.device) -> Tensor:
    features = torch.as_tensor(view).to(device).double()
    if not features.isfinite().all():
        raise ValueError("the memorisation check needs features that are finite numbers")
    return features


def _closest(cell: Cell, rows: NDArray[np.int64], found: Ratios) -> list[Pair]:
    if cell.neighbours < FEWEST_NEIGHBOURS:
        return []
    return [
        Pair(
            cell.space,
            cell.label,
            int(rows[i]),
            int(cell.rows[found.nearest[i]]),
            float(found.values[i]),
        )
        for i in found.values.argsort(kind="stable")[:PAIRS]
    ]


def _smallest(pairs: Sequence[Pair], space: str) -> list[Pair]:
    return sorted((p for p in pairs if p.space == space), key=lambda p: p.ratio)[:PAIRS]


def contact_sheet(
    pairs: Sequence[Pair],
    generated: NDArray[np.uint8],
    train: NDArray[np.uint8],
    *,
    classes: Sequence[str],
) -> bytes:
    """Return a PNG of one pair or more, four a row: generated, its nearest training image, ratio.

    generated, train: the images of the samples that were compared
    """
    cells = [_drawn(pair, generated[pair.generated], train[pair.train], classes) for pair in pairs]
    return png(tile(np.stack(cells), SHEET_COLUMNS))


def _drawn(
    pair: Pair, generated: NDArray[np.uint8], train: NDArray[np.uint8], classes: Sequence[str]
) -> NDArray[np.uint8]:
    """Return two images side by side above a caption, [3, H, W]."""
    square = math.ceil(SHEET_TILE / generated.shape[-1])
    shape = (3, *generated.shape[-2:])
    both = np.concatenate([np.broadcast_to(x, shape) for x in (generated, train)], axis=2)
    both = both.repeat(square, axis=1).repeat(square, axis=2)
    _, height, width = both.shape
    canvas = Image.new("RGB", (width + GAP, height + CAPTION))
    canvas.paste(Image.fromarray(both.transpose(1, 2, 0)))
    text = f"{classes[pair.label]}, {pair.space}: {pair.ratio:.2f}"
    ImageDraw.Draw(canvas).text((2, height), text, font=ImageFont.load_default(12))
    return np.asarray(canvas).transpose(2, 0, 1)
