from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from acgan.run.records import Ranking
from search.study.folder import Outcome
from search.study.objective import Ended
from search.tune import progress as module
from search.tune.progress import Progress, Seen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def show(out: io.StringIO, clock: Callable[[], float] | None = None, asked: int = 3) -> Progress:
    return Progress(
        asked=asked,
        ended=1,
        epochs=9,
        ranking=Ranking("val/fd_cnn", 1),
        out=out,
        clock=clock or Clock(),
    )


def test_plain_output_has_a_line_where_a_trial_begins_at_times_and_where_it_ends() -> None:
    out, clock = io.StringIO(), Clock()
    progress = show(out, clock)
    progress.begin("t0001")
    for epoch in range(1, 7):
        clock.now += 10
        progress.epoch("t0001", Seen(epoch, 2600.0 - epoch, 2000.0))
    progress.ended("t0001", Ended(Outcome.PRUNED, "behind the best", 6, 2000.0, None))
    progress.epoch("t0001", Seen(6, 4.0, 4.0))  # Tune says the last epoch twice
    assert out.getvalue().splitlines() == [
        # 8 epochs of this trial and 9 of the other at 10 s each
        "t0001 epoch 1 of 9: val/fd_cnn 2,599, best 2,000, about 3 min left",
        # 4 epochs of this trial and 9 of the other at 10 s each
        "t0001 epoch 5 of 9: val/fd_cnn 2,595, best 2,000, about 2 min left",
        # the other one is taken to end at epoch 6, too
        "t0001 pruned at epoch 6, behind the best: best val/fd_cnn 2,000; 2 of 3 trials ended, "
        "about 60 s left",
    ]


def test_images_that_hardly_vary_are_called_so_beside_the_value() -> None:
    out = io.StringIO()
    progress = show(out)
    progress.epoch("t0001", Seen(1, 5.0, 5.0, diversity=0.07))
    progress.epoch("t0002", Seen(1, 5.0, 5.0, diversity=0.3))
    progress.ended("t0001", Ended(Outcome.FINISHED, "", 1, 0.5, 0.07))
    progress.ended("t0002", Ended(Outcome.COLLAPSED, "one picture per class, …", 1, 0.5, 0.07))
    first, second, third, fourth = out.getvalue().splitlines()
    assert first == "t0001 epoch 1 of 9: val/fd_cnn 5, best 5, one picture per class"
    assert second == "t0002 epoch 1 of 9: val/fd_cnn 5, best 5"
    assert third.startswith("t0001 finished at epoch 1: best val/fd_cnn 0.5, one picture per class")
    assert fourth.count("one picture per class") == 1


def test_a_retry_is_said_and_its_epochs_are_no_further_ones() -> None:
    out, clock = io.StringIO(), Clock()
    progress = show(out, clock, asked=2)
    progress.begin("t0001")
    for epoch in (1, 2, 3, 2):
        clock.now += 10
        progress.epoch("t0001", Seen(epoch, 5.0, 5.0))
    assert "t0001 crashed and is tried again from epoch 2" in out.getvalue()
    # 3 epochs in 40 s; 7 epochs are left
    assert progress.seconds_left() == pytest.approx(280 / 3)


def test_nothing_is_said_of_the_time_left_before_an_epoch_has_come() -> None:
    progress = show(io.StringIO())
    progress.begin("t0001")
    assert progress.seconds_left() is None
    assert "left" not in progress.summary()


def test_the_best_of_the_finished_trials_is_named_whichever_way_is_better() -> None:
    for sign, best in ((1, "t0002: 3"), (-1, "t0001: 7")):
        progress = Progress(
            asked=3, ended=0, epochs=9, ranking=Ranking("o", sign), out=io.StringIO(), clock=Clock()
        )
        progress.ended("t0001", Ended(Outcome.FINISHED, "", 9, 7.0, None))
        progress.ended("t0002", Ended(Outcome.FINISHED, "", 9, 3.0, None))
        progress.ended("t0003", Ended(Outcome.PRUNED, "", 4, 1.0 if sign == 1 else 9.0, None))
        assert progress.summary().endswith(f"; best finished {best}")


def test_a_pipe_gets_a_line_at_times_with_what_is_being_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    out = io.StringIO()
    progress = show(out)
    progress.doing("starting Ray")
    with progress:
        deadline = time.monotonic() + 400
        while "starting Ray: 0 s" not in out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert out.getvalue().startswith("starting Ray\n")
    assert "starting Ray: 0 s\n" in out.getvalue()


def test_the_table_shows_the_trials_under_way_and_how_far_all_are() -> None:
    clock = Clock()
    progress = show(io.StringIO(), clock, asked=8)
    progress.begin("t0001")
    progress.begin("t0002")
    for epoch, value in ((1, 50.0), (2, 40.0)):
        clock.now += 10
        progress.epoch("t0001", Seen(epoch, value, 45.0, images_per_s=160.0))
    screen = Console(file=io.StringIO(), width=110)
    with screen.capture() as drawn:
        screen.print(progress.view())
    head, first, second, whole = drawn.get().splitlines()
    assert " ".join(head.split()) == "trial state epoch val/fd_cnn best images/s"
    assert first.split()[:3] == ["t0001", "training", "2/9"]
    assert first.split()[-3:] == ["40", "45", "160"]
    assert second.split() == ["t0002", "waiting"]
    # t0001 has 7 epochs left, t0002 and five more 9 each, at 10 s
    assert whole == "1 of 8 trials ended, 1 training, 20 s so far, about 10 min left"


@pytest.mark.parametrize("objective", ["val/fd_cnn", "val/acc_class_balanced"])
def test_nothing_of_the_table_is_cut_in_80_columns(objective: str) -> None:
    ranking = Ranking(objective, 1)
    progress = Progress(
        asked=8, ended=1, epochs=388, ranking=ranking, out=io.StringIO(), clock=Clock()
    )
    for name in ("t0001", "t0002", "t0003"):
        progress.begin(name)
    progress.epoch("t0001", Seen(288, 12345.0, 12345.0, images_per_s=12345.0))
    progress.epoch("t0002", Seen(12, 0.5, 0.5, diversity=0.07))
    progress.ended("t0003", Ended(Outcome.FINISHED, "", 388, 12345.0, None))
    screen = Console(file=io.StringIO(), width=80)
    with screen.capture() as drawn:
        screen.print(progress.view())
    head, first, second, note, *whole = drawn.get().splitlines()
    assert head.split() == ["trial", "state", "epoch", objective, "best", "images/s"]
    assert first.split()[:3] == ["t0001", "training", "288/388"]
    assert first.split()[-3:] == ["12,345"] * 3
    assert second.split()[:3] == ["t0002", "training", "12/388"]
    assert note == "one picture per class: t0002"
    assert " ".join(" ".join(whole).split()) == progress.summary()


def test_a_terminal_keeps_the_lines_and_loses_the_table_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with show(out) as progress:
        progress.begin("t0001")
        progress.epoch("t0001", Seen(1, 50.0, 50.0))
        progress.say("MLflow is away")
    shown = out.getvalue()
    assert "t0001 epoch 1" not in shown  # the table says it
    assert "MLflow is away\n" in shown
    assert shown.rstrip().endswith("\x1b[2K")  # the table's lines are cleared


def test_lines_of_several_threads_and_the_table_never_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REFRESH_PER_S", 1000.0)
    monkeypatch.setenv("TERM", "xterm")
    progress = show(Terminal(), asked=30)
    progress.__enter__()

    def report(name: str) -> None:
        progress.begin(name)
        for epoch in range(1, 200):
            progress.epoch(name, Seen(epoch, 1.0, 1.0))
            progress.say("a line")

    threads = [threading.Thread(target=report, args=(f"t{n}",), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    progress.__exit__()  # which would wait, too


def test_a_trial_that_crashed_is_not_waited_for() -> None:
    clock = Clock()
    progress = show(io.StringIO(), clock, asked=3)
    for name in ("t0001", "t0002"):
        progress.begin(name)
    clock.now += 10
    progress.epoch("t0001", Seen(1, 5.0, 5.0))
    progress.crashed("t0002")
    assert progress.seconds_left() == pytest.approx(80)  # eight epochs of t0001


def test_the_best_trial_may_be_of_an_earlier_start_and_is_no_repeat() -> None:
    progress = Progress(
        asked=9,
        ended=2,
        epochs=9,
        ranking=Ranking("val/coverage", -1),
        best=(0.5, "t0003"),
        out=io.StringIO(),
    )
    for name, value in (("t0004", 0.4), ("t0003r1", 0.9)):
        progress.ended(name, Ended(Outcome.FINISHED, "", 9, value, None))
    assert progress.summary().endswith("; best finished t0003: 0.5")
    progress.ended("t0005", Ended(Outcome.FINISHED, "", 9, 0.6, None))
    assert progress.summary().endswith("; best finished t0005: 0.6")
