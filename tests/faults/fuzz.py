"""Damaged and hostile files for all that reads them; only documented outcomes are allowed.

    python -m tests.faults.fuzz --count 100000 --seed 0 --out findings.jsonl

An input is a valid file with parts exchanged for awkward ones, and then bits flipped, bytes cut,
repeated or spliced in. Of images it is also known which greys they must show. Hypothesis draws the
inputs, the same ones for the same seed.
"""

from __future__ import annotations

import argparse
import base64
import functools
import json
import logging
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import torch
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from acgan.config import TrainConfig, read_file, resolve
from acgan.data.label_files import SOURCES
from acgan.data.layouts import read_table
from acgan.data.source import named_source
from acgan.errors import InputError
from acgan.run.records import QUALITY, EpochRecord, read_records
from acgan.run.rundir import RunDir
from acgan.run.weights import checksum, weights_bytes
from search.settings import SearchConfig
from search.study import space
from search.study.folder import LastStart
from selection.settings import SelectionConfig
from tests.faults import images
from tests.faults.damage import DAMAGES, damaged

Files = dict[str, bytes]

LONGEST_SENTENCE = 2_000
SHARED_MEMORY = Path("/dev/shm")  # the state reader syncs what it mends: slow on a disk


@dataclass(frozen=True)
class Finding:
    """An input with an outcome that is not documented, and where it came about."""

    target: str
    error: str
    files: Files

    def line(self) -> str:
        """Return it as one line of JSON, the files in base64."""
        files = {name: base64.b64encode(content).decode() for name, content in self.files.items()}
        return json.dumps({"target": self.target, "error": self.error, "files": files}) + "\n"

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Finding:
        """Return what `line` wrote, to try it again."""
        files = {name: base64.b64decode(text) for name, text in content["files"].items()}
        return cls(content["target"], content["error"], files)


def fuzz_labels(count: int, seed: int) -> list[Finding]:
    """Give damaged label files to `acgan.data.layouts.read_table`."""
    with _scratch() as scratch:
        folder = Path(scratch) / "data"
        for split in ("train", "test"):
            (folder / split / "sub").mkdir(parents=True)
            (folder / split / "a.png").touch()
            (folder / split / "sub" / "b.png").touch()
            (folder / split / "out.png").symlink_to("/etc/hostname")
        return _fuzz("labels", label_files(), functools.partial(check_labels, folder), count, seed)


def fuzz_configurations(count: int, seed: int) -> list[Finding]:
    """Give damaged YAML to `acgan.config.read_file`, and what it reads to the sections' types."""
    with _scratch() as scratch:
        check = functools.partial(check_configuration, Path(scratch) / "some.yaml")
        return _fuzz("configurations", configurations(), check, count, seed)


def fuzz_states(count: int, seed: int) -> list[Finding]:
    """Give damaged states and records to `acgan.run.rundir.RunDir.restore`."""
    with _scratch() as scratch:
        check = functools.partial(check_state, Path(scratch))
        return _fuzz("states", run_files(), check, count, seed)


def fuzz_images(count: int, seed: int) -> list[Finding]:
    """Give PNG, TIFF, JPEG and WEBP files to `acgan.data.decode`; see `tests.faults.images`."""
    with _scratch() as scratch:
        check = functools.partial(images.check, Path(scratch) / "x")
        return _fuzz("images", images.images(), check, count, seed)


def fuzz_dicom(count: int, seed: int) -> list[Finding]:
    """Give DICOM files to `acgan.data.decode.examine`; see `tests.faults.images`."""
    with _scratch() as scratch:
        check = functools.partial(images.check, Path(scratch) / "x")
        return _fuzz("dicom", images.dicom_files(), check, count, seed)


TARGETS = {
    "labels": fuzz_labels,
    "configurations": fuzz_configurations,
    "states": fuzz_states,
    "images": fuzz_images,
    "dicom": fuzz_dicom,
}


def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)


def _fuzz(
    target: str,
    inputs: st.SearchStrategy[Files],
    check: Callable[[Files], None],
    count: int,
    seed: int,
) -> list[Finding]:
    """Draw `count` inputs; return the smallest found of each place where a check fails."""
    found: dict[str, Finding] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(inputs)
    def one(files: Files) -> None:
        try:
            check(files)
        except Exception as error:  # whatever it is, it is a finding, and the next ones are wanted
            place = _place(error)
            if place not in found or _size(files) < _size(found[place].files):
                found[place] = Finding(target, f"{place}: {str(error)[:300]}", files)

    one()
    return list(found.values())


def _place(error: BaseException) -> str:
    """Return the kind of an error and the project's last line that it came through."""
    place, traceback = "", error.__traceback__
    while traceback is not None:
        path = Path(traceback.tb_frame.f_code.co_filename)
        if "site-packages" not in path.parts:
            place = f"{path.name}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return f"{type(error).__name__} at {place}"


def _size(files: Files) -> int:
    return sum(map(len, files.values()))


def _is_one_sentence(error: InputError) -> None:
    message = str(error)
    assert 0 < len(message) <= LONGEST_SENTENCE, f"a message of {len(message)} characters"
    assert message.isprintable(), f"not one line of text: {message[:200]!r}"


# --- label files ------------------------------------------------------------------------------

_TOKENS = (
    *("a.png", "sub/b.png", "missing.png", "out.png", ".", "..", "../a.png", "sub/../a.png"),
    *("A.png", "a.PNG", "train/a.png", "b.png", "sub\\b.PNG", "train/", "out.PNG"),
    *("/etc/hostname", "/dev/zero", "a.png/", "a\\b.png", "é.png", "p1", "COVID", "12", "x" * 300),
    *("COVID-19", "normal", "NORMAL", "pneumonia", "covid", "positive", "negative", "hernia"),
    *("cohen", "RSNA", "rnsa", "generated", "nowhere", "", "\0", "\x1b[31m", "\u202e", "\ufeff"),
)
_SPACES = (" ", " ", " ", "\t", "  ", "\x0b", "\u00a0", "\u2028", "\x85", "\r")
_GOOD = b"p1 a.png COVID-19 cohen\np2 sub/b.png normal rsna\np3 a.png pneumonia rsna\n"
_LABEL_PIECES = (
    *(b"\0", b"\n", b"\r\n", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"../", b" .. ", b"/etc/"),
    *(b" normal\n", b"x " * 70, b"y" * 70_000, b"a/" * 200, b"%s%n", b'"', b"'", b"$(id)", b"#"),
)

_TOKEN = st.sampled_from(_TOKENS)
_LINE = st.tuples(
    st.lists(_TOKEN, max_size=5),
    st.sampled_from(_SPACES),
    st.sampled_from(["\n", "\n", "\r\n", "", "\n\n"]),
).map(lambda drawn: drawn[1].join(drawn[0]) + drawn[2])
_LINES = st.lists(_LINE, max_size=3).map("".join)


def label_files() -> st.SearchStrategy[Files]:
    """Draw `train.txt` and `test.txt`."""
    file = st.builds(
        lambda lines, damages: damaged(_GOOD + lines.encode(), damages, _LABEL_PIECES),
        _LINES,
        DAMAGES,
    )
    return st.fixed_dictionaries({"train.txt": file, "test.txt": st.just(_GOOD) | file})


def check_labels(folder: Path, files: Files) -> None:
    """Assert that the data folder's files give a table without a way out of it, or a sentence."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        table = read_table(folder)
    except InputError as error:
        _is_one_sentence(error)
        return
    for row in table.rows:
        assert (folder / row.path).resolve().is_relative_to(folder), row
        assert row.class_name in table.classes, row
        assert row.source in SOURCES, row
        assert row.patient
        assert row.patient.isprintable(), row
    assert sum(mend.count for mend in table.mends) <= len(table.rows)
    assert all(mend.how and str(mend).isprintable() for mend in table.mends)
    assert table.digest() == read_table(folder).digest()


# --- configurations ---------------------------------------------------------------------------

_FIELDS = {
    "train": tuple(TrainConfig.model_fields),
    "search": tuple(SearchConfig.model_fields),
    "selection": tuple(SelectionConfig.model_fields),
    "space": (*TrainConfig.model_fields, "batch_size", "dropout", "learning_rate"),
}
_ODD_NAMES = (
    "<<",
    "=",
    "1",
    "null",
    "true",
    "2001-01-01",
    "? [a]",
    "'a\\0'",
    '"\\n"',
    "*a",
    "&a b",
)
_SCALARS = (
    *(
        "0",
        "1",
        "2",
        "16",
        "32",
        "0.1",
        "0.5",
        "1e-3",
        "5.0e-5",
        "true",
        "false",
        "null",
        "~",
        "''",
    ),
    *("-1", "-0.0", "1e400", ".inf", "-.inf", ".nan", "nan", "0x10", "0o7", "0b1", "1_000", "1:30"),
    *("9" * 30, "9" * 400, "9" * 4200, "9" * 5000, "0x" + "f" * 5000, "1" + "0" * 309, "1.0e-320"),
    *("*a", "&a 1", "!!int 1", "!!python/name:os.system", "!x y", "!!binary aGk=", "!!set {a, b}"),
    *("2001-01-01", "2001-99-99", "2001-01-01 00:00:00Z", "=", "<<", "@", "`", "%", "|", ">-", "?"),
    *("{", "[", "}", "]", "[1, 2]", "[3, 5]", "{a: 1}", "[[[[1]]]]", "{? [a]: b}", "{<<: {a: 1}}"),
    *("{low: 0.1, high: 0.5}", "{low: 1.0e-5, high: 1, log: true}", "{choices: [8, 16, 32]}"),
    *("{low: 0.1, high: 0.5, step: 0.1}", "{low: 1.0e+308, high: 1.7e+308, step: 1.0e-300}"),
    *("{choices: []}", "{choices: [1, 1.0]}", "{choices: [true, a]}", "{low: .nan, high: .inf}"),
    *(
        "{low: 1, high: 1.0e+300}",
        "{low: 8, high: 64, step: 8}",
        "tpe",
        "qmc",
        "val/fd_cnn",
        "auto",
    ),
    *('"a\\0b"', '"\\ud800"', '"\\U0010ffff"', "é", "\u202e", "x" * 3000, "phantom", "~nobody/x"),
)
_YAML_PIECES = (
    *(b"\0", b"\t", b"\n", b": ", b"- ", b"#", b"{", b"}", b"[", b"]", b"*a", b"&a ", b"!!", b"!"),
    *(b"'", b'"', b"|\n", b">\n", b"---\n", b"...\n", b"%YAML 1.1\n", b"\xff\xfe", b"\xef\xbb\xbf"),
    *(b"[" * 600, b"{a: " * 600, b"9" * 600, b"\\x00", b"\xc2\x85", b"? ", b"<<: ", b"\x7f"),
)


def _section(name: str) -> st.SearchStrategy[str]:
    field = st.sampled_from(_FIELDS[name]) | st.sampled_from(_ODD_NAMES)
    lines = st.lists(st.tuples(field, st.sampled_from(_SCALARS)), max_size=3)
    return lines.map(lambda rows: f"{name}:\n" + "".join(f"  {k}: {v}\n" for k, v in rows))


def configurations() -> st.SearchStrategy[Files]:
    """Draw a configuration file."""
    data = st.sampled_from(_SCALARS).map(lambda value: f"data: {value}\n")
    parts = st.lists(st.one_of(data, *map(_section, _FIELDS)), max_size=3)
    content = st.builds(
        lambda texts, damages: damaged("".join(texts).encode(), damages, _YAML_PIECES),
        parts,
        DAMAGES,
    )
    return content.map(lambda raw: {"some.yaml": raw})


def check_configuration(path: Path, files: Files) -> None:
    """Assert that the file is accepted, as commands do before they load images, or one sentence."""
    path.write_bytes(files[path.name])
    try:
        content = read_file(path)
        train = resolve(TrainConfig, "train", content.get("train"), {})
        search = resolve(SearchConfig, "search", content.get("search"), {})
        resolve(SelectionConfig, "selection", content.get("selection"), {})
        searched = space.read(content.get("space"), train)
        space.check_size(searched, search.num_samples)
        source = named_source({}, {"data": "phantom", **content})
    except InputError as error:
        _is_one_sentence(error)
        return
    start = LastStart(source=source, selection=content.get("selection") or {})
    assert LastStart.model_validate_json(start.model_dump_json()) == start


# --- states and records -----------------------------------------------------------------------


def _record(epoch: int, value: float = 0.5) -> str:
    metrics = {QUALITY: value, "val/g_loss": float("nan")}
    return EpochRecord(epoch=epoch, time=1e9 + epoch, metrics=metrics).model_dump_json()


def _state(tensors: dict[str, torch.Tensor], record: str) -> bytes:
    return weights_bytes(tensors, {"record": record, "checksum": checksum(tensors, record)})


_WEIGHT = torch.arange(6.0).view(2, 3)
_TENSORS: tuple[dict[str, torch.Tensor], ...] = (
    {"generator/weight": _WEIGHT, "adam/updates": torch.tensor(3)},
    {},
    {"": _WEIGHT, "a\n\0": torch.zeros(0, 3), "bool": torch.tensor([True, False])},
    {"half": _WEIGHT.bfloat16(), "eight": _WEIGHT.to(torch.float8_e4m3fn), "c": _WEIGHT * 1j},
)
_RECORDS = (
    *(_record(1), _record(2), _record(3), _record(4), _record(3, float("inf"))),
    *("", "{}", "null", "[]", "\0", '{"epoch": 0}', "[" * 300, _record(10**18)),
    _record(3).replace('"samples":null', '"samples":"../../../etc/hostname"'),
    _record(3).replace("3", "1e999"),
    _record(3).replace("3", "9" * 5000, 1),
)
_VALID = _state(_TENSORS[0], _record(3))
_HEADER_LENGTH = struct.unpack("<Q", _VALID[:8])[0]
_HEADER: dict[str, Any] = json.loads(_VALID[8 : 8 + _HEADER_LENGTH])
_DATA = _VALID[8 + _HEADER_LENGTH :]
_EDITS: tuple[tuple[str, str, Any], ...] = (
    *(
        ("generator/weight", "dtype", name)
        for name in ("F64", "F16", "I32", "U32", "BOOL", "C64", "F8_E5M2", "F4", "F6_E2M3", "X", 3)
    ),
    *(
        ("generator/weight", "shape", shape)
        for shape in ([6], [3, 2], [], [0], [-1], [2**62, 8], [2, 3, 1], "x", [1.5], None)
    ),
    *(
        ("generator/weight", "data_offsets", offsets)
        for offsets in ([0, 24], [8, 32], [0, 2**63], [24, 0], [0], None, [0, 16])
    ),
    *(("__metadata__", "record", record) for record in _RECORDS),
    *(("__metadata__", "checksum", text) for text in ("", "0" * 64, 5, None)),
)
_STATE_PIECES = (
    *(b"\0", b"\xff" * 8, b"{", b"}", b'"', b"\n", b'"F64"', b"[0]", b"9" * 30, b"__metadata__"),
    *(b"null", b"NaN", b"Infinity", _record(2).encode() + b"\n", _VALID[:40], b"\x80\x04cos\n."),
)


def _edited(edits: Sequence[tuple[str, str, Any]]) -> bytes:
    """Return the valid state with values of its header exchanged."""
    header = {name: dict(entry) for name, entry in _HEADER.items()}
    for name, key, value in edits:
        header[name][key] = value
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + _DATA


def run_files() -> st.SearchStrategy[Files]:
    """Draw the two states of a run, and its records."""
    sound = st.builds(_state, st.sampled_from(_TENSORS), st.sampled_from(_RECORDS))
    edited = st.lists(st.sampled_from(_EDITS), max_size=2).map(_edited)
    broken = st.builds(
        lambda content, damages: damaged(content, damages, _STATE_PIECES), sound | edited, DAMAGES
    )
    usual = st.just("".join(_record(epoch) + "\n" for epoch in (1, 2, 3)))
    rows = st.lists(st.sampled_from(_RECORDS).map(lambda row: row + "\n"), max_size=5)
    lines = st.builds(
        lambda text, damages: damaged(text.encode(), damages, _STATE_PIECES),
        usual | rows.map("".join),
        DAMAGES,
    )
    return st.fixed_dictionaries(
        {
            "state.safetensors": sound | edited | broken,
            "state.previous.safetensors": st.just(_state(_TENSORS[0], _record(2))) | broken,
            "epochs.jsonl": usual.map(str.encode) | lines,
        }
    )


def check_state(folder: Path, files: Files) -> None:
    """Assert that a run starts anew, or goes on after epochs whose lines are all there."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    run = RunDir(folder)
    restored = run.restore()
    if restored is None:
        assert read_records(run.epochs_path) == []
        return
    records, tensors = restored
    assert [record.epoch for record in records] == list(range(1, len(records) + 1))
    lines = [record.model_dump_json() for record in records]
    assert [record.model_dump_json() for record in read_records(run.epochs_path)] == lines
    again = run.restore()
    assert again is not None
    assert [record.model_dump_json() for record in again[0]] == lines
    assert checksum(again[1], "") == checksum(tensors, "")


# --- the command ------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz each target; return 1 if there are findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, required=True, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a finding")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    options = parser.parse_args(arguments)
    logging.getLogger("acgan").setLevel(logging.CRITICAL)  # each damaged state is logged
    findings = []
    for name in options.targets:
        started = time.monotonic()
        found = TARGETS[name](options.count, options.seed)
        seconds = time.monotonic() - started
        print(
            f"{name}: {options.count} inputs in {seconds:.0f} s, {len(found)} findings", flush=True
        )
        findings += found
    options.out.write_text("".join(finding.line() for finding in findings))
    for finding in findings:
        print(f"{finding.target}: {finding.error}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
