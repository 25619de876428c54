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

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from acgan.config import derive_seed
from acgan.files import Stored
from selection.metrics.estimate import Estimate
from selection.metrics.intervals import proportion

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
IMAGES_PER_COMPONENT = 4  # with one image per component all whitened images are equally far apart
SILENT = 1e-10  # directions below this share of the largest variance are rounding errors
BLOCK = 256  # images whose distances to all training images are in memory at a time
PAIRS = 12  # of each space

Array = NDArray[np.float64]
Features = Tensor | NDArray[np.floating[Any]]


class CopyCheck(Stored):
    """The memorisation check of one class in one space, "pixels" or "features".

    share: of the generated images that lie nearer to a training image than the held-out patients'
        5 % point, with its interval; None where there are too few real images to judge
    """

    label: int
    space: str
    share: Estimate | None
    not_judged: str = ""


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

    reasons: why it did not pass, one per class and space; none where no class that was judged
        failed
    pairs: the closest of each space, the smallest ratio first
    """

    reasons: tuple[str, ...]
    spaces: tuple[CopyCheck, ...]
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
class Group:
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

    def missing(self, generated: int) -> str:
        """Return what is missing to judge so many generated images, "" if nothing is."""
        if self.neighbours < FEWEST_NEIGHBOURS:
            return f"training images: {len(self.rows)}, needed: {FEWEST_NEIGHBOURS + 1}"
        if (patients := len(set(self.patients))) < FEWEST_PATIENTS:
            return f"held-out patients: {patients}, needed: {FEWEST_PATIENTS}"
        return "" if generated else "no generated image"


@dataclass(frozen=True)
class CopyReference:
    """What all generators of one data set are compared with."""

    classes: tuple[str, ...]
    whitenings: tuple[Whitening, ...]
    groups: tuple[Group, ...]
    device: torch.device


def prepare(
    train: Sample,
    held_out: Sample,
    patients: Sequence[str],
    *,
    classes: tuple[str, ...],
    device: torch.device,
) -> CopyReference:
    """Place the training images in both spaces, and take the held-out images' ratios there.

    train: all images that the generator was trained on; patients: one a held-out image
    Raises `ValueError` for features that are not finite.
    """
    whitenings = tuple(_whitening(_finite(view, device)) for view in train.views)
    trained, held = (_points(sample, whitenings, device) for sample in (train, held_out))
    groups = []
    for space in trained:
        for label in range(len(classes)):
            rows = np.flatnonzero(train.labels == label)
            others = np.flatnonzero(held_out.labels == label)
            views = tuple(view[rows] for view in trained[space])
            found = ratios([view[others] for view in held[space]], views)
            names = tuple(patients[i] for i in others.tolist())
            groups.append(Group(space, label, rows, views, found.values, names))
    return CopyReference(classes, whitenings, tuple(groups), device)


def check_copies(
    generated: Sample, reference: CopyReference, *, limit: float = LIMIT, seed: int = 0
) -> Memorisation:
    """Compare generated images with the training images; fail where too many are near-copies.

    A class fails in a space where the interval of its share lies above `limit`. It is not judged
    with fewer than six training images or ten held-out patients. `generated` has as many views as
    the reference, in their order. Raises `ValueError` for features that are not finite.
    """
    points = _points(generated, reference.whitenings, reference.device)
    spaces, pairs = [], []
    for group in reference.groups:
        rows = np.flatnonzero(generated.labels == group.label)
        found = ratios([view[rows] for view in points[group.space]], group.views)
        spaces.append(_judge(group, found.values, seed))
        pairs.extend(_closest(group, rows, found))
    reasons = [
        f"{share.value:.0%} of {reference.classes[found.label]} ({share.low:.0%} to "
        f"{share.high:.0%}) are near-copies in {found.space}"
        for found in spaces
        if (share := found.share) is not None and share.low > limit
    ]
    pairs.sort(key=lambda pair: pair.ratio)
    shown = [p for space in points for p in [p for p in pairs if p.space == space][:PAIRS]]
    return Memorisation(tuple(reasons), tuple(spaces), tuple(shown))


def near_copies(
    generated: Sample, reference: CopyReference, *, quantile: float = QUANTILE
) -> NDArray[np.bool_]:
    """Return which generated images lie nearer to a training image than is usual, [N].

    An image does in a space where its ratio is below the held-out images' `quantile` point of its
    class. Raises `ValueError` for a class whose images cannot be judged (see `not_judgeable`), and
    for features that are not finite.
    """
    points = _points(generated, reference.whitenings, reference.device)
    near = np.zeros(len(generated.labels), bool)
    for group in reference.groups:
        rows = np.flatnonzero(generated.labels == group.label)
        if not len(rows):
            continue
        if missing := group.missing(len(rows)):
            raise ValueError(f"{reference.classes[group.label]} cannot be judged ({missing})")
        found = ratios([view[rows] for view in points[group.space]], group.views)
        threshold = _low_points(group.ratios, np.ones((1, len(group.ratios)), int), quantile)[0]
        near[rows] |= found.values < threshold
    return near


def not_judgeable(reference: CopyReference) -> dict[str, str]:
    """Return the classes that have too few real images to be judged, and of what."""
    missing = {reference.classes[group.label]: group.missing(1) for group in reference.groups}
    return {name: reason for name, reason in missing.items() if reason}


def _judge(group: Group, generated: Array, seed: int) -> CopyCheck:
    missing = group.missing(len(generated))
    share = None
    if not missing:
        own_seed = derive_seed(seed, "memorisation", group.space, group.label)
        share = share_below(generated, group.ratios, group.patients, seed=own_seed)
    return CopyCheck(space=group.space, label=group.label, share=share, not_judged=missing)


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
    return Estimate(value=wilson.value, low=max(centre - half, 0.0), high=min(centre + half, 1.0))


def _low_points(values: Array, weights: NDArray[np.int64], quantile: float = QUANTILE) -> Array:
    """Return the smallest of the values [M] that reaches 5 % of each row of weights [R, M]."""
    order = values.argsort()
    reached = weights[:, order].cumsum(axis=1)
    wanted = np.ceil(quantile * reached[:, -1:] - 1e-9)  # 0.05 · 140 is a little above 7
    points: Array = values[order][(reached >= wanted).argmax(axis=1)]
    return points


def ratios(views: Sequence[Tensor], train: Sequence[Tensor]) -> Ratios:
    """Return each image's distance to the nearest training image over the mean to the next 20.

    views: the images as points [N, C], one tensor per view; train: training images [n, C]. The
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
    count = min(NEIGHBOURS + 1, len(train))
    for block in points.split(BLOCK):
        places = torch.cdist(block, train).topk(count, largest=False).indices  # [B, up to 21]
        # cdist multiplies matrices, which leaves rounding errors where a distance is zero
        distances, order = (block[:, None] - train[places]).norm(dim=2).sort(dim=1)
        first, rest = distances[:, 0], distances[:, 1:].mean(dim=1)
        values.append(torch.where(rest > 0, first / rest, 1.0))
        nearest.append(places.gather(1, order)[:, 0])
    return torch.cat(values).double().cpu().numpy(), torch.cat(nearest).cpu().numpy()


def _points(
    sample: Sample, whitenings: Sequence[Whitening], device: torch.device
) -> dict[str, tuple[Tensor, ...]]:
    """Return a sample as points [N, C], one tensor per view, of each space."""
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


def _closest(group: Group, rows: NDArray[np.int64], found: Ratios) -> list[Pair]:
    if group.neighbours < FEWEST_NEIGHBOURS:
        return []
    return [
        Pair(
            space=group.space,
            label=group.label,
            generated=int(rows[i]),
            train=int(group.rows[found.nearest[i]]),
            ratio=float(found.values[i]),
        )
        for i in found.values.argsort(kind="stable")[:PAIRS]
    ]
