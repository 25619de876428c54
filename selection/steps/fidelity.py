"""Step 3: how near a candidate's images are to real ones, and whether they are copies."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acgan.data.dataset import Dataset
from acgan.errors import InputError
from acgan.evaluation.classifier import Classifier
from acgan.files import replace_bytes
from acgan.run.weights import read_weights, weights_bytes
from search.nodes.sees import set_aside
from selection.extractors.base import ExtractorInfo, View
from selection.extractors.cache import cached_views
from selection.jobs.results import CandidateJob, Result, StoredJob, Work
from selection.metrics import memorisation, reference
from selection.metrics.registry import VERSION
from selection.pictures.sheets import contact_sheet, sample_grid
from selection.steps.result import Fidelity
from selection.steps.utility import CNN_SETTINGS, CeilingJob, reverse

T_SNE_IMAGES = 334  # of a class
FIDELITY_SETTINGS = CNN_SETTINGS | {"fidelity_images", "reference_limit", "memorised_above"}
# Endings of what is stored beside a candidate's numbers: the pictures of its first images and of
# its nearest pairs, and the features of its images and of some real ones, for the t-SNE.
GRID, CLOSEST, FEATURES = ".grid.png", ".closest.png", ".features.safetensors"


class Opened(Result):
    """What the extractor is."""

    info: ExtractorInfo


class Measured(Result):
    """Step 3's numbers of one candidate."""

    fidelity: Fidelity | None = None


@dataclass(frozen=True)
class ExtractorJob(StoredJob[Opened]):
    """Opens the extractor once before others do, training it if it is one that is trained."""

    kind = "extractor"
    model = Opened
    setting_names = frozenset({"extractor", "inception_sha256"})

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return "features"

    @property
    def parts(self) -> tuple[object, ...]:
        """The file of weights, and the plug-in's version."""
        return str(self.work.inception_weights), self.work.plugin_version

    def compute(self, *, gpu: bool) -> Opened:
        """Open the extractor and write down what it is."""
        extractor = self.work.open_extractor(gpu=gpu)
        return Opened(info=ExtractorInfo.model_validate(extractor, from_attributes=True))


@dataclass(frozen=True)
class FidelityJob(CandidateJob[Measured]):
    """One candidate's metrics, memorisation check, reverse test and pictures."""

    kind = "fidelity"
    model = Measured
    setting_names = FIDELITY_SETTINGS
    files = (GRID, CLOSEST, FEATURES)

    extractor: ExtractorInfo

    @property
    def parts(self) -> tuple[object, ...]:
        """The metrics' version, the weights, the extractor, and how many CNNs judge."""
        judges = self.work.settings.cnn_seeds[0]
        return VERSION, self.weights.sha256, self.extractor.sha256, judges, *self.work.plugin

    def compute(self, *, gpu: bool) -> Measured:
        """Measure the candidate and draw its pictures."""
        try:
            return Measured(fidelity=self._measure(gpu=gpu))
        except InputError:  # says nothing of the candidate, and can be mended
            raise
        except ValueError as error:  # features that are not finite: NotFiniteError is one
            return Measured(failed=str(error))

    def _measure(self, *, gpu: bool) -> Fidelity:
        data, device = self.work.data(), set_aside(gpu)
        extractor = self.work.open_extractor(gpu=gpu, known=self.extractor)
        real = _real(self.work, self.extractor, gpu)
        images, labels = self.work.fidelity_images(self.work.load(self.weights, device))
        views = extractor.extract(images)
        features = features_of(views)
        settings = self.work.settings
        copies = memorisation.check_copies(
            memorisation.Sample(images, labels, features),
            real.memorisation,
            limit=settings.memorised_above,
            seed=settings.seed,
        )
        validation = real.validation
        generated = reference.reference(features, labels, classes=len(data.classes))
        fidelity = Fidelity(
            metrics={
                name: reference.metrics(extractor, generated, real_images, data.classes)
                for name, real_images in (("validation", validation), ("training", real.training))
            }
            | {"generated": reference.inception_scores(extractor, views)},
            rank_metric=reference.rank_metric(extractor, validation),
            influence=reference.rank_values(generated, validation).tolist(),
            rank_variance=reference.rank_variance(generated, validation),
            reverse=reverse(self._judges(data, device), images, labels),
            memorisation=list(copies.spaces),
            memorised=list(copies.reasons),
        )
        sheet = contact_sheet(copies.pairs, images, data.train.images, classes=data.classes)
        replace_bytes(self.file(CLOSEST), sheet)
        replace_bytes(self.file(GRID), sample_grid(images, labels))
        self._keep_features(views, labels, real.first_view, data)
        return fidelity

    def _judges(self, data: Dataset, device: torch.device) -> list[Classifier]:
        jobs = [CeilingJob(self.work, n) for n in range(self.work.settings.cnn_seeds[0])]
        return [job.load(data, device) for job in jobs]

    def _keep_features(
        self, views: Sequence[View], labels: NDArray[np.int64], real: Tensor, data: Dataset
    ) -> None:
        """Write the features of each view, and of some real images in the first, for the t-SNE."""
        tensors = {f"generated.{i}": view.features for i, view in enumerate(views)}
        chosen = reference.at_most(data.val.labels, T_SNE_IMAGES)
        tensors["generated_labels"] = torch.from_numpy(labels)
        tensors["real"] = real[chosen]
        tensors["real_labels"] = torch.from_numpy(data.val.labels[chosen])
        replace_bytes(self.file(FEATURES), weights_bytes(tensors, {}))

    def features(self) -> dict[str, Tensor]:
        """Return the features that `_keep_features` wrote, and the labels, by their names there."""
        return read_weights(self.file(FEATURES))[0]


@dataclass(frozen=True)
class Real:
    """The real images that all candidates are compared with.

    first_view: features of the validation images as the extractor's first network gives them
    """

    validation: reference.Reference
    training: reference.Reference
    memorisation: memorisation.CopyReference
    first_view: Tensor


@functools.lru_cache(maxsize=1)
def _real(work: Work, known: ExtractorInfo, gpu: bool) -> Real:
    # A process that measures several candidates computes once what depends on real images alone.
    data, extractor = work.data(), work.open_extractor(gpu=gpu, known=known)
    classes, limit = len(data.classes), work.settings.reference_limit
    train, val = (
        features_of(cached_views(extractor, own.images, version=work.plugin_version))
        for own in (data.train, data.val)
    )
    return Real(
        validation=reference.reference(val, data.val.labels, classes=classes),
        training=reference.reference(train, data.train.labels, classes=classes, limit=limit),
        memorisation=memorisation.prepare(
            memorisation.Sample(data.train.images, data.train.labels, train),
            memorisation.Sample(data.val.images, data.val.labels, val),
            data.val.patients,
            classes=data.classes,
            device=set_aside(gpu),
        ),
        first_view=val[0],
    )


def features_of(views: Sequence[View]) -> list[Tensor]:
    """Return the views' features, one tensor [N, D] per view."""
    return [view.features for view in views]
