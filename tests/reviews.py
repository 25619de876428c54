"""The real command of a review, as it is typed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

START_S = 400


class Review:
    """The command as it is typed in a folder, until it is ended."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._log = (folder / "review.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "selection.review", "--port", "0", *options],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def output(self) -> str:
        """What it has said so far."""
        self._log.seek(0)
        return self._log.read()

    def address(self) -> str:
        """Return what it says to open, once it does."""
        deadline = time.monotonic() + START_S
        while not (found := re.search(r"^open (\S+) in a browser", self.output, re.M)):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)
        return found[1]

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send it a signal; return its exit code."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return self.process.wait(START_S)

    def close(self) -> None:
        """End it whatever it does."""
        self.process.kill()
        self.process.wait()
        self._log.close()


def typed(folder: Path, options: Sequence[str]) -> tuple[int, str]:
    """Type the command with options that it refuses; return its exit code and what it said."""
    review = Review(folder, *options)
    try:
        code = review.process.wait(START_S)
        return code, review.output
    finally:
        review.close()
