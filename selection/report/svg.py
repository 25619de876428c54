"""Charts as SVG: whole files whose text is text, and how a page holds them."""

import io
import re

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people tell apart.
WINNER, BASELINE, CEILING, TIED, LEFT = "#d55e00", "#0072b2", "#009e73", "#000000", "#8a8a8a"
GRID, PAPER = "#e5e5e5", "#ffffff"
# What each colour is on a page, light or dark: a variable of `head.html.j2`.
THEME = {
    WINNER: "--dot-picked",
    BASELINE: "--dot-baseline",
    CEILING: "--dot-real",
    TIED: "--text",
    LEFT: "--dot-other",
    GRID: "--line",
    PAPER: "--page",
}
SVG = ".svg"
RASTER_DPI = 200  # of what a chart has as pixels
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))

# What a page needs no more: style rules, which would hold for all of it, and names of the format.
_SURPLUS = re.compile(r' xmlns(:xlink)?="[^"]*"|<defs>\s*<style.*?</style>\s*</defs>', re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_REFERENCE = re.compile(r'(\bid="|href="#|url\(#)')
_COLOUR = re.compile("|".join(THEME))


def figure_svg(figure: Figure) -> bytes:
    """Return a figure as an SVG whose text can be read and found; equal figures, equal bytes."""
    readable_and_repeatable = rc_context({"svg.fonttype": "none", "svg.hashsalt": "chart"})
    with readable_and_repeatable, io.BytesIO() as file:
        figure.savefig(file, format="svg", dpi=RASTER_DPI, metadata=NO_METADATA)
        return file.getvalue()


def inside_page(content: bytes, name: str) -> Markup:
    """Return an SVG as it stands inside a page: in the page's colours, its ids led by `name`."""
    text = content.decode()
    text = _SURPLUS.sub("", text[text.index("<svg") :])
    return Markup(_TAG.sub(lambda tag: _on_page(tag[0], name), text))


def _on_page(tag: str, name: str) -> str:
    own = _REFERENCE.sub(rf"\g<1>{name}-", tag)
    return _COLOUR.sub(lambda colour: f"var({THEME[colour[0]]})", own)
