"""Numbers, and others' names, as people read them."""

import math

from acgan.command import MINUS, significant
from selection.metrics.estimate import Estimate


def number(value: float | None, digits: int = 2) -> str:
    """Return `0.62`, `−0.02`; a dash where there is none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)  # + 0.0: never −0.00


def interval_text(estimate: Estimate | None, digits: int = 2) -> str:
    """Return `0.62 (0.57 to 0.67)`: a number with its 95 % interval."""
    if estimate is None:
        return "–"
    low, high = number(estimate.low, digits), number(estimate.high, digits)
    return f"{number(estimate.value, digits)} ({low} to {high})"


def percent(estimate: Estimate | None) -> str:
    """Return a share with its interval as `4 % (2 % to 7 %)`."""
    if estimate is None:
        return "not judged"
    value, low, high = (f"{100 * v:.0f} %" for v in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def counted(value: int, noun: str) -> str:
    """Return `1 image`, `2,048 images`."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def share(value: float | None) -> str:
    """Return `98 %`; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.0f} %"


def plain(text: object) -> str:
    """Return a text that others have named so that Markdown shows it as it is, on one line."""
    line = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in line)


FILTERS = {  # of templates
    "number": number,
    "interval": interval_text,
    "percent": percent,
    "significant": significant,
    "counted": counted,
    "share": share,
    "plain": plain,
}
