from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import acgan.training
from acgan.config import TrainConfig
from acgan.data.pack import load
from acgan.errors import InputError
from acgan.evaluation.classifier import Classifier
from acgan.evaluation.evaluate import Evaluation
from acgan.evaluation.scorer import COMPONENTS, Scorer, cached_scorer
from acgan.gan.models import Discriminator, Generator
from acgan.gan.step import METRICS, Training, train_step
from acgan.generation.generator import load_generator
from acgan.run.records import RANKING, EpochRecord, kept_epochs, read_records
from acgan.run.rundir import NotOwnerError, RunDir
from acgan.train import main
from acgan.training import METRIC_NAMES, DeviceImages, check_fits, train, train_epoch
from tests.kit import CLASSES, OPTIONS_ON, ROOT, tiny_config, tiny_dataset, tiny_images

pytestmark = pytest.mark.process

CPU = torch.device("cpu")
CONFIG = tiny_config(epochs=5)
OPTIONS = tiny_config(epochs=5, **OPTIONS_ON, r1_every=2)
DATA = tiny_dataset(train=20, val=12, test=3)  # a last batch of four


def tiny_scorer() -> Scorer:
    """Return a scorer whose CNN is untrained: a real one takes ten seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Classifier(classes=len(CLASSES), image_size=16).eval()
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(192, COMPONENTS)))[0]
    return Scorer(classifier, level=np.ones(192), mean=np.zeros(192), scale=np.ones(192), axes=axes)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scorer") / "scorer.safetensors"
    tiny_scorer().save(path)
    return path


@pytest.fixture(scope="module")
def straight(scorer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of five epochs that nothing interrupted."""
    return trained(tmp_path_factory.mktemp("straight") / "run", scorer)


@pytest.fixture(scope="module")
def with_options(scorer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same with every option around the published step on."""
    return trained(tmp_path_factory.mktemp("options") / "run", scorer, config=OPTIONS)


def trained(
    path: Path, scorer: Path, *, epochs: int | None = None, config: TrainConfig = CONFIG
) -> Path:
    """Train a run, or go on with it, for so many epochs (unset: to its end)."""
    steps = train(config, DATA, RunDir(path), scorer=scorer, device=CPU)
    for _ in islice(steps, epochs):
        torch.rand(7)  # the process's own random numbers must not matter
    return path


def without_time(record: EpochRecord) -> dict[str, Any]:
    metrics = {k: v for k, v in record.metrics.items() if not k.startswith("perf/")}
    return {"epoch": record.epoch, "metrics": metrics, "samples": record.samples}


def assert_same_run(a: Path, b: Path) -> None:
    """Compare all that two runs left, bit for bit, apart from what tells the time."""
    records = [read_records(path / "epochs.jsonl") for path in (a, b)]
    assert [without_time(r) for r in records[0]] == [without_time(r) for r in records[1]]
    names = [{p.relative_to(path) for p in path.rglob("*") if p.is_file()} for path in (a, b)]
    assert names[0] == names[1]
    for name in names[0]:
        if name.suffix == ".png":
            assert (a / name).read_bytes() == (b / name).read_bytes(), name
        elif name.suffix == ".safetensors":
            assert_same_tensors(load_file(a / name), load_file(b / name))


def assert_same_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype, name
        assert tensor.numpy().tobytes() == b[name].numpy().tobytes(), name


def test_two_and_three_epochs_are_five_straight_bit_for_bit(
    tmp_path: Path, scorer: Path, straight: Path
) -> None:
    run = trained(tmp_path / straight.name, scorer, epochs=2)
    assert len(read_records(run / "epochs.jsonl")) == 2
    torch.manual_seed(99)
    assert_same_run(trained(run, scorer), straight)
    hashes = ([r.weights for r in read_records(r / "epochs.jsonl")] for r in (run, straight))
    assert next(hashes) == next(hashes)


def test_a_run_with_options_resumes_bit_for_bit_too(
    tmp_path: Path, scorer: Path, straight: Path, with_options: Path
) -> None:
    run = trained(tmp_path / "run", scorer, epochs=2, config=OPTIONS)
    torch.manual_seed(99)
    assert_same_run(trained(run, scorer, config=OPTIONS), with_options)
    names = ["ema/updates", "discriminator/convolutions.0.parametrizations.weight.0._u"]
    state = load_file(run / "state.safetensors")
    assert set(names) <= state.keys()
    assert int(state["ema/updates"]) == 5 * 3
    assert not set(names) & load_file(straight / "state.safetensors").keys()


def test_states_of_every_second_epoch_resume_to_the_same_run(
    tmp_path: Path, scorer: Path, straight: Path
) -> None:
    config = tiny_config(epochs=5, state_every=2)
    run = trained(tmp_path / "run", scorer, epochs=3, config=config)
    steps = train(config, DATA, RunDir(run), scorer=scorer, device=CPU)
    assert [record.epoch for record in steps] == [3, 4, 5]
    expected = [without_time(r) for r in read_records(straight / "epochs.jsonl")]
    assert [without_time(r) for r in read_records(run / "epochs.jsonl")] == expected
    for name in ("state.safetensors", "weights/epoch-0005.safetensors"):
        assert_same_tensors(load_file(run / name), load_file(straight / name))


def test_the_last_epoch_can_be_had_again_before_the_next(tmp_path: Path, scorer: Path) -> None:
    run = trained(tmp_path / "run", scorer, epochs=2)
    steps = train(CONFIG, DATA, RunDir(run), scorer=scorer, device=CPU, repeat_last=True)
    second = read_records(run / "epochs.jsonl")[-1]
    assert (next(steps), next(steps).epoch) == (second, 3)


def test_the_last_epoch_that_is_had_again_is_one_whose_state_is_whole(
    tmp_path: Path, scorer: Path
) -> None:
    run = trained(tmp_path / "run", scorer, epochs=3)
    state = run / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    again = train(CONFIG, DATA, RunDir(run), scorer=scorer, device=CPU, repeat_last=True)
    assert [next(again).epoch, next(again).epoch] == [2, 3]


def test_a_crafted_state_of_other_networks_is_refused_in_one_sentence(
    tmp_path: Path, scorer: Path, straight: Path
) -> None:
    whole = load_file(straight / "state.safetensors")
    name = next(name for name in whole if name.startswith("generator_adam/") and ".mean" in name)
    missing = {key: value for key, value in whole.items() if key != name}
    for index, state in enumerate((missing, whole | {name: torch.zeros(2)})):
        path = trained(tmp_path / str(index), scorer, epochs=2)
        run = RunDir(path)
        run.claim(CONFIG, classes=DATA.classes, fingerprint=DATA.fingerprint)
        run.commit(read_records(straight / "epochs.jsonl")[2], state)
        with pytest.raises(InputError, match="is no state of these networks; restore it, or"):
            trained(path, scorer)


def train_to_the_end(path: Path, scorer: Path, config: TrainConfig) -> None:
    """Be the body of a process that will be killed."""
    for _ in train(config, DATA, RunDir(path), scorer=scorer, device=CPU):
        pass


def start(path: Path, scorer: Path, config: TrainConfig) -> ForkServerProcess:
    """Train in another process; return once that process owns the run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["acgan.training", "tests.kit"])  # or each imports torch anew
    process = context.Process(target=train_to_the_end, args=(path, scorer, config))
    process.start()
    owner = path / "owner.json"
    while process.is_alive() and not (
        owner.exists() and f'"pid": {process.pid}' in owner.read_text()
    ):
        time.sleep(0.002)
    return process


@pytest.mark.parametrize(
    ("config", "whole"), [(CONFIG, "straight"), (OPTIONS, "with_options")], ids=["plain", "options"]
)
def test_a_run_killed_at_random_instants_ends_as_one_that_was_not(
    tmp_path: Path,
    scorer: Path,
    config: TrainConfig,
    whole: str,
    request: pytest.FixtureRequest,
) -> None:
    draw = random.Random(0)
    straight: Path = request.getfixturevalue(whole)
    times = [record.time for record in read_records(straight / "epochs.jsonl")]
    epoch_s = (times[-1] - times[0]) / (len(times) - 1)
    run = tmp_path / "run"
    for _ in range(6):
        process = start(run, scorer, config)
        time.sleep(draw.uniform(0, 2 * epoch_s))
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
    process = start(run, scorer, config)
    process.join()
    assert process.exitcode == 0
    assert_same_run(run, straight)


def test_a_finished_run_is_left_as_it_is(scorer: Path, straight: Path) -> None:
    files = {p: p.read_bytes() for p in straight.rglob("*") if p.is_file()}
    del files[straight / "owner.json"]
    missing = scorer.with_name("none")  # it needs no scorer either
    assert list(train(CONFIG, DATA, RunDir(straight), scorer=missing, device=CPU)) == []
    assert {p: p.read_bytes() for p in files} == files


def test_weights_that_a_kill_kept_from_being_pruned_are_pruned(
    scorer: Path, straight: Path
) -> None:
    weights = RunDir(straight).weights_path
    kept = kept_epochs(read_records(straight / "epochs.jsonl"), RANKING) | {3, 4, 5}
    assert {epoch for epoch in range(1, 6) if weights(epoch).exists()} == kept
    weights(99).touch()
    trained(straight, scorer)
    assert not weights(99).exists()


def test_every_epoch_has_every_metric(straight: Path) -> None:
    assert len(METRIC_NAMES) <= 28
    for record in read_records(straight / "epochs.jsonl"):
        assert set(record.metrics) == {*METRIC_NAMES, RANKING.best}
        assert np.isfinite(list(record.metrics.values())).all()


def test_samples_stand_where_the_records_say(tmp_path: Path, scorer: Path) -> None:
    config = tiny_config(epochs=3, samples_every=2)
    run = trained(tmp_path / "run", scorer, config=config)
    samples = [record.samples for record in read_records(run / "epochs.jsonl")]
    assert samples == [None, "samples/epoch-0002.png", "samples/epoch-0003.png"]
    untrained, trained_ones = run / "samples/epoch-0000.png", run / "samples/epoch-0003.png"
    for path in (untrained, trained_ones):
        with Image.open(path) as picture:
            assert picture.size == (8 * 112, 3 * 112)
    assert untrained.read_bytes() != trained_ones.read_bytes()


def test_another_seed_is_another_run(tmp_path: Path, scorer: Path, straight: Path) -> None:
    run = trained(tmp_path / "run", scorer, epochs=1, config=tiny_config(epochs=5, seed=1))
    first = [read_records(path / "epochs.jsonl")[0].metrics for path in (run, straight)]
    assert first[0]["train/g_loss"] != first[1]["train/g_loss"]


def test_the_last_batch_is_partial_and_is_used(straight: Path) -> None:
    batches = list(DeviceImages(DATA.train, CPU).batches(8, torch.Generator()))
    assert [len(labels) for _, labels in batches] == [8, 8, 4]
    seen = torch.cat([images for images, _ in batches]).flatten(1).tolist()
    assert sorted(seen) == sorted(DATA.train.images.reshape(20, -1).tolist())
    assert int(load_file(straight / "state.safetensors")["discriminator_adam/updates"]) == 5 * 3


def test_labels_stay_with_their_images() -> None:
    of_image = {
        image.tobytes(): label
        for image, label in zip(DATA.train.images, DATA.train.labels, strict=True)
    }
    for images, labels in DeviceImages(DATA.train, CPU).batches(8, torch.Generator()):
        for image, label in zip(images, labels, strict=True):
            assert of_image[image.numpy().tobytes()] == label


def test_an_epochs_metrics_are_means_over_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, Tensor]] = []

    def watched(training: Training, images: Tensor, *rest: Any) -> Tensor:
        result = train_step(training, images, *rest)
        seen.append((len(images), result))
        return result

    monkeypatch.setattr(acgan.training, "train_step", watched)
    training = Training(CONFIG, classes=3, device=CPU)
    metrics = train_epoch(training, DeviceImages(DATA.train, CPU), 1)
    assert [count for count, _ in seen] == [8, 8, 4]
    means = torch.stack([count * result for count, result in seen]).sum(0) / 20
    expected = dict(zip(METRICS, means.tolist(), strict=True))
    assert metrics == pytest.approx({f"train/{k}": v for k, v in expected.items()}, rel=1e-5)


def test_each_epoch_has_its_own_order_and_the_same_one_each_time() -> None:
    def order(seed: int) -> list[int]:
        noise = torch.Generator().manual_seed(seed)
        images = DeviceImages(DATA.train, CPU).batches(8, noise)
        return [int(image.sum()) for batch, _ in images for image in batch]

    assert order(1) == order(1) != order(2)


def test_images_on_the_disk_that_cannot_be_written_train_without_a_warning(tmp_path: Path) -> None:
    shape = DATA.train.images.shape
    DATA.train.images.tofile(tmp_path / "images.u8")
    mapped = np.memmap(tmp_path / "images.u8", np.uint8, "r", shape=shape)
    images = tiny_images(20)
    images = type(images)(mapped, images.labels, images.patients, images.sources)
    assert torch.equal(DeviceImages(images, CPU).images, DeviceImages(DATA.train, CPU).images)


def test_a_batch_larger_than_the_training_set_is_refused(tmp_path: Path) -> None:
    check_fits(tiny_config(batch_size=20), DATA)
    steps = train(tiny_config(batch_size=21), DATA, RunDir(tmp_path / "run"), device=CPU)
    with pytest.raises(InputError, match="batch_size 21 is larger than the 20 training images"):
        next(steps)
    assert not (tmp_path / "run").exists()


def test_a_run_that_another_process_took_over_ends_without_writing(
    tmp_path: Path, scorer: Path
) -> None:
    run = tmp_path / "run"
    first = train(CONFIG, DATA, RunDir(run), scorer=scorer, device=CPU)
    next(first)
    second = train(CONFIG, DATA, RunDir(run), scorer=scorer, device=CPU)
    assert next(second).epoch == 2
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(NotOwnerError):
        next(first)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    assert next(second).epoch == 3


@pytest.mark.parametrize(
    ("config", "whole"), [(CONFIG, "straight"), (OPTIONS, "with_options")], ids=["plain", "options"]
)
def test_the_weights_file_alone_rebuilds_the_generator_that_is_recorded(
    config: TrainConfig, whole: str, scorer: Path, request: pytest.FixtureRequest
) -> None:
    straight: Path = request.getfixturevalue(whole)
    path = RunDir(straight).weights_path(5)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["run"], metadata["epoch"]) == ("run", "5")
    assert TrainConfig.model_validate_json(metadata["config"]) == config
    classes = json.loads(metadata["classes"])
    assert classes == list(DATA.classes)
    generator = Generator(config.model_copy(update={"seed": 5}), len(classes))
    generator.load_state_dict(load_file(path))
    judge = Scorer.load(scorer, classes=3, image_size=16, device=CPU)
    evaluation = Evaluation(DATA, config, judge, CPU)
    picture = evaluation.sample_grid(generator)
    assert picture == (straight / "samples/epoch-0005.png").read_bytes()
    found = evaluation.measure(generator, Discriminator(config))
    record = read_records(straight / "epochs.jsonl")[4]
    names = (
        "val/fd_cnn",
        "val/coverage",
        "val/diversity",
    )  # the discriminator has no part in these
    assert [found[name] for name in names] == [record.metrics[name] for name in names]


def test_the_kept_weights_are_the_average_and_not_the_trained_ones(with_options: Path) -> None:
    state = load_file(with_options / "state.safetensors")
    kept = load_file(RunDir(with_options).weights_path(5))
    parts = {
        part: {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}
        for part in ("ema/", "generator/")
    }
    del parts["ema/"]["updates"]
    assert_same_tensors(kept, parts["ema/"])
    assert not torch.equal(kept["latent.weight"], parts["generator/"]["latent.weight"])
    record = read_records(with_options / "epochs.jsonl")[4]
    path = RunDir(with_options).weights_path(5)
    loaded = load_generator(path, device=CPU, sha256=record.weights)
    assert_same_tensors(loaded.generator.state_dict(), kept)
    assert loaded.config == OPTIONS  # from which a run with the same weights can be trained
    latents = torch.linspace(-1, 1, 12).view(2, 6)
    with torch.no_grad():  # not as pixels of 8 bits, in which one so young is an even grey
        assert loaded.generator(latents, torch.tensor([1, 1])).std() > 0


def test_a_record_names_its_weights_by_their_hash(straight: Path) -> None:
    record = read_records(straight / "epochs.jsonl")[4]
    content = RunDir(straight).weights_path(5).read_bytes()
    assert record.weights == hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder of noise, one folder a class."""
    path = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 2)):
        for name in CLASSES:
            (path / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = noise.integers(0, 256, (16, 16), dtype=np.uint8)
                Image.fromarray(pixels).save(path / split / name / f"{split}-{name}-{index}.png")
    return path


@pytest.fixture
def command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a command line that trains a tiny run, with its data and scorer in the cache."""
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    config = tiny_config(epochs=7)
    data = load(str(folder), image_size=16)
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "train", lambda *_: tiny_scorer())
        cached_scorer(data, config, CPU)
    lines = (f"  {k}: {v}\n" for k, v in config.model_dump(exclude_defaults=True).items())
    (tmp_path / "tiny.yaml").write_text("train:\n" + "".join(lines))
    return ["--config", "tiny.yaml", "--data", str(folder), "--device", "cpu"]


def output_until(process: subprocess.Popen[str], text: str) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if text in line:
            return


def test_a_command_that_is_interrupted_goes_on_when_typed_again(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = str(ROOT)
    process = subprocess.Popen(
        [sys.executable, "-m", "acgan.train", *command],
        env={**os.environ, "PYTHONPATH": repository},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    list(output_until(process, "epoch 2/7"))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors.endswith("interrupted; to continue, type the same command again\n")
    run = RunDir(tmp_path / "runs/tiny-single")
    done = len(read_records(run.epochs_path))
    assert 2 <= done < 7

    assert main(command) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] in (
        [f"{epoch}/7" for epoch in range(done + 1, 8)],
        [f"{epoch}/7" for epoch in range(done + 2, 8)],  # its line was still missing
    )
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("all 7 epochs are there")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--epochs", "0"], "'train.epochs'"),
        (["--image-size", "20"], "multiple of 16"),
        (["--batch-size", "1000"], "larger than the 30"),
        (["--config", "none.yaml"], "cannot read the configuration none.yaml"),
        (
            ["--config", "bad.yaml"],
            "unknown configuration key 'train.epoch'; did you mean 'epochs'?",
        ),
        (["--data", "no/such/folder"], "no/such/folder"),
        (["--device", "abacus"], "--device abacus cannot be used here"),
        (["--run", "tiny.yaml"], "cannot be the folder of a run"),
        (["--run", "a" * 1000], "can be no path"),
        (["--data", "a" * 1000], "can be no path"),
    ],
)
def test_bad_input_is_one_sentence_before_any_training(
    command: list[str],
    flags: list[str],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.yaml").write_text("train: {epoch: 3}")
    assert main([*command, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert reason in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_whose_records_are_damaged_starts_again(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs/tiny-single/epochs.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("no record\n")
    assert main([*command, "--epochs", "1"]) == 0
    assert [record.epoch for record in read_records(path)] == [1]
    path.unlink()
    path.mkdir()
    assert main([*command, "--epochs", "1"]) == 2
    assert "epochs.jsonl is damaged: it is no file; remove it" in capsys.readouterr().err


def test_an_unknown_flag_is_wrong_usage() -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--epoch-count", "3"])


def test_a_run_that_diverges_says_so_and_fails(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--learning-rate", "1e30"]) == 1
    assert "are not finite: it diverged" in capsys.readouterr().err
    assert main([*command, "--learning-rate", "1e30"]) == 1
    assert "diverged; name another folder" in capsys.readouterr().err
    restored = RunDir(tmp_path / "runs/tiny-single").restore()
    assert restored is not None
