from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acgan.command import command, command_parser, duration, run_command, typed
from acgan.errors import InputError


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--epoch", "3"], "; did you mean --epochs? All"),  # never taken for it
        (["--dryrun=--x"], "; did you mean --dry-run? All"),
        (["--wrong"], "; all"),
        (["--epochs"], "; all"),
        (["3"], "; all"),
    ],
)
def test_wrong_usage_is_one_sentence_with_the_nearest_flag(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = command_parser("some.command", None)
    for flag in ("--epochs", "--config", "--dry-run"):
        parser.add_argument(flag)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(words)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words[0] in error
    assert error.endswith(f"{hint} flags: python -m some.command --help\n")


@pytest.mark.parametrize("code", [0, 1])
def test_the_bodys_code_is_the_exit_code(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: code, resume="") == code
    assert capsys.readouterr() == ("", "")


def test_bad_input_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: raising(InputError("no such folder; name one")), resume="") == 2
    assert capsys.readouterr() == ("", "error: no such folder; name one\n")


def test_ctrl_c_says_what_continues_and_has_exit_code_130(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(lambda: raising(KeyboardInterrupt()), resume="type it again") == 130
    assert capsys.readouterr() == ("", "\ninterrupted; to continue, type it again\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_place_that_cannot_be_used_is_named_and_what_to_type_then(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = OSError(number, os.strerror(number), "runs/demo/lock.json")
    assert run_command(lambda: raising(refused), resume="type it again") == 1
    output, errors = capsys.readouterr()
    assert output == ""
    first, second = errors.splitlines()
    assert first.startswith(f"error: {os.strerror(number)} at runs/demo/lock.json; ")
    assert second == "when that is mended, type it again"


LATE = """
import os, signal
from acgan.command import command, run_command

class Late:
    def __del__(self):  # as Python ends, when it has taken the handlers of signals away
        os.kill(os.getpid(), signal.SIG{name})

late = Late()

@command
def main(arguments):
    print("the end", end="")
    return run_command(lambda: {code}, resume="")

main()
"""


@pytest.mark.parametrize(("name", "code"), [("INT", 130), ("TERM", 0), ("SEGV", 1)])
def test_what_comes_while_python_ends_leaves_the_exit_code(name: str, code: int) -> None:
    program = LATE.format(name=name, code=code)
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"the end", b"")


def test_a_command_that_is_called_returns_its_code() -> None:
    called = command(lambda arguments: len(arguments or ()))
    assert called(["a", "b"]) == 2


@pytest.mark.parametrize("module", ["acgan.train", "search.run", "selection.pick"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_python_imports_is_one_line(module: str, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", module], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 100
    while "libtorch" not in maps.read_text() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(number)
    output, errors = process.communicate(timeout=100)
    assert (process.returncode, output) == (130, "")
    assert errors == "\ninterrupted; nothing had begun\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("a bug"), OSError("full")])
def test_any_other_error_is_not_caught(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        run_command(lambda: raising(error), resume="")


def test_a_program_of_an_environment_that_is_not_activated_is_shown_by_its_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "env" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin")
    assert typed(["python", "-m", "x", "a b"]) == "env/bin/python -m x 'a b'"
    monkeypatch.setenv("PATH", str(program.parent))
    assert typed(["python", "-m", "x"]) == "python -m x"
    assert typed(["mlflow", "ui"]) == "mlflow ui"


def test_flags_must_be_typed_in_full() -> None:
    parser = command_parser("x", "y")
    parser.add_argument("--samples-every")
    with pytest.raises(SystemExit):
        parser.parse_args(["--samples", "4"])


@pytest.mark.parametrize(
    ("seconds", "text"), [(25, "25 s"), (1500, "25 min"), (9000, "2 h"), (1e6, "12 days")]
)
def test_times_are_shown_in_a_fitting_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
