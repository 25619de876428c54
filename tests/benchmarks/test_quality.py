from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import quality
from benchmarks.curves import Curves, write_curves
from benchmarks.quality import answer, checked, limits, main, neighbour_correlation, record_table
from benchmarks.real_searches import Found
from benchmarks.replay import RANDOM, SEARCHERS
from benchmarks.train_curves import Asked
from tests.benchmarks.test_standing import ending
from tests.planted import planted

pytestmark = pytest.mark.process

VALLEY = {place / 20: 100 + 900 * (place / 20 - 0.4) ** 2 for place in (16, *range(16), 17, 18)}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text("<!-- quality -->\n<!-- /quality -->\n")
    return path


def test_the_command_replays_curves_of_a_file_into_a_page_and_a_picture(
    tmp_path: Path, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_curves(tmp_path / "curves.jsonl", planted(VALLEY))
    words = ["--curves", str(tmp_path / "curves.jsonl"), "--seeds", "3", "--trials", "5"]
    assert main([*words, "--jobs", "1", "--out", str(page)]) == 0
    text = page.read_text()
    assert (
        text.split("<!-- quality -->\n")[1].split("<!-- /quality -->")[0] in capsys.readouterr().out
    )
    for searcher in SEARCHERS:
        assert text.count(f"\n| {searcher.name} |") == 2
    assert "until all its trials together had spent 45 epochs" in text
    assert "best of the 19 configurations 112, and real images 1." in text
    assert "![Best value against epochs spent, four searches](quality.png)" in text
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_trains_what_no_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def train(what: Asked, say: Callable[[str], None]) -> Curves:
        asked.append(what)
        return planted(VALLEY)

    monkeypatch.setattr(quality, "train_curves", train)
    file = tmp_path / "curves" / "new.jsonl.gz"
    words = ["--curves", str(file), "--folder", str(tmp_path / "runs"), "--image-size", "16"]
    words += ["--width", "0.0625", "--configurations", "19", "--seeds", "1", "--trials", "1"]
    assert main([*words, "--jobs", "1"]) == 0
    assert main([*words, "--jobs", "1"]) == 0  # from the file
    (once,) = asked
    assert (once.config.image_size, once.config.width, once.count) == (16, 0.0625, 19)
    assert list(once.space) == ["learning_rate", "label_smoothing", "dropout"]


def test_real_searches_are_refused_other_images_than_the_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_curves(tmp_path / "c.jsonl", planted(VALLEY))
    words = ["--curves", str(tmp_path / "c.jsonl"), "--seeds", "1", "--trials", "1", "--jobs", "1"]
    assert main([*words, "--check", "1"]) == 2
    assert "the curves are of ramps; name its folder with --data" in capsys.readouterr().err


def test_searches_are_told_apart_by_seeds_and_by_epochs() -> None:
    replays = dict(
        zip(
            SEARCHERS,
            [ending(1, 1, 1, 1), ending(2, 4, 3, 4), ending(9, 9, 9, 9), ending(4, 4, 4, 4)],
            strict=True,
        )
    )
    lines = record_table(replays).splitlines()
    assert lines[0].endswith("| epochs to its final median, 4 |")
    assert lines[2] == "| TPE + early stopping | 100 % (51 % to 100 %) | 0 % | 0 % | 2 |"
    assert lines[3] == "| TPE alone | 50 % (15 % to 85 %) | 50 % | 0 % | 3 |"
    assert lines[4] == "| random + early stopping | 0 % (0 % to 49 %) | 0 % | 100 % | not reached |"
    assert lines[5] == "| random alone | – | – | – | 3 |"
    assert "in 2 epochs, which random search needs 3 for (1.5 times as many)" in answer(replays)
    worse = replays | {SEARCHERS[0]: ending(5, 5, 5, 5)}
    assert "does not come to random search's final median" in answer(worse)


def test_neighbours_are_alike_in_a_valley_and_not_where_values_are_luck() -> None:
    assert neighbour_correlation(planted(VALLEY)) > 0.9
    places = list(VALLEY)
    luck = planted({place: 100.0 + (7 * k * k) % 19 for k, place in enumerate(places)})
    assert abs(neighbour_correlation(luck)) < 0.5
    assert "nearest neighbour is" in limits(luck)


def test_real_searches_are_told_in_one_line() -> None:
    found = {SEARCHERS[0]: Found(123.4, 91, 3), RANDOM: Found(150.0, 32, 3)}
    replays = {SEARCHERS[0]: ending(1, 1, 1, 1), RANDOM: ending(4, 4, 4, 4)}
    said = checked(found, replays, 3)
    ours = "TPE + early stopping 123 with 91 trials of 3 epochs in all (replays: 1 (1 to 1))"
    assert ours in said
    assert "random alone 150 with 32 trials of 3 epochs in all (replays: 4 (4 to 4))" in said
    assert "replays:" not in checked(found, replays, 4)


@pytest.mark.parametrize("words", [["--seeds", "0"], ["--epochs", "-1"], ["--jobs", "many"]])
def test_numbers_are_whole_and_positive(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "must be a whole number from 1" in capsys.readouterr().err
