"""What all commands share: their parser, exit codes, and how they end when interrupted."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import functools
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Never

from acgan.errors import InputError
from acgan.streams import UNREAD, Shown, shown_streams, without_passwords

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
# Whose own errors tell of the world outside; a fault of this code has one of Python's types.
LIBRARIES = ("botocore", "mlflow", "ray", "requests", "safetensors_rust", "sqlalchemy", "torch")


def end_quietly_until_begun() -> None:
    """Let Ctrl-C or SIGTERM end a command that is still importing: nothing has begun yet.

    Does nothing unless Python is about to run `python -m`, when `sys.argv` still says so.
    """
    if sys.argv[:1] != ["-m"]:
        return

    def end(number: int, frame: FrameType | None) -> Never:  # noqa: ARG001
        _leave("\ninterrupted; nothing had begun\n")

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
    other libraries leave behind may crash in it. All that it prints is without passwords. Who
    does not read it, or no longer, changes neither its work nor its exit code.
    """

    @functools.wraps(main)
    def called(arguments: Sequence[str] | None = None) -> int:
        with shown_streams() as output:
            if arguments is not None:
                return main(arguments)
            try:
                code = main(None)
            except SystemExit as end:  # of the parser
                code = int(end.code or 0)
            except Exception:
                traceback.print_exc()
                code = 1
            code = code or _lost(output)
            sys.stderr.flush()
            os._exit(code)

    return called


def _lost(output: Shown) -> int:
    """Return the exit code of a command that did all else: 1, and said, if its output is lost."""
    output.flush()
    if output.failure is None or output.failure.errno in UNREAD:
        return 0
    print(f"error: the output cannot be written ({output.failure.strerror})", file=sys.stderr)
    return 1


def run_command(body: Callable[[], int], *, resume: str) -> int:
    """Run a command's body; return 0, 1, 2 (wrong usage or bad input) or 130 (interrupted).

    Ctrl-C, or the SIGTERM with which a node is taken away, raises `KeyboardInterrupt` in it, so
    that it ends in good order; the second one ends it at once. `resume` says what then continues
    the work.
    """
    from acgan.device import use_own_cores  # noqa: PLC0415 (signals are taken before PyTorch comes)

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    _interruptible(resume)
    use_own_cores()
    try:
        return body()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted; to continue, {resume}", file=sys.stderr)
        return 130
    except Exception as error:
        if not _from_outside(error):
            raise
        print(f"error: {_reason(error)}; nothing that was there is lost", file=sys.stderr)
        print(f"when that is mended, {resume}", file=sys.stderr)
        return 1


def _from_outside(error: Exception) -> bool:
    """Whether an error tells of the world outside, not of a fault of this code."""
    cause = getattr(error, "cause", None)  # of an error that Ray brings from another process
    if isinstance(cause, Exception):
        return _from_outside(cause)
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | MemoryError) or library in LIBRARIES or _no_memory(error)


def _no_memory(error: Exception) -> bool:
    return "can't allocate memory" in str(error)  # PyTorch's, a plain RuntimeError


def _reason(error: Exception) -> str:
    """Return in one line what the world outside did."""
    if isinstance(error, MemoryError) or _no_memory(error):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" at {error.filename}" if error.filename else "")
    lines = str(error).strip().splitlines() or [""]
    # Of another process's error the last line tells, after its traceback.
    line = lines[-1] if len(lines) > 1 and "Traceback" in str(error) else lines[0]
    return line.strip() or type(error).__name__


def _interruptible(resume: str) -> None:
    def interrupt(number: int, frame: FrameType | None) -> Never:  # noqa: ARG001
        for each in INTERRUPTS:
            signal.signal(each, leave)
        raise KeyboardInterrupt

    def leave(number: int, frame: FrameType | None) -> Never:  # noqa: ARG001
        _leave(f"\ninterrupted; to continue, {resume}\n")

    for each in INTERRUPTS:
        signal.signal(each, interrupt)


def _leave(words: str) -> Never:
    """End this process at once: its streams' locks may be held by what was interrupted."""
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), without_passwords(words).encode())
    os._exit(130)


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
