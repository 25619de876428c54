from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from benchmarks.picture import draw
from benchmarks.replay import SEARCHERS
from benchmarks.standing import Band

pytestmark = pytest.mark.process


def test_the_picture_is_the_same_png_whenever_it_is_drawn() -> None:
    falling = np.array([np.inf, *np.linspace(9, 2, 39)])
    bands = {searcher: Band(falling + 1, falling, falling + 2) for searcher in SEARCHERS}
    png = draw(bands, oracle=2.5)
    assert Image.open(io.BytesIO(png)).size == (1350, 600)
    assert draw(bands, oracle=2.5) == png
