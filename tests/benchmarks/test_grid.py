from __future__ import annotations

import pytest

from benchmarks.grid import Cell, cells, images_per_s, report
from benchmarks.peers.worker import Settings

TINY = Settings(size=16, width=0.0625, batch=4, threads=1)


def test_the_grid_has_the_default_and_no_cell_of_more_than_twice_the_cores() -> None:
    assert cells(2) == [Cell(1, 1), Cell(1, 2), Cell(2, 1), Cell(2, 2), Cell(4, 1)]
    assert cells(1) == [Cell(1, 1), Cell(2, 1)]
    assert Cell(6, 1) in cells(6)
    assert all(p * t <= 12 and t <= 6 for p, t in cells(6))


@pytest.mark.process
def test_a_cell_counts_the_images_of_all_its_processes() -> None:
    assert images_per_s(Cell(2, 1), TINY, seconds=0) > 0


def test_the_report_names_the_best_cell_beside_the_default() -> None:
    found = {Cell(1, 2): [10.0, 30.0, 20.0], Cell(2, 1): [10.0, 10.0, 10.0]}
    text = report(found, TINY, 2)
    assert "| 1 | 2 | 20 | 20 | 2.00 (1.00 to 3.00) |" in text
    assert "Most images: 1 at once with 2 threads each. The default is 2 on 1." in text
