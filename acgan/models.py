"""The generator and discriminator of CXR-ACGAN (Carbone, Marconzini and Cavallaro, 2023).

At `image_size` 112 and `width` 1 they are the published networks, layer by layer; initial
weights, padding and BatchNorm follow Keras 2.10, in which they were published.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acgan.config import TrainConfig, derive_seed

GENERATOR_CHANNELS = (1024, 512, 256, 128)
DISCRIMINATOR_CHANNELS = (32, 64, 128, 256, 512)
LEAK = 0.2


def scaled(channels: int, width: float) -> int:
    """Return a hidden channel count times `width`, at least 1."""
    return max(1, round(channels * width))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a BatchNorm as Keras' with momentum 0.9 (PyTorch counts it from the other side)."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)


def dropout(x: Tensor, p: float, noise: torch.Generator | None) -> Tensor:
    """Drop each number with probability `p` and scale the others; without `noise`, do nothing."""
    if noise is None or p == 0:
        return x
    kept = torch.empty_like(x).bernoulli_(1 - p, generator=noise)
    return x * kept.div_(1 - p)


class UpConvolution(nn.ConvTranspose2d):
    """Keras' transposed convolution: kernel 5, stride 2, "same": [B, C, n, n] → [B, D, 2n, 2n]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=5, stride=2, padding=1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Keras crops one row and column at the top left and two at the bottom right."""
        return super().forward(x, output_size)[..., :-1, :-1]


class DownConvolution(nn.Conv2d):
    """Keras' convolution: kernel 3, stride 2, "same": it pads at the right and bottom only."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, n, n] (n even) to [B, D, n/2, n/2]."""
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Generator(nn.Module):
    """Latents and class labels → images in [-1, 1]. 22,301,316 trainable parameters as published.

    Its initial weights follow from `config.seed`.
    """

    def __init__(self, config: TrainConfig, classes: int = 3) -> None:
        super().__init__()
        self.side = config.image_size // 16
        first, *rest = (scaled(c, config.width) for c in GENERATOR_CHANNELS)
        with torch.random.fork_rng(devices=[]):
            self.latent = nn.Linear(config.latent_size, first * self.side**2)
            self.embedding = nn.Embedding(classes, config.embedding_size)
            self.label = nn.Linear(config.embedding_size, self.side**2)
            self.blocks = nn.ModuleList()
            inputs = first + 1
            for outputs in rest:
                self.blocks.append(
                    nn.Sequential(UpConvolution(inputs, outputs), batch_norm(outputs), nn.ReLU())
                )
                inputs = outputs
            self.image = UpConvolution(inputs, 3)
        self._initialise(torch.Generator().manual_seed(derive_seed(config.seed, "generator")))

    def _initialise(self, random: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.02, generator=random)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.uniform_(self.embedding.weight, -0.05, 0.05, generator=random)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Map latents [B, latent_size] and labels int64 [B] to images [B, 3, H, W]."""
        side = (self.side, self.side)
        x = F.relu(self.latent(latents)).unflatten(1, (-1, *side))  # [B, 1024, H/16, W/16]
        y = self.label(self.embedding(labels)).unflatten(1, (1, *side))  # [B, 1, H/16, W/16]
        x = torch.cat([x, y], dim=1)
        for block in self.blocks:
            x = block(x)  # [B, 512, H/8, W/8], [B, 256, H/4, W/4], [B, 128, H/2, W/2]
        image: Tensor = torch.tanh(self.image(x))
        return image


class Discriminator(nn.Module):
    """Images → source and class logits. 1,670,916 trainable parameters as published.

    In training mode BatchNorm uses the batch's statistics, in evaluation mode its moving ones;
    dropout is on where random numbers for it are given, whatever the mode. Its initial weights
    follow from `config.seed`.
    """

    def __init__(self, config: TrainConfig, classes: int = 3) -> None:
        super().__init__()
        self.dropout = config.dropout
        channels = [scaled(c, config.width) for c in DISCRIMINATOR_CHANNELS]
        with torch.random.fork_rng(devices=[]):
            self.convolutions = nn.ModuleList([nn.Conv2d(3, channels[0], 3, padding=1)])
            for inputs, outputs in itertools.pairwise(channels):
                self.convolutions.append(DownConvolution(inputs, outputs))
            self.norms = nn.ModuleList(batch_norm(c) for c in channels)
            features = channels[-1] * (config.image_size // 16) ** 2
            self.source = nn.Linear(features, 1)
            self.label = nn.Linear(features, classes)
        self._initialise(torch.Generator().manual_seed(derive_seed(config.seed, "discriminator")))

    def _initialise(self, random: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02, generator=random)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for head in (self.source, self.label):
            nn.init.xavier_uniform_(head.weight, generator=random)
            nn.init.zeros_(head.bias)

    def forward(
        self, images: Tensor, noise: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map images [B, 3, H, W] in [-1, 1] to source logits [B] and class logits [B, classes].

        A positive source logit says real. `noise` draws the dropout masks; None: no dropout.
        """
        x = images
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = dropout(F.leaky_relu(norm(convolution(x)), LEAK), self.dropout, noise)
        x = x.flatten(1)  # [B, 512 · H/16 · W/16]
        return self.source(x).squeeze(1), self.label(x)
