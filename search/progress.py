"""What a person sees while a search runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from search.stopping import Decision

REDRAW_S = 0.5


class Progress:
    """Shows the trials under way and tells of each that ends.

    `epochs` is what a whole trial has; `asked` how many trials are asked for, `ended` how many of
    them had ended before this start.
    """

    def __init__(
        self,
        *,
        asked: int,
        ended: int,
        epochs: int,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._asked, self._ended, self._epochs = asked, ended, epochs
        self._out = out or sys.stdout
        self._live = self._out.isatty()
        self._clock = clock
        self._started = clock()
        self._drawn = 0
        self._drawn_at = -REDRAW_S
        self._running: dict[str, tuple[int, float]] = {}
        self._over: set[str] = set()

    def epoch(self, name: str, epoch: int, value: float) -> None:
        """Take up an epoch of a trial and its value there."""
        if name in self._over:
            return  # Tune's last word repeats the last epoch
        begins = name not in self._running
        self._running[name] = (epoch, value)
        if begins and not self._live:
            self.say(f"{name} trains (epoch {epoch} of {self._epochs} done)")
        if self._live and self._clock() - self._drawn_at >= REDRAW_S:
            self._draw()

    def ended(self, name: str, decision: Decision) -> None:
        """Tell how a trial ended for good."""
        epoch, value = self._running.pop(name, (0, float("nan")))
        self._ended += 1
        self._over.add(name)
        reason = f": {decision.reason}" if decision.reason else ""
        self.say(
            f"{name} {decision.outcome}{reason} (epoch {epoch}, {value:.4g}); "
            f"{self._ended} of {self._asked} ended after {self._clock() - self._started:.0f} s"
        )

    def crashed(self, name: str) -> None:
        """Tell that a trial crashed out of its retries."""
        self._running.pop(name, None)
        self.say(f"{name} crashed")

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._erase()
        print(line, file=self._out, flush=True)
        if self._live:
            self._draw()

    def close(self) -> None:
        """Take the live part off the screen."""
        self._erase()

    def _draw(self) -> None:
        self._erase()
        rows = [
            f"  {name}  epoch {epoch}/{self._epochs}  {value:.4g}"
            for name, (epoch, value) in sorted(self._running.items())
        ]
        self._out.write("".join(row + "\n" for row in rows))
        self._out.flush()
        self._drawn, self._drawn_at = len(rows), self._clock()

    def _erase(self) -> None:
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}F\x1b[J")
            self._out.flush()
            self._drawn = 0
