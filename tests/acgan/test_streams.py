"""What commands print through: on real pipes, files and closed streams."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acgan.streams import Shown, shown_streams, told_if_long, without_passwords

pytestmark = pytest.mark.process

SECRET = "S3cr3tPW"


@pytest.mark.parametrize(
    "text",
    [
        f"postgres://u:{SECRET}@h/db",
        f"'postgres://u:{SECRET}@h/db'",
        f"--tracking-uri=postgres://u:{SECRET}@h/db",
        f"postgres:/u:{SECRET}@h/db",
        f"postgres//u:{SECRET}@h/db",
        f"postgres:\\\\u:{SECRET}@h/db",
        f"postgres:u:{SECRET}@h/db",
        f"u:{SECRET}@h/db",
        f"http://:{SECRET}@h",
        f"http://u:/{SECRET}@h",
        f"http://u:{SECRET}/x@h:5/",
        f"http://u%3A{SECRET}@h",
        f"postgres://u:{SECRET}",
        f"postgres://u:{SECRET}#h/db",
        f"one http://a:{SECRET}@b two htp://c:{SECRET}@d",
        f"postgresql://h/db?user=u&password={SECRET}",
        f"mysql://h/db?sslPwd={SECRET}&x=1",
        f"host=h user=u password={SECRET} dbname=x",
    ],
)
def test_no_password_is_shown_whatever_is_mistyped(text: str) -> None:
    shown = without_passwords(text)
    assert SECRET not in shown
    assert "***" in shown
    assert without_passwords(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "models:/cxr-acgan-generator@champion",
        "sqlite:////home/me@there/m.db",
        "MLflow at http://127.0.0.1:5000 answers",
        "see http://[::1]:5000/#/experiments/1, or (https://h:8265)",
        "postgresql://me@there/db",
        "RAY_AUTH_MODE=token, and a token is set",
        "t0000 epoch 1 of 2: 2159",
        "ray://HEAD:10001",
    ],
)
def test_all_else_is_shown_as_it_is(text: str) -> None:
    assert without_passwords(text) == text


def test_of_a_typed_password_the_pieces_that_libraries_quote_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = f"http://me:{SECRET}/two words@there/db"
    monkeypatch.setattr(sys, "argv", ["program", "--tracking-uri", address])
    assert without_passwords(f"at {address}") == "at http://me:***@there/db"
    assert without_passwords(f"no port: '{SECRET}'") == "no port: '***'"
    assert without_passwords(f"no host 'me:{SECRET}'") == "no host 'me:***'"
    monkeypatch.setattr(sys, "argv", ["program"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert without_passwords('port "words"') == 'port "***"'


def test_a_stream_that_nobody_reads_takes_all_and_remembers_why() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        shown = Shown(stream)
        for _ in range(3):
            assert shown.write("x" * 100_000) == 100_000
            shown.flush()
        assert isinstance(shown.failure, BrokenPipeError)


def test_letters_that_a_terminal_does_not_have_are_written_out() -> None:
    raw = io.BytesIO()
    shown = Shown(io.TextIOWrapper(raw, encoding="ascii"))
    shown.write("a × \udcff")
    shown.flush()
    assert raw.getvalue() == b"a \\xd7 \\udcff"
    assert shown.failure is None


def test_afterwards_the_streams_are_what_they_were() -> None:
    before = sys.stdout, sys.stderr
    with shown_streams() as output:
        assert sys.stdout is output
    assert (sys.stdout, sys.stderr) == before


def test_a_file_that_is_opened_first_never_gets_what_is_printed(tmp_path: Path) -> None:
    program = (
        "import sys, os, acgan\n"
        f"file = open({str(tmp_path / 'data')!r}, 'w')\n"
        "print('printed', flush=True); print('told', file=sys.stderr, flush=True)\n"
        "os.write(1, b'by a library'); os.system('echo by a child; echo told >&2')\n"
        "file.write(str(file.fileno() > 2))\n"
    )
    command = ["sh", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, program]
    assert subprocess.run(command, check=False).returncode == 0
    assert (tmp_path / "data").read_text() == "True"


def test_what_takes_long_is_told_and_what_does_not_is_not() -> None:
    with contextlib.redirect_stderr(io.StringIO()) as told:  # as pytest's own loses what comes
        with told_if_long("waiting for the quick one"):  # while it is read
            pass
        with told_if_long("waiting for the slow one", after_s=0.01):
            while "\n" not in told.getvalue():
                time.sleep(0.01)
    assert told.getvalue() == "waiting for the slow one\n"
