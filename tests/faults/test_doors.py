"""Nothing that is read is unpickled, and odd names and hostile files are one sentence each."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import selection.pick as pick
from acgan import generate
from acgan.config import cache_folder, read_file
from acgan.data.curate import Use, curate, image_paths
from acgan.data.decode import examine, examine_all
from acgan.data.layouts import read_table
from acgan.data.pack import load
from acgan.errors import InputError
from acgan.generation import generator
from acgan.run.rundir import RunDir
from search import run, sync
from search.settings import SearchConfig
from search.study.optuna_ledger import Ledger
from search.tracking import connection
from selection import generate as generate_registered
from selection.extractors.cache import cached_views
from selection.extractors.choose import AUTO, open_extractor
from selection.extractors.cnn3 import CNN3
from selection.jobs.results import read_stored
from selection.ledgers.looks import looks_path, touches
from selection.registry import versions
from selection.settings import SelectionConfig
from selection.steps.utility import Scored, train_on_real
from tests.kit import CLASSES, tiny_dataset
from tests.picks import Place, plan_of, send
from tests.searches import Search, write_images

pytest_plugins = ["tests.mlflow_stores", "tests.trained"]

CPU = torch.device("cpu")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def as_pickle(trap: Trap) -> bytes:
    return pickle.dumps(trap)


def as_torch(trap: Trap) -> bytes:
    file = io.BytesIO()
    torch.save(trap, file)
    return file.getvalue()


def as_numpy(trap: Trap) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([trap], object), allow_pickle=True)
    return file.getvalue()


@pytest.fixture
def sprung(tmp_path: Path) -> Iterator[Path]:
    """The file that an unpickled trap makes; a test that uses it fails if it is there."""
    path = tmp_path / "sprung"
    yield path
    assert not path.exists()


@pytest.fixture(params=[as_pickle, as_torch, as_numpy])
def trap(request: pytest.FixtureRequest, sprung: Path) -> bytes:
    """What makes the file `sprung` when it is unpickled, in one of three formats."""
    make: Callable[[Trap], bytes] = request.param
    return make(Trap(sprung))


pytestmark = [pytest.mark.process, pytest.mark.usefixtures("cache")]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, trained_runs: Path, migrated_database: Path
) -> Place:
    """A study of three trials, an MLflow without it, and one with it."""
    place = Place(tmp_path_factory.mktemp("trained"))
    for name in ("mlflow.db", "sent.db"):
        shutil.copy(migrated_database, place.folder / name)
    shutil.copytree(trained_runs, place.folder / "runs")
    send(place.study, f"sqlite:///{place.folder / 'sent.db'}")
    return place


@pytest.fixture
def place(trained: Place, tmp_path: Path) -> Place:
    """A copy of it."""
    shutil.copytree(trained.folder, tmp_path / "place")
    return Place(tmp_path / "place")


def weights_of(place: Place) -> Path:
    return RunDir(place.study.path / "t0000").weights_path(5)


def pick_options(place: Place) -> list[str]:
    """Return the options of a pick of the study, which MLflow has."""
    return place.options("--tracking-uri", f"sqlite:///{place.folder / 'sent.db'}")


def test_a_trap_springs_where_it_is_unpickled(tmp_path: Path) -> None:
    for name, make in (("pickle", as_pickle), ("torch", as_torch), ("numpy", as_numpy)):
        content = io.BytesIO(make(Trap(tmp_path / name)))
        if name == "pickle":
            pickle.load(content)
        elif name == "torch":
            torch.load(content, weights_only=False)
        else:
            np.load(content, allow_pickle=True)
        assert (tmp_path / name).exists()


# --- nothing is unpickled ---------------------------------------------------------------------


def test_a_run_with_traps_for_its_states_starts_anew(place: Place, trap: bytes) -> None:
    run = RunDir(place.study.path / "t0000")
    for path in (run.state_path, run.previous_state_path, run.epochs_path):
        path.write_bytes(trap)
    assert run.restore() is None


def test_a_trap_for_weights_is_refused(place: Place, trap: bytes) -> None:
    for path in place.study.path.glob("t*/weights/*.safetensors"):
        path.write_bytes(trap)
    with pytest.raises(InputError, match="is no safetensors file"):
        generator.load_generator(weights_of(place), device=CPU)
    with pytest.raises(InputError, match="is not the file that was recorded"):
        plan_of(pick_options(place))


def test_a_trap_for_the_ledger_is_refused(tmp_path: Path, trap: bytes) -> None:
    path = tmp_path / "optuna.jsonl"
    path.write_bytes(trap + b"\n")
    with pytest.raises(InputError, match="is damaged"):
        Ledger(path, {}, start={}, config=SearchConfig())


def test_a_trap_for_features_in_the_cache_is_left_out(trap: bytes) -> None:
    data = tiny_dataset(train=48)
    extractor = open_extractor(CNN3, data=data, device=CPU)
    images = data.val.images
    expected = cached_views(extractor, images)[0].features
    for path in (cache_folder() / "features").iterdir():
        path.write_bytes(trap)
    views = cached_views(extractor, images)
    assert torch.equal(views[0].features, expected)


def test_a_trap_for_cnns_in_the_cache_is_left_out(trap: bytes) -> None:
    data, settings = tiny_dataset(train=48), SelectionConfig(cnn_images=16, cnn_epochs=3)
    expected = train_on_real(data, settings, number=0, device=CPU)[-1].state_dict()
    for path in (cache_folder() / "cnns").iterdir():
        path.write_bytes(trap)
    found = train_on_real(data, settings, number=0, device=CPU)[-1].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_trap_for_inception_weights_is_refused(tmp_path: Path, trap: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(trap)
    with pytest.raises(InputError, match="does not hold the Inception weights"):
        open_extractor(AUTO, data=tiny_dataset(), device=CPU, weights=path)


def test_a_trap_for_the_registrys_weights_is_refused(place: Place, sprung: Path) -> None:
    client = connection.connect(place.uri)
    run_id = client.create_run(client.create_experiment("other")).info.run_id
    versions.register(client, run_id=run_id, pick="a", weights=weights_of(place), tags={})
    artifacts = Path(str(client.get_run(run_id).info.artifact_uri).removeprefix("file://"))
    for path in [path for path in artifacts.rglob("*") if path.is_file()]:
        path.write_bytes(as_torch(Trap(sprung)))
    with pytest.raises(InputError, match="are not those that were registered"):
        versions.resolve_version(client, versions.CHAMPION_URI)


def test_a_trap_for_a_label_file_an_image_or_a_configuration_is_refused(
    covidx: Path, tmp_path: Path, trap: bytes
) -> None:
    folder = shutil.copytree(covidx, tmp_path / "images")
    image = next((folder / "train").iterdir())
    image.write_bytes(trap)
    assert examine(str(image), image_size=16)[0].problem.startswith("not an image as JPEG")
    for name in ("test.txt", "train.txt"):
        (folder / name).write_bytes(trap)
        with pytest.raises(InputError, match=name):
            read_table(folder)
    with pytest.raises(InputError, match=r"is not a YAML file|must hold sections"):
        read_file(folder / "train.txt")


def test_a_trap_for_results_of_a_pick_is_left_out_or_refused(place: Place, sprung: Path) -> None:
    trap = as_pickle(Trap(sprung))
    path = place.study.path / "trap"
    path.write_bytes(trap)
    assert read_stored(Scored, path) is None
    looks_path(place.study).write_bytes(trap)
    with pytest.raises(InputError, match=r"test-touches\.jsonl is damaged"):
        touches(place.study)
    folder = plan_of(pick_options(place)).folder
    folder.mkdir(parents=True)
    (folder / "pick.json").write_bytes(trap)
    assert pick.main(pick_options(place)) == 2


STUDY_FILES = (
    *("study.json", "start.json", "quality.json", "scorer.safetensors", "optuna.jsonl"),
    *("lock.json", "t0000/trial.json", "t0000/end.json", "t0000/config.json", "t0000/owner.json"),
    *("t0000/epochs.jsonl", "t0000/samples/epoch-0001.png", "t0000/state.safetensors"),
    "t0000/weights/epoch-0005.safetensors",
)


@pytest.mark.parametrize("name", STUDY_FILES)
def test_commands_that_read_a_study_meet_a_trap_with_sentences(
    place: Place, sprung: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.study.path / name).write_bytes(as_pickle(Trap(sprung)))
    code = sync.main(place.options("--experiment", "acgan-search"))
    error = capsys.readouterr().err
    assert code in (0, 1, 2)
    assert all(line.isprintable() for line in error.splitlines())
    assert error == "" if code == 0 else error.count("\n") == 1
    with contextlib.suppress(InputError):
        plan_of(pick_options(place))


def test_ray_reads_nothing_that_lies_in_the_folder_of_a_study(tmp_path: Path, sprung: Path) -> None:
    write_images(tmp_path / "images", train=90, test=30)
    search = Search(tmp_path, tmp_path / "images", tmp_path / "mlflow.db")
    now = time.time()
    names = [time.strftime("%Y%m%d-%H%M%S", time.localtime(now + wait)) for wait in range(600)]
    files = ("tuner.pkl", "trainable.pkl", "error.pkl", "params.pkl", "searcher-state-x.pkl")
    for name in ("", *names):
        folder = tmp_path / "runs" / "tiny" / "ray" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in (*files, "experiment_state-x.json", "search_gen_state-x.json"):
            (folder / file).write_bytes(as_pickle(Trap(sprung)))
    try:
        search.run("--num-samples", "1", "--epochs", "2")
    finally:
        search.stop()
    (used,) = [path for path in (tmp_path / "runs" / "tiny" / "ray").iterdir() if has_trial(path)]
    assert used.name in names
    assert search.epochs("t0000") == [1, 2]


def has_trial(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_dir() for path in folder.iterdir())


# --- names ------------------------------------------------------------------------------------

ODD_NAMES = {
    "up": "..",
    "nothing": "",
    "a path": "a/b",
    "from the root": "/etc/passwd",
    "a line": "a\nb",
    "long": "a" * 1000,
    "full-width letters": "ａbc",
    "turned around": "a\u202eb",
    "a quote": "a' OR '1'='1",
    "no text": "caf\udce9",
}


def assert_refused(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_a_study_of_an_odd_name_is_refused_by_every_command(
    place: Place, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage-path", str(place.folder / "runs"), "--tracking-uri", place.uri]
    before = place.files()
    assert_refused(run.main([f"--study={name}", *storage, "--data", "phantom"]), capsys)
    assert_refused(sync.main([f"--study={name}", *storage]), capsys)
    assert_refused(pick.main([f"--study={name}", *storage]), capsys)
    assert place.files() == before


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=kind)
        for kind, name in ODD_NAMES.items()
        if kind != "no text"  # what pytest puts in place of stderr takes text alone
    ],
)
def test_a_run_or_model_of_an_odd_name_is_refused(
    place: Place, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(pick.main([f"--run-id={name}", "--tracking-uri", place.uri]), capsys)
    out = ["--out", str(place.folder / "out"), "--per-class", "1", "--tracking-uri", place.uri]
    for model in (name, f"models:/{name}@champion", f"models:/{name}/1"):
        assert_refused(generate_registered.main([f"--model={model}", *out]), capsys)
    assert not (place.folder / "out").exists()


@pytest.mark.parametrize("name", ["", "..", "a" * 1000, "/dev/null", "/dev/null/a", "/proc/a"])
def test_images_are_not_written_to_a_folder_that_cannot_be(
    place: Place, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.folder)
    flags = [f"--weights={weights_of(place)}", "--per-class", "1", f"--out={name}"]
    before = place.files()
    assert_refused(generate.main(flags), capsys)
    assert place.files() == before


@pytest.mark.parametrize("name", ["", ".", "/dev/zero", "pipe", "nowhere", "a\nb"])
def test_weights_that_are_no_file_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    code = generate.main([f"--weights={name}", "--per-class", "1", "--out", "out"])
    assert code == 2
    assert capsys.readouterr().err.startswith("error: there is no weights file")
    assert not Path("out").exists()


# --- images -----------------------------------------------------------------------------------


def test_hostile_images_are_left_out_of_both_layouts(tmp_path: Path, covidx: Path) -> None:
    covidx = shutil.copytree(covidx, tmp_path / "covidx")
    classes = tmp_path / "classes"
    write_images(classes)
    hostile = covidx / "train", classes / "train" / "normal"
    for folder in hostile:
        (folder / "folder.png").mkdir()
        os.mkfifo(folder / "pipe.png")
        (folder / "loop.png").symlink_to("loop.png")
        (folder / "text.png").write_text("no image")
        (folder / "cut.png").write_bytes(next(folder.glob("[0-9t]*.png")).read_bytes()[:-40])
        frames = [Image.new("L", (9, 9), grey) for grey in (0, 99)]
        frames[0].save(folder / "moving.png", save_all=True, append_images=frames[1:])
    names = [f"{name}.png" for name in ("folder", "pipe", "loop", "text", "cut", "moving")]
    with (covidx / "train.txt").open("a") as labels:
        labels.writelines(f"x{name} {name} normal rsna\n" for name in names)
    for folder in (covidx, classes):
        table = read_table(folder)
        facts = [fact for fact, _ in examine_all(image_paths(table), image_size=16)]
        curated = curate(table, facts, split_seed=0, val_fraction=None)
        uses = {Path(row.path).name: use for row, use in zip(table.rows, curated.uses, strict=True)}
        assert set(names) - set(uses) <= {"folder.png"}  # in class folders it is no image at all
        assert {uses[name] for name in names if name in uses} <= {Use.MISSING, Use.UNREADABLE}
        assert all(note.isprintable() and note for note in curated.notes.values())
        data = load(str(folder), image_size=16)
        assert data.classes == CLASSES
