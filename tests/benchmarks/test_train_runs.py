from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from acgan.errors import InputError
from acgan.run.records import EpochRecord
from acgan.run.rundir import RunDir
from acgan.training import train
from benchmarks import train_runs as module
from benchmarks.train_runs import Run, images, train_runs
from tests.kit import LEAST, tiny_config
from tests.searches import write_images

pytestmark = pytest.mark.process

EPOCHS = 6


def learned(records: Sequence[EpochRecord]) -> list[dict[str, float]]:
    """Return all metrics but the speed."""
    return [{k: v for k, v in r.metrics.items() if "images_per_s" not in k} for r in records]


def test_interrupted_runs_go_on_to_the_same_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SAY_EVERY_S", 0.1)
    write_images(tmp_path / "images")
    source, config = str(tmp_path / "images"), tiny_config(epochs=EPOCHS, batch_size=16)
    data, alone = images(source, config.image_size), RunDir(tmp_path / "straight")
    straight = list(train(config, data, alone, ranking=LEAST))
    runs = [Run(tmp_path / "runs" / name, source, config, LEAST) for name in "ab"]
    runs[0].path.parent.mkdir()

    def interrupt(text: str) -> None:
        assert " of 12 epochs of 2 configurations" in text
        if not text.startswith("0 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_runs(runs, jobs=2, say=interrupt)
    assert 0 < sum(len(run.records()) for run in runs) < 2 * EPOCHS
    said: list[str] = []
    train_runs(runs, jobs=2, say=said.append)
    assert said[-1].startswith("12 of 12 epochs of 2 configurations")
    for run in runs:
        assert learned(run.records()) == learned(straight)
        assert LEAST.best in run.records()[-1].metrics  # by which it keeps weights


CALLER = """
import os, sys
from pathlib import Path
from benchmarks.train_runs import Run, train_runs
from tests.kit import tiny_config

if __name__ == "__main__":
    run = Run(Path(sys.argv[1]), "phantom", tiny_config(epochs=1000))

    def say(text):
        if not text.startswith("0 "):
            os.kill(os.getpid(), 9)

    train_runs.__globals__["SAY_EVERY_S"] = 0.1
    train_runs([run], jobs=1, say=say)
"""


def test_a_caller_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    environment = os.environ | {"PYTHONPATH": str(Path(module.__file__).parents[1])}
    words = [sys.executable, str(tmp_path / "caller.py"), str(tmp_path / "run")]
    caller = subprocess.Popen(words, env=environment, start_new_session=True)
    assert caller.wait(timeout=300) == -signal.SIGKILL
    deadline = time.monotonic() + 400
    while (left := processes_of(caller.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        process.kill()
    assert left == []


def processes_of(session: int) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if in_session(process, session)]


def in_session(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def test_what_a_run_raises_ends_all(tmp_path: Path) -> None:
    run = Run(tmp_path / "a", str(tmp_path / "nowhere"), tiny_config())
    with pytest.raises(InputError, match="nowhere"):
        train_runs([run], jobs=1, say=print)
