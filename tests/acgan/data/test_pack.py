"""Packing: once, atomic, safe between processes, and the same bytes from wherever it is read."""

import json
import multiprocessing
import os
import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acgan.data import pack as data_pack
from acgan.data import phantom
from acgan.data.dataset import Dataset, ImageSet
from acgan.data.pack import load
from acgan.data.source import named_source
from acgan.errors import InputError
from tests.kit import MINI, needs_mini

CLASSES = ("COVID-19", "normal", "pneumonia")
SIZE = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small data folder, 5 train and 2 test patients a class, each image different."""
    rng = np.random.default_rng(0)
    root = tmp_path / "xrays"
    for split, patients in (("train", 5), ("test", 2)):
        (root / split).mkdir(parents=True)
        lines = []
        for name in (f"{c} {split}{n}.png" for n in range(patients) for c in CLASSES):
            class_name, file = name.split()
            file = f"{class_name}-{file}"
            pixels = rng.integers(0, 256, (SIZE, SIZE), np.uint8)
            Image.fromarray(pixels).save(root / split / file)
            lines.append(f"{file[:-4]} {file} {class_name} cohen\n")
        (root / f"{split}.txt").write_text("".join(lines))
    return root


def read(folder: Path, cache: Path, *, seed: int = 0, workers: int = 1) -> Dataset:
    return load(str(folder), image_size=SIZE, split_seed=seed, cache=cache, workers=workers)


def packs(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


def same(first: ImageSet, second: ImageSet) -> bool:
    return (
        np.array_equal(first.images, second.images)
        and np.array_equal(first.labels, second.labels)
        and (first.patients, first.sources) == (second.patients, second.sources)
    )


def test_every_image_has_its_own_pixels_label_patient_and_source(
    folder: Path, tmp_path: Path
) -> None:
    loaded = read(folder, tmp_path / "cache")
    assert (loaded.name, loaded.classes) == ("xrays", CLASSES)
    assert [len(s) for s in (loaded.train, loaded.val, loaded.test)] == [12, 3, 6]
    for images in (loaded.train, loaded.val, loaded.test):
        split = "test" if images is loaded.test else "train"
        for row, patient in enumerate(images.patients):
            expected = np.asarray(Image.open(folder / split / f"{patient}.png"))
            np.testing.assert_array_equal(images.images[row], expected)
            assert patient.startswith(loaded.classes[images.labels[row]])
            assert images.sources[row] == "cohen"
    assert not set(loaded.train.patients) & set(loaded.val.patients)
    assert len(loaded.warnings) == 1  # fewer than 20 validation patients of each class


def test_the_splits_are_read_only_views_of_one_mapped_file(folder: Path, tmp_path: Path) -> None:
    loaded = read(folder, tmp_path / "cache")
    starts = []
    for images in (loaded.train, loaded.val, loaded.test):
        assert isinstance(images.images, np.memmap)
        assert not images.images.flags.writeable
        assert images.images.flags.c_contiguous
        starts.append(images.images.__array_interface__["data"][0])
    assert np.diff(starts).tolist() == [12 * SIZE * SIZE, 3 * SIZE * SIZE]
    (pack,) = packs(tmp_path / "cache")
    assert (pack / "images.u8").stat().st_size == 21 * SIZE * SIZE
    assert {path.name for path in pack.iterdir()} == {"images.u8", "pack.json"}


def test_a_second_start_decodes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read(folder, tmp_path / "cache")
    monkeypatch.setattr(data_pack, "examine_all", None)  # to call it would be an error
    second = read(folder, tmp_path / "cache")
    assert second.fingerprint == first.fingerprint
    assert second.warnings == first.warnings
    for name in ("train", "val", "test"):
        assert same(getattr(first, name), getattr(second, name))


def test_moved_and_copied_folders_have_the_same_fingerprint(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = read(folder, cache).fingerprint
    moved = folder.rename(tmp_path / "moved")
    assert read(moved, cache).fingerprint == first
    assert len(packs(cache)) == 1
    copied = shutil.copytree(moved, tmp_path / "copied", copy_function=shutil.copyfile)
    assert read(copied, cache).fingerprint == first
    assert len(packs(cache)) == 2


def test_a_changed_image_label_size_or_seed_is_packed_anew(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    marks = [read(folder, cache).fingerprint, read(folder, cache, seed=1).fingerprint]
    larger = load(str(folder), image_size=32, cache=cache, workers=1)
    assert larger.test.images.shape == (6, 32, 32)
    marks.append(larger.fingerprint)
    Image.new("L", (SIZE, SIZE), 77).save(folder / "train" / "normal-train0.png")
    marks.append(read(folder, cache).fingerprint)
    labels = folder / "test.txt"
    labels.write_text(labels.read_text().replace("cohen", "sirm"))
    marks.append(read(folder, cache).fingerprint)
    assert len(set(marks)) == len(marks) == len(packs(cache))


def test_the_fingerprint_covers_everything(folder: Path, tmp_path: Path) -> None:
    test = read(folder, tmp_path / "cache").test
    pixels, labels = test.images.copy(), test.labels.copy()
    pixels[0, 0, 0] ^= 1
    labels[0] ^= 1
    variants = [
        test,
        ImageSet(pixels, test.labels, test.patients, test.sources),
        ImageSet(test.images, labels, test.patients, test.sources),
        ImageSet(test.images, test.labels, ("x", *test.patients[1:]), test.sources),
        ImageSet(test.images, test.labels, test.patients, ("x", *test.sources[1:])),
        ImageSet(test.images.reshape(6, 8, 32), test.labels, test.patients, test.sources),
    ]
    marks = {data_pack.fingerprint(CLASSES, [variant]) for variant in variants}
    marks.add(data_pack.fingerprint(("a", "b", "c"), [test]))
    assert len(marks) == 7
    assert data_pack.fingerprint(CLASSES, [test]) in marks


def test_unreadable_images_are_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "normal-train0.png").write_bytes(b"broken")
    (folder / "test" / "normal-test0.png").unlink()
    loaded = read(folder, tmp_path / "cache")
    assert len(loaded.train) + len(loaded.val) == 14
    assert "normal-test0" not in loaded.test.patients
    assert len(loaded.test) == 5


def _load_and_send(
    folder: Path, cache: Path, results: "multiprocessing.Queue[str]", workers: int = 1
) -> None:
    results.put(read(folder, cache, workers=workers).fingerprint)


def test_processes_that_pack_at_once_make_one_pack(folder: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    cache = tmp_path / "cache"
    processes = [
        context.Process(target=_load_and_send, args=(folder, cache, results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    marks = {results.get(timeout=400) for _ in processes}
    for process in processes:
        process.join()
    assert marks == {read(folder, cache).fingerprint}
    assert len(packs(cache)) == 1


def test_an_interrupt_leaves_nothing_that_would_be_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data_pack, "sync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read(folder, cache)
    assert packs(cache) == []
    assert len(read(folder, cache).test) == 6


def test_what_a_killed_process_left_is_replaced(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    mark = read(folder, cache).fingerprint
    (pack,) = packs(cache)
    half = pack.rename(pack.with_suffix(".partial"))
    (half / "images.u8").write_bytes(b"half")
    assert read(folder, cache).fingerprint == mark
    assert packs(cache) == [pack]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda pack: (pack / "pack.json").write_text("{"),
    "another JSON": lambda pack: (pack / "pack.json").write_text("[]"),
    "nested JSON": lambda pack: (pack / "pack.json").write_text("[" * 100_000),
    "no pack.json": lambda pack: (pack / "pack.json").unlink(),
    "a label of no class": lambda pack: change(pack, labels=[3] * 21),
    "a label too many": lambda pack: change(pack, labels=[0] * 22),
    "another split": lambda pack: change(pack, counts=[12, 3]),
    "no image": lambda pack: change(pack, counts=[0, 0, 0], labels=[], patients=[], sources=[]),
    "short images": lambda pack: os.truncate(pack / "images.u8", 21 * SIZE * SIZE - 1),
    "no images": lambda pack: (pack / "images.u8").unlink(),
}


def change(pack: Path, **fields: object) -> None:
    content = json.loads((pack / "pack.json").read_text())
    (pack / "pack.json").write_text(json.dumps(content | fields))


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_pack_is_made_again_and_this_is_logged(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    first = read(folder, cache)
    (pack,) = packs(cache)
    assert not caplog.text
    damage(pack)
    again = read(folder, cache)
    assert caplog.text.count("are damaged: they are packed again") == 1
    assert again.fingerprint == first.fingerprint
    assert read(folder, cache).fingerprint == first.fingerprint
    assert caplog.text.count("they are packed again") == 1
    assert packs(cache) == [pack]


def test_a_file_name_that_is_no_text_is_packed_like_any_other(folder: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes"
    for split in ("train", "test"):
        for path in (folder / split).iterdir():
            to = classes / split / path.name.rpartition("-")[0]
            to.mkdir(parents=True, exist_ok=True)
            name = path.name.encode().replace(b"train0", b"caf\xe9")
            shutil.copyfile(path, os.path.join(os.fsencode(to), name))
    first, again = (read(classes, tmp_path / "cache") for _ in range(2))
    names = [Path(name).name for name in (*first.train.patients, *first.val.patients)]
    assert sum("\udce9" in name for name in names) == 3
    assert same(again.train, first.train)


@pytest.mark.parametrize("name", ["a" * 1000, "~nobody-of-this-name", "caf\udce9"])
def test_images_whose_name_can_be_no_path_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="can be no path"):
        named_source({"data": name}, {})
    with pytest.raises(InputError, match="can be no path"):
        named_source({}, {"data": name})
    with pytest.raises(InputError, match="can be no path"):
        load(name, image_size=SIZE)


def test_a_killed_start_leaves_no_lock(tmp_path: Path) -> None:
    large = Image.effect_noise((1500, 1500), 64)
    large.save(tmp_path / "large.png")
    for split, count in (("train", 400), ("test", 3)):
        (tmp_path / "d" / split).mkdir(parents=True)
        for number in range(count):
            os.link(tmp_path / "large.png", tmp_path / "d" / split / f"{number}.png")
        lines = (f"{n} {n}.png {CLASSES[n % 3]}\n" for n in range(count))
        (tmp_path / "d" / f"{split}.txt").write_text("".join(lines))
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    packing = context.Process(target=_load_and_send, args=(tmp_path / "d", tmp_path, results, 2))
    packing.start()
    until(lambda: list(tmp_path.glob("*.partial")))
    packing.kill()
    packing.join()
    (half,) = tmp_path.glob("*.partial")
    with data_pack._exclusive(half.with_suffix("")):  # returns at once: nobody holds the lock
        pass


def until(condition: Callable[[], object]) -> None:
    """Wait for something that must happen within a minute."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("this did not happen within a minute")


def test_too_little_disk_is_refused_before_decoding(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000))
    monkeypatch.setattr(data_pack, "examine_all", None)
    with pytest.raises(InputError, match="free some space, or name another folder in ACGAN_CACHE"):
        read(folder, tmp_path / "cache")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_disk_that_fills_up_and_a_cache_that_is_a_file_are_input_errors(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write the packed images"):
        read(folder, tmp_path / "file")
    decode_all = data_pack._decode_all
    monkeypatch.setattr(
        data_pack,
        "_decode_all",
        lambda table, _path, size, **options: decode_all(table, Path("/dev/full"), size, **options),
    )
    with pytest.raises(InputError, match="No space left on device"):
        read(folder, tmp_path / "cache")
    assert packs(tmp_path / "cache") == []


def test_the_default_cache_is_the_users(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "named"))
    load(str(folder), image_size=SIZE, workers=1)
    assert len(packs(tmp_path / "named" / "packed")) == 1


def test_no_path_of_the_data_is_stored(folder: Path, tmp_path: Path) -> None:
    read(folder, tmp_path / "cache")
    (pack,) = packs(tmp_path / "cache")
    text = (pack / "pack.json").read_text()
    assert str(tmp_path) not in text
    assert ".png" not in text
    assert set(json.loads(text)) >= {"classes", "counts", "fingerprint", "labels"}


def test_the_phantom_data_is_cut_and_marked_like_any_other() -> None:
    loaded = load("phantom", image_size=SIZE)
    made, test = phantom.make(SIZE)
    assert loaded.classes == tuple(phantom.CLASSES)
    assert len(loaded.train) + len(loaded.val) == len(made)
    assert same(loaded.test, test)
    assert not set(loaded.train.patients) & set(loaded.val.patients)
    assert all(loaded.val.per_class(3))
    sets = (loaded.train, loaded.val, loaded.test)
    assert loaded.fingerprint == data_pack.fingerprint(loaded.classes, sets)
    assert load("phantom", image_size=SIZE, split_seed=1).fingerprint != loaded.fingerprint


@needs_mini
def test_covidx_mini_is_packed_by_threads_as_by_one(tmp_path: Path) -> None:
    alone = load(str(MINI), image_size=32, cache=tmp_path / "1", workers=1)
    together = load(str(MINI), image_size=32, cache=tmp_path / "2", workers=2)
    assert alone.fingerprint == together.fingerprint
    assert len(alone.train) + len(alone.val) == 823  # 824, less one identical file
    assert alone.test.per_class(3) == (21, 85, 72)
    assert not set(alone.train.patients) & set(alone.val.patients)
    assert all(count >= 20 for count in alone.val.per_class(3))


def test_images_that_were_packed_before_are_found_by_their_fingerprint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in folder.glob("*/*.png"):
        Image.open(path).resize((512, 512), Image.Resampling.NEAREST).save(path, "JPEG")
    cache = tmp_path / "cache"
    with monkeypatch.context() as earlier:
        earlier.setattr(data_pack, "PACK_VERSION", data_pack.WHOLE_VERSION)
        before = read(folder, cache)
    (first,) = packs(cache)
    now = read(folder, cache)
    assert now.fingerprint != before.fingerprint
    assert (now.train.patients, now.train.labels.tolist()) == (
        before.train.patients,
        before.train.labels.tolist(),
    )
    for known, expected in ((before, before), (now, now)):
        found = load(str(folder), image_size=SIZE, known=known.fingerprint, cache=cache)
        assert found.fingerprint == expected.fingerprint
        assert same(found.train, expected.train)
    unknown = load(str(folder), image_size=SIZE, known="none", cache=cache)
    assert unknown.fingerprint == now.fingerprint
    assert first in packs(cache)
    assert len(packs(cache)) == 2


@pytest.mark.parametrize(("colour", "told"), [("auto", False), ("grey", False), ("rgb", True)])
def test_that_the_phantom_has_no_colours_is_said_where_they_are_asked_for(
    colour: str, told: bool
) -> None:
    loaded = load("phantom", image_size=SIZE, colour=colour)
    assert any("rgb has no effect" in warning for warning in loaded.warnings) is told
    assert loaded.fingerprint == load("phantom", image_size=SIZE).fingerprint
