from __future__ import annotations

import dataclasses
import gzip
import json
import math
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

from acgan.config import TrainConfig, find_file, read_file, validate
from acgan.data.dataset import Dataset
from acgan.errors import InputError
from acgan.generation.generator import load_generator
from benchmarks import generators
from benchmarks.generators import RARE, Worth, filled, rare
from benchmarks.recipe import NUMBERS, PARTS, Generator, arms_of, main, part_table, rank_table
from tests.acgan.test_generate import write_weights
from tests.kit import OPTIONS_ON, tiny_dataset
from tests.picks import write_covidx

SIZES = ["--image-size", "16", "--width", "0.0625", "--batch-size", "32", "--epochs", "3"]


def in_colour(data: Dataset) -> Dataset:
    """Return grey training images in three equal channels."""
    images = np.repeat(data.train.images[:, None], 3, axis=1)
    return dataclasses.replace(data, train=dataclasses.replace(data.train, images=images))


def test_every_option_can_be_a_part_of_a_recipe() -> None:
    assert set(OPTIONS_ON) - {"precision"} <= set(PARTS)
    assert set(PARTS) <= TrainConfig.model_fields.keys()


def test_each_part_of_the_recipe_is_left_out_in_turn() -> None:
    recipe = validate(
        TrainConfig, "train", read_file(find_file(Path("configs/small.yaml")))["train"]
    )
    published, whole, *without = arms_of(recipe)
    assert (published.name, whole.name, dict(whole.changes)) == ("published step", "recipe", {})
    off = recipe.model_copy(update=dict(published.changes))
    sizes = ("image_size", "width", "batch_size", "epochs")
    assert off == TrainConfig(**{name: getattr(recipe, name) for name in sizes})
    for arm in without:
        ((name, value),) = arm.changes.items()
        assert arm.name == f"without {name}"
        assert value == getattr(TrainConfig(), name) != getattr(recipe, name)
    (together,) = arms_of(recipe, [("grey", "translation")])[2:]
    assert together.name == "without grey, translation"
    assert dict(together.changes) == {"grey": False, "translation": 0.0}
    with pytest.raises(InputError, match=r"--without r1_gamma: it is as in the published step"):
        arms_of(recipe, [("r1_gamma",)])


def test_a_part_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--without", "hinge+wings"])
    assert "no part 'wings'; there are learning_rate, " in capsys.readouterr().err


def test_the_rare_class_keeps_a_fifth_of_its_patients_and_the_others_all() -> None:
    data = tiny_dataset(train=90)
    pixels, labels = rare(data)
    assert np.bincount(labels).tolist() == [6, 30, 30]
    others = data.train.images[np.asarray(data.train.labels) != RARE]
    assert np.array_equal(pixels[labels != RARE], others)


def test_a_run_that_blew_up_is_counted_in_the_tables_and_ranks_last() -> None:
    def generator(seed: int, distance: float, share: float) -> Generator:
        metrics = dict.fromkeys(NUMBERS, share) | {"val/fd_cnn": distance, "val/g_loss": distance}
        return Generator("recipe", seed, 42, None, metrics, Worth((share,) * 2, (share,) * 2))

    found = [generator(0, 10.0, 0.5), generator(1, 20.0, 0.4), generator(2, math.inf, 0.0)]
    assert "| 15 ± 7.1 (1 lost) |" in part_table(found, [0.8, 0.7])
    assert re.search(r"^\| `val/fd_cnn` \| 1\.00 ", rank_table(found), re.M)


def test_generated_images_fill_the_rare_class_up_in_the_colour_of_the_real_ones(
    tmp_path: Path,
) -> None:
    loaded = load_generator(write_weights(tmp_path / "w.safetensors"), device=torch.device("cpu"))
    grey = tiny_dataset(train=90)
    for data, shape in ((grey, (90, 16, 16)), (in_colour(grey), (90, 3, 16, 16))):
        pixels, labels = filled(loaded, data)
        assert pixels.shape == shape
        assert np.bincount(labels).tolist() == [30, 30, 30]


@pytest.mark.process
def test_images_as_good_as_real_ones_are_worth_something_and_noise_is_not() -> None:
    data: Dataset = tiny_dataset(train=90, val=60)
    real = generators.accuracies(data.train.images, np.asarray(data.train.labels), data, updates=60)
    noise = np.random.default_rng(0).integers(0, 256, data.train.images.shape, dtype=np.uint8)
    of_noise = generators.accuracies(noise, np.asarray(data.train.labels), data, updates=60)
    assert len(real) == generators.CNNS
    # What noise has taught may still tell one brightness from the others: two classes of three.
    assert min(real) > 0.9 > 0.75 > statistics.mean(of_noise)


@pytest.mark.process
def test_a_recipe_is_trained_measured_and_ranked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ACGAN_TRAIN_GRACE_UPDATES", "1")
    write_covidx(tmp_path / "images")
    page, curves = tmp_path / "page.md", tmp_path / "curves.jsonl.gz"
    page.write_text("<!-- recipe -->\n<!-- /recipe -->\n")
    places = ["--data", str(tmp_path / "images"), "--folder", str(tmp_path / "runs")]
    words = [*places, *SIZES, "--seeds", "1", "--per-class", "8", "--cnn-updates", "4"]
    words += ["--jobs", "1", "--without", "grey+translation"]
    words += ["--curves", str(curves), "--out", str(page)]
    assert main(words) == 0
    arms = ("published step", "recipe", "without grey, translation")
    text = page.read_text()
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert {*arms, "real images", "`val/coverage`"} <= {line[0] for line in lines}
    rows = [json.loads(line) for line in gzip.decompress(curves.read_bytes()).splitlines()]
    assert {(row["arm"], row["seed"]) for row in rows} == {(arm, 0) for arm in arms}
    for row in rows:
        assert len(row["alone"]) == len(row["gain"]) == generators.CNNS
        assert all(0 <= value <= 1 for value in row["alone"])
    written = curves.read_bytes()
    assert main(words) == 0  # again: nothing is trained or measured anew
    assert curves.read_bytes() == written
    assert "9 of 9 epochs" in capsys.readouterr().out
    # One more seed is added to those that the file holds.
    assert main([*words, "--first-seed", "1"]) == 0
    again = [json.loads(line) for line in gzip.decompress(curves.read_bytes()).splitlines()]
    assert again[: len(rows)] == rows
    assert {row["seed"] for row in again[len(rows) :]} == {1}
    assert ", up to 2 seeds, the same for all" in page.read_text()
