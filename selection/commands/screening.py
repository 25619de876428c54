"""Generated images that are left out, and what that costs in diversity.

Two filters, each optional. Agreement: a CNN trained on the real training images must take an image
for the class it was asked for. Nearest neighbour: an image must not lie nearer to a training image
than held-out patients' images usually do, as in `selection.metrics.memorisation`. Images are drawn
in the order in which a generator makes them until there are enough, so what is kept depends on
weights, seed, images and thresholds alone; it is stored in `filters.json` and not decided twice.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from acgan.config import TrainConfig, derive_seed
from acgan.data.balance import Lack
from acgan.data.dataset import Dataset, ImageSet
from acgan.errors import InputError
from acgan.evaluation.classifier import predict
from acgan.evaluation.neighbours import SMALLEST_SET
from acgan.evaluation.scorer import Scorer, cached_scorer
from acgan.files import Stored, file_sha256
from acgan.generation.folder import SCREENED
from acgan.generation.generator import BLOCK, LoadedGenerator, generate
from selection.extractors.base import Extractor
from selection.extractors.cache import cached_views
from selection.extractors.cnn3 import Cnn3
from selection.metrics import memorisation
from selection.metrics.features import FeatureSet, mean_distance
from selection.metrics.memorisation import Sample
from selection.metrics.neighbourhood import neighbourhood_scores

SCREENING_FORMAT = 1
DIVERSITY_IMAGES = 2048  # of a class, at most: distances of all pairs

Pixels = NDArray[np.uint8]


class Thresholds(Stored):
    """What an image must pass; None: not asked.

    agreement: the least probability that the CNN gives to the class asked for, which must also be
        the class it finds most probable. Probabilities are as if all classes were equally
        frequent: the CNN has seen few of just the classes that are filled up
    nearest: the share of held-out patients' images that are allowed to lie nearer to a training
        image
    """

    agreement: float | None = None
    nearest: float | None = None

    def __str__(self) -> str:
        asked = self.model_dump(exclude_none=True)
        return ", ".join(f"{name} {value:g}" for name, value in asked.items())


class Diversity(Stored):
    """How varied images of a class are, in features of CNNs: not the agreement's, but nearness's.

    images: how many were compared; distance: mean over all pairs; recall, coverage: share of the
    real validation images with generated ones around; None where there are too few images
    """

    images: int
    distance: float | None
    recall: float | None = None
    coverage: float | None = None


class ClassReport(Stored):
    """What filtering one class cost.

    drawn: images that were made until enough were kept; an image can fail both filters
    before: as many images as were kept, unfiltered; after: those kept; real: validation images
    numbers: the kept ones
    """

    wanted: int
    drawn: int
    kept: int
    rejected_share: float
    failed_agreement: int | None
    failed_nearest: int | None
    before: Diversity
    after: Diversity
    real: Diversity
    numbers: list[int]


class ScreeningReport(Stored):
    """`filters.json`: which images were left out, and what that costs.

    cnn_balanced_accuracy: of the agreement's CNN on the validation images, which it has not seen:
        how far its word goes
    """

    format: int
    thresholds: Thresholds
    weights_sha256: str
    seed: int
    data_fingerprint: str
    cnn_sha256: str | None
    cnn_balanced_accuracy: float | None
    features: str
    classes: dict[str, ClassReport]


@dataclass(frozen=True)
class Request:
    """What is to be kept: images of a generator, and what is known of the data they are for."""

    loaded: LoadedGenerator
    lack: Lack
    seed: int
    thresholds: Thresholds
    max_draws: int


class Agreement:
    """A CNN of the real training images, which says what an image shows."""

    def __init__(self, data: Dataset, device: torch.device) -> None:
        size, seed = data.train.images.shape[-1], derive_seed("agreement filter")
        config = TrainConfig(image_size=size, evaluation_seed=seed)
        path = cached_scorer(data, config, device)
        classes = len(data.classes)
        self._scorer = Scorer.load(path, classes=classes, image_size=size, device=device)
        self.sha256 = file_sha256(path)
        self._frequency = torch.tensor(data.train.per_class(classes), device=device)

    def probabilities(self, images: Pixels) -> Tensor:
        """Return the probabilities of the classes, [N, classes], as if equally frequent.

        Saerens, Latinne and Decaestecker 2002, Neural Computation 14, 21-41, with known priors.
        """
        weighted = predict(self._scorer.classifier, images) / self._frequency
        return weighted / weighted.sum(dim=1, keepdim=True)

    def agrees(self, images: Pixels, label: int, *, least: float) -> NDArray[np.bool_]:
        """Return which images it takes for this class, at least so sure, [N]."""
        found = self.probabilities(images)
        agreed: NDArray[np.bool_] = (
            ((found.argmax(dim=1) == label) & (found[:, label] >= least)).cpu().numpy()
        )
        return agreed

    def balanced_accuracy(self, images: ImageSet) -> float:
        """Return the mean over the classes of the share that it knows."""
        right = self.probabilities(images.images).argmax(dim=1).cpu().numpy() == images.labels
        return float(np.mean([right[images.labels == c].mean() for c in np.unique(images.labels)]))


class Neighbours:
    """The real images that generated ones must not lie too near to."""

    def __init__(self, data: Dataset, extractor: Extractor, device: torch.device) -> None:
        self._extractor = extractor
        train, held_out = (
            self._sample(real.images, real.labels, cached=True) for real in (data.train, data.val)
        )
        self.reference = memorisation.prepare(
            train, held_out, data.val.patients, classes=data.classes, device=device
        )

    def _sample(self, images: Pixels, labels: NDArray[np.int64], *, cached: bool) -> Sample:
        extractor = self._extractor
        views = cached_views(extractor, images) if cached else extractor.extract(images)
        return Sample(images, labels, [view.features for view in views])

    def too_near(self, images: Pixels, label: int, *, quantile: float) -> NDArray[np.bool_]:
        """Return which images of a class lie nearer than is usual, [N]."""
        sample = self._sample(images, np.full(len(images), label), cached=False)
        return memorisation.near_copies(sample, self.reference, quantile=quantile)


@dataclass
class _Kept:
    """What has become of a class's draws so far; the numbers are those that were kept."""

    numbers: list[int]
    drawn: int = 0
    failed_agreement: int = 0
    failed_nearest: int = 0


class Filters:
    """The filters that a request asks for, ready to be used."""

    def __init__(self, request: Request) -> None:
        self._request = request
        device, asked, data = request.loaded.device, request.thresholds, request.lack.data
        self._extractor = Cnn3(data, device)
        self.agreement = Agreement(data, device) if asked.agreement is not None else None
        self._knows = self.agreement and self.agreement.balanced_accuracy(data.val)
        self._neighbours = None
        if asked.nearest is not None:
            self._neighbours = Neighbours(data, self._extractor, device)
            unknown = memorisation.not_judgeable(self._neighbours.reference)
            for name in request.lack.missing.keys() & unknown.keys():
                raise InputError(
                    f"--not-near cannot judge {name} ({unknown[name]}); leave it out, or name "
                    "images with more patients"
                )

    def choose(self) -> ScreeningReport:
        """Draw images of each class until enough are kept; return which, and what it cost.

        Raises `InputError` where too few are kept of `max_draws` a wanted image, and
        `acgan.generation.generator.NotFiniteError`.
        """
        request, agreement = self._request, self.agreement
        return ScreeningReport(
            format=SCREENING_FORMAT,
            thresholds=request.thresholds,
            weights_sha256=request.loaded.sha256,
            seed=request.seed,
            data_fingerprint=request.lack.data.fingerprint,
            cnn_sha256=agreement and agreement.sha256,
            cnn_balanced_accuracy=self._knows,
            features=self._extractor.name,
            classes={name: self._class(name) for name in request.lack.missing},
        )

    def _class(self, name: str) -> ClassReport:
        request = self._request
        wanted, first = request.lack.missing[name], request.lack.first[name]
        label, limit = request.loaded.classes.index(name), request.max_draws * wanted
        kept = _Kept([])
        with tqdm(total=wanted, desc=f"filtering {name}", unit="image", disable=None) as progress:
            for start in range(first // BLOCK * BLOCK, first + limit, BLOCK):
                numbers = range(max(start, first), min(start + BLOCK, first + limit))
                self._sift(kept, numbers, label, wanted)
                progress.update(len(kept.numbers) - progress.n)
                if len(kept.numbers) == wanted:
                    break
        if len(kept.numbers) < wanted:
            raise InputError(self._too_few(name, kept, wanted))
        real = request.lack.data.val.images[request.lack.data.val.labels == label]
        return ClassReport(
            wanted=wanted,
            drawn=kept.drawn,
            kept=len(kept.numbers),
            rejected_share=1 - len(kept.numbers) / kept.drawn,
            failed_agreement=self.agreement and kept.failed_agreement,
            failed_nearest=self._neighbours and kept.failed_nearest,
            before=self._diversity(self._images(label, range(first, first + wanted)), real),
            after=self._diversity(self._images(label, kept.numbers), real),
            real=self._diversity(real, real[:0]),
            numbers=kept.numbers,
        )

    def _images(self, label: int, numbers: range | list[int]) -> Pixels:
        """Return the images of these numbers, at most so many as diversity is measured of."""
        loaded, seed = self._request.loaded, self._request.seed
        found = []
        for block, own in itertools.groupby(numbers[:DIVERSITY_IMAGES], lambda n: n // BLOCK):
            made = generate(loaded, label, count=BLOCK, seed=seed, start=block * BLOCK)
            found.append(made[[number % BLOCK for number in own]])
        return np.concatenate(found)

    def _sift(self, kept: _Kept, numbers: range, label: int, wanted: int) -> None:
        """Add a block's images that pass, in their order, until as many are kept as are wanted."""
        asked, images = self._request.thresholds, self._images(label, numbers)
        agrees, near = np.ones(len(images), bool), np.zeros(len(images), bool)
        if self.agreement is not None and asked.agreement is not None:
            agrees = self.agreement.agrees(images, label, least=asked.agreement)
        if self._neighbours is not None and asked.nearest is not None:
            near = self._neighbours.too_near(images, label, quantile=asked.nearest)
        for place, number in enumerate(numbers):
            if len(kept.numbers) == wanted:
                return
            kept.drawn += 1
            kept.failed_agreement += not agrees[place]
            kept.failed_nearest += bool(near[place])
            if agrees[place] and not near[place]:
                kept.numbers.append(number)

    def _too_few(self, name: str, kept: _Kept, wanted: int) -> str:
        why = []
        if self.agreement is not None:
            why.append(
                f"the CNN, which knows {self._knows:.0%} of the real validation images, does not "
                f"agree on {kept.failed_agreement}"
            )
        if self._neighbours is not None:
            why.append(f"{kept.failed_nearest} lie too near to a training image")
        return (
            f"only {len(kept.numbers)} of {kept.drawn} images of {name} pass the filters, {wanted} "
            f"are wanted ({'; '.join(why)}); loosen them, choose other weights, or draw more than "
            f"--max-draws {self._request.max_draws} for each"
        )

    def _diversity(self, images: Pixels, real: Pixels) -> Diversity:
        """Measure images, and how much of the real ones they cover; means over the networks."""
        if len(images) < 2:
            return Diversity(images=len(images), distance=None)
        views = [FeatureSet(view.features) for view in self._extractor.extract(images)]
        distance = float(np.mean([mean_distance(view) for view in views]))
        if min(len(images), len(real)) < SMALLEST_SET:
            return Diversity(images=len(images), distance=distance)
        against = [FeatureSet(view.features) for view in self._extractor.extract(real)]
        scores = [neighbourhood_scores(a, b) for a, b in zip(views, against, strict=True)]
        return Diversity(
            images=len(images),
            distance=distance,
            recall=float(np.mean([score.recall for score in scores])),
            coverage=float(np.mean([score.coverage for score in scores])),
        )


def chosen_before(folder: Path, request: Request) -> ScreeningReport | None:
    """Return what an earlier start chose for the same request; None if there is nothing."""
    try:
        found = ScreeningReport.model_validate_json((folder / SCREENED).read_bytes())
    except (OSError, ValidationError):
        return None
    asked = (SCREENING_FORMAT, request.thresholds, request.loaded.sha256, request.seed)
    there = (found.format, found.thresholds, found.weights_sha256, found.seed)
    wanted = {name: report.wanted for name, report in found.classes.items()}
    same = there == asked and found.data_fingerprint == request.lack.data.fingerprint
    return found if same and wanted == request.lack.missing else None


def screening_lines(report: ScreeningReport) -> Iterator[str]:
    """Yield what filtering cost, for people."""
    if report.cnn_balanced_accuracy is not None:
        yield (
            "the CNN that must agree knows "
            f"{report.cnn_balanced_accuracy:.0%} of the real validation images (mean of classes)"
        )
    for name, own in report.classes.items():
        yield (
            f"{name}: {own.kept} of {own.drawn} images kept, {own.rejected_share:.0%} left out"
            f"{_reasons(own)}"
        )
        yield (
            f"  mean distance of two images {_change(own.before.distance, own.after.distance)} "
            f"(real ones {_number(own.real.distance)}), recall "
            f"{_change(own.before.recall, own.after.recall)}, coverage "
            f"{_change(own.before.coverage, own.after.coverage)}"
        )


def _reasons(own: ClassReport) -> str:
    found = []
    if own.failed_agreement is not None:
        found.append(f"{own.failed_agreement} by the CNN")
    if own.failed_nearest is not None:
        found.append(f"{own.failed_nearest} too near to a training image")
    return f" ({', '.join(found)})"


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "not measured"
    change = f", {(after - before) / before:+.0%}" if before else ""
    return f"{_number(before)} → {_number(after)}{change}"


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3g}"
