"""The Fréchet distance of features: FID where they are standard Inception features."""

import numpy as np
import torch

from acgan.evaluation.frechet import frechet_distance
from selection.metrics.features import SILENT, Array, FeatureSet, as_array
from selection.metrics.metric import Metric


def frechet(generated: FeatureSet, real: FeatureSet) -> float:
    """Return the Fréchet distance of the Gaussians fitted to two sets: FID in Inception's features.

    Heusel et al. 2017; plain unbiased covariances, as torch-fidelity takes them.
    """
    own = (generated.mean, generated.covariance)
    return frechet_distance((real.mean, real.covariance), own, root_a=real.root)


def frechet_values(generated: FeatureSet, real: FeatureSet) -> Array:
    """Return each real image's part in the Fréchet distance, [M]; their mean is the distance.

    The distance plus the image's influence on it: where real images are weighted anew, the
    weighted mean is the new distance to first order. With Y = (x − μr) Σg^½ / √(M − 1) the trace
    of (Σg^½ Σr Σg^½)^½ is that of (Y Yᵀ)^½, and its derivative by the weight of image i is M/2
    times the i-th diagonal element. That needs no inverse and so also holds for M < D.
    """
    images = len(real)
    centred = real.features - torch.from_numpy(real.mean).to(real.features)
    shift = torch.from_numpy(generated.mean - real.mean).to(real.features)
    y = centred @ torch.from_numpy(generated.root).to(real.features) / (images - 1) ** 0.5
    values, vectors = torch.linalg.eigh(y.T @ y)
    deviations = values.clamp_min(0).sqrt()
    kept = deviations > SILENT * deviations[-1]
    diagonal = ((y @ vectors[:, kept]).square() / deviations[kept]).sum(dim=1)
    own = centred.square().sum(dim=1) * images / (images - 1)
    influence = own - 2 * centred @ shift - images * diagonal
    return as_array(influence - influence.mean()) + frechet(generated, real)


def frechet_influence(generated: FeatureSet, real: FeatureSet) -> Array:
    """Return each generated image's influence on the Fréchet distance, [N], of mean 0.

    Their variance over N is the distance's over the draw of the images, to first order. The
    distance is symmetric, so they are `frechet_values` with the sets exchanged.
    """
    values = frechet_values(real, generated)
    return np.asarray(values - values.mean())


FID = Metric(
    "fid",
    "lower",
    "Distance between the distributions of real and generated features",
    frechet,
    elsewhere="fd",
    meaning_elsewhere="As FID, but in the features of another network: not comparable with FID",
)
