"""A plain PyTorch port of the recipe in `configs/small.yaml`: eager, float32, NCHW, no tricks.

Written as its parts' papers are usually ported: `nn.Upsample` and `nn.Conv2d`, PyTorch's
`spectral_norm` and `torch.optim.Adam`. Images have one channel. Its work is the recipe's, its
numbers are not to the last digit (initial weights, padding, epsilon).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


class Block(nn.Module):
    """Nearest upsampling, a 3×3 convolution and class-conditional BatchNorm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.scale, self.shift = nn.Embedding(3, outputs), nn.Embedding(3, outputs)
        nn.init.zeros_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Map [B, C, n, n] to [B, D, 2n, 2n]."""
        x = self.norm(self.convolution(F.interpolate(x, scale_factor=2.0)))
        scale, shift = self.scale(labels)[..., None, None], self.shift(labels)[..., None, None]
        return F.relu(x * (1 + scale) + shift)


class Generator(nn.Module):
    """Latents and class labels → grey images in [-1, 1]."""

    def __init__(self, size: int, width: float) -> None:
        super().__init__()
        self.side = size // 16
        first, *rest = (_scaled(c, width) for c in (1024, 512, 256, 128))
        self.latent = nn.Linear(100, first * self.side**2)
        self.embedding = nn.Embedding(3, 100)
        self.label = nn.Linear(100, self.side**2)
        self.blocks = nn.ModuleList()
        inputs = first + 1
        for outputs in rest:
            self.blocks.append(Block(inputs, outputs))
            inputs = outputs
        self.image = nn.Conv2d(inputs, 1, 3, padding=1)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Map latents [B, 100] and labels [B] to images [B, 1, H, W]."""
        x = F.relu(self.latent(latents)).view(len(latents), -1, self.side, self.side)
        y = self.label(self.embedding(labels)).view(len(latents), 1, self.side, self.side)
        x = torch.cat([x, y], dim=1)
        for block in self.blocks:
            x = block(x, labels)
        return torch.tanh(self.image(F.interpolate(x, scale_factor=2.0)))


class Discriminator(nn.Module):
    """Grey images → source logits [B] and class logits [B, 3], all layers spectrally normalised."""

    def __init__(self, size: int, width: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for index, channels in enumerate((32, 64, 128, 256, 512)):
            outputs = _scaled(channels, width)
            stride = 1 if index == 0 else 2
            layers += [
                spectral_norm(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)),
                nn.LeakyReLU(0.2),
            ]
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Flatten())
        features = inputs * (size // 16) ** 2
        self.source = spectral_norm(nn.Linear(features, 1))
        self.label = spectral_norm(nn.Linear(features, 3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [B, 1, H, W] to what they are."""
        x = self.layers(images)
        return self.source(x).squeeze(1), self.label(x)


class RecipePort:
    """Both networks, their optimizers and the generator's average, and the recipe's step."""

    def __init__(self, *, size: int, width: float, device: torch.device) -> None:
        self.device = device
        self.generator = Generator(size, width).to(device)
        self.discriminator = Discriminator(size, width).to(device)
        self.generator_adam = _adam(self.generator, 1e-4)
        self.discriminator_adam = _adam(self.discriminator, 4e-4)
        self.average = AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(0.999))

    def step(self, images: Tensor, labels: Tensor) -> list[float]:
        """Update both networks once; images [B, 1, H, W] in [-1, 1], labels [B]."""
        discriminator = self._discriminator_loss(images, labels)
        self.discriminator_adam.zero_grad()
        discriminator.backward()
        self.discriminator_adam.step()
        generator = self._generator_loss(images, labels)
        self.generator_adam.zero_grad()
        generator.backward()
        self.generator_adam.step()
        self.average.update_parameters(self.generator)
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
        source, label = self.discriminator(_augmented(torch.cat([images, generated])))
        sides = torch.ones(2 * count, device=self.device)
        sides[count:] = -1
        sides *= 1 - 0.4 * torch.rand(2 * count, device=self.device)  # smoothed by 0.2
        return F.relu(1 - sides * source).mean() + F.cross_entropy(label[:count], labels)

    def _generator_loss(self, real: Tensor, labels: Tensor) -> Tensor:
        latents, drawn = self._draw(2 * len(real))
        drawn = drawn[: len(real)].repeat(2)
        self.generator.train()
        self.discriminator.eval()
        images = self.generator(latents, drawn)
        source, label = self.discriminator(_augmented(images))
        variety = _difference(*images.chunk(2)) / _difference(*latents.chunk(2))
        bound = _difference_of_real(real, labels) / (2 / 3)
        seeking = 0.5 / (torch.minimum(variety, bound) + 1e-5)
        loss: Tensor = -source.mean() + 0.2 * F.cross_entropy(label, drawn) + seeking
        return loss


def _adam(module: nn.Module, rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=rate, betas=(0.5, 0.999), eps=1e-7)


def _difference(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).abs().mean()


def _difference_of_real(images: Tensor, labels: Tensor) -> Tensor:
    order = labels.argsort(stable=True)
    images, labels = images[order], labels[order]
    same = labels[:-1] == labels[1:]
    return _difference(images[:-1][same], images[1:][same])


def _augmented(images: Tensor) -> Tensor:
    """Translate and cut out as DiffAugment's published code does."""
    count, _, height, width = images.shape
    shift = round(0.125 * height)
    device = images.device
    image, row, column = torch.meshgrid(
        *(torch.arange(n, device=device) for n in (count, height, width)), indexing="ij"
    )
    moves = torch.randint(-shift, shift + 1, (2, count, 1, 1), device=device)
    rows = (row + moves[0] + 1).clamp(0, height + 1)
    columns = (column + moves[1] + 1).clamp(0, width + 1)
    padded = F.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1).contiguous()
    images = padded[image, rows, columns].permute(0, 3, 1, 2)
    size = height // 2
    centres = torch.randint(0, height + 1, (2, count, 1, 1), device=device)
    hidden = ((row - centres[0] + size // 2) // size == 0) & (
        (column - centres[1] + size // 2) // size == 0
    )
    return images * ~hidden[:, None]
