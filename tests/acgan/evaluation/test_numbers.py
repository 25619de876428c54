"""Numbers of an epoch that a package adds: found, tried, computed and recorded."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from acgan.config import TrainConfig, resolve
from acgan.data.dataset import Dataset
from acgan.errors import InputError
from acgan.evaluation.evaluate import VALIDATION_METRICS, Evaluation, check_numbers
from acgan.evaluation.grids import as_colour, to_uint8
from acgan.evaluation.numbers import more_is_better
from acgan.evaluation.scorer import Scorer, cached_scorer
from acgan.gan.step import Training
from acgan.plugins import NUMBERS
from acgan.run.records import RANKING, read_records
from acgan.run.rundir import RunDir
from acgan.training import METRIC_NAMES, metric_names, train
from search.settings import SearchConfig
from search.study import space
from tests.kit import tiny_config, tiny_dataset
from tests.plugins import plugin_installed

CPU = torch.device("cpu")
CODE = """
import numpy as np
from acgan.evaluation.numbers import Number

def edges(images):
    return float(np.abs(np.diff(images.astype(float), axis=-1)).mean())

def ratio(generated, labels, validation):
    return edges(generated) / edges(validation.images)

sharpness = Number(ratio, better="higher")
channels = Number(lambda generated, labels, validation: float(generated.ndim))
mean = Number(lambda generated, labels, validation: float(generated[labels == 0].mean()))
count = Number(lambda generated, labels, validation: np.int64(len(generated)))
no_float = Number(lambda generated, labels, validation: "much")
yes = Number(lambda generated, labels, validation: True)
fails = Number(lambda generated, labels, validation: labels["x"])
odd = Number(ratio, better="more")

def drawing(generated, labels, validation):
    generated[:] = 0
    return 0.0

draws = Number(drawing)
"""
NAMES = ("sharpness", "channels", "mean", "count", "no_float", "yes", "fails", "odd", "draws")


@pytest.fixture(autouse=True)
def _plugin(tmp_path: Path) -> Iterator[None]:
    entries = {name: name for name in NAMES} | {"fd_cnn": "mean", "text": "NAMES"}
    with plugin_installed(tmp_path / "installed", NUMBERS, entries, CODE + f"NAMES = {NAMES}"):
        yield


@pytest.fixture(scope="module")
def data() -> Dataset:
    return tiny_dataset()


def evaluation_of(data: Dataset, config: TrainConfig) -> Evaluation:
    path = cached_scorer(data, config, CPU)
    scorer = Scorer.load(path, classes=3, image_size=config.image_size, device=CPU)
    return Evaluation(data, config, scorer, CPU)


def read_in_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image [3, H, W] as it is read in grey from a PNG file of it."""
    with io.BytesIO() as file:
        Image.fromarray(pixels.transpose(1, 2, 0)).save(file, format="PNG")
        return np.asarray(Image.open(file).convert("L"))


def test_a_number_is_computed_of_the_fixed_pool_as_a_folder_would_show_it(
    data: Dataset, cache: Path
) -> None:
    config = tiny_config(numbers=("sharpness", "mean", "count", "channels"))
    evaluation = evaluation_of(data, config)
    training = Training(config, classes=3, device=CPU)
    found = evaluation.measure(training.generator, training.discriminator)
    with torch.no_grad():
        images = training.generator(evaluation.pool.latents, evaluation.pool.labels)
    read = np.stack([read_in_grey(pixels) for pixels in to_uint8(images).numpy()]).astype(float)
    first = read[evaluation.pool.labels.numpy() == 0]
    assert found["val/mean"] == pytest.approx(first.mean())
    assert found["val/count"] == len(read) == 1024
    assert found["val/channels"] == 3
    across = np.abs(np.diff(read, axis=-1)).mean()
    real = np.abs(np.diff(data.val.images.astype(float), axis=-1)).mean()
    assert found["val/sharpness"] == pytest.approx(across / real)


def test_in_colour_images_have_three_channels(data: Dataset, cache: Path) -> None:
    train, val, test = (
        dataclasses.replace(own, images=as_colour(own.images))
        for own in (data.train, data.val, data.test)
    )
    in_colour = Dataset("ramps", data.classes, train, val, test, "in colour")
    config = tiny_config(numbers=("channels",))
    check_numbers(config, in_colour)
    training = Training(config, classes=3, device=CPU)
    found = evaluation_of(in_colour, config).measure(training.generator, training.discriminator)
    assert found["val/channels"] == 4


def test_of_images_that_cannot_be_shown_a_number_is_not_known(data: Dataset, cache: Path) -> None:
    config = tiny_config(numbers=("sharpness",))
    training = Training(config, classes=3, device=CPU)
    with torch.no_grad():
        next(iter(training.generator.parameters())).fill_(math.nan)
    found = evaluation_of(data, config).measure(training.generator, training.discriminator)
    assert math.isnan(found["val/sharpness"])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("sharpnes", "numbers 'sharpnes' are not installed here; did you mean 'sharpness'"),
        ("fd_cnn", "val/fd_cnn is recorded already; name the entry point of the number 'fd_cnn'"),
        ("text", "'text' of acgan_search.numbers must name an acgan.evaluation.numbers.Number"),
        ("odd", "number 'odd' must say better='lower' or 'higher', not 'more'"),
        ("no_float", "number 'no_float' must be a float, not a str; mend"),
        ("yes", "number 'yes' must be a float, not a bool"),
        ("fails", r"number 'fails' cannot be computed \(IndexError: .*leave it out of --numbers"),
        ("draws", r"number 'draws' cannot be computed \(ValueError: .*read-only"),
    ],
)
def test_a_number_that_cannot_be_used_is_one_sentence_before_any_work(
    data: Dataset, tmp_path: Path, name: str, problem: str
) -> None:
    run = RunDir(tmp_path / "run")
    with pytest.raises(InputError, match=problem) as caught:
        next(train(tiny_config(numbers=("sharpness", name)), data, run))
    assert "\n" not in str(caught.value)
    assert not run.path.exists()


def test_a_run_records_its_numbers_and_nothing_else_changes(
    data: Dataset, cache: Path, tmp_path: Path
) -> None:
    plain, own = RunDir(tmp_path / "plain"), RunDir(tmp_path / "own")
    config = tiny_config(numbers=("sharpness",))
    before = list(train(tiny_config(), data, plain, device=CPU))
    list(train(config, data, own, device=CPU))
    after = read_records(own.epochs_path)
    assert metric_names(tiny_config()) == METRIC_NAMES
    recorded = {*METRIC_NAMES, "val/sharpness"}
    assert set(metric_names(config)) == recorded
    assert set(after[0].metrics) == recorded | {RANKING.best}
    same = set(METRIC_NAMES) - {"perf/images_per_s"}
    for one, other in zip(before, after, strict=True):
        assert {name: one.metrics[name] for name in same} == {n: other.metrics[n] for n in same}
        assert math.isfinite(other.metrics["val/sharpness"])
    # The same run goes on, and one with other numbers is refused.
    assert list(train(config, data, RunDir(own.path), device=CPU)) == []
    with pytest.raises(InputError, match=r"numbers: \['sharpness'\] → \[\]"):
        next(train(tiny_config(), data, RunDir(own.path), device=CPU))


def test_the_direction_of_an_objective_is_the_numbers_unless_it_is_given() -> None:
    assert more_is_better("val/sharpness")
    for other in ("val/mean", "sharpness", "val/none", "val/text", None, *VALIDATION_METRICS):
        assert not more_is_better(other)
    assert SearchConfig(objective="val/sharpness").direction == "maximize"
    assert SearchConfig(objective="val/mean").direction == "minimize"
    assert SearchConfig(objective="val/sharpness", direction="minimize").direction == "minimize"


def test_numbers_can_be_typed_or_listed_and_are_no_dimension_of_a_search() -> None:
    for given in ("a,b", ["a", "b"], ["a,b"], ("a", " b ")):
        assert resolve(TrainConfig, "train", {}, {"numbers": given}).numbers == ("a", "b")
    for bad in ("a,a", "a/b", "a b"):
        with pytest.raises(InputError, match=r"'train.numbers': must be different names"):
            resolve(TrainConfig, "train", {"numbers": bad}, {})
    with pytest.raises(InputError, match="'numbers' cannot be searched"):
        space.read({"numbers": {"choices": ["a", "b"]}}, tiny_config())
