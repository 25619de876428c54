"""What a person sees while a search runs: a live table on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from acgan.evaluation.variety import ONE_PICTURE, is_one_picture
from search.study.folder import Outcome
from search.study.objective import Ended

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
        self._every = max(5, epochs // 10)
        self._out = out or sys.stdout
        self._live = self._out.isatty()
        self._clock = clock
        self._started = clock()
        self._drawn = 0
        self._drawn_at = -REDRAW_S
        self._running: dict[str, tuple[int, str]] = {}  # the epoch, and its value in words
        self._over: set[str] = set()
        self._lock = threading.Lock()

    def epoch(self, name: str, epoch: int, value: float, diversity: float | None = None) -> None:
        """Take up an epoch of a trial, its value, and its `val/diversity` if it is to be told."""
        if name in self._over:
            return  # Tune's last word repeats the last epoch
        begins = name not in self._running
        if not begins and epoch <= self._running[name][0]:
            self.say(f"{name} crashed and is tried again from epoch {epoch}")
        shown = _in_words(value, diversity)
        self._running[name] = (epoch, shown)
        if not self._live and (begins or epoch % self._every == 0):
            self.say(f"{name} epoch {epoch} of {self._epochs}: {shown}")
        if self._live and self._clock() - self._drawn_at >= REDRAW_S:
            with self._lock:
                self._draw()

    def ended(self, name: str, ended: Ended) -> None:
        """Tell how a trial ended for good, the value that it is judged by and `val/diversity`."""
        self._running.pop(name, None)
        self._ended += 1
        self._over.add(name)
        reason = f": {ended.reason}" if ended.reason else ""
        # Why a trial collapsed says what its images are called.
        diversity = None if ended.outcome is Outcome.COLLAPSED else ended.diversity
        self.say(
            f"{name} {ended.outcome}{reason}: {_in_words(ended.value, diversity)} after "
            f"{ended.epochs} epochs; "
            f"{self._ended} of {self._asked} ended after {self._clock() - self._started:.0f} s"
        )

    def crashed(self, name: str) -> None:
        """Tell that a trial crashed out of its retries."""
        self._running.pop(name, None)
        self.say(f"{name} crashed")

    def expect(self, more: int) -> None:
        """Take up that more trials are asked for."""
        self._asked += more

    def say(self, line: str) -> None:
        """Print a line that stays; the recorder's thread does so too."""
        with self._lock:
            self._erase()
            print(line, file=self._out, flush=True)
            if self._live:
                self._draw()

    def close(self) -> None:
        """Take the live part off the screen."""
        with self._lock:
            self._erase()
            self._running.clear()

    def _draw(self) -> None:
        self._erase()
        rows = [
            f"  {name}  epoch {epoch}/{self._epochs}  {shown}"
            for name, (epoch, shown) in sorted(self._running.items())
        ]
        self._out.write("".join(row + "\n" for row in rows))
        self._out.flush()
        self._drawn, self._drawn_at = len(rows), self._clock()

    def _erase(self) -> None:
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}F\x1b[J")
            self._out.flush()
            self._drawn = 0


def _in_words(value: float, diversity: float | None) -> str:
    """Return a value, and what images of such a diversity are called."""
    return f"{value:.4g}{f' ({ONE_PICTURE})' if is_one_picture(diversity) else ''}"
