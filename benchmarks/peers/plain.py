"""A plain PyTorch port of the published AC-GAN: eager, float32, NCHW, no tricks.

Written as most GAN tutorials are: `nn.Dropout`, `torch.optim.Adam`, the discriminator's weights
keep their gradients in the generator's step. Its numbers are not those of the published system
to the last digit (PyTorch's own padding, initial weights and epsilon); its work is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


class Generator(nn.Module):
    """Latents and class labels → images in [-1, 1]."""

    def __init__(self, size: int, width: float) -> None:
        super().__init__()
        self.side = size // 16
        channels = [_scaled(c, width) for c in (1024, 512, 256, 128)]
        self.latent = nn.Linear(100, channels[0] * self.side**2)
        self.embedding = nn.Embedding(3, 100)
        self.label = nn.Linear(100, self.side**2)
        blocks: list[nn.Module] = []
        inputs = channels[0] + 1
        for outputs in channels[1:]:
            blocks += [
                nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1),
                nn.BatchNorm2d(outputs, eps=1e-3),
                nn.ReLU(),
            ]
            inputs = outputs
        blocks += [nn.ConvTranspose2d(inputs, 3, 5, stride=2, padding=2, output_padding=1)]
        self.blocks = nn.Sequential(*blocks, nn.Tanh())

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Map latents [B, 100] and labels [B] to images [B, 3, H, W]."""
        x = F.relu(self.latent(latents)).view(len(latents), -1, self.side, self.side)
        y = self.label(self.embedding(labels)).view(len(latents), 1, self.side, self.side)
        images: Tensor = self.blocks(torch.cat([x, y], dim=1))
        return images


class Discriminator(nn.Module):
    """Images → probability of being real [B, 1], and class logits [B, 3]."""

    def __init__(self, size: int, width: float, dropout: float) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        inputs = 3
        for index, channels in enumerate((32, 64, 128, 256, 512)):
            outputs = _scaled(channels, width)
            blocks += [
                nn.Conv2d(inputs, outputs, 3, stride=1 if index == 0 else 2, padding=1),
                nn.BatchNorm2d(outputs, eps=1e-3),
                nn.LeakyReLU(0.2),
                nn.Dropout(dropout),
            ]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks, nn.Flatten())
        features = inputs * (size // 16) ** 2
        self.source = nn.Linear(features, 1)
        self.label = nn.Linear(features, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [B, 3, H, W] to what they are."""
        x = self.blocks(images)
        return torch.sigmoid(self.source(x)), self.label(x)


class Port:
    """Both networks and optimizers on a device, and the published step."""

    def __init__(
        self, *, size: int, width: float, device: torch.device, autocast: torch.dtype | None = None
    ) -> None:
        self.device, self.autocast = device, autocast
        self.generator = Generator(size, width).to(device)
        self.discriminator = Discriminator(size, width, dropout=0.5).to(device)
        self.generator_adam = _adam(self.generator)
        self.discriminator_adam = _adam(self.discriminator)

    def step(self, images: Tensor, labels: Tensor) -> list[float]:
        """Update both networks once; images [B, 3, H, W] in [-1, 1], labels [B]."""
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            discriminator = self._discriminator_loss(images, labels)
        self.discriminator_adam.zero_grad()
        discriminator.backward()
        self.discriminator_adam.step()
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            generator = self._generator_loss(2 * len(images))
        self.generator_adam.zero_grad()
        generator.backward()
        self.generator_adam.step()
        return [discriminator.item(), generator.item()]

    def _draw(self, count: int) -> tuple[Tensor, Tensor]:
        latents = torch.rand(count, 100, device=self.device) * 2 - 1
        return latents, torch.randint(3, (count,), device=self.device)

    def _discriminator_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        count = len(images)
        latents, drawn = self._draw(count)
        self.generator.eval()
        with torch.no_grad():
            generated = self.generator(latents, drawn)
        self.discriminator.train()
        source, label = self.discriminator(torch.cat([images, generated]))
        ones = torch.ones(count, 1, device=self.device)
        smoothing = 0.2 * torch.rand(2 * count, 1, device=self.device)
        target = torch.cat([ones - smoothing[:count], smoothing[count:]])
        return _source_loss(source, target) + F.cross_entropy(label, torch.cat([labels, drawn]))

    def _generator_loss(self, count: int) -> Tensor:
        latents, drawn = self._draw(count)
        self.generator.train()
        source, label = self._frozen(self.generator(latents, drawn))
        return _source_loss(source, torch.ones_like(source)) + F.cross_entropy(label, drawn)

    def _frozen(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.discriminator.eval()  # its BatchNorm as when frozen in Keras, its dropout on
        for module in self.discriminator.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        found: tuple[Tensor, Tensor] = self.discriminator(images)
        return found


def _adam(module: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=2e-4, betas=(0.5, 0.999), eps=1e-7)


def _source_loss(probability: Tensor, target: Tensor) -> Tensor:
    with torch.autocast(probability.device.type, enabled=False):
        return F.binary_cross_entropy(probability.float(), target.float())
