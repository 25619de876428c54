from __future__ import annotations

import re
from pathlib import Path

import pytest

from acgan.config import TrainConfig, find_file, read_file
from acgan.run.records import best_windowed, read_records
from benchmarks import options as module
from benchmarks.arms import NUMBERS, OPTIONS
from benchmarks.options import EXTENDED, SMALL, main
from search.study import space
from tests.kit import LEAST, OPTIONS_ON
from tests.picks import write_covidx

pytestmark = pytest.mark.process

SIZES = ["--image-size", "16", "--width", "0.0625", "--batch-size", "32", "--epochs", "3"]
MEASURES = ["--cnn-images", "16", "--cnn-epochs", "3", "--generated", "32"]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ACGAN_TRAIN_GRACE_UPDATES", "1")
    write_covidx(tmp_path / "images")
    (tmp_path / "page.md").write_text("<!-- options -->\n<!-- /options -->\n")
    places = ["--data", str(tmp_path / "images"), "--folder", str(tmp_path / "runs")]
    return [*places, *SIZES, *MEASURES, "--seeds", "2", "--jobs", "1"]


def rows(page: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {line[0]: line[1:] for line in lines[2:]}


def test_options_are_trained_measured_and_told_apart_by_their_spread(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    two = ["R1, γ = 1", "EMA 0.99"]
    monkeypatch.setattr(module, "OPTIONS", {name: OPTIONS[name] for name in two})
    command = [*words, "--trials", "0", "--out", str(tmp_path / "page.md")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "18 of 18 epochs of 6 configurations" in said
    assert "step 3: 6 to do" in said
    page = (tmp_path / "page.md").read_text()
    found = rows(page)
    assert list(found) == ["baseline", *two]
    assert all(len(cells) == len(NUMBERS) for cells in found.values())
    for cells in found.values():
        assert all(re.fullmatch(r"\S+ ± \S+", cell) for cell in cells[:-1])
        assert cells[-1] == "no value of 2 in 2 seeds"  # too few held-out patients to judge copies
    for name in two:
        assert f"- **{name}**: " in page
    trained = [*map(read_records, (tmp_path / "runs" / "runs").rglob("epochs.jsonl"))]
    assert all(LEAST.best in records[-1].metrics for records in trained)  # weights are kept by it
    scores = sorted(best_windowed(records, LEAST) for records in trained)
    means = sorted(float(cells[0].split(" ± ")[0].replace(",", "")) for cells in found.values())
    assert scores[0] <= means[0] <= means[-1] <= scores[-1]

    # The best points of both searches are further rows; what is there is not done again.
    command = [*words, "--trials", "2", "--out", str(tmp_path / "page.md")]
    assert main(command) == 0
    said = capsys.readouterr().out
    for file in (SMALL, EXTENDED):
        assert f"{file}: 2 trials of 6 epochs" in said
    again = rows((tmp_path / "page.md").read_text())
    # A best point that is the baseline itself has its weights, byte by byte.
    new = [name for name in again if name not in found and again[name] != found["baseline"]]
    assert (f"step 3: {2 * len(new)} to do, {10 - 2 * len(new)} there" in said) is bool(new)
    assert list(again) == ["baseline", *two, "best of 3 dimensions", "best of the extended"]
    assert {name: again[name] for name in found} == found
    assert re.search(r"^best of 3 dimensions: learning_rate \S+, label_smoothing", said, re.M)
    assert re.search(r"^best of the extended: .*ema_decay", said, re.M)

    assert main(command) == 0
    assert "to do" not in capsys.readouterr().out
    assert rows((tmp_path / "page.md").read_text()) == again


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--seeds", "1"], "must be a whole number from 2"),
        (["--epochs", "many"], "must be a whole number from 1"),
        (["--out", "nowhere.md"], "cannot keep the result"),
    ],
)
def test_wrong_flags_are_wrong_usage(
    flags: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(flags)
    assert reason in capsys.readouterr().err


def test_what_the_data_cannot_serve_is_one_sentence(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--batch-size", "1000"]) == 2
    assert "batch_size 1000 is larger than" in capsys.readouterr().err
    assert main([*words, "--data", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_extended_space_is_the_small_one_and_every_option() -> None:
    small, extended = (
        space.read(read_file(find_file(file))["space"], TrainConfig()) for file in (SMALL, EXTENDED)
    )
    assert small.items() <= extended.items()
    assert extended.keys() - small.keys() == OPTIONS_ON.keys() - {
        "precision"
    }  # a means, not an end
    space.check_size(extended, 1000)
