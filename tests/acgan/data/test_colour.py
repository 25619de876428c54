"""Images in colour, from the file to a training step, a CNN and a quiz."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from acgan import covidx
from acgan.config import TrainConfig
from acgan.data.decode import decoded, examine, is_coloured
from acgan.data.pack import load, load_for
from acgan.data.table import GENERATED
from acgan.data.tabular import write_table
from acgan.errors import InputError
from acgan.evaluation.evaluate import to_signed_rgb
from acgan.gan.step import METRICS, Training
from acgan.training import DeviceImages, check_fits, train_epoch
from selection.augmentation.fit import augment_batch
from selection.reviewing.quiz import plain_png
from tests.kit import tiny_config

SIZE = 16
CPU = torch.device("cpu")


def picture(seed: int, *, colour: bool) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    if not colour:
        noise[:] = noise[:, :, :1]
    return Image.fromarray(noise).resize((48, 48), Image.Resampling.BICUBIC)


def write_folder(root: Path, *, coloured: int, grey: int) -> Path:
    """Write images of two classes: so many of each in colour, and so many in grey, as RGB."""
    for label, name in enumerate("ab"):
        (root / name).mkdir(parents=True)
        for number in range(coloured + grey):
            seed = 1_000 * label + number
            picture(seed, colour=number < coloured).save(root / name / f"{number}.png")
    return root


def test_colour_is_told_from_grey_and_from_a_coloured_mark() -> None:
    assert is_coloured(picture(0, colour=True))
    grey = picture(0, colour=False)
    assert not is_coloured(grey)
    assert not is_coloured(grey.convert("L"))
    stored = io.BytesIO()
    grey.save(stored, "JPEG", quality=60)
    assert not is_coloured(decoded(stored.getvalue()))
    ImageDraw.Draw(grey).rectangle((2, 2, 12, 8), fill="red")  # 3 % of the pixels
    assert not is_coloured(grey)


def test_pixels_in_colour_are_the_resized_images(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = picture(0, colour=True)
    image.save(path)
    facts, pixels = examine(str(path), image_size=SIZE, colour=True)
    expected = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert facts.coloured
    np.testing.assert_array_equal(pixels, expected)
    same, in_grey = examine(str(path), image_size=SIZE)
    assert same == facts
    np.testing.assert_array_equal(
        in_grey, np.asarray(image.convert("L").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    )


@pytest.mark.parametrize(("coloured", "expected"), [(20, True), (13, True), (11, False)])
def test_a_folder_is_in_colour_where_most_of_its_images_are(
    tmp_path: Path, coloured: int, expected: bool
) -> None:
    folder = str(write_folder(tmp_path / "d", coloured=coloured, grey=24 - coloured))
    auto = load(folder, image_size=SIZE, cache=tmp_path / "cache")
    assert auto.train.in_colour == auto.test.in_colour == expected
    shape = (3, SIZE, SIZE) if expected else (SIZE, SIZE)
    assert auto.train.images.shape == (len(auto.train), *shape)
    again = load(folder, image_size=SIZE, cache=tmp_path / "cache")
    assert again.fingerprint == auto.fingerprint
    for colour, named in (("rgb", True), ("grey", False)):
        found = load(folder, image_size=SIZE, colour=colour, cache=tmp_path / "cache")
        assert found.train.in_colour == named
        assert (found.fingerprint == auto.fingerprint) == (named == expected)
        assert found.train.patients == auto.train.patients


def test_generated_images_do_not_decide_whether_real_ones_have_colours(tmp_path: Path) -> None:
    for place in ("one", "two"):
        write_folder(tmp_path / place, coloured=30, grey=12)
    names = [f"{c}/{n}.png" for c in "ab" for n in range(42)]
    sources = [GENERATED if int(name[2:-4]) < 30 else "clinic" for name in names]
    for place, source in (("one", sources), ("two", ["clinic"] * len(names))):
        rows = [(name, name[0], own) for name, own in zip(names, source, strict=True)]
        table = write_table([("file", "label", "source"), *rows])
        (tmp_path / place / "labels.csv").write_text(table)
    cache = tmp_path / "cache"
    assert not load(str(tmp_path / "one"), image_size=SIZE, cache=cache).train.in_colour
    assert load(str(tmp_path / "two"), image_size=SIZE, cache=cache).train.in_colour


def test_the_report_of_images_in_colour_ends_with_a_command_that_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, coloured in (("one", 24), ("two", 0)):
        folder = write_folder(tmp_path / place, coloured=coloured, grey=24 - coloured)
        assert covidx.main([str(folder)]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("next: ")
        assert ("--no-grey" in last.split()) == (coloured > 0)


def config(**changes: object) -> TrainConfig:
    return tiny_config(image_size=SIZE, **changes)


def test_a_grey_generator_for_images_in_colour_is_refused_with_both_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    folder = str(write_folder(tmp_path / "d", coloured=24, grey=0))
    data = load_for(folder, config())
    with pytest.raises(InputError, match="give --no-grey, or read them with --colour grey"):
        check_fits(config(grey=True), data)
    check_fits(config(), data)
    check_fits(config(grey=True), load_for(folder, config(colour="grey")))


def test_a_step_sees_the_colours(tmp_path: Path) -> None:
    folder = str(write_folder(tmp_path / "d", coloured=24, grey=0))
    data = load(folder, image_size=SIZE, cache=tmp_path / "cache")
    batch = torch.from_numpy(np.array(data.train.images[:4]))
    signed = to_signed_rgb(batch)
    assert signed.shape == (4, 3, SIZE, SIZE)
    assert torch.equal(signed, batch.float() / 127.5 - 1)
    seen: list[torch.Tensor] = []
    training = Training(config(), classes=2, device=CPU)
    training.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    numbers = train_epoch(training, DeviceImages(data.train, CPU), 1)
    assert set(numbers) == {f"train/{name}" for name in METRICS}
    real = seen[0][: len(seen[0]) // 2]
    assert not torch.equal(real[:, 0], real[:, 1])


def test_augmenting_three_equal_channels_is_augmenting_one() -> None:
    grey = torch.randint(0, 256, (5, SIZE, SIZE), dtype=torch.uint8)
    one, three = (
        augment_batch(images, torch.Generator().manual_seed(3))
        for images in (grey, grey[:, None].repeat(1, 3, 1, 1))
    )
    assert three.shape == (5, 3, SIZE, SIZE)
    assert all(torch.equal(three[:, channel], one) for channel in range(3))


def test_a_quizs_picture_in_colour_is_whole_and_as_long_as_any_other() -> None:
    def colours(seed: int) -> NDArray[np.uint8]:
        return np.random.default_rng(seed).integers(0, 256, (3, 9, 7), np.uint8)

    contents = [plain_png(colours(seed)) for seed in range(3)]
    assert len({len(content) for content in contents}) == 1
    read = np.asarray(Image.open(io.BytesIO(contents[0])))
    np.testing.assert_array_equal(read, colours(0).transpose(1, 2, 0))
