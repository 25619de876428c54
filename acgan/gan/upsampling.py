"""Layers that double an image's side: the published transposed convolution, and one without it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

# Where a CPU does a transposed convolution faster as a product of matrices (measured).
SMALL_SIDE, MANY_CHANNELS, FEW_CHANNELS = 8, 256, 4
# Channels for each input pixel from which it pays to add up all products of a pixel (measured).
PIXEL_COST = 16


class UpConvolution(nn.ConvTranspose2d):
    """Keras' transposed convolution: kernel 5, stride 2, "same": [B, C, n, n] → [B, D, 2n, 2n]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=5, stride=2, padding=1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Keras crops one row and column at the top left and two at the bottom right."""
        side, deep = x.shape[-1], x.shape[-1] <= SMALL_SIDE and x.shape[1] >= MANY_CHANNELS
        if _own(x) and (deep or self.out_channels <= FEW_CHANNELS):
            by_matrices: Callable[..., Tensor] = _ByMatrices.apply
            return by_matrices(x, self.weight, self.bias, deep)
        return super().forward(x, output_size)[..., : 2 * side, : 2 * side]


class NearestConvolution(nn.ConvTranspose2d):
    """Nearest-neighbour upsampling, then a 3×3 convolution: [B, C, n, n] → [B, D, 2n, 2n].

    Odena, Dumoulin and Olah 2016, "Deconvolution and Checkerboard Artifacts": every output pixel
    is made by as many weights as any other. (Of stride 1, a transposed convolution is a convolution
    whose kernel is flipped.) The two linear maps are computed as one transposed convolution of
    stride 2, whose 4×4 kernel holds the sums of the weights that meet the same input pixel: 16
    products in place of 36. On a CPU a pixel's channels then stand together in memory, which is
    faster for small images, and few pixels of many channels each meet their 9 weights once.
    """

    sums: Tensor
    bias: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=3, padding=1)
        taps = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])  # [4, 3]
        self.register_buffer("sums", torch.kron(taps, taps), persistent=False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: ARG002
        """Map [B, C, n, n] to [B, D, 2n, 2n]."""
        weight = self.weight.permute(0, 2, 3, 1).flatten(1, 2)  # [C, 9, D]
        if not _own(x):
            return F.conv_transpose2d(x, self._kernel(weight).contiguous(), self.bias, 2, 1)
        x = x.contiguous(memory_format=torch.channels_last)
        if PIXEL_COST * x.shape[-1] ** 2 <= self.in_channels:
            return _by_pixels(x, weight, self.bias)
        kernel = self._kernel(weight)
        if self.out_channels > FEW_CHANNELS:
            return F.conv_transpose2d(x, kernel, self.bias, 2, 1)
        columns = kernel.flatten(1).T @ x.flatten(2)  # [B, D · 16, n²]
        images = F.fold(columns, (2 * x.shape[-1],) * 2, 4, stride=2, padding=1)
        return images + self.bias.view(-1, 1, 1)

    def lay_out(self) -> None:
        """Keep all outputs of a weight's place together in memory, as `forward` wants them."""
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)

    def _kernel(self, weight: Tensor) -> Tensor:
        """Return the sums of weights [C, 9, D] as [C, D, 4, 4]."""
        sums = self.sums @ weight  # [C, 16, D]
        kernel: Tensor = sums.unflatten(1, (4, 4)).permute(0, 3, 1, 2)
        return kernel


def _by_pixels(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Map x [B, C, n, n] by weight [C, 9, D] to [B, D, 2n, 2n]: all products, then their sums."""
    batch, inputs, side, _ = x.shape
    products = x.permute(0, 2, 3, 1).reshape(-1, inputs) @ weight.flatten(1)  # [B · n², 9 · D]
    where = _meeting(side).to(x.dtype).expand(batch, -1, -1)
    images = torch.baddbmm(bias, where, products.view(batch, 9 * side**2, -1))  # [B, 4n², D]
    return images.view(batch, 2 * side, 2 * side, -1).permute(0, 3, 1, 2)


@cache
def _meeting(side: int) -> Tensor:
    """Return which products each output pixel is the sum of: 1 or 0, [4n², 9n²].

    A product is of an input pixel (row, column) and a weight (row, column), in this order.
    """
    with torch.inference_mode(False):  # it is kept, and training needs it too
        pixels, taps, places = torch.arange(side), torch.arange(3), torch.arange(2 * side)
        met = places[:, None, None] + 1 - taps  # [2n, 1, 3], of the image that is upsampled
        found = (met.div(2, rounding_mode="floor") == pixels[:, None]).float()  # [2n, n, 3]
        return torch.einsum("oit,pju->opijtu", found, found).reshape(4 * side**2, -1)


def _own(x: Tensor) -> bool:
    """Whether a layer may take a short cut: on a CPU, in numbers that are not reduced."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


class _ByMatrices(torch.autograd.Function):
    """A transposed convolution as one product of matrices whose columns are then added up.

    On a CPU faster than PyTorch's own where channels are many and images small ("deep": half the
    time, its weights' gradient too, which is the product the other way round), or outputs few.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, deep: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.deep = deep
        batch, inputs, side, _ = x.shape
        kernel = weight.shape[-1]
        taps = weight.flatten(1).T  # [k² · D, C]
        if deep:
            columns = taps @ x.transpose(0, 1).reshape(inputs, -1)  # [k² · D, B · n²]
            columns = columns.view(-1, batch, side**2).transpose(0, 1)
        else:
            columns = taps @ x.flatten(2)  # [B, k² · D, n²]
        images = F.fold(columns, (2 * side + kernel - 4,) * 2, kernel, stride=2, padding=1)
        return images[..., : 2 * side, : 2 * side] + bias.view(-1, 1, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        due = ctx.needs_input_grad
        cropped = weight.shape[-1] - 4
        images = F.pad(gradients[0], (0, cropped, 0, cropped))  # [B, D, 2n + k − 4, 2n + k − 4]
        of_x = F.conv2d(images, weight, stride=2, padding=1) if due[0] else None
        of_weight = _weight_gradient(images, x, weight, deep=ctx.deep) if due[1] else None
        of_bias = gradients[0].sum((0, 2, 3)) if due[2] else None
        return of_x, of_weight, of_bias, None


def _weight_gradient(images: Tensor, x: Tensor, weight: Tensor, *, deep: bool) -> Tensor:
    if not deep:
        found: Tensor = conv2d_weight(images, list(weight.shape), x, stride=2, padding=1)
        return found
    kernel = weight.shape[-1]
    columns = F.unfold(images, kernel, stride=2, padding=1).transpose(0, 1)  # [k² · D, B, n²]
    product: Tensor = x.transpose(0, 1).flatten(1) @ columns.flatten(1).T  # [C, k² · D]
    return product.view_as(weight)
