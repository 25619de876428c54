"""The hinge loss, against its definition."""

from __future__ import annotations

import pytest
import torch

from acgan.gan.hinge import discriminator_loss, generator_loss


def test_only_logits_within_the_margin_cost_the_discriminator() -> None:
    source = torch.tensor([2.0, 0.5, -1.0, -3.0, 0.25])
    target = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    costs = [0, 0.5, 2, 0, 1.25]
    assert discriminator_loss(source, target).item() == pytest.approx(sum(costs) / 5)


def test_a_smoothed_target_asks_for_as_much_less_of_its_side() -> None:
    # A target of 0.9 is a side of 0.8: 1 − 0.8 · logit.
    found = discriminator_loss(torch.tensor([1.0]), torch.tensor([0.9]))
    assert found.item() == pytest.approx(0.2)


def test_the_generators_gradient_is_the_same_at_every_logit() -> None:
    source = torch.tensor([-5.0, 0.0, 5.0], requires_grad=True)
    generator_loss(source, torch.ones(3)).backward()
    assert source.grad is not None
    assert source.grad.tolist() == pytest.approx([-1 / 3] * 3)
