"""What a search of a page for words does not see, and that it sees all else."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

import pytest

from tests.pages import read_page, searchable

WORD = "anna"
HIDDEN = base64.b64encode(base64.b64decode(WORD * 4)).decode()


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (f'<img src="data:image/png;base64,{HIDDEN}" alt="x">', '<img src="data:" alt="x">'),
        (f"a{{background:url(data:image/svg+xml;base64,{HIDDEN}==)}}", "a{background:url(data:)}"),
        (f"<p>{WORD}</p><svg a>\n<text>{WORD}</text></svg>!", f"<p>{WORD}</p>!"),
        (f'<img src="image/{WORD * 4}">', '<img src="image/">'),
        (f'<img src="image/{WORD}">', f'<img src="image/{WORD}">'),
        (f"<p>data: of {WORD}, base64,{WORD}</p>", f"<p>data: of {WORD}, base64,{WORD}</p>"),
    ],
)
def test_only_embedded_pictures_and_random_ids_are_left_out(page: str, expected: str) -> None:
    assert searchable(page) == expected


def test_ids_of_served_images_have_the_length_that_is_left_out() -> None:
    assert searchable(f"image/{secrets.token_urlsafe(12)}") == "image/"


def test_a_written_page_is_read_without_its_pictures(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(f'{WORD} <img src="data:image/webp;base64,{HIDDEN}">')
    assert WORD in HIDDEN
    assert read_page(page).count(WORD) == 1
