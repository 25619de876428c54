from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from acgan.gan.ema import Ema
from acgan.gan.interface import GeneratorNetwork
from acgan.gan.models import Generator
from acgan.gan.step import Training
from acgan.training import DeviceImages, train_epoch
from tests.kit import tiny_config, tiny_dataset

CPU = torch.device("cpu")


def moved(generator: Generator, seed: int) -> None:
    """Add noise to all weights and moving statistics."""
    random = torch.Generator().manual_seed(seed)
    for tensor in generator.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=random))
        else:
            tensor.add_(1)


def arrays(generator: GeneratorNetwork) -> dict[str, NDArray[np.float64]]:
    return {k: v.double().numpy().copy() for k, v in generator.state_dict().items()}


def by_hand(iterates: list[NDArray[np.float64]], decay: float) -> NDArray[np.float64]:
    """Return the average as one weighted sum of all iterates, the initial one among them."""
    decays = [min(decay, (1 + t) / (10 + t)) for t in range(1, len(iterates))]
    weights = [np.prod(decays)]
    weights += [(1 - d) * np.prod(decays[place + 1 :]) for place, d in enumerate(decays)]
    assert sum(weights) == pytest.approx(1)
    total: NDArray[np.float64] = np.tensordot(np.array(weights), np.array(iterates), 1)
    return total


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_average_is_a_weighted_sum_of_all_weights_and_statistics(decay: float) -> None:
    generator = Generator(tiny_config())
    ema, iterates = Ema(generator, decay=decay), [arrays(generator)]
    for seed in range(12):
        moved(generator, seed)
        ema.update(generator)
        iterates.append(arrays(generator))
    for name, found in arrays(ema.generator).items():
        if name.endswith("num_batches_tracked"):
            assert found == iterates[-1][name] == 12
        else:
            expected = by_hand([each[name] for each in iterates], decay)
            np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_average_of_what_does_not_move_is_itself() -> None:
    generator = Generator(tiny_config())
    ema = Ema(generator, decay=0.99)
    for _ in range(50):
        ema.update(generator)
    for found, wanted in zip(
        arrays(ema.generator).values(), arrays(generator).values(), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def test_averaging_changes_no_bit_of_the_training() -> None:
    images = DeviceImages(tiny_dataset(train=20).train, CPU)
    plain, averaged = (
        Training(tiny_config(ema_decay=decay), classes=3, device=CPU) for decay in (0, 0.99)
    )
    for epoch in (1, 2, 3):
        assert train_epoch(plain, images, epoch) == train_epoch(averaged, images, epoch)
    found = {k: v for k, v in averaged.tensors().items() if not k.startswith("ema/")}
    expected = plain.tensors()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_average_continues_from_its_tensors_bit_for_bit() -> None:
    generator = Generator(tiny_config())
    straight = Ema(generator, decay=0.9)
    for seed in range(3):
        moved(generator, seed)
        straight.update(generator)
    resumed = Ema(Generator(tiny_config(seed=7)), decay=0.9)
    resumed.load_tensors({k: v.clone() for k, v in straight.tensors().items()})
    moved(generator, 3)
    for ema in (straight, resumed):
        ema.update(generator)
    found, expected = resumed.tensors(), straight.tensors()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(KeyError):
        resumed.load_tensors({})


def test_a_candidate_is_the_average_where_there_is_one() -> None:
    plain, averaged = (
        Training(tiny_config(ema_decay=decay), classes=3, device=CPU) for decay in (0, 0.99)
    )
    assert plain.candidate is plain.generator
    assert averaged.ema is not None
    assert averaged.candidate is averaged.ema.generator
    assert not any(p.requires_grad for p in averaged.candidate.parameters())
