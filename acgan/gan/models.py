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
from acgan.gan.conditioning import ConditionalNorm
from acgan.gan.interface import DiscriminatorNetwork, GeneratorNetwork
from acgan.gan.reacgan import EMBEDDING_SIZE, ProxyHead
from acgan.gan.spectral import normalise
from acgan.gan.upsampling import NearestConvolution, UpConvolution

GENERATOR_CHANNELS = (1024, 512, 256, 128)
DISCRIMINATOR_CHANNELS = (32, 64, 128, 256, 512)
UPSAMPLING = {"transposed": UpConvolution, "nearest": NearestConvolution}
LEAK = 0.2


def scaled(channels: int, width: float) -> int:
    """Return a hidden channel count times `width`, at least 1."""
    return max(1, round(channels * width))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a BatchNorm as Keras' with momentum 0.9 (PyTorch counts it from the other side)."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)


def dropout(x: Tensor, p: float, noise: torch.Generator | None) -> Tensor:
    """Drop each number with probability `p` and scale the others; without `noise`, do nothing.

    `p` is rounded to 1/65,536: a number takes 16 random bits, a tenth of what Bernoulli's draw
    costs on a CPU. The scale is that of the rounded probability.
    """
    if noise is None or p == 0:
        return x
    chances = max(round((1 - p) * 2**16), 1)
    if chances == 2**16:
        return x
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    bits = words.random_(-(2**63), None, generator=noise).view(torch.int16)[: x.numel()]
    kept = (bits < chances - 2**15).view(x.shape).to(x.dtype)
    return x * kept.mul_(2**16 / chances)


class DownConvolution(nn.Conv2d):
    """Keras' convolution: kernel 3, stride 2, "same": it pads at the right and bottom only."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, n, n] (n even) to [B, D, n/2, n/2]."""
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class GreyConvolution(nn.Conv2d):
    """A convolution of three channels that are known to be equal: it looks at the first alone.

    Its weights are summed over the channels, so the result is the same at a third of the products.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map grey images [B, 3, n, n], or [B, 1, n, n], to [B, D, n, n]."""
        weight = self.weight.sum(1, keepdim=True).to(memory_format=torch.channels_last)
        return F.conv2d(x[:, :1], weight, self.bias, self.stride, self.padding)


def draw_latents(count: int, size: int, random: torch.Generator) -> Tensor:
    """Draw latents ~ U(-1, 1) [count, size], on the device of `random`."""
    return torch.rand(count, size, generator=random, device=random.device).mul_(2).sub_(1)


class Generator(GeneratorNetwork):
    """Latents and class labels → images in [-1, 1]. 22,301,316 trainable parameters as published.

    Its initial weights follow from `config.seed`.
    """

    def __init__(self, config: TrainConfig, classes: int = 3) -> None:
        super().__init__()
        self.side = config.image_size // 16
        first, *rest = (scaled(c, config.width) for c in GENERATOR_CHANNELS)
        doubling = UPSAMPLING[config.upsampling]
        with torch.random.fork_rng(devices=[]):
            self.latent = nn.Linear(config.latent_size, first * self.side**2)
            self.embedding = nn.Embedding(classes, config.embedding_size)
            self.label = nn.Linear(config.embedding_size, self.side**2)
            self.blocks = nn.ModuleList()
            inputs = first + 1
            for outputs in rest:
                norm = batch_norm(outputs)
                chosen = ConditionalNorm(norm, classes) if config.conditional_norm else norm
                self.blocks.append(nn.Sequential(doubling(inputs, outputs), chosen, nn.ReLU(True)))
                inputs = outputs
            self.image = doubling(inputs, 1 if config.grey else 3)
        self._initialise(torch.Generator().manual_seed(derive_seed(config.seed, "generator")))

    def _initialise(self, random: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.02, generator=random)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            if isinstance(module, NearestConvolution):
                module.lay_out()
        nn.init.uniform_(self.embedding.weight, -0.05, 0.05, generator=random)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Map latents [B, latent_size] and labels int64 [B] to images [B, 3, H, W]."""
        side = (self.side, self.side)
        x = F.relu(self.latent(latents)).unflatten(1, (-1, *side))  # [B, 1024, H/16, W/16]
        y = self.label(self.embedding(labels)).unflatten(1, (1, *side))  # [B, 1, H/16, W/16]
        x = torch.cat([x, y], dim=1)
        for block in self.blocks:
            x = _doubled(block, x, labels)  # [B, 512, H/8, W/8], [B, 256, H/4, …], [B, 128, …]
        image: Tensor = torch.tanh(self.image(x))
        return image.expand(-1, 3, -1, -1)  # a grey one has one channel


def _doubled(block: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Map x [B, C, n, n] of classes int64 [B] to [B, D, 2n, 2n]: doubled, normalised, rectified."""
    assert isinstance(block, nn.Sequential)
    doubling, norm, activation = block
    x = doubling(x)
    result: Tensor = activation(norm(x, labels) if isinstance(norm, ConditionalNorm) else norm(x))
    return result


class Discriminator(DiscriminatorNetwork):
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
            convolution = GreyConvolution if config.grey else nn.Conv2d
            self.convolutions = nn.ModuleList([convolution(3, channels[0], 3, padding=1)])
            for inputs, outputs in itertools.pairwise(channels):
                self.convolutions.append(DownConvolution(inputs, outputs))
            # BatchNorm scales what spectral norm has bounded: the two do not go together.
            norm = nn.Identity if config.spectral_norm else batch_norm
            self.norms = nn.ModuleList(norm(c) for c in channels)
            features = channels[-1] * (config.image_size // 16) ** 2
            self.source = nn.Linear(features, 1)
            self.label = _class_head(config, features, classes)
        self._initialise(torch.Generator().manual_seed(derive_seed(config.seed, "discriminator")))
        if config.spectral_norm:
            normalise(self, seed=derive_seed(config.seed, "spectral norm"))

    def _initialise(self, random: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02, generator=random)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=random)
                nn.init.zeros_(module.bias)
        if isinstance(self.label, ProxyHead):
            nn.init.normal_(self.label.proxies, generator=random)

    def forward(
        self, images: Tensor, noise: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map images [B, 3, H, W] in [-1, 1] to source logits [B] and what the class head gives.

        That is class logits [B, classes], or embeddings where the head is ReACGAN's. A positive
        source logit says real. `noise` draws the dropout masks; None: no dropout.
        """
        x = images
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = dropout(F.leaky_relu(norm(convolution(x)), LEAK, inplace=True), self.dropout, noise)
        x = x.flatten(1)  # [B, 512 · H/16 · W/16]
        return self.source(x).squeeze(1), self.label(x)

    def class_logits(self, label: Tensor) -> Tensor:
        """Return class logits [B, classes] from what the class head gives."""
        return self.label.class_logits(label) if isinstance(self.label, ProxyHead) else label


def _class_head(config: TrainConfig, features: int, classes: int) -> nn.Linear | ProxyHead:
    if config.reacgan_head:
        return ProxyHead(features, classes, scaled(EMBEDDING_SIZE, config.width))
    return nn.Linear(features, classes)
