"""Translation and cutout, against the loops that they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from acgan.gan.diffaugment import cut_out, translate

Change = Callable[[Tensor, float, torch.Generator], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, side: int = 8) -> Tensor:
    """Return images whose pixels all differ and are never 0, [count, 3, side, side]."""
    pixels = torch.arange(1.0, count * 3 * side**2 + 1)
    return pixels.view(count, 3, side, side)


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Shift one image [C, H, W], as many rows and columns as it loses coming in as 0."""
    moved = torch.zeros_like(image)
    height, width = image.shape[1:]
    rows, columns = (slice(max(s, 0), n + min(s, 0)) for s, n in ((down, height), (right, width)))
    from_rows, from_columns = (
        slice(max(-s, 0), n - max(s, 0)) for s, n in ((down, height), (right, width))
    )
    moved[:, rows, columns] = image[:, from_rows, from_columns]
    return moved


def shift_of(image: Tensor, moved: Tensor, reach: int) -> tuple[int, int]:
    """Find the one shift that makes one image of another."""
    found = [
        (down, right)
        for down in range(-reach, reach + 1)
        for right in range(-reach, reach + 1)
        if torch.equal(shifted(image, down, right), moved)
    ]
    assert len(found) == 1
    return found[0]


def test_translation_shifts_each_image_by_whole_pixels_and_fills_with_zero() -> None:
    images = numbered(400)
    moved = translate(images, 1 / 4, seeded())
    shifts = [shift_of(a, b, 2) for a, b in zip(images, moved, strict=True)]
    counts = Counter(shifts)
    assert len(counts) == 25  # every pair of -2 … 2
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_the_published_share_shifts_by_an_eighth_of_the_side() -> None:
    images = numbered(200, side=16)
    moved = translate(images, 0.125, seeded())
    shifts = {shift_of(a, b, 3) for a, b in zip(images, moved, strict=True)}
    assert {abs(s) for shift in shifts for s in shift} == {0, 1, 2}


@pytest.mark.parametrize(("share", "size"), [(1 / 2, 4), (3 / 8, 3)])
def test_cutout_cuts_one_square_and_its_centre_is_uniform(share: float, size: int) -> None:
    images = numbered(900)
    cut = cut_out(images, share, seeded())
    rows = Counter[tuple[int, int]]()
    for before, after in zip(images, cut, strict=True):
        gone = after == 0
        assert torch.equal(after[~gone], before[~gone])
        assert torch.equal(gone[0], gone[1])
        assert torch.equal(gone[0], gone[2])
        high, wide = gone[0].any(1).nonzero().flatten(), gone[0].any(0).nonzero().flatten()
        assert int(gone[0].sum()) == len(high) * len(wide)
        for hidden in (high.tolist(), wide.tolist()):
            assert hidden == list(range(hidden[0], hidden[-1] + 1))
            at_border = hidden[0] == 0 or hidden[-1] == 7
            assert len(hidden) == size or (at_border and len(hidden) < size)
        rows[int(high[0]), int(high[-1])] += 1
    # Each centre gives another range of rows: 9 of them for an even size, 8 for an odd one.
    assert len(rows) == 8 + (size + 1) % 2
    assert stats.chisquare(list(rows.values())).pvalue > 1e-3


@pytest.mark.parametrize("change", [translate, cut_out])
def test_gradients_are_those_of_finite_differences(change: Change) -> None:
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: change(x, 0.5, seeded(3)), images)


@pytest.mark.parametrize("change", [translate, cut_out])
def test_what_is_not_hidden_keeps_its_value_so_that_no_colour_is_changed(change: Change) -> None:
    images = torch.rand(20, 3, 8, 8, generator=seeded()) + 0.5
    grey = images[:, :1].expand(-1, 3, -1, -1)
    changed = change(grey, 0.3, seeded())
    assert torch.equal(changed[:, 0], changed[:, 2])
    for before, after in zip(grey, changed, strict=True):
        assert set(after.flatten().tolist()) <= {0.0, *before.flatten().tolist()}


@pytest.mark.parametrize("change", [translate, cut_out])
def test_the_same_seed_gives_the_same_change_of_each_image_its_own(change: Change) -> None:
    images = numbered(1).expand(8, -1, -1, -1)
    first, again, other = (change(images, 0.4, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(image.flatten().tolist()) for image in first}) > 1
