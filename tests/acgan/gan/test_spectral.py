from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from acgan.gan.models import Discriminator
from acgan.gan.spectral import normalise
from tests.kit import tiny_config


def layers(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def largest_singular_value(weight: torch.Tensor) -> float:
    matrix = weight.detach().double().flatten(1).numpy()
    return float(np.linalg.svd(matrix, compute_uv=False)[0])


def test_all_layers_have_a_largest_singular_value_of_one_once_it_is_found() -> None:
    discriminator = Discriminator(tiny_config(width=1 / 8, spectral_norm=True)).train()
    images = torch.rand(2, 3, 16, 16)
    for _ in range(300):  # power iterations, one a forward pass
        discriminator(images)
    discriminator.eval()
    found = [largest_singular_value(layer.weight) for layer in layers(discriminator)]  # type: ignore[arg-type]
    assert len(found) == 7  # five convolutions, two heads
    assert found == pytest.approx([1] * 7, abs=1e-4)


def test_a_weight_is_its_original_over_one_power_iterations_estimate() -> None:
    network = nn.Sequential(nn.Linear(5, 4))
    normalise(network, seed=3)
    layer = network[0]
    assert isinstance(layer, nn.Linear)
    state = {k: v.clone().double().numpy() for k, v in layer.state_dict().items()}
    original = state["parametrizations.weight.original"]
    u, v = (state[f"parametrizations.weight.0._{name}"] for name in "uv")
    u = original @ v
    u /= np.linalg.norm(u)
    v = original.T @ u
    v /= np.linalg.norm(v)
    expected = original / (u @ original @ v)
    found = layer.train().weight.detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(layer.eval().weight.detach().numpy(), expected, rtol=1e-5)


def test_inference_leaves_the_vectors_and_training_moves_them() -> None:
    discriminator = Discriminator(tiny_config(spectral_norm=True))
    images = torch.rand(2, 3, 16, 16)

    def vectors() -> list[torch.Tensor]:
        return [v.clone() for k, v in discriminator.state_dict().items() if k.endswith("._u")]

    before = vectors()
    discriminator.eval()(images)
    assert all(map(torch.equal, before, vectors()))
    discriminator.train()(images)
    assert not all(map(torch.equal, before, vectors()))


def test_the_first_vectors_follow_from_the_seed_and_leave_the_global_random_state() -> None:
    before = torch.get_rng_state()
    states = [
        Discriminator(tiny_config(spectral_norm=True, width=1 / 8, seed=seed)).state_dict()
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    name = "convolutions.0.parametrizations.weight.0._u"
    first, again, other = (state[name] for state in states)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_spectral_norm_stands_in_place_of_batch_norm() -> None:
    plain, normalised = (Discriminator(tiny_config(spectral_norm=on)) for on in (False, True))
    assert any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in normalised.modules())
    assert not any(map(parametrize.is_parametrized, plain.modules()))
    original = normalised.state_dict()["convolutions.0.parametrizations.weight.original"]
    initial = plain.state_dict()["convolutions.0.weight"]
    assert torch.equal(original, initial)  # drawn alike
