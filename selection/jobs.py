"""The long parts of a pick, each in whatever process and on whatever node Ray places it.

A job leaves its result in the study's store, under a name that follows from all that decides it
(weights, settings, images), and is skipped where the result is there. So a pick that is typed
again, or another one over the same candidates, computes only what is missing.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acgan.classifier import Classifier
from acgan.dataset import Dataset, ImageSet
from acgan.errors import InputError
from acgan.files import replace_bytes
from acgan.generator import LoadedGenerator, NotFiniteError
from acgan.grids import GRID_COLUMNS, grid
from acgan.rundir import read_weights, weights_bytes
from search.node import set_aside
from selection import fidelity, memorisation, utility, walks
from selection.extractors import View, cached_views
from selection.result import ExtractorInfo, Fidelity, Images, write_json
from selection.work import (
    Measured,
    Opened,
    Scored,
    Touched,
    Walked,
    Weights,
    Work,
    read_stored,
    whole_tensors,
)

T_SNE_IMAGES = 334  # of a class
CNN_SETTINGS = {"cnn_images", "cnn_epochs", "cnn_batch_size", "cnn_learning_rate", "seed"}
FIDELITY_VERSION = 2  # 1: without `Fidelity.rank_variance`
FIDELITY_SETTINGS = {"fidelity_images", "reference_limit", "memorised_above", "seed"}


def sample_grid(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> bytes:
    """Return a PNG of the first eight images of each class, one row a class.

    images: uint8 [N, H, W] or [N, 3, H, W]
    """
    colour = images if images.ndim == 4 else images[:, None].repeat(3, axis=1)
    rows = [colour[labels == label][:GRID_COLUMNS] for label in np.unique(labels)]
    sheet = np.zeros((len(rows) * GRID_COLUMNS, *colour.shape[1:]), np.uint8)
    for place, row in enumerate(rows):
        sheet[place * GRID_COLUMNS : place * GRID_COLUMNS + len(row)] = row
    return grid(sheet)


@dataclass(frozen=True)
class UtilityJob:
    """Step 2 of one candidate: CNNs of these numbers, each stored as soon as it is trained."""

    work: Work
    weights: Weights
    numbers: tuple[int, ...]

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.weights.name

    def path(self, number: int) -> Path:
        """Return where the result of one CNN stands."""
        return self.work.path("utility", CNN_SETTINGS, self.weights.sha256, number)

    def results(self) -> list[Scored | None]:
        """Return the stored results, None where one is missing."""
        return [read_stored(Scored, self.path(number)) for number in self.numbers]

    def done(self) -> bool:
        """Whether all CNNs are scored."""
        return None not in self.results()

    def run(self, *, gpu: bool) -> None:
        """Train and score the CNNs that are missing."""
        data = self.work.data()
        generator = self.weights.load(set_aside(gpu))
        for number, result in zip(self.numbers, self.results(), strict=True):
            if result is None:
                write_json(self.path(number), self._score(generator, data, number))

    def _score(self, generator: LoadedGenerator, data: Dataset, number: int) -> Scored:
        started = time.perf_counter()
        try:
            models = utility.train_on_generated(generator, self.work.settings, number=number)
        except (NotFiniteError, utility.ConstantError) as error:
            return Scored(failed=str(error), seconds=time.perf_counter() - started)
        hits = utility.hits(models, data.val)
        return Scored(hits=hits, seconds=time.perf_counter() - started)


@dataclass(frozen=True)
class CeilingJob:
    """One CNN trained on the real training images, scored and kept for the reverse test."""

    work: Work
    number: int

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"CNN {self.number + 1} of real images"

    @property
    def path(self) -> Path:
        """Where its result stands."""
        return self.work.path("ceiling", CNN_SETTINGS, self.number)

    @property
    def model_path(self) -> Path:
        """Where the CNN stands as it was after its last epoch."""
        return self.path.with_suffix(".safetensors")

    def result(self) -> Scored | None:
        """Return its stored score; None before it is trained and scored."""
        return read_stored(Scored, self.path) if whole_tensors(self.model_path) else None

    def done(self) -> bool:
        """Whether it is trained and scored."""
        return self.result() is not None

    def run(self, *, gpu: bool) -> None:
        """Train and score it."""
        started = time.perf_counter()
        data = self.work.data()
        models = utility.train_on_real(
            data.train,
            self.work.settings,
            number=self.number,
            classes=len(data.classes),
            device=set_aside(gpu),
        )
        replace_bytes(self.model_path, weights_bytes(models[-1].state_dict(), {}))
        hits = utility.hits(models, data.val)
        write_json(self.path, Scored(hits=hits, seconds=time.perf_counter() - started))

    def load(self, *, classes: int, image_size: int, device: torch.device) -> Classifier:
        """Read the trained CNN."""
        with torch.random.fork_rng(devices=[]):  # initial weights, which are then replaced
            model = Classifier(classes=classes, image_size=image_size).to(device)
        model.load_state_dict(read_weights(self.model_path)[0])
        return model.eval()


@dataclass(frozen=True)
class ExtractorJob:
    """Opens the extractor once before others do, training it if it is one that is trained."""

    work: Work

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return "features"

    @property
    def path(self) -> Path:
        """Where it is written what the extractor is."""
        named = self.work.inception_weights
        names = {"extractor", "inception_sha256"}
        return self.work.path("extractor", names, str(named), self.work.plugin_version)

    def result(self) -> Opened | None:
        """Return what the extractor is; None before it was opened."""
        return read_stored(Opened, self.path)

    def done(self) -> bool:
        """Whether it is known what the extractor is."""
        return self.result() is not None

    def run(self, *, gpu: bool) -> None:
        """Open the extractor and write down what it is."""
        started = time.perf_counter()
        found = self.work.open_extractor(gpu=gpu)
        info = ExtractorInfo(
            name=found.name,
            sha256=found.sha256,
            standard=found.standard,
            independent=found.independent,
        )
        write_json(self.path, Opened(info=info, seconds=time.perf_counter() - started))


@dataclass(frozen=True)
class FidelityJob:
    """Step 3 of one candidate: its metrics, memorisation check, reverse test and pictures."""

    work: Work
    weights: Weights
    extractor: ExtractorInfo

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.weights.name

    @property
    def path(self) -> Path:
        """Where its numbers stand."""
        names = FIDELITY_SETTINGS | CNN_SETTINGS
        judges = self.work.settings.cnn_seeds[0]
        parts = (FIDELITY_VERSION, self.weights.sha256, self.extractor.sha256, judges)
        return self.work.path("fidelity", names, *parts)

    @property
    def grid_path(self) -> Path:
        """Where the picture of its first images stands."""
        return self.path.with_suffix(".grid.png")

    @property
    def closest_path(self) -> Path:
        """Where the picture of its nearest pairs stands."""
        return self.path.with_suffix(".closest.png")

    @property
    def features_path(self) -> Path:
        """Where the features of its images and of some real ones stand, for the t-SNE."""
        return self.path.with_suffix(".features.safetensors")

    def result(self) -> Measured | None:
        """Return the stored numbers; None without them, or without what belongs to them."""
        found = read_stored(Measured, self.path)
        if found is None or found.fidelity is None:
            return found
        pictures = self.grid_path.exists() and self.closest_path.exists()
        return found if pictures and whole_tensors(self.features_path) else None

    def done(self) -> bool:
        """Whether it is measured."""
        return self.result() is not None

    def run(self, *, gpu: bool) -> None:
        """Measure it."""
        started = time.perf_counter()
        try:
            measured = self._measure(gpu=gpu)
        except InputError:  # says nothing of the candidate, and can be mended
            raise
        except ValueError as error:  # features that are not finite: NotFiniteError is one
            measured = Measured(failed=str(error))
        seconds = time.perf_counter() - started
        write_json(self.path, measured.model_copy(update={"seconds": seconds}))

    def _measure(self, *, gpu: bool) -> Measured:
        data, device = self.work.data(), set_aside(gpu)
        extractor = self.work.open_extractor(gpu=gpu, known=self.extractor)
        real = _real(self.work, self.extractor, gpu)
        images, labels = self.work.fidelity_images(self.weights.load(device))
        views = extractor.extract(images)
        features = _features(views)
        settings = self.work.settings
        copies = memorisation.check(
            memorisation.Sample(images, labels, features),
            real.memorisation,
            limit=settings.memorised_above,
            seed=settings.seed,
        )
        validation = real.validation
        found = Fidelity(
            metrics={
                name: fidelity.metrics(extractor, features, labels, reference, data.classes)
                for name, reference in (("validation", validation), ("training", real.training))
            }
            | {"generated": fidelity.inception_scores(extractor, views)},
            rank_metric=fidelity.rank_metric(extractor, validation),
            influence=fidelity.rank_values(features, labels, validation).tolist(),
            rank_variance=fidelity.rank_variance(features, labels, validation),
            reverse=utility.reverse(self._judges(data, device), images, labels),
            memorisation=list(copies.spaces),
            memorised=list(copies.reasons),
        )
        sheet = memorisation.contact_sheet(
            copies.pairs, images, data.train.images, classes=data.classes
        )
        replace_bytes(self.closest_path, sheet)
        replace_bytes(self.grid_path, sample_grid(images, labels))
        self._keep_features(views, labels, real.first_view, data)
        return Measured(fidelity=found)

    def _judges(self, data: Dataset, device: torch.device) -> list[Classifier]:
        jobs = [CeilingJob(self.work, n) for n in range(self.work.settings.cnn_seeds[0])]
        size = data.val.images.shape[-1]
        return [job.load(classes=len(data.classes), image_size=size, device=device) for job in jobs]

    def _keep_features(
        self, views: Sequence[View], labels: NDArray[np.int64], real: Tensor, data: Dataset
    ) -> None:
        """Write the features: the winner's t-SNE needs them again."""
        tensors = {f"generated.{i}": view.features for i, view in enumerate(views)}
        chosen = fidelity.at_most(data.val.labels, T_SNE_IMAGES)
        tensors["generated_labels"] = torch.from_numpy(labels)
        tensors["real"] = real[chosen]
        tensors["real_labels"] = torch.from_numpy(data.val.labels[chosen])
        replace_bytes(self.features_path, weights_bytes(tensors, {}))

    def generated_features(self) -> tuple[list[Tensor], NDArray[np.int64]]:
        """Return the features of the measured images, one tensor a view, and their labels."""
        tensors = read_weights(self.features_path)[0]
        labels: NDArray[np.int64] = tensors["generated_labels"].numpy()
        views = sorted(name for name in tensors if name.startswith("generated."))
        return [tensors[name] for name in views], labels

    def real_features(self) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the features of some validation images in the first view, and their labels."""
        tensors = read_weights(self.features_path)[0]
        return tensors["real"], tensors["real_labels"].numpy()


@dataclass(frozen=True)
class Real:
    """The real images that all candidates are compared with.

    first_view: features of the validation images as the extractor's first network gives them
    """

    validation: fidelity.Reference
    training: fidelity.Reference
    memorisation: memorisation.Reference
    first_view: Tensor


@functools.lru_cache(maxsize=1)
def _real(work: Work, known: ExtractorInfo, gpu: bool) -> Real:
    # A process that measures several candidates computes once what depends on real images alone.
    data, extractor = work.data(), work.open_extractor(gpu=gpu, known=known)
    classes, limit = len(data.classes), work.settings.reference_limit
    train, val = (_features(cached_views(extractor, own.images)) for own in (data.train, data.val))
    return Real(
        validation=fidelity.reference(val, data.val.labels, classes=classes),
        training=fidelity.reference(train, data.train.labels, classes=classes, limit=limit),
        memorisation=memorisation.prepare(
            memorisation.Sample(data.train.images, data.train.labels, train),
            memorisation.Sample(data.val.images, data.val.labels, val),
            data.val.patients,
            classes=data.classes,
            device=set_aside(gpu),
        ),
        first_view=val[0],
    )


def _features(views: Sequence[View]) -> list[Tensor]:
    return [view.features for view in views]


@dataclass(frozen=True)
class TouchJob:
    """The look at the test images: CNNs and features of one generator, as in steps 2 and 3.

    numbers: of CNNs by which nothing was chosen; the images that are measured are such, too.
    Those of steps 2 and 3 were part of what won.
    """

    work: Work
    weights: Weights
    numbers: tuple[int, ...]
    extractor: ExtractorInfo

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.weights.name

    @property
    def path(self) -> Path:
        """Where its results stand."""
        names = FIDELITY_SETTINGS | CNN_SETTINGS
        parts = (self.weights.sha256, self.extractor.sha256, self.numbers)
        return self.work.path("test", names, *parts)

    def result(self) -> Touched | None:
        """Return what was seen; None before."""
        return read_stored(Touched, self.path)

    def done(self) -> bool:
        """Whether it is done."""
        return self.result() is not None

    def run(self, *, gpu: bool) -> None:
        """Train further CNNs and score them, and features of further images, on the test images."""
        started = time.perf_counter()
        data = self.work.all_data()
        generator = self.weights.load(set_aside(gpu))
        try:
            hits = [self._hits(generator, number, data.test) for number in self.numbers]
        except (NotFiniteError, utility.ConstantError) as error:
            raise InputError(
                f"{self.name} cannot be looked at on the test images: {error}; reject it with "
                "selection.review, and pick again"
            ) from error
        seen = Touched(
            images=Images.of(data.test),
            sources=list(data.test.sources),
            hits=hits,
            metrics=self._metrics(generator, data, gpu=gpu),
            seconds=time.perf_counter() - started,
        )
        write_json(self.path, seen)

    def _hits(self, generator: LoadedGenerator, number: int, test: ImageSet) -> str:
        models = utility.train_on_generated(generator, self.work.settings, number=number)
        return utility.hits(models, test)

    def _metrics(self, generator: LoadedGenerator, data: Dataset, *, gpu: bool) -> dict[str, float]:
        """Compare images with the test images; nothing where step 3 could not measure any."""
        if not FidelityJob(self.work, self.weights, self.extractor).features_path.exists():
            return {}
        extractor = self.work.open_extractor(gpu=gpu, known=self.extractor)
        test = _features(extractor.extract(data.test.images))
        real = fidelity.reference(test, data.test.labels, classes=len(data.classes))
        images, labels = self.work.fidelity_images(generator, "test images")
        features = _features(extractor.extract(images))
        return fidelity.metrics(extractor, features, labels, real, data.classes)


@dataclass(frozen=True)
class WalksJob:
    """Draws what a finalist does between latents, and from class to class at one latent."""

    work: Work
    weights: Weights

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.weights.name

    @property
    def path(self) -> Path:
        """Where it is written whether the pictures are there."""
        return self.work.path("walks", {"seed"}, self.weights.sha256)

    @property
    def walks_path(self) -> Path:
        """Where the picture of paths between latents stands."""
        return self.path.with_suffix(".walks.png")

    @property
    def changes_path(self) -> Path:
        """Where the picture of the same latents in every class stands."""
        return self.path.with_suffix(".changes.png")

    def result(self) -> Walked | None:
        """Return whether they could be drawn; None before they were tried, or without them."""
        found = read_stored(Walked, self.path)
        there = self.walks_path.exists() and self.changes_path.exists()
        return found if found is None or found.failed or there else None

    def done(self) -> bool:
        """Whether the pictures were tried."""
        return self.result() is not None

    def run(self, *, gpu: bool) -> None:
        """Draw the pictures."""
        started = time.perf_counter()
        generator = self.weights.load(set_aside(gpu))
        seed, failed = self.work.settings.seed, ""
        try:
            replace_bytes(self.walks_path, walks.walks_picture(generator, seed=seed))
            replace_bytes(self.changes_path, walks.changes_picture(generator, seed=seed))
        except NotFiniteError as error:
            failed = str(error)
        write_json(self.path, Walked(failed=failed, seconds=time.perf_counter() - started))
