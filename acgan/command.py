"""What all commands share: their parser, exit codes, and how they end when interrupted."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import functools
import gc
import inspect
import logging
import math
import os
import re
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Never, Self

from acgan.errors import InputError
from acgan.streams import UNREAD, Shown, shown_streams, without_passwords

MINUS = "\N{MINUS SIGN}"
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


class Parser(argparse.ArgumentParser):
    """A parser with a help that can be read, and whose errors are one sentence with what to do.

    rare: flags that `--help` leaves out and `--help-all` shows
    bare: the flag that a word without one is most likely meant for, "" for none
    """

    rare: Collection[argparse.Action] = ()
    bare = ""
    _words: Sequence[str] = ()

    def hide(self, flags: Collection[argparse.Action]) -> None:
        """Leave flags out of `--help`."""
        if not self.rare:
            text = "show all flags, and exit"
            self.add_argument("--help-all", action=_AllHelp, nargs=0, help=text)
        self.rare = [*self.rare, *flags]

    def format_help(self) -> str:
        """Return the help without the flags that are rarely needed."""
        return self._help_of(hidden=self.rare)

    def format_all_help(self) -> str:
        """Return the help of all flags."""
        return self._help_of(hidden=())

    def _help_of(self, hidden: Collection[argparse.Action]) -> str:
        formatter = self.formatter_class(prog=f"{self.prog} [flags]")
        groups = [group for group in self._mutually_exclusive_groups if group.required]
        grouped = [action for group in groups for action in group._group_actions]
        needed = [each for each in self._actions if each.required or each in grouped]
        formatter.add_usage(self.usage, needed, groups)
        formatter.add_text(self.description)
        for section in self._action_groups:
            formatter.start_section(section.title)
            formatter.add_arguments([each for each in section._group_actions if each not in hidden])
            formatter.end_section()
        if hidden:
            formatter.add_text(f"all flags: {self.prog} --help-all")
        return formatter.format_help()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the arguments, which `error` is told of."""
        self._words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> Never:
        """End the process with code 2 and one sentence that names the nearest flag."""
        meant = self._meant(message)
        hint = f"did you mean {meant}? All" if meant else "all"
        self.exit(2, f"error: {message}; {hint} flags: {self.prog} --help\n")

    def _meant(self, message: str) -> str:
        """Return what was most likely meant, "" where nothing is near."""
        known = [flag.removeprefix("--") for flag in self._option_string_actions]
        wrong = [name for name in re.findall(r"--([\w-]+)", message) if name not in known]
        near = difflib.get_close_matches(wrong[0], known, n=1) if wrong else []
        if near:
            return f"--{near[0]}"
        # A word before any flag is no flag's value.
        bare = self.bare and not wrong and self._words and not self._words[0].startswith("-")
        return f"{self.bare} {shlex.quote(self._words[0])}" if bare else ""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(
            prog, max_help_position=26, width=min(shutil.get_terminal_size().columns, 102) - 2
        )


class _AllHelp(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002 (as argparse calls it)
        values: object,  # noqa: ARG002
        option_string: str | None = None,  # noqa: ARG002
    ) -> Never:
        assert isinstance(parser, Parser)
        sys.stdout.write(parser.format_all_help())
        parser.exit()


def command_parser(module: str, description: str | None) -> Parser:
    """Return a parser for `python -m MODULE`; flags must be typed in full.

    An abbreviation may mean another flag: `--samples 4` is not `--num-samples 4`.
    """
    return Parser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Import large libraries in this context, in which Python collects no garbage.

    What PyTorch, Ray and MLflow make when they are imported stays. To look through all of it again
    and again takes a fifth of the time. A process that is here for one command or job freezes what
    it has imported (`gc.freeze`), and never looks through it.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count():
            gc.freeze()
        if collects:
            gc.enable()


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
            gc.disable()  # until it has imported all that it needs: see `loading`
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
    from acgan.cores import use_own_cores  # noqa: PLC0415 (signals are taken before PyTorch comes)

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    _interruptible(resume)
    use_own_cores()
    if not gc.isenabled():  # the command was typed: the process is its own
        gc.freeze()
        gc.enable()
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


class FromFlags:
    """What a command is asked for: a dataclass whose fields have the names of flags.

    A field `values` takes all of them: settings are found there by their names.
    """

    @classmethod
    def of(cls, arguments: argparse.Namespace, **more: Any) -> Self:
        """Return what the flags say; more: what is read of them first, or is none of them."""
        names = inspect.signature(cls).parameters
        given = {**vars(arguments), "values": vars(arguments), **more}
        make: Callable[..., Self] = cls
        return make(**{name: value for name, value in given.items() if name in names})


def as_typed(module: str, argv: Sequence[str] | None) -> str:
    """Return a command as it was typed, without passwords."""
    words = sys.argv[1:] if argv is None else argv
    return without_passwords(typed(["python", "-m", module, *words]))


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


def duration(seconds: float) -> str:
    """Return a time as text in a fitting unit, `25 min`."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def significant(value: object) -> str:
    """Return a number with three significant digits, `1,218` or `0.0123`; all else as it is."""
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    if not math.isfinite(value):
        return "not finite"
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", MINUS)
