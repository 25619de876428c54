"""What commands print through: it shows no password, and is never a reason to end a command."""

import contextlib
import errno
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import TextIO, cast

# Nobody reads any more, or nobody ever did: no fault of a command.
UNREAD = (errno.EPIPE, errno.EBADF)

_USER = r"[^\s:/@\[]{0,99}?(?::|%3A)"  # bounded: long texts take linear time
_NAMES = "passw|pwd|secret|token|credential|api_?key|access_?key"
# A sign without which there is none of a kind, the kind, and what is shown of it.
_KINDS = tuple(
    (sign, re.compile(pattern, re.IGNORECASE), shown)
    for sign, pattern, shown in (
        ("@", rf"(://{_USER})\S*@", r"\1***@"),
        # The same without a whole scheme, as where it is mistyped; not models:/NAME@ALIAS.
        ("@", rf"({_USER})(?!/)\S*@", r"\1***@"),
        # Cut off before its host, or with another sign before it: what follows is no port.
        ("://", rf"(://{_USER})(?!\*\*\*@|\d+(?![\w#]))\S+", r"\1***"),
        # A token in place of a user, or a password behind another sign than the colon.
        ("@", r"(https?://)(?!\*\*\*)[^\s:/@\[]+@", r"\1***@"),
        ("@", r"(://)[^\s:/@\[]*[;,|!$&=][^\s/@]*@", r"\1***@"),
        ("odbc_connect=", r"(odbc_connect=)[^\s'\"]+", r"\1***"),
        ("=", rf"((?:^|[?&;,\s'\"])\w{{0,40}}(?:{_NAMES})\w{{0,40}}=)[^\s&;,'\"]+", r"\1***"),
    )
)
_ADDRESS = re.compile(r"://([^\s:/@]*):(.+)@", re.DOTALL)
_SIGNS = re.compile(r"[/?#@:\s]+")


@contextlib.contextmanager
def told_if_long(text: str, *, after_s: float = 10.0) -> Iterator[None]:
    """Print a text, as an error is, where what is done takes longer than so many seconds."""
    timer = threading.Timer(after_s, print, [text], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def without_passwords(text: str) -> str:
    """Return a text with *** in place of each password in an address.

    Addresses are known by their form, also where it is mistyped. Of those on this process's
    command line and in its environment, pieces of a password that a library quotes are known too.
    """
    for piece, shown in _pieces():
        text = text.replace(piece, shown)
    for sign, pattern, shown in _KINDS:
        if sign in text:
            text = pattern.sub(shown, text)
    return text


def _pieces() -> Iterator[tuple[str, str]]:
    """Yield what would give away a password that this process was told, and what is shown of it."""
    for word in (*sys.argv, *os.environ.values()):
        found = _ADDRESS.search(word)
        if found is None:
            continue
        user, password = found.groups()
        yield f"{user}:{password}@", f"{user}:***@"
        for piece in {password, *_SIGNS.split(password)} - {""}:
            for before, after in (("'", "'"), ('"', '"'), (f"{user}:", "'"), (f"{user}:", '"')):
                yield f"{before}{piece}{after}", f"{before}***{after}"


class Shown:
    """A text stream without passwords that takes whatever is written, also where none reads it.

    failure: why what was written is lost, None while it is not
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        shown = without_passwords(text)
        with self._taking():
            try:
                self._stream.write(shown)
            except UnicodeEncodeError as error:  # a file's name, or a terminal without Unicode
                self._stream.write(
                    shown.encode(error.encoding, "backslashreplace").decode(error.encoding)
                )
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        with self._taking():
            self._stream.flush()

    @contextlib.contextmanager
    def _taking(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error
            with contextlib.suppress(OSError):  # what is still to come goes nowhere
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextlib.contextmanager
def shown_streams() -> Iterator[Shown]:
    """Have all that is printed go through `Shown`; yield that of the output."""
    before = sys.stdout, sys.stderr
    output, errors = Shown(sys.stdout), Shown(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, errors)
    try:
        yield output
    finally:
        sys.stdout, sys.stderr = before


def open_closed() -> None:
    """Open nothing in place of the standard streams that were closed when this process began.

    Else the next file that is opened has such a stream's number, and gets what is printed there.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        nowhere: int | str = os.devnull
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # of all numbers that are free, the first
            os.set_inheritable(nowhere, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(nowhere, mode))  # noqa: SIM115 (for as long as Python runs)
