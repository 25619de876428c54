"""Layers that double an image's side: the published transposed convolution, and one without it.

Both are transposed convolutions of stride 2, so both take the same short cuts on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

# Where a CPU does a transposed convolution faster as a product of matrices (measured).
SMALL_SIDE, MANY_CHANNELS, FEW_CHANNELS = 8, 256, 4


class UpConvolution(nn.ConvTranspose2d):
    """Keras' transposed convolution: kernel 5, stride 2, "same": [B, C, n, n] → [B, D, 2n, 2n]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=5, stride=2, padding=1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: ARG002
        """Keras crops one row and column at the top left and two at the bottom right."""
        return doubled(x, self.weight, self.bias)


class NearestConvolution(nn.ConvTranspose2d):
    """Nearest-neighbour upsampling, then a 3×3 convolution: [B, C, n, n] → [B, D, 2n, 2n].

    Odena, Dumoulin and Olah 2016, "Deconvolution and Checkerboard Artifacts": every output pixel
    is made by as many weights as any other. (Of stride 1, a transposed convolution is a convolution
    whose kernel is flipped.) The two linear maps are computed as one transposed convolution of
    stride 2, whose 4×4 kernel holds the sums of the weights that meet the same input pixel: 16
    products in place of 36.
    """

    sums: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=3, padding=1)
        taps = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])  # [4, 3]
        self.register_buffer("sums", torch.kron(taps, taps).T.contiguous(), persistent=False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: ARG002
        """Map [B, C, n, n] to [B, D, 2n, 2n]."""
        kernel = (self.weight.flatten(2) @ self.sums).unflatten(2, (4, 4))  # [C, D, 4, 4]
        return doubled(x, kernel, self.bias)


def doubled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the transposed convolution of x [B, C, n, n], stride 2 and padding 1, [B, D, 2n, 2n].

    weight: [C, D, k, k]; what k = 5 makes beyond 2n is cropped at the bottom right.
    """
    side, deep = x.shape[-1], x.shape[-1] <= SMALL_SIDE and x.shape[1] >= MANY_CHANNELS
    own = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if own and (deep or weight.shape[1] <= FEW_CHANNELS):
        by_matrices: Callable[..., Tensor] = _ByMatrices.apply
        return by_matrices(x, weight, bias, deep)
    images = F.conv_transpose2d(x, weight, bias, stride=2, padding=1)
    return images[..., : 2 * side, : 2 * side]


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
