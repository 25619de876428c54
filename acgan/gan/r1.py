"""The R1 penalty: how steep the discriminator is at real images, now and then."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def r1(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Return the mean over real images [B, 3, H, W] of |∇ source logit|², which can be learned.

    Mescheder, Geiger and Nowozin 2018, "Which Training Methods for GANs do actually Converge?".
    The discriminator is in inference mode and without dropout, as one function of each image: in
    a batch's statistics the gradient would be of all images at once.
    """
    mode = discriminator.training
    discriminator.eval()
    images = images.detach().requires_grad_()
    source, _ = discriminator(images)
    (gradient,) = torch.autograd.grad(source.sum(), images, create_graph=True)
    discriminator.train(mode)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def lazy_r1(
    discriminator: nn.Module, images: Tensor, updates: int, *, gamma: float, every: int
) -> Tensor | None:
    """Return every · gamma/2 · R1 at each `every`-th update, from the first on, else None.

    Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN": seldom, and as
    much stronger. updates: the discriminator's, so far
    """
    if updates % every:
        return None
    return every * gamma / 2 * r1(discriminator, images)
