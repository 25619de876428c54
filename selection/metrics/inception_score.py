"""The inception score."""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from selection.metrics.metric import Metric

SPLITS = 10
SHUFFLE_SEED = 2020  # torch-fidelity's


def inception_score(logits: Tensor, *, splits: int = SPLITS) -> tuple[float, float]:
    """Return mean and standard deviation over splits of the inception score.

    exp(mean of KL(p(y|x) ‖ p(y))), Salimans et al. 2016. logits: [N, C]; logarithms of
    probabilities serve as well. The images are first brought into an order that is always the
    same, because those of a class stand together. Raises `ValueError` for fewer images than
    splits or two, and for logits that are not finite.
    """
    if len(logits) < max(splits, 2):
        raise ValueError(f"the inception score needs >= {max(splits, 2)} images, got {len(logits)}")
    if not logits.isfinite().all():
        raise ValueError("the inception score needs logits that are finite numbers")
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(logits))
    posteriors = logits.double()[torch.from_numpy(order)].softmax(dim=1)
    bounds = [i * len(logits) // splits for i in range(splits + 1)]
    scores = [_score(posteriors[low:high]) for low, high in pairwise(bounds)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(posteriors: Tensor) -> float:
    """Return exp(H(mean posterior) − mean H(posterior)), which is exp(mean KL)."""
    marginal = torch.special.entr(posteriors.mean(dim=0)).sum()
    return float((marginal - torch.special.entr(posteriors).sum(dim=1).mean()).exp())


IS = Metric(
    "is",
    "higher",
    "How clear and how varied the predicted classes are (Inception score)",
    None,  # of logits
)
