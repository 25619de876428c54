"""Step 2: how well a classifier that has only seen generated images knows real ones.

For each candidate the published CNN is trained on its images alone: the same number of every
class, the same length for all candidates, several seeds with fresh images each. What counts is the
mean over the last three epochs of a fit, never its best one (Ravuri and Vinyals 2019,
"Classification accuracy score").
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acgan.config import cache_folder, derive_seed
from acgan.data.dataset import Dataset, ImageSet
from acgan.evaluation.classifier import Classifier, fit_last, predict
from acgan.evaluation.fit import FitConfig
from acgan.files import replace_bytes
from acgan.generation.generator import LoadedGenerator, NotFiniteError, generate_all
from acgan.run.weights import cached_tensors, read_weights, weights_bytes
from search.nodes.sees import set_aside
from selection.jobs.results import CandidateJob, Result, StoredJob
from selection.settings import SelectionConfig
from selection.steps.result import LAST_EPOCHS

CNN = ".safetensors"  # the ending of a trained CNN
CNN_SETTINGS = frozenset(
    {"cnn_images", "cnn_epochs", "cnn_batch_size", "cnn_learning_rate", "seed"}
)
CNN_VERSION = 1  # a change makes every cached CNN again
REVERSE_IMAGES = 512  # of a class: as good as thousands, and CNNs are slow on a CPU


class ConstantError(ValueError):
    """A generator makes one and the same image of a class, whatever its latents."""


def train_on_generated(
    generator: LoadedGenerator, config: SelectionConfig, *, number: int
) -> list[Classifier]:
    """Return CNN `number` (from 0) of a generator as it was after each of its last epochs.

    Raises `acgan.generation.generator.NotFiniteError` if the generated images are not finite, and
    `ConstantError` if those of a class are all the same.
    """
    seed = derive_seed(config.seed, "utility images", number)
    images, labels = generate_all(generator, per_class=config.cnn_images, seed=seed)
    for label, name in enumerate(generator.classes):
        own = images[labels == label]
        if (own == own[0]).all():
            raise ConstantError(
                f"the generator of {generator.run}, epoch {generator.epoch}, makes one and the "
                f"same image of {name}"
            )
    return fit_last(
        images,
        labels,
        config=config.fit,
        classes=len(generator.classes),
        seed=derive_seed(config.seed, "utility CNN", number),
        device=generator.device,
        count=LAST_EPOCHS,
    )


def train_on_real(
    data: Dataset, config: SelectionConfig, *, number: int, device: torch.device
) -> list[Classifier]:
    """Return CNN `number` of the real training images: what generated ones can at best replace.

    It gets as many updates as the CNNs of generated images, hence more epochs of fewer images. It
    is trained once for a data set and these settings, and kept in the cache.
    """
    train, classes = data.train, len(data.classes)
    fit = real_fit(config, len(train), classes)
    seed, size = derive_seed(config.seed, "ceiling CNN", number), train.images.shape[-1]

    def fitted() -> dict[str, Tensor]:
        models = fit_last(
            train.images,
            train.labels,
            config=fit,
            classes=classes,
            seed=seed,
            device=device,
            count=LAST_EPOCHS,
        )
        states = ((f"{i}.", model.state_dict()) for i, model in enumerate(models))
        return {before + name: t.cpu() for before, state in states for name, t in state.items()}

    key = derive_seed(CNN_VERSION, data.fingerprint, size, dataclasses.astuple(fit), seed)
    tensors = cached_tensors(cache_folder() / "cnns" / f"{key:016x}.safetensors", fitted)

    def state(i: int) -> dict[str, Tensor]:
        before = f"{i}."
        return {k.removeprefix(before): t for k, t in tensors.items() if k.startswith(before)}

    return [_load(state(i), data, device) for i in range(LAST_EPOCHS)]


def _load(state: Mapping[str, Tensor], data: Dataset, device: torch.device) -> Classifier:
    size = data.train.images.shape[-1]
    with torch.random.fork_rng(devices=[]):  # initial weights, which are then replaced
        model = Classifier(classes=len(data.classes), image_size=size).to(device)
    model.load_state_dict(dict(state))
    return model.eval()


def real_fit(config: SelectionConfig, images: int, classes: int) -> FitConfig:
    """Return how a CNN is trained on so many real images: with the updates of step 2's CNNs."""
    updates = config.cnn_epochs * math.ceil(classes * config.cnn_images / config.cnn_batch_size)
    epochs = max(round(updates / math.ceil(images / config.cnn_batch_size)), LAST_EPOCHS)
    return dataclasses.replace(config.fit, epochs=epochs)


def hits(models: list[Classifier], images: ImageSet) -> str:
    """Return how many of the models classify each image right, one digit per image."""
    right = [(predict(m, images.images).argmax(1).cpu().numpy() == images.labels) for m in models]
    return "".join(str(count) for count in np.sum(right, axis=0))


def reverse(
    models: list[Classifier], images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> list[float]:
    """Return the mean accuracy of real-trained CNNs on the first 512 images of each class."""
    found = []
    for label in range(int(labels.max()) + 1):
        own = images[labels == label][:REVERSE_IMAGES]
        found.append(np.mean([(predict(m, own).argmax(1) == label).cpu().numpy() for m in models]))
    return [float(share) for share in found]


class Scored(Result):
    """One CNN's hits on the validation images, see `selection.steps.result.Utility`."""

    hits: str = ""


@dataclass(frozen=True)
class UtilityJob(CandidateJob[Scored]):
    """CNN `number` (from 0) of one candidate, trained and scored."""

    kind = "utility"
    model = Scored
    setting_names = CNN_SETTINGS

    number: int

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"CNN {self.number + 1} of {super().name}"

    @property
    def parts(self) -> tuple[object, ...]:
        """The weights, and which CNN of theirs."""
        return self.weights.sha256, self.number

    def compute(self, *, gpu: bool) -> Scored:
        """Train the CNN on generated images and score it."""
        generator = self.work.load(self.weights, set_aside(gpu))
        try:
            models = train_on_generated(generator, self.work.settings, number=self.number)
        except (NotFiniteError, ConstantError) as error:
            return Scored(failed=str(error))
        return Scored(hits=hits(models, self.work.data().val))


@dataclass(frozen=True)
class CeilingJob(StoredJob[Scored]):
    """CNN `number` of the real training images, scored and kept for the reverse test."""

    kind = "ceiling"
    model = Scored
    setting_names = CNN_SETTINGS
    files = (CNN,)

    number: int

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"CNN {self.number + 1} of real images"

    @property
    def parts(self) -> tuple[object, ...]:
        """Which CNN it is."""
        return (self.number,)

    def compute(self, *, gpu: bool) -> Scored:
        """Train the CNN, score it, and keep it as it was after its last epoch."""
        data = self.work.data()
        models = train_on_real(data, self.work.settings, number=self.number, device=set_aside(gpu))
        replace_bytes(self.file(CNN), weights_bytes(models[-1].state_dict(), {}))
        return Scored(hits=hits(models, data.val))

    def load(self, data: Dataset, device: torch.device) -> Classifier:
        """Read the trained CNN."""
        return _load(read_weights(self.file(CNN))[0], data, device)
