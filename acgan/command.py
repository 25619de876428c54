"""What all commands share: their parser, exit codes, and how they end when interrupted."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import functools
import logging
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Never

from acgan.errors import InputError
from acgan.files import DISK_ERRORS

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


def end_quietly_until_begun() -> None:
    """Let Ctrl-C or SIGTERM end a command that is still importing: nothing has begun yet.

    Does nothing unless Python is about to run `python -m`, when `sys.argv` still says so.
    """
    if sys.argv[:1] != ["-m"]:
        return

    def end(number: int, frame: FrameType | None) -> Never:  # noqa: ARG001
        os.write(sys.stderr.fileno(), b"\ninterrupted; nothing had begun\n")
        os._exit(130)

    for each in INTERRUPTS:
        signal.signal(each, end)


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong as all else is said: in one sentence, with what to do."""

    def error(self, message: str) -> Never:
        known = [flag.removeprefix("--") for flag in self._option_string_actions]
        wrong = [name for name in re.findall(r"--([\w-]+)", message) if name not in known]
        near = difflib.get_close_matches(wrong[0], known, n=1) if wrong else []
        hint = f"did you mean --{near[0]}? All" if near else "all"
        self.exit(2, f"error: {message}; {hint} flags: {self.prog} --help\n")


def command_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser for `python -m MODULE`; flags must be typed in full.

    An abbreviation may mean another flag: `--samples 4` is not `--num-samples 4`.
    """
    return _Parser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def command(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Make a function of arguments a command, which ends its process when it has been typed.

    Called without arguments it takes those that were typed, and ends the process with its exit
    code but without Python's own end: that takes the handlers of signals away, and what Ray and
    other libraries leave behind may crash in it.
    """

    @functools.wraps(main)
    def called(arguments: Sequence[str] | None = None) -> int:
        code = main(arguments)
        if arguments is not None:
            return code
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # whoever read it has seen enough
                stream.flush()
        os._exit(code)

    return called


def run_command(body: Callable[[], int], *, resume: str) -> int:
    """Run a command's body; return 0, 1, 2 (wrong usage or bad input) or 130 (interrupted).

    Ctrl-C, or the SIGTERM with which a node is taken away, raises `KeyboardInterrupt` in it, so
    that it ends in good order; the second one ends it at once. `resume` says what then continues
    the work.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    _interruptible(resume)
    try:
        return body()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted; to continue, {resume}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (*DISK_ERRORS, errno.EACCES, errno.EPERM):
            raise
        at = f" at {error.filename}" if error.filename else ""
        print(f"error: {error.strerror}{at}; nothing that was there is lost", file=sys.stderr)
        print(f"when that is mended, {resume}", file=sys.stderr)
        return 1


def _interruptible(resume: str) -> None:
    def interrupt(number: int, frame: FrameType | None) -> Never:  # noqa: ARG001
        for each in INTERRUPTS:
            signal.signal(each, leave)
        raise KeyboardInterrupt

    def leave(number: int, frame: FrameType | None) -> Never:  # noqa: ARG001
        os.write(sys.stderr.fileno(), f"\ninterrupted; to continue, {resume}\n".encode())
        os._exit(130)

    for each in INTERRUPTS:
        signal.signal(each, interrupt)


def typed(words: Sequence[str]) -> str:
    """Return a command as it can be typed here: a program of this environment by its path.

    An environment that is not activated does not have its programs on the PATH.
    """
    program, *rest = words
    here = Path(sys.executable).with_name(program)
    if shutil.which(program) != str(here) and here.exists():
        program = str(here)
        if here.is_relative_to(Path.cwd()):
            program = str(here.relative_to(Path.cwd()))
    return shlex.join([program, *rest])


def duration(seconds: float) -> str:
    """Return a time as text in a fitting unit, `25 min`."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
