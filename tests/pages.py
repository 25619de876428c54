"""Pages as tests search them: without the text that chance writes."""

from __future__ import annotations

import re
from pathlib import Path


def searchable(page: str) -> str:
    """Return a page without its pictures: `data:` URLs, drawings, and the ids of served images.

    Base64 text and random ids hold any short word by chance, and which ones a picture's holds
    depends on how a processor rounds; a drawing is full of numbers.
    """
    without_drawings = re.sub(r"<svg\b.*?</svg>", "", page, flags=re.DOTALL)
    without_pictures = re.sub(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]*", "data:", without_drawings)
    return re.sub(r"\bimage/[\w-]{16}(?![\w-])", "image/", without_pictures)


def read_page(path: Path) -> str:
    """Read a written page for a search of its words."""
    return searchable(path.read_text(encoding="utf-8"))
