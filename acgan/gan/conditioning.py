"""Class-conditional BatchNorm: each class has a scale and a shift of its own in every channel.

de Vries, Strub, Mary, Larochelle, Pietquin and Courville 2017, "Modulating early visual processing
by language"; in a GAN's generator: Miyato and Koyama 2018, "cGANs with Projection Discriminator".
The published label map is one channel whatever the width; this reaches all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConditionalNorm(nn.Module):
    """BatchNorm without scale and shift, then those of the image's class: [B, C, H, W] → the same.

    norm: the BatchNorm, affine; its own scale and shift are what all classes share, and begin as
        Keras has them (1 and 0); a class's own, in `scale` and `shift` [classes, C], as nothing
    """

    def __init__(self, norm: nn.BatchNorm2d, classes: int) -> None:
        super().__init__()
        self.norm = norm
        self.scale = nn.Parameter(torch.zeros(classes, norm.num_features))
        self.shift = nn.Parameter(torch.zeros(classes, norm.num_features))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Normalise x [B, C, H, W] of classes int64 [B]."""
        scale, shift = self.scale[labels], self.shift[labels]  # [B, C]
        normed: Tensor = self.norm(x)
        return torch.addcmul(shift[..., None, None], normed, (1 + scale)[..., None, None])
