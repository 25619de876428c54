from __future__ import annotations

import io

from search.study.folder import Outcome
from search.study.objective import Ended
from search.tune.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(out: io.StringIO) -> Progress:
    ticks = iter(range(100))
    return Progress(asked=3, ended=1, epochs=9, out=out, clock=lambda: float(next(ticks)))


def test_plain_output_has_a_line_where_a_trial_begins_at_times_and_where_it_ends() -> None:
    out = io.StringIO()
    progress = show(out)
    for epoch in range(1, 7):
        progress.epoch("t0001", epoch, 6.0 - epoch)
    progress.ended("t0001", Ended(Outcome.PRUNED, "behind", 6, 0.5, None))
    progress.epoch("t0001", 6, 4.0)  # Tune says the last epoch twice
    assert out.getvalue().splitlines()[:2] == ["t0001 epoch 1 of 9: 5", "t0001 epoch 5 of 9: 1"]
    (end,) = out.getvalue().splitlines()[2:]
    assert end.startswith("t0001 pruned: behind: 0.5 after 6 epochs; 2 of 3 ended")


def test_images_that_hardly_vary_are_called_so_beside_the_value() -> None:
    out = io.StringIO()
    progress = show(out)
    progress.epoch("t0001", 1, 5.0, 0.07)
    progress.epoch("t0002", 1, 5.0, 0.3)
    progress.ended("t0001", Ended(Outcome.FINISHED, "", 1, 0.5, 0.07))
    progress.ended("t0002", Ended(Outcome.COLLAPSED, "one picture per class, …", 1, 0.5, 0.07))
    first, second, third, fourth = out.getvalue().splitlines()
    assert first == "t0001 epoch 1 of 9: 5 (one picture per class)"
    assert second == "t0002 epoch 1 of 9: 5"
    assert third.startswith("t0001 finished: 0.5 (one picture per class) after 1 epochs")
    assert fourth.count("one picture per class") == 1


def test_what_another_thread_says_does_not_spoil_the_live_part() -> None:
    out = Terminal()
    progress = show(out)
    progress.epoch("t0001", 1, 5.0)
    progress.say("MLflow is away")
    assert out.getvalue().endswith("\x1b[1F\x1b[JMLflow is away\n  t0001  epoch 1/9  5\n")


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
