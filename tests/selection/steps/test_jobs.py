"""What decides where a job's result stands, and that each job leaves what it should."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acgan.data.pack import load
from acgan.data.source import DataSource
from acgan.errors import InputError
from acgan.evaluation.grids import GRID_COLUMNS, GRID_TILE
from acgan.files import file_sha256
from acgan.generation.generator import generate_all, load_generator
from search.nodes.sees import StudyAt
from selection.extractors.base import ExtractorInfo
from selection.jobs.results import Result, StoredJob, Weights, Work, read_stored, without_test
from selection.jobs.workers import Results
from selection.pictures.sheets import sample_grid
from selection.pictures.walks import WalksJob
from selection.settings import SelectionConfig
from selection.steps import utility
from selection.steps.fidelity import CLOSEST, GRID, ExtractorJob, FidelityJob
from selection.steps.look_at_test import LookJob, seen_of
from selection.steps.utility import CeilingJob, Scored, UtilityJob
from tests.acgan.test_generate import write_weights
from tests.kit import tiny_dataset
from tests.picks import write_covidx
from tests.selection.steps.test_plan import write_small_study

CPU = torch.device("cpu")
SETTINGS = SelectionConfig(
    cnn_images=16,
    cnn_epochs=3,
    cnn_batch_size=16,
    cnn_learning_rate=1e-3,
    cnn_seeds=(3,),
    extractor="cnn3",
    fidelity_images=32,
)
INFO = ExtractorInfo(name="cnn3", sha256="e" * 64, standard=False, independent=False)
WORK = Work(
    StudyAt(Path("/study"), "uuid", DataSource(folder="/images")), SETTINGS, "fingerprint", None
)
WEIGHTS = Weights("t0003, epoch 7", Path("/w.safetensors"), "a" * 64)


def paths(work: Work, weights: Weights = WEIGHTS, info: ExtractorInfo = INFO) -> dict[str, Path]:
    return {
        "utility": UtilityJob(work, weights, 0).path,
        "ceiling": CeilingJob(work, 0).path,
        "extractor": ExtractorJob(work).path,
        "fidelity": FidelityJob(work, weights, info).path,
        "test": LookJob(work, weights, (0, 1, 2), info).path,
    }


def moved(work: Work, weights: Weights = WEIGHTS, info: ExtractorInfo = INFO) -> set[str]:
    """Return which results stand elsewhere than those of `WORK`."""
    before, after = paths(WORK), paths(work, weights, info)
    return {kind for kind in before if before[kind] != after[kind]}


CNNS = {"utility", "ceiling", "fidelity", "test"}


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"seed": 1}, CNNS),
        ({"cnn_images": 17}, CNNS),
        ({"cnn_epochs": 4}, CNNS),
        ({"cnn_batch_size": 17}, CNNS),
        ({"cnn_learning_rate": 1e-4}, CNNS),
        ({"fidelity_images": 33}, {"fidelity", "test"}),
        ({"reference_limit": 100}, {"fidelity", "test"}),
        ({"memorised_above": 0.2}, {"fidelity", "test"}),
        ({"cnn_seeds": (4,)}, {"fidelity"}),  # as many CNNs judge in the reverse test
        ({"cnn_seeds": (3, 5)}, set()),
        ({"extractor": "inception-v3-compat"}, {"extractor"}),
        ({"inception_sha256": "b" * 64}, {"extractor"}),
        ({"max_candidates": 2, "per_trial": 1}, set()),
        ({"class_margin": 0.5, "collapsed_below": 0.5}, set()),
        ({"cpus_per_task": 2.0, "gpus_per_task": 1.0}, set()),
    ],
)
def test_results_are_kept_apart_by_the_settings_that_decide_them_and_no_others(
    changes: dict[str, Any], kinds: set[str]
) -> None:
    settings = SETTINGS.model_copy(update=changes)
    assert moved(dataclasses.replace(WORK, settings=settings)) == kinds


def test_results_are_kept_apart_by_images_weights_and_features() -> None:
    everything = CNNS | {"extractor"}
    assert moved(dataclasses.replace(WORK, fingerprint="other")) == everything
    other = Weights(WEIGHTS.name, WEIGHTS.path, "b" * 64)
    assert moved(WORK, other) == {"utility", "fidelity", "test"}
    assert moved(dataclasses.replace(WORK, plugin_version="mine 1.1")) == {"extractor"}
    settings = SETTINGS.model_copy(update={"extractor": "mine"})
    mine = dataclasses.replace(WORK, settings=settings, plugin_version="mine 1.0")
    later = dataclasses.replace(mine, plugin_version="mine 1.1")
    assert paths(mine)["fidelity"] != paths(later)["fidelity"] != paths(WORK)["fidelity"]
    assert paths(mine)["test"] != paths(later)["test"] != paths(WORK)["test"]
    features = INFO.model_copy(update={"sha256": "f" * 64})
    assert moved(WORK, info=features) == {"fidelity", "test"}
    assert len(set(paths(WORK).values())) == 5


def test_names_and_places_of_files_do_not_matter() -> None:
    assert moved(WORK, Weights("renamed", Path("/elsewhere.safetensors"), WEIGHTS.sha256)) == set()
    at = StudyAt(WORK.at.study, "uuid", DataSource(folder="/images on another disk"))
    assert moved(dataclasses.replace(WORK, at=at)) == set()


def test_each_cnn_and_each_set_of_cnns_stands_alone() -> None:
    assert len({UtilityJob(WORK, WEIGHTS, number).path for number in range(5)}) == 5
    assert CeilingJob(WORK, 0).path != CeilingJob(WORK, 1).path
    tests = {LookJob(WORK, WEIGHTS, tuple(range(n)), INFO).path for n in (3, 5)}
    assert len(tests) == 2


@pytest.mark.parametrize("content", [b"", b'{"hits": "33', b"\xff\xfe", b'{"other": 1}', b"[]"])
def test_a_damaged_result_counts_as_missing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "result.json"
    assert read_stored(Scored, path) is None
    path.write_bytes(content)
    assert read_stored(Scored, path) is None


@pytest.mark.parametrize("colour", [False, True])
def test_a_sample_grid_has_a_row_of_eight_images_for_each_class(colour: bool) -> None:
    labels = np.array([2, 0, 1] * 10 + [0] * 5)
    grey = np.random.default_rng(0).integers(0, 256, (len(labels), 16, 16), np.uint8)
    images = grey[:, None].repeat(3, axis=1) if colour else grey
    picture = np.array(Image.open(io.BytesIO(sample_grid(images, labels))))
    side = 16 * (GRID_TILE // 16)
    assert picture.shape == (3 * side, GRID_COLUMNS * side, 3)
    for row in range(3):
        own = grey[labels == row]
        for column in range(GRID_COLUMNS):
            square = picture[row * side : (row + 1) * side, column * side : (column + 1) * side]
            wanted = own[column].repeat(GRID_TILE // 16, 0).repeat(GRID_TILE // 16, 1)
            assert (square == wanted[..., None]).all()


def test_a_sample_grid_of_few_images_is_black_where_there_are_none() -> None:
    images = np.full((4, 128, 128), 200, np.uint8)  # larger than a tile: shown as they are
    picture = np.array(Image.open(io.BytesIO(sample_grid(images, np.array([0, 0, 0, 1])))))
    assert picture.shape == (256, 8 * 128, 3)
    assert (picture[:128, : 3 * 128] == 200).all()
    assert (picture[:128, 3 * 128 :] == 0).all()
    assert (picture[128:, 128:] == 0).all()


def test_a_data_set_without_test_images_is_otherwise_the_same() -> None:
    data = tiny_dataset()
    found = without_test(data)
    assert len(found.test) == len(found.test.images) == 0
    assert (found.test.patients, found.test.sources) == ((), ())
    assert dataclasses.replace(found, test=data.test) == data


@dataclasses.dataclass(frozen=True)
class Scene:
    """A small study with real files, all of whose jobs are done."""

    work: Work
    weights: Weights
    info: ExtractorInfo
    images: Path


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("jobs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACGAN_CACHE", str(root / "cache"))
        write_covidx(root / "ramps", train=150, test=30)
        study = write_small_study(root / "demo", root / "ramps", trials=0)
        at = StudyAt(study.path, study.info.uuid, DataSource(folder=str(root / "ramps")))
        work = Work(at, SETTINGS, study.info.fingerprint, None)
        work.folder.mkdir(parents=True)
        path = write_weights(root / "generator.safetensors")
        weights = Weights("t0003, epoch 7", path, file_sha256(path))
        ExtractorJob(work).run(gpu=False)
        opened = ExtractorJob(work).result()
        assert opened is not None
        info = opened.info
        for number in range(3):
            CeilingJob(work, number).run(gpu=False)
        FidelityJob(work, weights, info).run(gpu=False)
        yield Scene(work, weights, info, root / "ramps")


def test_a_cnn_of_generated_images_is_scored_again_where_its_result_is_damaged(
    scene: Scene,
) -> None:
    job = UtilityJob(scene.work, scene.weights, 2)
    assert not job.done()
    job.run(gpu=False)
    before = job.result()
    assert before is not None
    assert (before.failed, before.seconds > 0) == ("", True)
    job.path.write_bytes(job.path.read_bytes()[:20])
    assert not job.done()
    job.run(gpu=False)
    after = job.result()
    assert after is not None
    assert after.hits == before.hits
    val = scene.work.data().val
    generator = load_generator(scene.weights.path, device=CPU)
    wanted = utility.hits(utility.train_on_generated(generator, SETTINGS, number=2), val)
    assert after.hits == wanted


def test_a_cnn_of_real_images_counts_only_with_its_weights(scene: Scene) -> None:
    job = CeilingJob(scene.work, 0)
    before = job.result()
    assert before is not None
    path = job.file(utility.CNN)
    kept = path.read_bytes()
    path.unlink()
    assert not job.done()
    path.write_bytes(kept[:-1])
    assert not job.done(), "cut"
    path.write_bytes(kept)
    assert job.done()
    data = scene.work.data()
    models = utility.train_on_real(data, SETTINGS, number=0, device=CPU)
    assert before.hits == utility.hits(models, data.val)
    loaded = job.load(data, CPU).state_dict()
    assert all(torch.equal(loaded[n], t) for n, t in models[-1].state_dict().items())


def test_step_3_leaves_numbers_pictures_and_features(scene: Scene) -> None:
    job = FidelityJob(scene.work, scene.weights, scene.info)
    found = job.result()
    assert found is not None
    assert (found.failed, found.seconds > 0) == ("", True)
    fidelity, val = found.fidelity, scene.work.data().val
    assert fidelity is not None
    assert fidelity.metrics.keys() == {"validation", "training", "generated"}
    assert fidelity.rank_metric == "intra_kid_cnn3"
    influence = np.array(fidelity.influence)
    means = [influence[val.labels == label].mean() for label in range(3)]
    assert fidelity.metrics["validation"]["intra_kid_cnn3"] == pytest.approx(np.mean(means))
    generator = load_generator(scene.weights.path, device=CPU)
    images, labels = scene.work.fidelity_images(generator)
    judges = [CeilingJob(scene.work, n).load(scene.work.data(), CPU) for n in range(3)]
    assert fidelity.reverse == utility.reverse(judges, images, labels)
    assert job.file(GRID).read_bytes() == sample_grid(images, labels)
    assert Image.open(io.BytesIO(job.file(CLOSEST).read_bytes())).size[0] > 0
    kept = job.features()
    extracted = scene.work.open_extractor(gpu=False, known=scene.info).extract(images)
    assert kept["generated_labels"].tolist() == labels.tolist()
    for number, view in enumerate(extracted):
        assert torch.equal(kept[f"generated.{number}"], view.features)
    assert len(kept["real"]) == len(kept["real_labels"]) == len(val)


def test_step_3_and_walks_count_only_with_their_files(scene: Scene) -> None:
    measured = FidelityJob(scene.work, scene.weights, scene.info)
    walks = WalksJob(scene.work, scene.weights)
    walks.run(gpu=False)
    jobs: tuple[StoredJob[Result], ...] = (measured, walks)
    for job in jobs:
        assert job.done()
        assert job.files
        for path in map(job.file, job.files):
            kept = path.read_bytes()
            path.unlink()
            assert not job.done()
            path.write_bytes(kept)
            assert job.done()


def test_step_2_and_step_3_see_different_images(scene: Scene) -> None:
    generator = load_generator(scene.weights.path, device=CPU)
    measured = {image.tobytes() for image in scene.work.fidelity_images(generator)[0]}
    assert not measured & {
        image.tobytes() for image in generate_all(generator, per_class=16, seed=SETTINGS.seed)[0]
    }


def test_a_baseline_that_cannot_be_looked_at_ends_no_pick_and_a_winner_does(
    scene: Scene, tmp_path: Path
) -> None:
    path = write_weights(tmp_path / "constant.safetensors", scale=0.0)
    constant = Weights("t0000, epoch 3", path, file_sha256(path))
    jobs = {
        "winner": LookJob(scene.work, scene.weights, (3, 4, 5), scene.info),
        "baseline": LookJob(scene.work, constant, (3, 4, 5), scene.info),
    }
    for job in jobs.values():
        job.run(gpu=False)
    results = Results({job: found for job in jobs.values() if (found := job.result())})
    said: list[str] = []
    seen = seen_of(jobs, results, said.append)
    assert list(seen) == ["winner"]
    assert len(seen["winner"].hits) == 3
    (line,) = said
    assert line.startswith("t0000, epoch 3 is not compared with on the test images: the generator")
    with pytest.raises(InputError, match="reject it with selection"):
        seen_of({"winner": jobs["baseline"]}, results, said.append)


def test_an_error_that_a_user_can_mend_is_not_kept_as_a_candidates_failure(
    scene: Scene, tmp_path: Path
) -> None:
    other = write_weights(tmp_path / "other.safetensors", seed=5)
    wrong = FidelityJob(scene.work, Weights("t0003, epoch 7", other, "c" * 64), scene.info)
    with pytest.raises(InputError, match="is not the file that was recorded"):
        wrong.run(gpu=False)
    assert not wrong.done()
    foreign = scene.info.model_copy(update={"sha256": "d" * 64})
    job = FidelityJob(scene.work, scene.weights, foreign)
    with pytest.raises(InputError, match="choose --extractor cnn3"):
        job.run(gpu=False)
    assert not job.done()
    settings = SETTINGS.model_copy(update={"extractor": "mine"})
    elsewhere = dataclasses.replace(scene.work, settings=settings, plugin_version="mine 1.0")
    with pytest.raises(InputError, match="of no package, the pick was begun with mine"):
        elsewhere.open_extractor(gpu=False)


def test_jobs_see_no_test_image_but_the_last_one_does(scene: Scene) -> None:
    assert len(scene.work.data().test) == 0
    job = LookJob(scene.work, scene.weights, (0,), scene.info)
    job.run(gpu=False)
    seen = job.result()
    assert seen is not None
    test = load(str(scene.images), image_size=16).test
    assert (seen.images.labels, seen.sources) == (test.labels.tolist(), list(test.sources))
    generator = load_generator(scene.weights.path, device=CPU)
    models = utility.train_on_generated(generator, SETTINGS, number=0)
    assert seen.hits == [utility.hits(models, test)]
    assert "intra_kid_cnn3" in seen.metrics
    own, further = (
        scene.work.fidelity_images(generator, *what)[0] for what in ((), ("test images",))
    )
    assert not any((image == own).all(axis=(1, 2, 3)).any() for image in further)
