"""The kernel inception distance: an unbiased distance, for few images, too."""

import torch
from torch import Tensor

from selection.metrics.features import BLOCK, Array, FeatureSet, as_array
from selection.metrics.kernel import kernel
from selection.metrics.metric import Metric


def kid(generated: FeatureSet, real: FeatureSet) -> float:
    """Return the unbiased squared maximum mean discrepancy of two whole sets.

    Kernel (x·y / D + 1)³, no random subsets: Bińkowski et al. 2018. Near zero, of either sign,
    for sets of one distribution.
    """
    return float(kid_values(generated, real).mean())


def kid_values(generated: FeatureSet, real: FeatureSet) -> Array:
    """Return each real image's part in the KID, [M]; their mean is the KID.

    Between two candidates they differ by twice the image's mean similarity to the generated
    images (and a constant): the weighted mean of that difference is exactly the difference of the
    KIDs with real images weighted so.
    """
    return as_array(generated.similarity + real.similarity - 2 * _across(real, generated))


def kid_influence(generated: FeatureSet, real: FeatureSet) -> Array:
    """Return each generated image's influence on the KID, [N], of mean 0.

    Their variance over N is the KID's over the draw of the images, to first order: Hoeffding's
    projection, twice the image's mean similarity to the other generated images less that to the
    real ones.
    """
    influence = 2 * (generated.similarities - _across(generated, real))
    return as_array(influence - influence.mean())


def _across(images: FeatureSet, others: FeatureSet) -> Tensor:
    """Return the mean of KID's kernel of each image with all of another set, [N]."""
    blocks = images.features.split(BLOCK)
    return torch.cat([kernel(block, others.features).mean(dim=1) for block in blocks])


KID = Metric(
    "kid",
    "lower",
    "Distance between the distributions, unbiased also for few images",
    kid,
    since=2,  # 1: without `Fidelity.rank_variance`
)
