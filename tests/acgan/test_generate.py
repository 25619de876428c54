"""Weights to images, and folders of images that survive whatever happens to them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, namedtuple
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from acgan.config import TrainConfig, derive_seed
from acgan.data.layouts import read_table
from acgan.data.pack import load
from acgan.data.table import GENERATED
from acgan.errors import InputError
from acgan.evaluation.grids import to_uint8
from acgan.gan.models import Generator
from acgan.generate import main
from acgan.generation.folder import Manifest
from acgan.generation.generator import (
    BLOCK,
    LoadedGenerator,
    NotFiniteError,
    generate,
    generate_all,
    load_generator,
)
from acgan.run.weights import weights_bytes
from tests.acgan.run.test_rundir import killed_at
from tests.kit import CLASSES, ROOT, tiny_config

CPU = torch.device("cpu")
CONFIG = tiny_config()


def lively_generator(config: TrainConfig, *, seed: int = 0, scale: float = 0.3) -> Generator:
    """Return a generator whose images differ: at its initial weights all are an even grey."""
    generator = Generator(config, len(CLASSES))
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.normal_(std=scale, generator=random)
    return generator


def write_weights(
    path: Path,
    *,
    config: TrainConfig = CONFIG,
    seed: int = 0,
    scale: float = 0.3,
    changes: dict[str, str] | None = None,
) -> Path:
    """Write a weights file as training does, of epoch 7 of the run t0003; metadata can differ."""
    generator = lively_generator(config, seed=seed, scale=scale)
    metadata = {
        "config": config.model_dump_json(),
        "classes": json.dumps(CLASSES),
        "run": "t0003",
        "epoch": "7",
    }
    path.write_bytes(weights_bytes(generator.state_dict(), metadata | (changes or {})))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "epoch-0007.safetensors")


@pytest.fixture(scope="module")
def loaded(weights: Path) -> LoadedGenerator:
    return load_generator(weights, device=CPU)


def test_a_weights_file_says_what_it_holds(weights: Path, loaded: LoadedGenerator) -> None:
    assert loaded.config == CONFIG
    assert loaded.classes == CLASSES
    assert (loaded.run, loaded.epoch) == ("t0003", 7)
    assert loaded.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert not loaded.generator.training
    again = load_generator(weights, device=CPU, sha256=loaded.sha256)
    expected = lively_generator(CONFIG).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in again.generator.state_dict().items())


def test_images_are_those_of_the_generator_for_the_latents_of_their_block(
    loaded: LoadedGenerator,
) -> None:
    random = torch.Generator().manual_seed(derive_seed(5, 2, 1))
    latents = 2 * torch.rand(BLOCK, CONFIG.latent_size, generator=random) - 1
    with torch.no_grad():
        images = to_uint8(loaded.generator(latents, torch.full((BLOCK,), 2)))
    np.testing.assert_array_equal(
        generate(loaded, 2, count=BLOCK, seed=5, start=BLOCK), images.numpy()
    )


def test_an_image_is_the_same_whatever_else_is_asked_for(loaded: LoadedGenerator) -> None:
    images = generate(loaded, 1, count=200, seed=3)
    assert images.shape == (200, 3, 16, 16)
    assert images.dtype == np.uint8
    for start, count in ((0, 10), (70, 1), (63, 2), (64, 64), (70, 130), (199, 1)):
        part = generate(loaded, 1, count=count, seed=3, start=start)
        np.testing.assert_array_equal(part, images[start : start + count])
    numbers = generate(loaded, np.int64(1), count=3, seed=np.int64(3), start=np.int64(65))  # type: ignore[arg-type]
    np.testing.assert_array_equal(numbers, images[65:68])


@pytest.mark.parametrize("config", [CONFIG, tiny_config(image_size=64, width=0.25)])
def test_an_image_is_the_same_with_any_number_of_threads(config: TrainConfig) -> None:
    generator = lively_generator(config, scale=0.05).eval()
    several = LoadedGenerator(generator, CPU, config, CLASSES, "t0003", 7, "")
    before = torch.get_num_threads()
    images = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        images.append(generate(several, 0, count=BLOCK, seed=0))
    torch.set_num_threads(before)
    assert images[0].std() > 1
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])


def test_images_differ_by_class_seed_and_index(loaded: LoadedGenerator) -> None:
    sets = [generate(loaded, label, count=100, seed=seed) for label in (0, 1) for seed in (0, 1)]
    distinct = {image.tobytes() for images in sets for image in images}
    assert len(distinct) == 400


def test_all_classes_are_each_classes_first_images(loaded: LoadedGenerator) -> None:
    images, labels = generate_all(loaded, per_class=5, seed=2)
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert labels.dtype == np.int64
    for label in range(3):
        own = generate(loaded, label, count=5, seed=2)
        np.testing.assert_array_equal(images[labels == label], own)


def test_the_global_random_state_and_cudnns_settings_are_left_alone(weights: Path) -> None:
    state = torch.get_rng_state()
    torch.backends.cudnn.benchmark = True
    generate(load_generator(weights, device=CPU), 0, count=1, seed=0)
    assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.deterministic
    torch.backends.cudnn.benchmark = False
    assert torch.equal(torch.get_rng_state(), state)


def test_pixels_that_are_not_finite_are_an_error_of_its_own(weights: Path) -> None:
    loaded = load_generator(weights, device=CPU)
    with torch.no_grad():
        loaded.generator.get_parameter("image.weight")[0, 1] = math.nan
    with pytest.raises(NotFiniteError, match="t0003, epoch 7, makes pixels that are not finite"):
        generate(loaded, 0, count=1, seed=0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"classes": "3"}, "'classes' is missing or wrong"),
        ({"classes": '["a", "a"]'}, "not two or more"),
        ({"classes": '["a"]'}, "not two or more"),
        ({"classes": '["negative", "positive"]'}, "do not fit"),
        ({"config": "{"}, "'config' is missing or wrong"),
        ({"config": '{"image_sise": 16}'}, "'config' is missing or wrong"),
        ({"config": tiny_config(width=1).model_dump_json()}, "do not fit"),
        ({"config": tiny_config(embedding_size=10**14).model_dump_json()}, "do not fit"),
        ({"config": tiny_config(latent_size=2**63 - 1).model_dump_json()}, "do not fit"),
        ({"epoch": "last"}, "'epoch' is missing or wrong"),
    ],
)
def test_weights_that_do_not_say_what_they_are_are_refused(
    tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    path = write_weights(tmp_path / "changed.safetensors", changes=changes)
    with pytest.raises(InputError, match=reason):
        load_generator(path, device=CPU)


def test_weights_of_another_type_are_refused(tmp_path: Path) -> None:
    tensors = {k: v.to(torch.complex64) for k, v in lively_generator(CONFIG).state_dict().items()}
    texts = {"config": CONFIG.model_dump_json(), "classes": json.dumps(CLASSES)}
    path = tmp_path / "complex"
    path.write_bytes(weights_bytes(tensors, texts | {"run": "t0003", "epoch": "7"}))
    with pytest.raises(InputError, match="do not fit"):
        load_generator(path, device=CPU)


def test_weights_without_metadata_are_refused(tmp_path: Path) -> None:
    save_file(lively_generator(CONFIG).state_dict(), tmp_path / "bare")
    with pytest.raises(InputError, match="'config' is missing or wrong in its metadata"):
        load_generator(tmp_path / "bare", device=CPU)


def test_a_file_that_is_missing_damaged_or_another_is_refused(
    weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="there is no weights file"):
        load_generator(tmp_path / "none", device=CPU)
    with pytest.raises(InputError, match="there is no weights file"):
        load_generator(tmp_path, device=CPU)
    (tmp_path / "cut").write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="is no safetensors file"):
        load_generator(tmp_path / "cut", device=CPU)
    with pytest.raises(InputError, match=r"expected 0000000000000000…\); restore it"):
        load_generator(weights, device=CPU, sha256="0" * 64)


# The command.


def typed(weights: Path, out: Path, *more: str, per_class: int = 3) -> int:
    """Run the command."""
    flags = ["--weights", str(weights), "--out", str(out), "--per-class", str(per_class)]
    return main([*flags, *more])


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def read_png(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        return np.asarray(picture).transpose(2, 0, 1)


def test_the_folder_holds_the_images_their_labels_and_how_they_were_made(
    weights: Path, loaded: LoadedGenerator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "images"
    assert typed(weights, out, "--seed", "4", per_class=70) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{out} holds all 210 images; 210 are new"
    assert lines[1].endswith(f"python -m acgan.covidx {out}")
    for label, name in enumerate(CLASSES):
        images = generate(loaded, label, count=70, seed=4)
        for index in (0, 1, 69):
            picture = read_png(out / "train" / f"{name}-{index:06d}.png")
            np.testing.assert_array_equal(picture, images[index])
    manifest = Manifest.model_validate_json((out / "manifest.json").read_bytes())
    assert (manifest.weights_sha256, manifest.run, manifest.epoch) == (loaded.sha256, "t0003", 7)
    assert (manifest.config, manifest.seed, manifest.device) == (CONFIG, 4, "cpu")
    assert manifest.torch == torch.__version__
    assert manifest.per_class == dict.fromkeys(CLASSES, 70)
    files = {k: v for k, v in content(out).items() if k.endswith(".png")}
    assert manifest.files == {k: hashlib.sha256(v).hexdigest() for k, v in files.items()}
    assert set(content(out)) == {"manifest.json", "train.txt", *files}


def test_the_folder_loads_as_training_images(
    weights: Path, loaded: LoadedGenerator, tmp_path: Path
) -> None:
    assert typed(weights, tmp_path / "out", per_class=10) == 0
    rows = read_table(tmp_path / "out").rows
    assert len({row.patient for row in rows}) == 30
    data = load(str(tmp_path / "out"), image_size=16, colour="grey", cache=tmp_path / "cache")
    assert data.classes == CLASSES
    assert (len(data.train), len(data.val), len(data.test)) == (24, 6, 0)
    assert {*data.train.sources, *data.val.sources} == {GENERATED}
    images, labels = generate_all(loaded, per_class=10, seed=0)
    grey = [Image.fromarray(i.transpose(1, 2, 0)).convert("L").tobytes() for i in images]
    expected = dict(zip(grey, labels.tolist(), strict=True))
    read = {
        image.tobytes(): label
        for part in (data.train, data.val)
        for image, label in zip(part.images, part.labels.tolist(), strict=True)
    }
    assert read == expected


def test_typed_again_it_changes_nothing_and_a_larger_number_adds(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(weights, tmp_path / "a", per_class=3) == 0
    first = content(tmp_path / "a")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "a" / "train").iterdir()}
    assert typed(weights, tmp_path / "a", per_class=3) == 0
    assert content(tmp_path / "a") == first
    capsys.readouterr()
    assert typed(weights, tmp_path / "a", per_class=66) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("holds all 198 images; 189 are new")
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert typed(weights, tmp_path / "b", per_class=66) == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_classes_can_be_added_one_by_one_with_numbers_of_their_own(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert typed(weights, out, "--classes", "pneumonia", per_class=4) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[1]
        .startswith("to add them to a folder DIR in COVIDx's layout: cp ")
    )
    assert typed(weights, out, "--classes", "normal", "COVID-19", per_class=2) == 0
    assert "acgan.covidx" in capsys.readouterr().out
    names = [row.path for row in read_table(out).rows]
    assert len(names) == len([*(out / "train").iterdir()]) == 8
    counts = Manifest.model_validate_json((out / "manifest.json").read_bytes()).per_class
    assert list(counts.items()) == [("COVID-19", 2), ("normal", 2), ("pneumonia", 4)]
    assert typed(weights, out, per_class=4) == 0
    assert typed(weights, tmp_path / "straight", per_class=4) == 0
    assert content(out) == content(tmp_path / "straight")


def test_what_a_kill_at_any_file_system_call_leaves_is_completed(
    weights: Path, tmp_path: Path
) -> None:
    assert typed(weights, tmp_path / "straight", per_class=2) == 0
    whole = content(tmp_path / "straight")
    images = {name: image for name, image in whole.items() if name.endswith(".png")}
    for calls in itertools.count():
        out = tmp_path / str(calls)
        killed = killed_at(calls, partial(typed, weights, out, per_class=2))
        left = {name: image for name, image in content(out).items() if name.endswith(".png")}
        assert left.items() <= images.items()
        assert typed(weights, out, per_class=2) == 0
        assert content(out) == whole
        if not killed:
            break
    assert calls > 30


@pytest.mark.process
def test_ctrl_c_leaves_whole_files_and_the_same_command_goes_on(
    weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = ["--weights", str(weights), "--out", str(out), "--per-class", "500"]
    with subprocess.Popen(
        [sys.executable, "-m", "acgan.generate", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (out / "train" / "COVID-19-000063.png").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors == "\ninterrupted; to continue, type the same command again\n"
    before = {path: path.read_bytes() for path in (out / "train").iterdir()}
    assert 64 <= len(before) < 1500
    assert not any(path.name.startswith(".") for path in before)
    assert typed(weights, out, per_class=500) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert len(read_table(out).rows) == 1500


def test_a_generator_that_is_broken_is_one_sentence_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: Path
) -> None:
    broken = write_weights(tmp_path / "broken.safetensors", scale=math.inf)
    assert typed(broken, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.endswith("makes pixels that are not finite; choose other weights\n")
    assert error.count("\n") == 1
    assert typed(weights, tmp_path / "out") == 0  # the folder is still free


def refused(folder: Path, capsys: pytest.CaptureFixture[str], code: int) -> str:
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_a_folder_of_other_images_is_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert typed(weights, out) == 0
    before = content(out)
    other = write_weights(tmp_path / "other.safetensors", seed=1)
    larger = write_weights(tmp_path / "larger.safetensors", config=tiny_config(image_size=32))
    for weights_file in (other, larger):
        error = refused(out, capsys, typed(weights_file, out, per_class=9))
        assert "made otherwise (weights_sha256: " in error
    error = refused(out, capsys, typed(weights, out, "--seed", "1"))
    assert "made otherwise (seed: 0 → 1); go back to that, or name a new folder" in error
    error = refused(out, capsys, typed(weights, out, per_class=2))
    assert "was begun with 3 images of COVID-19, more than 2; give --per-class 3" in error
    assert content(out) == before


@pytest.mark.parametrize("name", ["real.png", "train/real.png", "test.txt"])
def test_a_folder_with_other_things_in_it_is_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for out in (tmp_path / "new", tmp_path / "old"):
        seen = name.partition("/")[0]
        if out.name == "old":
            assert typed(weights, out) == 0
            seen = name
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
        before = content(out)
        error = refused(out, capsys, typed(weights, out, per_class=9))
        assert f"holds other things ({seen})" in error
        assert content(out) == before


@pytest.mark.parametrize("text", ["", "{}", '{"per_class": {"../x": 1}}'])
def test_a_damaged_manifest_is_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert typed(weights, tmp_path / "out") == 0
    (tmp_path / "out" / "manifest.json").write_text(text)
    assert "is damaged" in refused(tmp_path, capsys, typed(weights, tmp_path / "out"))


def test_a_manifest_of_other_classes_is_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(weights, tmp_path / "out") == 0
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps(manifest | {"per_class": {"../x": 9}}))
    error = refused(tmp_path, capsys, typed(weights, tmp_path / "out"))
    assert "holds images of other classes" in error


def test_images_are_not_made_within_a_data_folder(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for split in ("train", "test"):
        (data / split).mkdir(parents=True)
        (data / f"{split}.txt").touch()
        error = refused(tmp_path, capsys, typed(weights, data / "more" / "here"))
        assert f"lies in the data folder {data}; name a folder beside it" in error
        assert sorted(os.listdir(data)) == [split, f"{split}.txt"]
        shutil.rmtree(data)


def test_a_text_that_happens_to_be_called_test_is_no_data_folder(
    weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "test.txt").write_text("a user's note\n")
    assert typed(weights, tmp_path / "more" / "here") == 0


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--per-class", "0"], "--per-class must be at least 1, got 0"),
        (["--per-class", "-3"], "--per-class must be at least 1, got -3"),
        (["--classes", "norml"], "no such class; did you mean 'normal'?"),
        (["--device", "abacus"], "--device abacus cannot be used here"),
        (["--weights", "none.safetensors"], "there is no weights file {here}/none.safetensors"),
        (["--out", "file/in/file"], "cannot write to file/in/file: Not a directory"),
        (["--out", "file"], "cannot write to file: Not a directory"),
        (["--out", "a" * 1000], "can be no path (File name too long); name another one"),
        (["--weights", "a" * 1000], "can be no path (File name too long); name another one"),
        (["--out", "~nobody-of-this-name/x"], "can be no path"),
        (["--out", "/proc/none"], "cannot write to /proc/none"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    error = refused(tmp_path, capsys, typed(weights, tmp_path / "out", *flags))
    assert reason.format(here=tmp_path) in error
    assert set(os.listdir(tmp_path)) == {"file"}


def test_too_little_disk_is_refused_before_any_image(
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(40_000))
    assert typed(weights, tmp_path / "few", per_class=2) == 0
    error = refused(tmp_path, capsys, typed(weights, tmp_path / "many", per_class=1000))
    assert "3000 images need up to 0.01 GB" in error
    assert content(tmp_path / "many") == {}


def test_images_of_any_classes_become_a_data_folder_that_is_read_again(tmp_path: Path) -> None:
    classes = ("../../x", "nevus", "Viral Pneumonia")
    changes = {"classes": json.dumps(classes)}
    weights = write_weights(tmp_path / "w.safetensors", changes=changes)
    out = tmp_path / "out"
    assert main(["--weights", str(weights), "--per-class", "3", "--out", str(out)]) == 0
    names = sorted(path.name for path in (out / "train").iterdir())
    assert [name.partition("-")[0] for name in names[::3]] == [
        "Viral_Pneumonia",
        "_._.._x",
        "nevus",
    ]
    table = read_table(out)
    assert table.classes == classes
    assert Counter(row.class_name for row in table.rows) == dict.fromkeys(classes, 3)
    assert {row.source for row in table.rows} == {GENERATED}
    assert len({row.patient for row in table.rows}) == 9
    assert table.warnings == ()
    assert main(["--weights", str(weights), "--per-class", "4", "--out", str(out)]) == 0
    assert len(read_table(out).rows) == 12
