from __future__ import annotations

import io

from search.progress import Progress
from search.stopping import Decision
from search.study import Outcome


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(out: io.StringIO) -> Progress:
    ticks = iter(range(100))
    return Progress(asked=3, ended=1, epochs=9, out=out, clock=lambda: float(next(ticks)))


def test_plain_output_has_a_line_where_a_trial_begins_and_one_where_it_ends() -> None:
    out = io.StringIO()
    progress = show(out)
    progress.epoch("t0001", 1, 5.0)
    progress.epoch("t0001", 2, 4.0)
    progress.ended("t0001", Decision(Outcome.PRUNED, "behind"))
    progress.epoch("t0001", 2, 4.0)  # Tune says the last epoch twice
    first, second = out.getvalue().splitlines()
    assert first == "t0001 trains (epoch 1 of 9 done)"
    assert second.startswith("t0001 pruned: behind (epoch 2, 4); 2 of 3 ended")


def test_a_terminal_shows_the_trials_under_way_below_the_lines_that_stay() -> None:
    out = Terminal()
    progress = show(out)
    progress.epoch("t0001", 1, 5.0)
    progress.epoch("t0002", 1, 6.0)
    assert out.getvalue().endswith("  t0001  epoch 1/9  5\n  t0002  epoch 1/9  6\n")
    progress.crashed("t0002")
    assert out.getvalue().endswith("\x1b[2F\x1b[Jt0002 crashed\n  t0001  epoch 1/9  5\n")
    progress.close()
    assert out.getvalue().endswith("\x1b[1F\x1b[J")
