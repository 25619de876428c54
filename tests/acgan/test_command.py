from __future__ import annotations

import errno
import gc
import importlib
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from ray.exceptions import RayError

import acgan.generate
import acgan.train
import search.run
import search.sync
import selection.generate
from acgan.command import Parser, command, command_parser, duration, loading, run_command, typed
from acgan.config import TrainConfig
from acgan.errors import InputError
from selection.pick import parser as pick_parser
from tests.kit import ROOT
from tests.studies import write_study

pytestmark = pytest.mark.process

SECRET = "S3cr3tPW"
ADDRESS = f"postgres://u:{SECRET}@h/db"  # of a scheme that nobody knows
URI = ["--tracking-uri", ADDRESS]
STUDY = ["--study", "tiny"]
# How each command is given such an address: so that it comes as far as that.
COMMANDS = {
    "acgan.train": ["--data", ADDRESS],
    "acgan.covidx": [ADDRESS],
    "acgan.generate": ["--weights", ADDRESS, "--out", "out", "--per-class", "1"],
    "acgan.phantom": ["--out", ADDRESS],
    "search.run": URI,
    "search.sync": [*STUDY, *URI],
    "search.reproduce": ["--run-id", "f" * 32, *URI],
    "search.doctor": [*URI, "--address", f"http://u:{SECRET}@127.0.0.1:8265"],
    "search.dashboard": ["--run-id", "f" * 32, *URI],
    "selection.pick": [*STUDY, *URI],
    "selection.review": [*STUDY, *URI],
    "selection.study": ["--run-id", "f" * 32, *URI],
    "selection.generate": [*URI, "--out", "out", "--per-class", "1"],
}


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


@pytest.mark.parametrize(
    ("parser", "words", "meant"),
    [
        (search.run.parser, ["my images"], "--data 'my images'"),
        (search.run.parser, ["images", "--epochs", "3"], "--data images"),
        (pick_parser, ["demo"], "--study demo"),
        (acgan.generate.parser, ["x.safetensors", "--out", "a"], "--weights x.safetensors"),
        (search.sync.parser, ["demo"], "--study demo"),
        (selection.generate.parser, ["folder"], "--out folder"),
        (acgan.train.parser, ["images", "--epoch", "3"], "--epochs"),
    ],
)
def test_a_word_without_a_flag_is_taken_for_the_flag_that_it_most_likely_belongs_to(
    parser: Callable[[], Parser],
    words: list[str],
    meant: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        parser().parse_args(words)
    assert end.value.code == 2
    assert f"; did you mean {meant}? All flags: " in capsys.readouterr().err


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


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE]
)
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


@pytest.mark.parametrize("words", ["acgan.train", "search.run", "selection.pick --study x"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_python_imports_is_one_line(words: str, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", *words.split()],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 400
    while "libtorch" not in maps.read_text() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(number)
    output, errors = process.communicate(timeout=1500)
    assert (process.returncode, output) == (130, "")
    assert errors == "\ninterrupted; nothing had begun\n"


class Met(RayError):
    """What Ray makes of an error in another process: it names the cause."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"Traceback\n  a line\n{type(cause).__name__}: {cause}")
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("AF_UNIX path length cannot exceed 107 bytes"), "AF_UNIX path length"),
        (TimeoutError(), "TimeoutError"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "Connection refused"),
        (MemoryError(), "out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "out of memory",
        ),
        (RayError("the head is gone\nand more"), "the head is gone;"),
        (Met(OSError("no room")), "OSError: no room;"),
        (MlflowException("no such run"), "no such run"),
    ],
)
def test_whatever_the_world_outside_does_is_one_sentence(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(lambda: raising(error), resume="type it again") == 1
    output, errors = capsys.readouterr()
    first, second = errors.splitlines()
    assert output == ""
    assert first.startswith(f"error: {said}")
    assert second == "when that is mended, type it again"


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), RuntimeError("a bug"), Met(ValueError("a bug"))]
)
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


def test_no_command_is_forgotten() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {place.partition(":")[0] for place in project["scripts"].values()}
    assert named | {"acgan.phantom", "selection.generate"} == COMMANDS.keys()


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_ends_in_the_same_place(module: str) -> None:
    main = importlib.import_module(module).main
    assert main.__wrapped__.__module__ == module
    assert main.__code__ is command(main.__wrapped__).__code__


def called(module: str, words: list[str]) -> int:
    """Call a command as it is typed; return its exit code, the parser's too."""
    main: Callable[[list[str]], int] = importlib.import_module(module).main
    try:
        return main(words)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a study in it, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_study(tmp_path / "runs" / "tiny", trials=1, epochs=1)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("module", COMMANDS)
def test_no_command_shows_a_password(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = COMMANDS[module]
    expected = 1 if module == "search.doctor" else 2
    assert called(module, words) == expected
    mistyped = ["--tracking-ur" if word == "--tracking-uri" else word for word in words]
    assert called(module, [*mistyped, "--wrong", ADDRESS]) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ADDRESS)
    if "--tracking-uri" in words:
        place = words.index("--tracking-uri")
        assert called(module, words[:place] + words[place + 2 :]) == expected
    output = "".join(capsys.readouterr())
    assert SECRET not in output
    assert "u:***" in output
    assert "Traceback" not in output


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("module", ["acgan.train", "search.doctor", "selection.pick"])
def test_a_command_of_each_package_ends_with_its_code_where_both_streams_are_closed(
    module: str,
) -> None:
    shell = ["sh", "-c", 'exec "$0" -m "$@" >&- 2>&-', sys.executable, module]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*shell, *COMMANDS[module]], env=environment, check=False)
    assert done.returncode == (1 if module == "search.doctor" else 2)


def gone() -> int:
    """Return a pipe's end for writing, from which nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("words", "code"), [(["--out", "sheet.png"], 0), (["--help"], 0), (["--out", "no"], 2)]
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "gone", "both gone"])
def test_who_does_not_read_changes_no_exit_code(closed: str, words: list[str], code: int) -> None:
    """Here of a command that is quick."""
    pipe = gone() if "gone" in closed else subprocess.PIPE
    redirected = "" if "gone" in closed else closed
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m acgan.phantom "$@" {redirected}', sys.executable, *words],
        stdout=pipe,
        stderr=pipe if closed == "both gone" else subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == code
    assert Path("sheet.png").exists() == ("sheet.png" in words)
    told = code == 2 and closed not in ("2>&-", "both gone")
    assert (done.stderr or b"").startswith(b"error: " if told else b"")
    assert (done.stderr or b"").count(b"\n") == int(told)


@pytest.mark.usefixtures("alone")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_output_that_is_lost_on_a_full_disk_is_told() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "acgan.phantom", "--out", "sheet.png"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"error: the output cannot be written (No space left on device)\n"
    assert Path("sheet.png").exists()


def test_help_shows_the_common_flags_and_help_all_every_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    texts = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as end:
            search.run.parser().parse_args([flag])
        assert end.value.code == 0
        texts[flag] = capsys.readouterr().out
    short, whole = texts["--help"], texts["--help-all"]
    assert len(short.splitlines()) <= 40
    for text in ("--num-samples INT", "--data DIR", "--image-size INT", "--help-all"):
        assert text in short
    assert "--beta1" not in short
    for name in TrainConfig.model_fields.keys() - {"seed"}:
        assert "--" + name.replace("_", "-") in whole
    assert "--precision {float32,bfloat16}" in whole
    assert "--beta1 NUM" in whole


def test_usage_names_what_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pick_parser().parse_args(["--help"])
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "usage: python -m selection.pick [flags] (--run-id ID | --study NAME)"


@pytest.mark.parametrize("collects", [True, False])
def test_no_garbage_is_collected_meanwhile_and_then_as_before(collects: bool) -> None:
    (gc.enable if collects else gc.disable)()
    try:
        with loading():
            assert not gc.isenabled()
        assert gc.isenabled() is collects
        with pytest.raises(ImportError), loading():
            raise ImportError
        assert gc.isenabled() is collects
    finally:
        gc.enable()
