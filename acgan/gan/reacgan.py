"""ReACGAN's class head: unit embeddings, compared with a proxy of their class and with each other.

Kang, Shim, Cho and Park 2021, "Rebooting ACGAN: Auxiliary Classifier GANs with Stable Training".
Unit embeddings and proxies bound the gradients that a softmax head lets grow, and the images of
other classes in a batch are told apart from each other, not only from proxies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING_SIZE = 512
TEMPERATURE = 0.5
MARGIN = 0.98  # a cosine above counts as alike; below 1 minus this, as different


class ProxyHead(nn.Module):
    """Features [B, F] → unit embeddings [B, E], beside one proxy [E] per class."""

    def __init__(self, features: int, classes: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(features, size)
        self.proxies = nn.Parameter(torch.empty(classes, size))

    def forward(self, features: Tensor) -> Tensor:
        """Return the embeddings, each of length 1."""
        return F.normalize(self.embedding(features))

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Return each embedding's cosine to the proxy of each class, [B, classes]."""
        return embeddings @ F.normalize(self.proxies).T

    def class_logits(self, embeddings: Tensor) -> Tensor:
        """Return class logits [B, classes], of which the largest names the class."""
        return self.cosines(embeddings) / TEMPERATURE


def d2d_cross_entropy(embeddings: Tensor, cosines: Tensor, labels: Tensor) -> Tensor:
    """Return the data-to-data cross-entropy of a batch.

    embeddings: [B, E], of length 1; cosines: of each to the proxies, [B, classes]; labels: [B]

    The mean over images i of −log(pᵢ / (pᵢ + Σⱼ nᵢⱼ)), j over the images of other classes, with
    pᵢ = exp(min(cos(i, proxy) − m, 0) / τ), nᵢⱼ = exp(max(cos(i, j) − (1 − m), 0) / τ), margin m
    and temperature τ. An image without one of another class in its batch has 0.
    """
    own = cosines.gather(1, labels[:, None])  # [B, 1]
    alike = (own - MARGIN).clamp(max=0) / TEMPERATURE
    between = (embeddings @ embeddings.T - (1 - MARGIN)).clamp(min=0) / TEMPERATURE  # [B, B]
    different = between.masked_fill(labels[:, None] == labels, -torch.inf)
    return (torch.cat([alike, different], dim=1).logsumexp(dim=1) - alike[:, 0]).mean()
