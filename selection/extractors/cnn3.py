"""Three CNNs trained on the real training images, for where Inception cannot be had."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from acgan.config import TrainConfig, derive_seed
from acgan.data.dataset import Dataset
from acgan.evaluation.classifier import Images, embed_and_classify
from acgan.evaluation.scorer import Scorer, cached_scorer, scorer_name
from acgan.files import replace_bytes
from selection.extractors.base import Extractor, View

CNN3 = "cnn3"


class Cnn3(Extractor):
    """Three scoring CNNs trained on the real training images with seeds used nowhere else.

    They are trained once for a data set and kept in the cache. With `folder`, which all nodes of
    a cluster see, they are taken from there, and put there first: two GPUs would not train the
    same ones.
    """

    def __init__(self, data: Dataset, device: torch.device, folder: Path | None = None) -> None:
        size = data.train.images.shape[-1]
        paths = [_scorer_path(data, device, i, folder) for i in range(3)]
        content = b"".join(path.read_bytes() for path in paths)
        super().__init__(CNN3, hashlib.sha256(content).hexdigest(), independent=False)
        self.scorers = [
            Scorer.load(path, classes=len(data.classes), image_size=size, device=device)
            for path in paths
        ]

    def extract(self, images: Images) -> tuple[View, ...]:
        """Return each CNN's 32 components and the logits.

        The components are divided by one number, so that the mean square of one is about 1 on
        real images: KID's kernel is made for such features. Undivided (about 6), its cubes let
        a few unusual images rule.
        """
        return tuple(_scorer_view(scorer, images) for scorer in self.scorers)


def _scorer_path(data: Dataset, device: torch.device, number: int, folder: Path | None) -> Path:
    size, seed = data.train.images.shape[-1], derive_seed("selection extractor", number)
    config = TrainConfig(image_size=size, evaluation_seed=seed)
    if folder is None:
        return cached_scorer(data, config, device)
    path = folder / f"{CNN3}-{scorer_name(data, config)}"
    if not path.exists():
        replace_bytes(path, cached_scorer(data, config, device).read_bytes())
    return path


def _scorer_view(scorer: Scorer, images: Images) -> View:
    pooled, logits = (t.double().cpu() for t in embed_and_classify(scorer.classifier, images))
    components = scorer.components(pooled.numpy())
    mean_square = np.isfinite(scorer.scale).sum() / components.shape[1]  # of standardised channels
    return View(torch.from_numpy(components / mean_square**0.5), logits)
