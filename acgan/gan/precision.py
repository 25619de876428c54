"""A training step with fewer digits: convolutions and products of matrices in bfloat16.

Micikevicius et al. 2018, "Mixed Precision Training"; Kalamkar et al. 2019, "A Study of BFLOAT16
for Deep Learning Training". Weights, gradients, moments, losses and BatchNorm's statistics stay
float32, and no loss is scaled, since bfloat16 has float32's range. Dropout's scale is rounded too,
by at most 0.2 %. What is measured and kept of an epoch is computed in float32 in any case.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from acgan.config import TrainConfig
from acgan.errors import InputError


def reduced(config: TrainConfig) -> bool:
    """Whether a configuration asks for bfloat16."""
    return config.precision == "bfloat16"


def check_precision(config: TrainConfig, device: torch.device) -> None:
    """Raise `InputError` if the device does not compute in the configuration's precision."""
    if not reduced(config) or device.type != "cuda":
        return
    with torch.cuda.device(device):
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    if not supported:
        raise InputError(
            f"{torch.cuda.get_device_name(device)} has no bfloat16; train with --precision float32"
        )


def computing(config: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which the networks of a step compute; gradients are taken outside."""
    return torch.autocast(device.type, torch.bfloat16, enabled=reduced(config))


def widened(numbers: Tensor) -> Tensor:
    """Return numbers in bfloat16 as float32, others as they are."""
    return numbers.float() if numbers.dtype == torch.bfloat16 else numbers


def lay_out(network: nn.Module, config: TrainConfig) -> None:
    """Arrange a network's weights as reduced products want them: a pixel's channels together."""
    if reduced(config):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
