"""In which order the real images of an epoch are drawn: each once, or equally many of each class.

Both orders have as many images as there are training images, so an epoch is as long in both.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shuffled(labels: Tensor, random: torch.Generator) -> Tensor:
    """Return all places of the images with labels [N] in a random order, each once."""
    return torch.randperm(len(labels), generator=random, device=labels.device)


def class_balanced(labels: Tensor, random: torch.Generator) -> Tensor:
    """Return N places of the images with labels [N] in a random order, each class equally often.

    Rare classes are drawn several times and common ones in part (over- and undersampling; Buda,
    Maki and Mazurowski 2018, "A systematic study of the class imbalance problem in convolutional
    neural networks"); no image comes more than once more often than another one of its class.
    What does not divide by the number of classes goes to classes drawn by chance. Classes without
    images have no part.
    """
    present = labels.unique()
    order = torch.randperm(len(present), generator=random, device=labels.device)
    places = [
        _cycled(torch.nonzero(labels == present[c]).flatten(), count, random)
        for c, count in zip(order.tolist(), _shares(len(labels), len(present)), strict=True)
    ]
    drawn = torch.cat(places)
    return drawn[torch.randperm(len(drawn), generator=random, device=labels.device)]


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]


def _cycled(places: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Return `count` of the places: all of them again and again, each time in another order."""
    rounds = -(-count // len(places))
    orders = [
        torch.randperm(len(places), generator=random, device=places.device) for _ in range(rounds)
    ]
    return places[torch.cat([*orders, places[:0]])][:count]
