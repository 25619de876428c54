"""What a person sees while a search runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from acgan.command import duration, significant
from acgan.evaluation.variety import ONE_PICTURE, is_one_picture
from acgan.run.records import Ranking
from search.study.folder import Outcome, is_searched
from search.study.objective import Ended

REFRESH_PER_S = 2.0
HEARTBEAT_S = 60.0
BAR_WIDTH = 24
BAR = ""  # its column


@dataclass(frozen=True)
class Seen:
    """An epoch as it is shown: its value, the trial's best so far, and what images are called.

    value, best: of the objective; best is the number by which the trial is ranked in the end
    """

    epoch: int
    value: float
    best: float
    images_per_s: float = 0.0
    diversity: float | None = None

    @property
    def called(self) -> str:
        """What its images are called; "" where they vary."""
        return ONE_PICTURE if is_one_picture(self.diversity) else ""


class Progress:
    """Shows the trials under way and tells of each that ends.

    `epochs` is what a whole trial has; `asked` how many trials are asked for, `ended` how many of
    them had ended before this start, and `best` the best finished one of these, value and name;
    `ranking` is the objective. Use it as a context: until its end the table is on the terminal.
    `out` is where it is shown (default: stdout), or is called with each line, from any thread, one
    at a time.
    """

    def __init__(
        self,
        *,
        asked: int,
        ended: int,
        epochs: int,
        ranking: Ranking,
        best: tuple[float, str] | None = None,
        out: TextIO | Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._asked, self._ended, self._epochs = asked, ended, epochs
        self._objective, self._sign = ranking.metric, ranking.sign
        self._every = max(5, epochs // 10)
        self._clock = clock
        self._started = clock()
        self._doing, self._doing_since = "", self._started
        self._speed = _Speed(clock)
        self._begun: dict[str, Seen | None] = {}
        self._over: set[str] = set()
        self._epochs_of_ended = 0
        self._crashed = 0
        self._best = None if best is None else (self._sign * best[0], best[1])
        self._lock = threading.RLock()
        self._closed = threading.Event()
        file = sys.stdout if out is None or callable(out) else out
        self._tell = out if callable(out) else functools.partial(print, file=file, flush=True)
        self._live: Live | None = None
        if not callable(out) and file.isatty():
            console = Console(file=file, highlight=False)
            self._live = Live(
                console=console,
                get_renderable=self.view,
                refresh_per_second=REFRESH_PER_S,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def __enter__(self) -> Progress:
        """Begin to show the table, or on no terminal a line a minute."""
        if self._live is not None:
            self._live.start()
        else:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the table off the screen."""
        self._closed.set()
        if self._live is not None:
            with self._lock:
                self._begun.clear()
            self._live.stop()

    def begin(self, name: str) -> None:
        """Take up that a trial waits for its process."""
        self._speed.start()
        with self._lock:
            self._begun.setdefault(name, None)

    def epoch(self, name: str, seen: Seen) -> None:
        """Take up an epoch of a trial."""
        if name in self._over:
            return  # Tune's last word repeats the last epoch
        with self._lock:
            before = self._begun.get(name)
            self._begun[name] = seen
            self._doing = ""
        if before is not None and seen.epoch <= before.epoch:
            self.say(f"{name} crashed and is tried again from epoch {seen.epoch}")
        else:
            self._speed.add()
        if self._live is None and (before is None or seen.epoch % self._every == 0):
            self.say(
                f"{name} epoch {seen.epoch} of {self._epochs}: {self._objective} "
                f"{significant(seen.value)}, best {significant(seen.best)}"
                f"{seen.called and f', {seen.called}'}{self._left_in_words()}"
            )

    def ended(self, name: str, ended: Ended) -> None:
        """Tell how a trial ended for good, and the value that it is ranked by."""
        with self._lock:
            self._begun.pop(name, None)
            self._ended += 1
            self._over.add(name)
            self._epochs_of_ended += ended.epochs
            if ended.outcome is Outcome.FINISHED and is_searched(name):
                found = (self._sign * ended.value, name)
                self._best = found if self._best is None else min(self._best, found)
        reason = f", {ended.reason}" if ended.reason else ""
        # Why a trial collapsed says what its images are called.
        of_one = ended.outcome is not Outcome.COLLAPSED and is_one_picture(ended.diversity)
        self.say(
            f"{name} {ended.outcome} at epoch {ended.epochs}{reason}: best {self._objective} "
            f"{significant(ended.value)}{f', {ONE_PICTURE}' if of_one else ''}; "
            f"{self._ended} of {self._asked} trials ended{self._left_in_words()}"
        )

    def crashed(self, name: str) -> None:
        """Tell that a trial crashed out of its retries."""
        with self._lock:
            self._begun.pop(name, None)
            self._crashed += 1
        self.say(f"{name} crashed")

    def expect(self, more: int) -> None:
        """Take up that more trials are asked for."""
        self._asked += more

    def doing(self, what: str) -> None:
        """Say what is being done before the first epoch; how long it takes is shown."""
        self._doing, self._doing_since = what, self._clock()
        self.say(what)

    def say(self, line: str) -> None:
        """Print a line that stays; the recorder's thread does so too."""
        if self._live is not None and self._live.is_started:
            # Not under the lock, which the table's own thread takes while it holds the console's.
            self._live.console.print(Text(line), soft_wrap=True)
            return
        with self._lock:
            self._tell(line)

    def seconds_left(self) -> float | None:
        """Return about how long all trials still take at the speed of this start; None: unknown.

        A trial that waits is taken to have as many epochs as those that ended have had on average;
        one under way, to go on to its last. One that crashed out of its retries does not count.
        """
        with self._lock:
            over = len(self._over)
            usual = self._epochs_of_ended / over if over else self._epochs
            under_way = [seen.epoch if seen else 0 for seen in self._begun.values()]
            waiting = max(self._asked - self._ended - self._crashed - len(under_way), 0)
            epochs = sum(self._epochs - epoch for epoch in under_way) + waiting * usual
        return self._speed.seconds_for(epochs)

    def _left_in_words(self) -> str:
        left = self.seconds_left()
        return "" if not left else f", about {duration(left)} left"

    def summary(self) -> str:
        """Return in one line how far the whole search is."""
        now = self._clock()
        if self._doing:
            return f"{self._doing}: {duration(now - self._doing_since)}"
        running = sum(seen is not None for seen in self._begun.values())
        text = (
            f"{self._ended} of {self._asked} trials ended, {running} training, "
            f"{duration(now - self._started)} so far{self._left_in_words()}"
        )
        if self._best is not None:
            value, name = self._best
            text += f"; best finished {name}: {significant(self._sign * value)}"
        return text

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_S):
            self.say(self.summary())

    def view(self) -> Group:
        """Return the table of the trials under way, and the summary below it.

        On a narrow terminal the bar is shorter.
        """
        with self._lock:
            rows = sorted(self._begun.items())
            table = Table(box=None, pad_edge=False, show_header=bool(rows))
            for head in ("trial", "state", "epoch", BAR, self._objective, "best", "images/s"):
                table.add_column(head, no_wrap=head != BAR)
            for name, seen in rows:
                table.add_row(name, *self._cells(seen))
        alike = [name for name, seen in rows if seen is not None and seen.called]
        notes = [f"{ONE_PICTURE}: {', '.join(alike)}"] if alike else []
        return Group(table, *map(Text, [*notes, self.summary()]))

    def _cells(self, seen: Seen | None) -> tuple[ProgressBar | str, ...]:
        if seen is None:
            return ("waiting", "", "", "", "", "")
        return (
            "training",
            f"{seen.epoch}/{self._epochs}",
            ProgressBar(total=self._epochs, completed=seen.epoch, width=BAR_WIDTH),
            significant(seen.value),
            significant(seen.best),
            significant(seen.images_per_s),
        )


class BarProgress(Progress):
    """Shows a bar of tqdm over the epochs of all trials besides: in a notebook, a widget.

    A trial that ends early fills its part of the bar.
    """

    _bar: Any = None  # from the first epoch on: what comes before is no epochs' time

    def __exit__(self, *error: object) -> None:
        """Leave the bar as it is."""
        super().__exit__(*error)
        if self._bar is not None:
            self._bar.close()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        with tqdm.external_write_mode():
            super().say(line)

    def epoch(self, name: str, seen: Seen) -> None:
        """Take up an epoch of a trial."""
        super().epoch(name, seen)
        self._show()

    def ended(self, name: str, ended: Ended) -> None:
        """Tell how a trial ended for good."""
        super().ended(name, ended)
        self._show()

    def expect(self, more: int) -> None:
        """Take up that more trials are asked for."""
        super().expect(more)
        self._show()

    def _show(self) -> None:
        """Move the bar to where the trials are."""
        with self._lock:
            under_way = sum(seen.epoch for seen in self._begun.values() if seen is not None)
            if self._bar is None:
                there = self._ended * self._epochs + under_way
                self._bar = tqdm(total=self._asked * self._epochs, initial=there, unit="epoch")
            self._bar.total = self._asked * self._epochs
            self._bar.n = self._ended * self._epochs + under_way
            if self._best is not None:
                value, name = self._best
                best = f"{name} {significant(self._sign * value)}"
                self._bar.set_postfix_str(f"best {best}", refresh=False)
            self._bar.refresh()


class _Speed:
    """Epochs a second of all trials together, since the first trial was placed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started: float | None = None
        self._epochs = 0

    def start(self) -> None:
        """Take up that a trial is placed."""
        if self._started is None:
            self._started = self._clock()

    def add(self) -> None:
        """Take up that an epoch has come."""
        self._epochs += 1

    def seconds_for(self, epochs: float) -> float | None:
        """Return how long so many epochs take; None before the first has come."""
        if self._started is None or not self._epochs:
            return None
        return epochs * (self._clock() - self._started) / self._epochs
