from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from acgan.config import TrainConfig, read_file, resolve
from acgan.data.arrays import save_images
from acgan.data.source import DataSource
from acgan.errors import InputError
from acgan.files import write_json
from acgan.plugins import NUMBERS
from acgan.run.records import QUALITY, RANKING, Ranking
from search import plan
from search.flags import search_parser
from search.plan import (
    FULL_SIZE,
    MANY_IMAGES,
    SMALL,
    SearchRequest,
    largest,
    make_search_plan,
    read_asked,
)
from search.settings import SearchConfig, identity
from search.study import space
from search.study.folder import LastStart, Study
from tests import studies
from tests.folders import make_files
from tests.kit import ROOT, tiny_config
from tests.plugins import plugin_installed
from tests.searches import write_images


@pytest.fixture(autouse=True)
def _at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


NOWHERE = ("--storage-path", "no-studies-are-here")  # beside the studies of whoever tests


def request(flags: Sequence[str]) -> SearchRequest:
    return SearchRequest.of(search_parser("search.run", "").parse_args([*NOWHERE, *flags]))


def asked(*flags: str) -> plan.Asked:
    return read_asked(request(flags))


def folder_of(folder: Path, train: int) -> Path:
    """Write a table of so many training images of two classes, of which only two are there."""
    lines = [f"{number % 2}.png,{'xy'[number % 2]},{number}" for number in range(train)]
    table = "\n".join(["file,label,patient", *lines])
    make_files(folder, {"labels.csv": table, "0.png": "", "1.png": ""})
    return folder


def test_without_a_configuration_the_demo_is_for_phantom_images_alone(tmp_path: Path) -> None:
    for found in (asked(), asked("--data", "phantom")):
        assert Path(found.configuration).name == "demo.yaml"
        assert "the demo on phantom images" in found.note
    found = asked("--data", str(folder_of(tmp_path / "d", 12)))
    assert Path(found.configuration).name == SMALL.name
    assert found.note == (
        f"no --config given: using {SMALL}, the recipe at 32 px, for 12 images on a CPU; at full "
        f"size: --config {FULL_SIZE}"
    )
    assert asked("--config", str(SMALL)).note == ""


@pytest.mark.parametrize("images", [MANY_IMAGES, MANY_IMAGES - 1])
def test_many_images_on_a_gpu_take_the_recipe_at_full_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    folder = str(folder_of(tmp_path / "d", images))
    assert Path(asked("--data", folder).configuration).name == SMALL.name
    monkeypatch.setattr(plan, "default_device", lambda: torch.device("cuda"))
    enough = images == MANY_IMAGES
    found = Path(asked("--data", folder).configuration)
    assert found.name == (FULL_SIZE if enough else SMALL).name


@pytest.mark.parametrize(("source", "images"), [("generated", 2), ("hospital", 12)])
def test_neither_generated_images_beside_real_ones_nor_missing_ones_decide_on_the_recipe(
    tmp_path: Path, source: str, images: int
) -> None:
    sources = ["hospital", "hospital", *[source] * 10]
    lines = [f"{number % 2}.png,{'xy'[number % 2]},{own}" for number, own in enumerate(sources)]
    table = "\n".join(["file,label,source", *lines, "missing.png,x,hospital"])
    make_files(tmp_path, {"labels.csv": table, "0.png": "", "1.png": ""})
    assert f"for {images} images on a CPU" in asked("--data", str(tmp_path)).note


def test_the_recipe_generates_colour_where_images_are_in_colour_and_nobody_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 256, (80, 16, 16, 3), dtype=np.uint8)
    folder = save_images(tmp_path / "d", images, ["a", "b"] * 40)
    flags = ["--data", str(folder), "--image-size", "16", "--storage-path", str(tmp_path / "runs")]
    said: list[str] = []
    found = make_search_plan(request(flags), say=said.append)
    assert not found.train.grey
    assert "so it generates colour (grey: false)" in said[0]
    for named in (["--grey"], ["--config", str(SMALL)]):
        with pytest.raises(InputError, match="the images are in colour, and grey: true"):
            make_search_plan(request([*flags, *named]))
    grey = make_search_plan(request([*flags, "--colour", "grey"]))
    assert grey.train.grey


def test_grey_is_not_searched_where_images_are_in_colour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trial with grey: true would crash."""
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 256, (80, 16, 16, 3), dtype=np.uint8)
    folder = save_images(tmp_path / "d", images, ["a", "b"] * 40)
    flags = ["--config", "configs/covidx-extended.yaml", "--data", str(folder)]
    flags += ["--image-size", "16", "--batch-size", "8", "--storage-path", str(tmp_path / "runs")]
    with pytest.raises(InputError, match="take grey out of the section 'space'"):
        make_search_plan(request(flags))
    found = make_search_plan(request([*flags, "--colour", "grey"]))
    assert True in found.space["grey"]


def test_the_largest_trial_has_the_largest_of_each_dimension_that_costs_memory() -> None:
    config = tiny_config(width=0.25, batch_size=8)
    searched = space.read(
        {"width": {"choices": [0.25, 0.5]}, "batch_size": {"low": 4, "high": 32, "step": 4}}, config
    )
    found = largest(config, searched)
    assert (found.width, found.batch_size, found.latent_size) == (0.5, 32, config.latent_size)


def test_what_cannot_be_searched_is_refused_before_a_study_is_made(tmp_path: Path) -> None:
    write_images(tmp_path / "images", train=24, test=6)
    flags = ["--data", str(tmp_path / "images"), "--storage-path", str(tmp_path / "runs")]
    for more, reason in (
        (["--objective", "val/unknown"], "'val/unknown' is not recorded; recorded are"),
        (["--networks", "mine"], "networks 'mine' are not installed here"),
        (["--numbers", "mine"], "numbers 'mine' are not installed here"),
        (["--batch-size", "512"], "larger than the"),
        (["--study", "a/b"], "a/b"),
    ):
        with pytest.raises(InputError, match=reason):
            make_search_plan(request([*flags, *more]))
    assert not (tmp_path / "runs").exists()


def test_a_plug_ins_number_is_an_objective_where_it_is_recorded(tmp_path: Path) -> None:
    code = "from acgan.evaluation.numbers import Number\n"
    code += "size = Number(lambda generated, labels, validation: generated.size / 1, 'higher')"
    with plugin_installed(tmp_path, NUMBERS, {"size": "size"}, code):
        found = asked("--numbers", "size", "--objective", "val/size").search
        assert (found.objective, found.direction) == ("val/size", "maximize")
        flags = ("--numbers", "size", "--objective", "val/size", "--direction", "minimize")
        assert asked(*flags).search.direction == "minimize"
        with pytest.raises(InputError, match="; record it with --numbers size"):
            asked("--objective", "val/size")
        with pytest.raises(InputError, match=r"val/coverage, val/size"):
            asked("--numbers", "size", "--objective", "val/sise")


def begun(storage: Path, objective: str, **train: object) -> Study:
    """Write a study with one trial, as a search of the demo's configuration would have begun it."""
    config = read_file(ROOT / "configs" / "demo.yaml")
    own = resolve(TrainConfig, "train", config["train"], train)
    study = studies.write_study(storage / "mine")
    info = study.info.model_copy(
        update={
            "train": own.model_dump(exclude={"seed"}),
            "space": space.dump(space.read(config["space"], own)),
            "search": identity(SearchConfig(objective=objective)),
        }
    )
    write_json(study.path / "study.json", info)
    studies.write_trial(study, 0)
    return Study(study.path, info)


def test_a_study_goes_on_with_its_own_configuration_where_none_is_named(tmp_path: Path) -> None:
    study = begun(tmp_path, QUALITY, hinge=True, epochs=7)
    found = asked("--study", "mine", "--storage-path", str(tmp_path))
    assert found.note == "no --config given: study mine goes on with its own configuration"
    assert found.train.model_dump(exclude={"seed"}) == study.info.train
    assert space.dump(found.space) == study.info.space
    assert identity(found.search) == study.info.search
    assert asked("--study", "other", "--storage-path", str(tmp_path)).search.ranking == RANKING


def test_a_study_goes_on_with_its_own_settings_for_picks_where_no_configuration_is_named(
    tmp_path: Path,
) -> None:
    study = begun(tmp_path, QUALITY)
    words = ["--study", "mine", "--storage-path", str(tmp_path)]
    own = {"cnn_images": 5000}
    write_json(study.path / "start.json", LastStart(source="phantom", selection=own))
    assert asked(*words).content["selection"] == own
    named = asked("--config", "configs/demo.yaml", *words)
    assert named.content["selection"] == read_file(ROOT / "configs" / "demo.yaml")["selection"]


def test_a_study_goes_on_with_its_own_images_where_none_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    write_images(tmp_path / "images", train=24, test=6)
    study = begun(tmp_path, QUALITY, image_size=16, batch_size=4)
    source = DataSource(folder=str(tmp_path / "images"), patient_pattern="(.*)")
    write_json(study.path / "start.json", LastStart(source=source))
    words = ["--study", "mine", "--storage-path", str(tmp_path)]
    found = make_search_plan(request(words))
    assert found.last_start.source == source
    assert found.data.name == "images"
    (tmp_path / "images").rename(tmp_path / "moved")
    moved = make_search_plan(request([*words, "--data", str(tmp_path / "moved")]))
    assert moved.last_start.source == source.model_copy(update={"folder": str(tmp_path / "moved")})
    assert moved.data.fingerprint == found.data.fingerprint
    named = make_search_plan(request([*words, "--config", "configs/demo.yaml"]))
    assert named.last_start.source.is_phantom


def test_a_study_keeps_its_objective_unless_another_is_named(tmp_path: Path) -> None:
    begun(tmp_path, QUALITY)
    words = ["--config", "configs/demo.yaml", "--study", "mine", "--storage-path", str(tmp_path)]
    assert asked(*words).search.ranking == Ranking(QUALITY, 1)
    assert asked(*words, "--objective", "val/recall").search.ranking == Ranking("val/recall", -1)


def test_an_objective_that_the_file_names_is_the_files(tmp_path: Path) -> None:
    begun(tmp_path, QUALITY)
    file = tmp_path / "own.yaml"
    file.write_text("data: phantom\nsearch: { objective: val/recall, num_samples: 1 }\n")
    found = asked("--config", str(file), "--study", "mine", "--storage-path", str(tmp_path))
    assert found.search.ranking == Ranking("val/recall", -1)
