from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from PIL import Image

from acgan.data import phantom
from acgan.data.layouts import read_table
from acgan.data.pack import load
from benchmarks import data
from benchmarks.images import SIDE, write_large, write_tiny
from benchmarks.timing import one_thread
from tests.kit import tiny_config

pytestmark = pytest.mark.process

IMAGES = 96


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    write_tiny(folder, IMAGES)
    return folder


def test_written_images_are_all_used_none_as_anothers_duplicate(tiny: Path, tmp_path: Path) -> None:
    loaded = load(str(tiny), image_size=16, cache=tmp_path)
    assert len(loaded.train) + len(loaded.val) + len(loaded.test) == IMAGES
    assert len(loaded.test) == IMAGES // 6
    assert not [warning for warning in loaded.warnings if "duplicate" in warning]


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_packing_of_large_images_is_compared_with_pillow(form: str, tmp_path: Path) -> None:
    write_large(tmp_path / form, 18, form)
    found = data.packing(tmp_path / form, tmp_path / "packs", rounds=1)
    assert found.images == 18
    assert min(found.pillow, found.examined, found.packed) > 0
    assert len(list((tmp_path / "packs").glob("cache-*/*/images.u8"))) == 2  # one is not counted
    row = read_table(tmp_path / form).rows[0]
    with Image.open(tmp_path / form / row.path) as image:
        assert (image.size, image.mode, image.format) == ((SIDE, SIDE), "L", form)


def test_pillow_alone_makes_the_pixels_of_the_pack(tiny: Path, tmp_path: Path) -> None:
    loaded = load(str(tiny), image_size=data.IMAGE_SIZE, cache=tmp_path)
    alone = data.with_pillow(str(tiny / "test" / "000000.png"))
    assert (loaded.test.images[0] == alone).all()


def test_a_second_start_finds_the_pack(tiny: Path, tmp_path: Path) -> None:
    found = data.starts(tiny, tmp_path, rounds=2)
    assert found.images == IMAGES
    assert len(list(tmp_path.glob("*/images.u8"))) == 1


def test_processes_share_the_images(tiny: Path, tmp_path: Path) -> None:
    load(str(tiny), image_size=data.IMAGE_SIZE, cache=tmp_path)
    one, two = (data.memory(tiny, tmp_path, processes=count) for count in (1, 2))
    size = IMAGES * data.IMAGE_SIZE**2
    for found in (one, two):
        assert size * 0.99 < found.images < size * 1.01 + 4096 * found.processes
    assert two.whole > one.whole


def test_a_step_and_what_its_images_cost() -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
        found = data.step(tiny_config(), torch.device("cpu"), steps=2, rounds=2)
    assert 0 < found.share.low <= found.share.median <= found.share.high < 1
    assert found.update > found.fetch


def test_the_command_fills_its_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(folder: Path, cache: Path, *, processes: int) -> data.Memory:
        return data.Memory(processes, images=10**6, whole=processes * 10**8)

    monkeypatch.setattr(data, "memory", held)
    monkeypatch.setattr(phantom, "make", functools.cache(phantom.make))
    page = tmp_path / "page.md"
    page.write_text("<!-- data -->\n<!-- /data -->\n")
    sizes = {"--images": 18, "--few": 60, "--many": 90, "--processes": 2, "--rounds": 1}
    words = [word for name, value in sizes.items() for word in (name, str(value))]
    assert data.main([*words, "--out", str(page)]) == 0
    text = page.read_text()
    assert "grey JPEG, 1,024 px" in text
    assert "| 90 | " in text
    assert "32 px, width 0.25, batch 16" in text
