"""How the neighbourhoods of generated and of real images overlap: pure functions of features."""

from dataclasses import dataclass

import torch
from torch import Tensor

PRECISION_NEIGHBOURS = 3  # Kynkäänniemi et al. 2019
DENSITY_NEIGHBOURS = 5  # Naeem et al. 2020
SMALLEST_SET = DENSITY_NEIGHBOURS + 1  # images, for all five
BLOCK = 1024  # rows of a matrix of distances that are in memory at a time


@dataclass(frozen=True)
class NeighbourhoodScores:
    """How the sets' neighbourhoods overlap.

    precision: share of generated images within a real image's distance to its third neighbour
    recall: the reverse (Kynkäänniemi et al. 2019)
    density: how many real images have a generated one within their distance to their fifth
        neighbour, over five: outliers among the real images hardly count
    coverage: share of the real images that have any (Naeem et al. 2020)
    """

    precision: float
    recall: float
    density: float
    coverage: float


def nearest(features: Tensor) -> Tensor:
    """Return the distances of each of N images to its five nearest others, [N, 5], sorted.

    features: [N, D], of two or more images; fewer than six have as many others as there are.
    """
    count = min(SMALLEST_SET, len(features))
    near = [
        torch.cdist(block, features).topk(count, largest=False).values
        for block in features.split(BLOCK)
    ]
    return torch.cat(near)[:, 1:]  # without the image itself


def overlap(
    generated: Tensor, real: Tensor, *, near_generated: Tensor, near_real: Tensor
) -> NeighbourhoodScores:
    """Compare the sets' neighbourhoods in one pass over their distances.

    generated [N, D], real [M, D]; near_generated [N, 5], near_real [M, 5]: `nearest` of each
    """
    narrow, wide = near_real[:, :PRECISION_NEIGHBOURS][:, -1], near_real[:, -1]
    recalled = torch.zeros_like(narrow, dtype=torch.bool)
    closest = torch.full_like(wide, torch.inf)
    precise = dense = 0
    radii = near_generated[:, :PRECISION_NEIGHBOURS][:, -1].split(BLOCK)
    for block, own in zip(generated.split(BLOCK), radii, strict=True):
        distances = torch.cdist(block, real)  # [BLOCK, M]
        precise += int((distances <= narrow).any(dim=1).sum())
        dense += int((distances < wide).sum())
        recalled |= (distances <= own[:, None]).any(dim=0)
        closest = torch.minimum(closest, distances.amin(dim=0))
    return NeighbourhoodScores(
        precision=precise / len(generated),
        recall=float(recalled.double().mean()),
        density=dense / (DENSITY_NEIGHBOURS * len(generated)),
        coverage=float((closest < wide).double().mean()),
    )
