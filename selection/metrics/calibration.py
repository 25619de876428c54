"""Whether a classifier's confidence is its accuracy."""

import numpy as np
from numpy.typing import NDArray

BINS = 15

Array = NDArray[np.float64]


def calibration_gaps(confidence: Array, right: NDArray[np.bool_]) -> Array:
    """Return one number per image, [N], whose mean is the expected calibration error.

    confidence: probability of the predicted class, [N] in [0, 1]; right: whether it is the true
    one, [N]. The error is the mean over 15 bins of equal width of |accuracy − confidence|, weighted
    by images (Guo et al. 2017, equation 3). An image's part is its own confidence − right, with
    the sign of its bin, so that intervals of means apply to it, to first order. With few images it
    is biased upwards.
    """
    gaps = confidence - right
    bins = np.clip(np.ceil(confidence * BINS).astype(np.intp) - 1, 0, BINS - 1)
    signs = np.sign(np.bincount(bins, weights=gaps, minlength=BINS))
    return gaps * signs[bins]
