"""Data folders filled up to their largest class, by the command as it is typed."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from acgan.data.balance import how_to_add, lack_of, merged_labels
from acgan.data.layouts import read_table
from acgan.data.pack import load, load_for
from acgan.data.source import DataSource
from acgan.errors import InputError
from acgan.generate import main
from acgan.generation.folder import NAMING, Manifest
from acgan.generation.generator import generate, load_generator
from tests.acgan.run.test_rundir import killed_at
from tests.acgan.test_generate import content, read_png, write_weights
from tests.folders import make_files
from tests.kit import CLASSES, tiny_config, tiny_images

COUNTS = {"COVID-19": 12, "normal": 40, "pneumonia": 25}
MISSING = {"COVID-19": 28, "pneumonia": 15}
PIXELS = tiny_images(300)


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "epoch-0007.safetensors")


def write_unbalanced(
    folder: Path, counts: dict[str, int] | None = None, *, end: str = "\n"
) -> Path:
    """Write a COVIDx folder with so many train images of each class, of one patient each."""
    numbers = iter(range(300))
    for split, wanted in (("train", counts or COUNTS), ("test", dict.fromkeys(CLASSES, 4))):
        (folder / split).mkdir(parents=True)
        lines = []
        for name, count in wanted.items():
            for number in itertools.islice(numbers, count):
                Image.fromarray(PIXELS.images[number]).save(folder / split / f"{number}.png")
                lines.append(f"p{number} {number}.png {name} cohen")
        (folder / f"{split}.txt").write_text("\n".join(lines) + end)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_unbalanced(tmp_path / "data")


def typed(weights: Path, data: Path, out: Path, *more: str) -> int:
    return main(["--weights", str(weights), "--balance", str(data), "--out", str(out), *more])


def counts(folder: Path) -> Counter[str]:
    rows = read_table(folder).rows
    return Counter(row.class_name for row in rows if row.split == "train" and row.stamp)


def test_the_output_fills_the_classes_up_and_holds_nothing_else(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(data)
    assert typed(weights, data, tmp_path / "out") == 0
    assert content(data) == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(
        "12 COVID-19, 40 normal, 25 pneumonia training images that can be used"
    )
    assert lines[1] == f"{tmp_path / 'out'} holds all 43 images; 43 are new"
    made = Counter(
        line.split()[2] for line in (tmp_path / "out/train.txt").read_text().splitlines()
    )
    assert made == MISSING
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"manifest.json", "train", "train.txt"}
    assert len(list((tmp_path / "out" / "train").iterdir())) == 43
    manifest = Manifest.model_validate_json((tmp_path / "out/manifest.json").read_bytes())
    assert manifest.per_class == MISSING
    assert manifest.balances == load(str(data), image_size=16).fingerprint


def test_the_images_are_the_first_ones_of_the_generator(
    weights: Path, data: Path, tmp_path: Path
) -> None:
    assert typed(weights, data, tmp_path / "out", "--seed", "3") == 0
    loaded = load_generator(weights, device=torch.device("cpu"))
    images = generate(loaded, 0, count=28, seed=3)
    for index in (0, 27):
        found = read_png(tmp_path / "out" / "train" / f"COVID-19-{index:06d}.png")
        np.testing.assert_array_equal(found, images[index])


def test_added_as_the_command_says_the_data_are_balanced_and_for_this_project_as_before(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, end, more in (("a", "\n", ()), ("b", "", ()), ("c", "", ("--merged-labels",))):
        data = write_unbalanced(tmp_path / name / "my data", end=end)
        assert typed(weights, data, tmp_path / name / "out", *more) == 0
        before = load(str(data), image_size=16)
        command = capsys.readouterr().out.splitlines()[2].removeprefix("to add them: ")
        subprocess.run(["/bin/sh", "-e", "-c", command], check=True)
        assert counts(data) == dict.fromkeys(CLASSES, 40)
        whole = load(str(data), image_size=16)
        assert whole.fingerprint == before.fingerprint
        assert sum(whole.generated) == 43
        together = np.add(whole.train.per_class(3), whole.val.per_class(3))
        assert (together + whole.generated).tolist() == [40, 40, 40]
        assert typed(weights, data, tmp_path / name / "more") == 0
        assert "no class lacks any: nothing is written" in capsys.readouterr().out
        assert not (tmp_path / name / "more").exists()


def test_merged_labels_are_the_datas_own_lines_and_the_new_ones(
    weights: Path, data: Path, tmp_path: Path
) -> None:
    assert typed(weights, data, tmp_path / "out", "--merged-labels") == 0
    merged = (tmp_path / "out" / "merged-train.txt").read_text()
    own, new = (data / "train.txt").read_text(), (tmp_path / "out" / "train.txt").read_text()
    assert merged == own + new
    assert read_table(tmp_path / "out").label_files == ("train.txt",)


def test_images_that_cannot_be_used_do_not_count(weights: Path, data: Path, tmp_path: Path) -> None:
    (data / "train" / "0.png").unlink()  # COVID-19
    shutil.copy(data / "train" / "20.png", data / "train" / "21.png")  # normal: a duplicate
    assert typed(weights, data, tmp_path / "out") == 0
    made = Manifest.model_validate_json((tmp_path / "out/manifest.json").read_bytes())
    assert made.per_class == {"COVID-19": 39 - 11, "pneumonia": 39 - 25}


def test_more_generated_images_have_numbers_after_those_that_are_there(
    weights: Path, data: Path, tmp_path: Path
) -> None:
    assert typed(weights, data, tmp_path / "first", "--merged-labels") == 0
    for path in (tmp_path / "first" / "train").iterdir():
        shutil.copy(path, data / "train")
    lines = (tmp_path / "first" / "merged-train.txt").read_text()
    for number in range(290, 300):  # ten more of normal
        Image.fromarray(PIXELS.images[number]).save(data / "train" / f"{number}.png")
        lines += f"p{number} {number}.png normal cohen\n"
    (data / "train.txt").write_text(lines)
    assert typed(weights, data, tmp_path / "second") == 0
    second = {path.name for path in (tmp_path / "second" / "train").iterdir()}
    assert second == {f"COVID-19-{i:06d}.png" for i in range(28, 38)} | {
        f"pneumonia-{i:06d}.png" for i in range(15, 25)
    }
    found = read_png(tmp_path / "second" / "train" / "COVID-19-000030.png")
    loaded = load_generator(weights, device=torch.device("cpu"))
    np.testing.assert_array_equal(found, generate(loaded, 0, count=1, seed=0, start=30)[0])


def test_a_kill_at_any_file_system_call_leaves_what_the_same_command_completes(
    weights: Path, tmp_path: Path
) -> None:
    # Few images: each that is read is a call at which it is killed.
    data = write_unbalanced(tmp_path / "data", {"COVID-19": 3, "normal": 5, "pneumonia": 4})
    body = partial(typed, weights, data)
    assert body(tmp_path / "straight", "--merged-labels") == 0
    whole = content(tmp_path / "straight")
    for calls in itertools.count():
        out = tmp_path / str(calls)
        killed = killed_at(calls, partial(body, out, "--merged-labels"))
        assert body(out, "--merged-labels") == 0
        assert content(out) == whole
        if not killed:
            break
    assert calls > 15


def test_class_folders_are_filled_up_too_and_it_is_said_what_that_means(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "folders"
    numbers = iter(range(300))
    few = dict.fromkeys(CLASSES, 4)
    trained = {name: count - 4 for name, count in COUNTS.items()}
    for split, wanted in (("train", trained), ("val", few), ("test", few)):
        for name, count in wanted.items():
            (data / split / name.lower()).mkdir(parents=True)
            for number in itertools.islice(numbers, count):
                path = data / split / name.lower() / f"{number}.png"
                Image.fromarray(PIXELS.images[number]).save(path)
    assert typed(weights, data, tmp_path / "out") == 0
    *_, command, warning = capsys.readouterr().out.splitlines()
    assert "cannot mark images as generated" in warning
    subprocess.run(["/bin/sh", "-e", "-c", command.removeprefix("to add them: ")], check=True)
    assert counts(data) == dict.fromkeys(CLASSES, 40)
    assert all(len([*(data / "val" / name.lower()).iterdir()]) == 4 for name in CLASSES)
    assert typed(weights, data, tmp_path / "x", "--merged-labels") == 2
    assert "has no label file that could be merged" in capsys.readouterr().err


def test_images_of_a_folders_own_validation_are_not_counted(tmp_path: Path) -> None:
    numbers = iter(range(300))
    for split, few, many in (("train", 25, 50), ("val", 45, 20), ("test", 5, 5)):
        for name, count in (("few", few), ("many", many)):
            (tmp_path / split / name).mkdir(parents=True)
            for number in itertools.islice(numbers, count):
                picture = Image.fromarray(PIXELS.images[number])
                picture.save(tmp_path / split / name / f"{number}.png")
    found = lack_of(DataSource(folder=str(tmp_path)), tiny_config(), ("few", "many"), naming=NAMING)
    assert (found.there, found.missing) == ({"few": 25, "many": 50}, {"few": 25})


def test_a_class_whose_name_begins_with_anothers_gets_its_own_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = ("normal", "pneumonia", "pneumonia-viral")
    named = {"classes": json.dumps(classes)}
    weights = write_weights(tmp_path / "weights.safetensors", changes=named)
    data, out = tmp_path / "folders", tmp_path / "out"
    numbers = iter(range(300))
    trained = {"normal": 9, "pneumonia": 4, "pneumonia-viral": 6}
    # More of one class in test than in train: they belong into train all the same.
    for split, wanted in (("train", trained), ("test", dict.fromkeys(classes, 5))):
        for name, count in wanted.items():
            (data / split / name).mkdir(parents=True)
            for number in itertools.islice(numbers, count):
                Image.fromarray(PIXELS.images[number]).save(data / split / name / f"{number}.png")
    assert typed(weights, data, out) == 0
    *_, command, _ = capsys.readouterr().out.splitlines()
    subprocess.run(["/bin/sh", "-e", "-c", command.removeprefix("to add them: ")], check=True)
    assert counts(data) == dict.fromkeys(classes, 9)


def test_a_folder_without_test_is_balanced_as_a_whole(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_unbalanced(tmp_path / "data")
    shutil.rmtree(data / "test")
    (data / "test.txt").unlink()
    assert typed(weights, data, tmp_path / "out") == 0
    assert f"has {', '.join(f'{n} {c}' for c, n in COUNTS.items())} training images" in (
        capsys.readouterr().out
    )
    made = Manifest.model_validate_json((tmp_path / "out/manifest.json").read_bytes())
    assert made.per_class == MISSING


def test_an_output_that_was_begun_for_something_else_is_refused(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert typed(weights, data, out) == 0
    before = content(out)
    assert main(["--weights", str(weights), "--per-class", "50", "--out", str(out)]) == 2
    assert "made otherwise (balances: " in capsys.readouterr().err
    assert typed(weights, data, out, "--seed", "1") == 2
    assert "made otherwise (seed: 0 → 1)" in capsys.readouterr().err
    Image.fromarray(PIXELS.images[299]).save(data / "train" / "299.png")
    with (data / "train.txt").open("a") as file:
        file.write("p299 299.png normal cohen\n")
    assert typed(weights, data, out) == 2
    assert "made otherwise (balances: " in capsys.readouterr().err
    assert content(out) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    assert typed(weights, data, tmp_path / "full") == 2
    assert "holds other things (thesis.txt)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--balance", "none"], "there is no data folder"),
        (["--balance", "data", "--classes", "normal"], "leave out --classes"),
        (["--balance", "data", "--out", "data/out"], "name a folder beside it"),
        (["--balance", "data", "--out", "data"], "name a folder beside it"),
        (["--per-class", "3", "--merged-labels"], "--merged-labels needs --balance"),
        (["--balance", "phantom", "--merged-labels"], "has no label file that could be merged"),
        (["--balance", "two"], "has the classes negative, positive, the weights have COVID-19"),
        (["--balance", "data", "--weights", "none"], "there is no weights file"),
    ],
)
def test_bad_input_is_one_sentence_before_any_image(
    weights: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, "two")
    for path in Path("two").glob("*.txt"):
        text = path.read_text().replace("normal", "negative").replace("pneumonia", "negative")
        path.write_text(text.replace("COVID-19", "positive"))
    assert main(["--weights", str(weights), "--out", "out", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert reason in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_one_of_per_class_and_balance_is_needed(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in ([], ["--per-class", "3", "--balance", "phantom"]):
        with pytest.raises(SystemExit) as ended:
            main(["--weights", str(weights), "--out", "out", *flags])
        assert ended.value.code == 2
        assert "--balance" in capsys.readouterr().err


def test_the_phantom_can_be_balanced_for_a_try(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = lack_of(DataSource(folder="phantom"), tiny_config(), CLASSES, naming=NAMING)
    assert found.there["normal"] == max(found.there.values())
    assert found.missing.keys() == {"COVID-19", "pneumonia"}
    weights = write_weights(tmp_path / "w.safetensors")
    assert (
        main(["--weights", str(weights), "--balance", "phantom", "--out", str(tmp_path / "o")]) == 0
    )
    assert "drawn anew each time" in capsys.readouterr().out


def test_merging_keeps_bytes_that_are_no_text_of_ours(data: Path) -> None:
    path = data / "train.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().rstrip(b"\n") + b"\r\n")
    merged = merged_labels(DataSource(folder=str(data)), "x y.png normal generated\n")
    assert merged == path.read_bytes() + b"x y.png normal generated\n"


def test_a_folder_that_is_gone_cannot_be_merged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no data folder"):
        merged_labels(DataSource(folder=str(tmp_path / "gone")), "")


def test_a_generator_of_other_images_fills_nothing_up_unless_it_may(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config()
    own = load_for(str(data), config).fingerprint
    trained = {
        name: write_weights(tmp_path / f"{name}.safetensors", config=config, changes={"data": mark})
        for name, mark in (("own", own), ("other", "0" * 64))
    }
    assert typed(trained["other"], data, tmp_path / "out") == 2
    assert "the generator was trained on other images than those of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert typed(trained["other"], data, tmp_path / "out", "--other-data") == 0
    assert typed(trained["own"], data, tmp_path / "own") == 0


def test_what_is_said_of_a_table_of_labels_names_the_table_and_no_lines_to_paste(
    tmp_path: Path,
) -> None:
    folder = make_files(tmp_path / "data", ["a.png", "b.png"])
    (folder / "truth.csv").write_text("image,diagnosis\na,normal\nb,COVID-19\n")
    labels = tmp_path / "out" / "train.txt"
    source = DataSource(folder=str(folder))
    (text,) = how_to_add(source, labels.with_name("train"), labels, merged=None)
    assert "give each a line of truth.csv with its file, its class and generated" in text
    assert text.endswith(f"files and classes stand in {labels}")
