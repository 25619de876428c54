from __future__ import annotations

import math
from pathlib import Path

import pytest

from acgan.errors import InputError
from acgan.run.records import EpochRecord
from benchmarks.curves import Curve, Curves, curve_of, read_curves, write_curves
from tests.planted import EPOCHS, GRACE, metrics, planted
from tests.studies import by_distance

pytestmark = pytest.mark.process


@pytest.mark.parametrize("name", ["deep/curves.jsonl", "curves.jsonl.gz"])
def test_curves_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    there = planted({0.8: 5.0, 0.2: 3.0})
    odd = Curve(
        params={"dropout": 0.3}, metrics=metrics([math.nan, math.inf, *range(1, EPOCHS - 1)])
    )
    curves = Curves(there.shared, [*there.curves, odd])
    write_curves(tmp_path / name, curves)
    read = read_curves(tmp_path / name)
    assert read.shared == curves.shared
    assert repr(read.curves) == repr(curves.curves)  # NaN equals itself
    assert read.values(by_distance()) == curves.values(by_distance())
    before = (tmp_path / name).read_bytes()
    write_curves(tmp_path / name, read)
    assert (tmp_path / name).read_bytes() == before


def test_a_run_keeps_what_the_rules_read_with_six_digits() -> None:
    kept = {"train/d_loss_source": 1.0, "val/g_loss": 2.0, "val/fd_cnn": 123.4567891}
    kept |= {"val/diversity": 0.1, "val/acc_real": 0.2, "val/acc_generated": 0.3}
    record = EpochRecord(epoch=1, time=7.0, metrics=kept | {"perf/images_per_s": 9.0})
    curve = curve_of({"dropout": 0.5}, [record])
    assert curve.metrics == {
        name: [value] for name, value in (kept | {"val/fd_cnn": 123.457}).items()
    }


def test_records_are_young_in_the_grace_period() -> None:
    curves = planted({0.8: 5.0})
    assert [record.young for record in curves.records[0]] == [True] * GRACE + [False] * (EPOCHS - 1)
    assert [record.epoch for record in curves.records[0]] == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize("content", [b"", b"{}\n", b"no line\n", b"\x1f\x8b", None])
def test_a_file_without_curves_is_refused(tmp_path: Path, content: bytes | None) -> None:
    for name in ("curves.jsonl", "curves.jsonl.gz"):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match="holds no curves"):
            read_curves(path)


def test_a_head_alone_and_runs_of_other_lengths_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    write_curves(path, planted({0.8: 5.0}))
    head, line, _ = path.read_text().split("\n")
    path.write_text(f"{head}\n")
    with pytest.raises(InputError, match="holds no curves"):
        read_curves(path)
    short = Curve(params={"dropout": 0.5}, metrics=metrics([1.0]))
    path.write_text(f"{head}\n{line}\n{short.model_dump_json()}\n")
    with pytest.raises(InputError, match="9 epochs"):
        read_curves(path)
