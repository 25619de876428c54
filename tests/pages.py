"""Pages as tests search them: without the text that chance writes."""

from __future__ import annotations

import re
from pathlib import Path


def searchable(page: str) -> str:
    """Return a page without what its `data:` URLs embed and without the ids of served images.

    Base64 text and random ids hold any short word by chance, and which ones a picture's holds
    depends on how a processor rounds.
    """
    without_pictures = re.sub(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]*", "data:", page)
    return re.sub(r"\bimage/[\w-]{16}(?![\w-])", "image/", without_pictures)


def read_page(path: Path) -> str:
    """Read a written page for a search of its words."""
    return searchable(path.read_text(encoding="utf-8"))
