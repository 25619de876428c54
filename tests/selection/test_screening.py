"""Generated images that are left out: which ones, what it costs, and when it is too many."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from acgan.data.balance import Lack
from acgan.data.dataset import Dataset, ImageSet
from acgan.errors import InputError
from acgan.evaluation.classifier import predict
from acgan.evaluation.fit import FitConfig
from acgan.evaluation.scorer import Scorer
from acgan.generation.folder import SCREENED, Manifest
from acgan.generation.generator import load_generator
from selection.commands import screening
from selection.commands.screening import (
    Agreement,
    Filters,
    Request,
    Thresholds,
    chosen_before,
    screening_lines,
)
from selection.extractors.cnn3 import Cnn3
from selection.generate import main
from selection.metrics.features import FeatureSet, mean_distance
from tests.acgan.data.test_balance import write_unbalanced
from tests.acgan.test_generate import content, write_weights
from tests.kit import CLASSES, tiny_images

CPU = torch.device("cpu")
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module", autouse=True)
def quick_cnns(cache: Path) -> Iterator[None]:
    """CNNs of ramps need few epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("acgan.evaluation.scorer.scorer_fit", lambda images: FitConfig(2e-3, 6, 16))
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "epoch-0007.safetensors")


def part(images: ImageSet, rows: list[int], source: str = "ramps") -> ImageSet:
    names = tuple(f"{source}-{i}" for i in rows)
    return ImageSet(images.images[rows], images.labels[rows], names, (source,) * len(rows))


def unbalanced() -> Dataset:
    """Return ramps of which COVID-19 has a third as many to train on as the others."""
    train, val = tiny_images(180, seed=0), tiny_images(60, seed=1)
    rows = [i for i in range(180) if train.labels[i] != 0 or i % 9 == 0]
    return Dataset("ramps", CLASSES, part(train, rows), val, part(val, []), "unbalanced ramps")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return unbalanced()


def request_of(
    data: Dataset, weights: Path, thresholds: Thresholds, *, wanted: int = 40, draws: int = 20
) -> Request:
    loaded = load_generator(weights, device=CPU)
    lack = Lack(data, {}, {"COVID-19": wanted}, dict.fromkeys(CLASSES, 0))
    return Request(loaded, lack, 5, thresholds, draws)


class Planted:
    """What a generator would make: even numbers COVID-19, odd ones normal; one in ten a copy."""

    def __init__(self, data: Dataset) -> None:
        fresh = tiny_images(3000, seed=9)
        self.own, self.other = (fresh.images[fresh.labels == label] for label in (0, 1))
        self.copy = data.train.images[data.train.labels == 0][0]

    def __call__(self, loaded: object, label: int, *, count: int, seed: int, start: int) -> Pixels:
        assert (label, count, seed) == (0, 64, 5)
        grey = np.stack([self.image(number) for number in range(start, start + count)])
        return grey[:, None].repeat(3, axis=1)

    def image(self, number: int) -> Pixels:
        found: Pixels = (self.own, self.other)[number % 2][number]
        return self.copy if number % 10 == 0 else found


@pytest.fixture
def planted(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> Planted:
    """A generator whose images are known one by one."""
    made = Planted(data)
    monkeypatch.setattr(screening, "generate", made)
    return made


def test_agreement_counts_classes_as_equally_frequent(data: Dataset) -> None:
    found = Agreement(data, CPU)
    images = data.val.images
    probabilities = found.probabilities(images)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(len(images)))
    plain = predict(found._scorer.classifier, images)
    again = probabilities * torch.tensor(data.train.per_class(3))
    assert torch.allclose(again / again.sum(dim=1, keepdim=True), plain, atol=1e-6)
    rare = probabilities[:, 0] >= plain[:, 0] - 1e-6  # the rarest class can only gain
    assert rare.all()
    assert found.balanced_accuracy(data.val) > 0.9


def test_images_of_another_class_and_copies_are_left_out_and_counted(
    data: Dataset, weights: Path, planted: Planted
) -> None:
    asked = Thresholds(agreement=0.5, nearest=0.05)
    report = Filters(request_of(data, weights, asked)).choose()
    own = report.classes["COVID-19"]
    assert len(own.numbers) == own.kept == own.wanted == 40
    assert own.numbers == sorted(own.numbers)
    assert own.drawn == own.numbers[-1] + 1  # it stops at the last one that is kept
    assert not any(number % 10 == 0 for number in own.numbers)  # no copy
    odd = sum(number % 2 for number in own.numbers)
    assert odd <= 2  # hardly any of another class
    assert own.rejected_share == pytest.approx(1 - 40 / own.drawn)
    assert own.failed_agreement is not None
    assert own.failed_nearest is not None
    assert own.failed_agreement >= own.drawn // 2 - 3
    assert own.failed_nearest >= math.ceil(own.drawn / 10)
    assert own.failed_agreement + own.failed_nearest >= own.drawn - 40


def test_each_filter_alone_asks_nothing_of_the_other(
    data: Dataset, weights: Path, planted: Planted
) -> None:
    agreed = Filters(request_of(data, weights, Thresholds(agreement=0.5))).choose()
    own = agreed.classes["COVID-19"]
    assert own.failed_nearest is None
    assert any(number % 10 == 0 for number in own.numbers)
    far = Filters(request_of(data, weights, Thresholds(nearest=0.05))).choose()
    own = far.classes["COVID-19"]
    assert own.failed_agreement is None
    assert (far.cnn_sha256, far.cnn_balanced_accuracy) == (None, None)
    assert sum(number % 2 for number in own.numbers) >= 10


def test_diversity_is_measured_of_equally_many_images_before_and_after(
    data: Dataset, weights: Path, planted: Planted
) -> None:
    asked = Thresholds(agreement=0.5)
    report = Filters(request_of(data, weights, asked)).choose()
    own = report.classes["COVID-19"]
    extractor = Cnn3(data, CPU)
    for found, numbers in ((own.before, range(40)), (own.after, own.numbers)):
        images = np.stack([planted.image(n) for n in numbers])
        views = extractor.extract(images[:, None].repeat(3, axis=1))
        expected = np.mean([mean_distance(FeatureSet(view.features)) for view in views])
        assert found.images == 40
        assert found.distance == pytest.approx(expected, rel=1e-6)
    assert own.before.distance is not None
    assert own.after.distance is not None
    assert own.after.distance < own.before.distance  # one class is less varied than two
    assert own.real.images == 20
    assert own.after.coverage is not None
    text = "\n".join(screening_lines(report))
    assert f"COVID-19: 40 of {own.drawn} images kept" in text
    assert "→" in text


def test_the_same_request_chooses_the_same_and_a_larger_one_more_of_them(
    data: Dataset, weights: Path, planted: Planted
) -> None:
    asked = Thresholds(agreement=0.5, nearest=0.05)
    first = Filters(request_of(data, weights, asked)).choose()
    assert Filters(request_of(data, weights, asked)).choose() == first
    more = Filters(request_of(data, weights, asked, wanted=70)).choose()
    numbers = more.classes["COVID-19"].numbers
    assert numbers[:40] == first.classes["COVID-19"].numbers


def test_a_filter_that_rejects_too_much_says_how_much_and_what_to_do(
    data: Dataset, weights: Path, planted: Planted
) -> None:
    request = request_of(data, weights, Thresholds(agreement=0.5, nearest=0.05), draws=2)
    with pytest.raises(InputError) as raised:
        Filters(request).choose()
    sentence = str(raised.value)
    assert "of 80 images of COVID-19 pass the filters, 40 are wanted" in sentence
    assert "of the real validation images, does not agree on " in sentence
    assert "lie too near to a training image" in sentence
    assert "or draw more than --max-draws 2 for each" in sentence


def test_a_class_that_cannot_be_judged_is_refused(data: Dataset, weights: Path) -> None:
    few = ImageSet(data.val.images, data.val.labels, ("one",) * 60, data.val.sources)
    one_patient = Dataset("few", CLASSES, data.train, few, data.test, "few")
    with pytest.raises(
        InputError, match=r"--not-near cannot judge COVID-19 \(held-out patients: 1"
    ):
        Filters(request_of(one_patient, weights, Thresholds(nearest=0.05)))


def test_what_was_chosen_is_read_again_for_the_same_request_alone(
    data: Dataset, weights: Path, planted: Planted, tmp_path: Path
) -> None:
    asked = Thresholds(agreement=0.5)
    request = request_of(data, weights, asked)
    report = Filters(request).choose()
    assert chosen_before(tmp_path, request) is None
    (tmp_path / SCREENED).write_text(report.model_dump_json())
    assert chosen_before(tmp_path, request) == report
    others = [
        request_of(data, weights, Thresholds(agreement=0.6)),
        request_of(data, weights, asked, wanted=41),
        request_of(unbalanced(), write_weights(tmp_path / "w", seed=1), asked),
    ]
    assert [chosen_before(tmp_path, other) for other in others] == [None] * 3
    (tmp_path / SCREENED).write_text("{")
    assert chosen_before(tmp_path, request) is None


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of so many patients that every class can be judged."""
    counts = {"COVID-19": 60, "normal": 80, "pneumonia": 70}
    return write_unbalanced(tmp_path_factory.mktemp("data") / "images", counts)


def typed(weights: Path, data: Path, out: Path, *more: str) -> int:
    return main(["--weights", str(weights), "--balance", str(data), "--out", str(out), *more])


def test_the_command_writes_what_passes_and_what_was_left_out(
    weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert typed(weights, folder, out, "--not-near", "0.3") == 0
    output = capsys.readouterr().out
    report = json.loads((out / SCREENED).read_bytes())
    names = {path.name for path in (out / "train").iterdir()}
    chosen = {
        f"{name}-{number:06d}.png"
        for name, own in report["classes"].items()
        for number in own["numbers"]
    }
    assert names == chosen
    assert len(names) == 20 + 10
    manifest = Manifest.model_validate_json((out / "manifest.json").read_bytes())
    assert manifest.filters == "nearest 0.3"
    assert set(manifest.files) == {f"train/{name}" for name in names}
    assert len((out / "train.txt").read_text().splitlines()) == 30
    assert "COVID-19: 20 of " in output
    assert f"what was left out stands in {out / SCREENED}" in output


def test_typed_again_nothing_is_decided_anew(
    weights: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert typed(weights, folder, out, "--not-near", "0.3") == 0
    whole = content(out)
    (out / "train" / sorted(p.name for p in (out / "train").iterdir())[0]).unlink()
    (out / "train.txt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Filters, "choose", None)
        assert typed(weights, folder, out, "--not-near", "0.3") == 0
    assert content(out) == whole
    (out / SCREENED).unlink()  # it comes out the same
    assert typed(weights, folder, out, "--not-near", "0.3") == 0
    assert content(out) == whole


def test_other_filters_in_the_same_folder_are_refused(
    weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert typed(weights, folder, out, "--not-near", "0.3") == 0
    before = content(out)
    capsys.readouterr()
    for flags in (["--not-near", "0.2"], []):
        assert typed(weights, folder, out, *flags) == 2
        assert "made otherwise (filters: nearest 0.3" in capsys.readouterr().err
    assert content(out) == before


def test_too_many_rejected_is_one_sentence_and_leaves_nothing(
    weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"  # noise is not taken for all classes with such confidence
    assert typed(weights, folder, out, "--agree", "0.9999999", "--max-draws", "2") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: only ")
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--per-class", "3", "--agree", "0.5"], "need --balance DATA"),
        (["--per-class", "3", "--not-near", "0.05"], "need --balance DATA"),
        (["--balance", "phantom", "--agree", "1"], "--agree must be a probability"),
        (["--balance", "phantom", "--agree", "-0.1"], "--agree must be a probability"),
        (["--balance", "phantom", "--not-near", "0"], "--not-near must lie between 0 and 1"),
        (["--balance", "phantom", "--max-draws", "0"], "--max-draws must be at least 1"),
        (["--balance", "phantom", "--agree", "nan"], "--agree must be a probability"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    out = tmp_path / "out"
    assert main(["--weights", str(weights), "--out", str(out), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert reason in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_broken_generator_is_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write_weights(tmp_path / "broken.safetensors", scale=math.inf)
    assert typed(broken, folder, tmp_path / "out", "--not-near", "0.05") == 1
    assert "not finite; choose other weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_agreements_cnn_is_none_of_those_that_measure_diversity(data: Dataset) -> None:
    sha256 = Agreement(data, CPU).sha256
    cnn3 = Cnn3(data, CPU)
    assert sha256 not in {cnn3.sha256}
    weights = [next(iter(scorer.classifier.parameters())) for scorer in cnn3.scorers]
    own: Scorer = Agreement(data, CPU)._scorer
    first = next(iter(own.classifier.parameters()))
    assert not any(torch.equal(first, other) for other in weights)
