"""Adam is PyTorch's to the last bit, and does not import PyTorch's compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from acgan.gan.adam import Adam


def parameters() -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(*shape, generator=random)) for shape in ((5, 3), (7,))]


def give_gradients(own: list[nn.Parameter], update: int) -> None:
    for parameter in own:
        random = torch.Generator().manual_seed(update)
        parameter.grad = torch.randn(parameter.shape, generator=random)


@pytest.mark.parametrize("fused", [True, None])
def test_the_weights_are_those_of_pytorchs_optimizer_bit_for_bit(fused: bool | None) -> None:
    ours, theirs = parameters(), parameters()
    own = Adam(ours, learning_rate=0.01, betas=(0.5, 0.99), epsilon=1e-6, fused=fused)
    peer = torch.optim.Adam(theirs, lr=0.01, betas=(0.5, 0.99), eps=1e-6, fused=fused)
    for update in range(20):
        give_gradients(ours, update)
        own.step()
        own.zero_grad()
        give_gradients(theirs, update)
        peer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(parameter.grad is None for parameter in ours)


def test_a_parameter_without_a_gradient_stays_and_has_no_state() -> None:
    first, second = parameters()
    before: Tensor = second.detach().clone()
    optimizer = Adam([first, second], learning_rate=0.01)
    give_gradients([first], 0)
    optimizer.step()
    assert torch.equal(second, before)
    assert list(optimizer.state) == [first]


TRAINS = """
import sys
import numpy as np
import torch
from acgan.config import TrainConfig
from acgan.evaluation.classifier import FitConfig, fit_last
from acgan.gan.step import Training, train_step
config = TrainConfig(image_size=16, width=0.02, batch_size=2, spectral_norm=True, ema_decay=0.9)
training = Training(config, classes=3, device=torch.device("cpu"))
train_step(training, torch.zeros(2, 3, 16, 16), torch.tensor([0, 1]), torch.Generator())
fit_last(np.zeros((4, 16, 16), np.uint8), np.arange(4) % 3, config=FitConfig(epochs=1),
         classes=3, seed=0)
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.process
def test_neither_training_nor_a_cnn_imports_pytorchs_compiler() -> None:
    command = [sys.executable, "-c", TRAINS]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
