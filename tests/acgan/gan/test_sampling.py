from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acgan.gan.sampling import class_balanced, shuffled


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(any), st.integers(0, 9))
def test_classes_and_the_images_of_a_class_come_equally_often(counts: list[int], seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=seeded(seed))]
    drawn = class_balanced(labels, seeded(seed))
    assert len(drawn) == len(labels)
    of_class = torch.bincount(labels[drawn], minlength=len(counts))
    present = torch.tensor(counts) > 0
    assert of_class[~present].sum() == 0
    assert of_class[present].max() - of_class[present].min() <= 1
    times = torch.bincount(drawn, minlength=len(labels))
    for label in labels.unique():
        own = times[labels == label]
        assert own.max() - own.min() <= 1


def test_balanced_places_are_in_random_order_over_the_classes() -> None:
    labels = torch.arange(600) % 20 // 19  # 30 of one class, 570 of the other
    drawn = labels[class_balanced(labels, seeded())]
    halves = drawn[:300].sum(), drawn[300:].sum()
    assert sum(halves) == 300
    assert max(halves) < 190  # 150 ± 8.7 by chance


def test_all_images_of_a_common_class_come_in_some_epoch() -> None:
    labels = torch.tensor([0] * 3 + [1] * 17)
    seen = {int(p) for epoch in range(20) for p in class_balanced(labels, seeded(epoch))}
    assert seen == set(range(20))


@pytest.mark.parametrize("order", [class_balanced, shuffled])
def test_the_same_seed_gives_the_same_order(order: type) -> None:
    labels = torch.arange(30) % 3
    first, again, other = (order(labels, seeded(seed)).tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_shuffled_places_come_once_each() -> None:
    assert sorted(shuffled(torch.zeros(9), seeded()).tolist()) == list(range(9))
