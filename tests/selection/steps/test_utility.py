"""What step 2's CNNs are trained on, how long, and how their answers become a score."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from acgan.config import derive_seed
from acgan.data.dataset import Dataset, ImageSet
from acgan.evaluation.classifier import Classifier, fit_last, predict
from acgan.evaluation.fit import FitConfig
from acgan.generation.generator import LoadedGenerator, NotFiniteError, generate_all, load_generator
from acgan.run.weights import weights_bytes
from selection.metrics.estimate import Images
from selection.settings import SelectionConfig
from selection.steps import decide
from selection.steps.result import LAST_EPOCHS
from selection.steps.utility import (
    REVERSE_IMAGES,
    hits,
    real_fit,
    reverse,
    train_on_generated,
    train_on_real,
)
from tests.acgan.test_generate import lively_generator, write_weights
from tests.kit import CLASSES, tiny_config, tiny_dataset, tiny_images

CPU = torch.device("cpu")
CONFIG = SelectionConfig(cnn_images=40, cnn_epochs=4, cnn_batch_size=16, cnn_learning_rate=1e-3)
VAL = tiny_images(45, seed=1)


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> list[LoadedGenerator]:
    """Two candidates' generators."""
    folder = tmp_path_factory.mktemp("weights")
    paths = [write_weights(folder / f"{seed}.safetensors", seed=seed) for seed in range(2)]
    return [load_generator(path, device=CPU) for path in paths]


def by_hand(generator: LoadedGenerator, *, images_of: int, cnn: int) -> list[Classifier]:
    """Train a CNN without the module: images of one number, initial weights of another."""
    seed = derive_seed(CONFIG.seed, "utility images", images_of)
    images, labels = generate_all(generator, per_class=40, seed=seed)
    return fit_last(
        images,
        labels,
        config=FitConfig(learning_rate=1e-3, epochs=4, batch_size=16),
        classes=3,
        seed=derive_seed(CONFIG.seed, "utility CNN", cnn),
        count=3,
    )


def same(first: list[Classifier], second: list[Classifier]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(
        torch.equal(a, b)
        for one, other in pairs
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def updates(models: list[Classifier]) -> list[int]:
    """Return how many updates each CNN has had: its BatchNorm has counted them."""
    norms = [next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)) for model in models]
    return [int(norm.num_batches_tracked) for norm in norms if norm.num_batches_tracked is not None]


def test_a_cnn_is_the_fit_of_its_own_images_after_each_of_its_last_three_epochs(
    generators: list[LoadedGenerator],
) -> None:
    found = train_on_generated(generators[0], CONFIG, number=1)
    assert same(found, by_hand(generators[0], images_of=1, cnn=1))


def test_each_cnn_of_a_candidate_sees_fresh_images(generators: list[LoadedGenerator]) -> None:
    first, second = (
        generate_all(
            generators[0], per_class=40, seed=derive_seed(CONFIG.seed, "utility images", number)
        )[0]
        for number in range(2)
    )
    assert not {image.tobytes() for image in first} & {image.tobytes() for image in second}
    found = train_on_generated(generators[0], CONFIG, number=1)
    assert not same(found, by_hand(generators[0], images_of=0, cnn=1))


def test_all_candidates_get_the_same_number_of_updates(generators: list[LoadedGenerator]) -> None:
    for generator in generators:
        found = updates(train_on_generated(generator, CONFIG, number=0))
        assert found == [2 * 8, 3 * 8, 4 * 8]  # epochs · ceil(120 / 16)


def test_another_seed_gives_other_cnns(generators: list[LoadedGenerator]) -> None:
    other = CONFIG.model_copy(update={"seed": 1})
    first, second = (train_on_generated(generators[0], c, number=0) for c in (CONFIG, other))
    assert not same(first, second)


def test_a_generator_of_pixels_that_are_not_finite_is_named(tmp_path: Path) -> None:
    generator = lively_generator(tiny_config())
    state = generator.state_dict()
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[name] = torch.full_like(state[name], torch.nan)
    metadata = {
        "config": tiny_config().model_dump_json(),
        "classes": json.dumps(CLASSES),
        "run": "t0003",
        "epoch": "7",
    }
    path = tmp_path / "broken.safetensors"
    path.write_bytes(weights_bytes(state, metadata))
    with pytest.raises(NotFiniteError, match="t0003, epoch 7"):
        train_on_generated(load_generator(path, device=CPU), CONFIG, number=0)


def test_the_score_is_the_mean_accuracy_of_the_last_three_epochs() -> None:
    train = tiny_images(120)
    config = FitConfig(learning_rate=5e-5, epochs=4, batch_size=16)
    fits = [
        fit_last(train.images, train.labels, config=config, classes=3, seed=seed, count=3)
        for seed in range(3)
    ]
    right = np.array(
        [
            [predict(model, VAL.images).argmax(1).numpy() == VAL.labels for model in models]
            for models in fits
        ]
    )  # [seeds, epochs, images]
    found = [hits(models, VAL) for models in fits]
    assert [[int(digit) for digit in row] for row in found] == right.sum(axis=1).tolist()
    utility = decide.utility(found, Images.of(VAL))
    recalls = [right[..., VAL.labels == label].mean() for label in range(3)]
    assert len(set(right.mean(axis=(0, 2)).tolist())) > 1  # the epochs differ
    assert utility.accuracy.value == pytest.approx(right.mean())
    assert utility.balanced_accuracy.value == pytest.approx(np.mean(recalls))
    assert [own.value for own in utility.recall] == pytest.approx(recalls)


@pytest.mark.parametrize(("images", "epochs"), [(120, 4), (64, 8), (16, 32), (60, 8), (4000, 3)])
def test_the_cnn_of_real_images_gets_the_updates_of_step_2(images: int, epochs: int) -> None:
    found = real_fit(CONFIG, images, 3)
    assert found == FitConfig(learning_rate=1e-3, epochs=epochs, batch_size=16)


@pytest.mark.parametrize("images", [50, 333, 1000, 1900])
def test_its_updates_differ_by_half_an_epoch_at_most(images: int) -> None:
    config = SelectionConfig()
    wanted = config.cnn_epochs * -(-3 * config.cnn_images // config.cnn_batch_size)
    an_epoch = -(-images // config.cnn_batch_size)
    assert abs(real_fit(config, images, 3).epochs * an_epoch - wanted) <= an_epoch / 2


def test_the_cnn_of_real_images_is_the_fit_of_the_training_images() -> None:
    data = tiny_dataset(train=64)
    found = train_on_real(data, CONFIG, number=2, device=CPU)
    wanted = fit_last(
        data.train.images,
        data.train.labels,
        config=FitConfig(learning_rate=1e-3, epochs=8, batch_size=16),
        classes=3,
        seed=derive_seed(CONFIG.seed, "ceiling CNN", 2),
        count=LAST_EPOCHS,
    )
    assert same(found, wanted)
    assert updates(found)[-1] == 32  # as many as for generated images
    assert hits(found, VAL) == hits(wanted, VAL)


def test_it_is_trained_once_for_these_images_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path))
    data = tiny_dataset(train=48)

    def kept() -> set[Path]:
        return set((tmp_path / "cnns").iterdir())

    first = train_on_real(data, CONFIG, number=0, device=CPU)
    (path,) = kept()
    before = path.stat()
    elsewhere = CONFIG.model_copy(update={"fidelity_images": 100, "max_candidates": 5})
    assert same(train_on_real(data, elsewhere, number=0, device=CPU), first)
    assert (kept(), path.stat()) == ({path}, before)
    others: list[tuple[Dataset, dict[str, Any], int]] = [
        (data, {}, 1),
        (data, {"seed": 1}, 0),
        (data, {"cnn_learning_rate": 1e-4}, 0),
        (data, {"cnn_epochs": 5}, 0),
        (dataclasses.replace(data, fingerprint="other"), {}, 0),
    ]
    for count, (images, changes, number) in enumerate(others, start=2):
        settings = CONFIG.model_copy(update=changes)
        train_on_real(images, settings, number=number, device=CPU)
        assert len(kept()) == count


def test_a_kept_cnn_that_is_damaged_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path))
    data = tiny_dataset(train=48)
    first = train_on_real(data, CONFIG, number=0, device=CPU)
    (path,) = (tmp_path / "cnns").iterdir()
    content = path.read_bytes()
    for damaged in (content[:-5] + bytes([content[-5] ^ 1]) + content[-4:], content[:-8], b""):
        path.write_bytes(damaged)
        assert same(train_on_real(data, CONFIG, number=0, device=CPU), first)
        assert path.read_bytes() == content


def accuracy(models: list[Classifier], images: NDArray[np.uint8], label: int) -> float:
    return float(np.mean([(predict(m, images).argmax(1) == label).numpy() for m in models]))


@pytest.fixture(scope="module")
def judges() -> list[Classifier]:
    """Two CNNs of real images."""
    train = tiny_images(48)
    config = FitConfig(learning_rate=5e-5, epochs=4, batch_size=16)  # they learn a part
    return [
        fit_last(train.images, train.labels, config=config, classes=3, seed=seed, count=1)[-1]
        for seed in range(2)
    ]


def test_a_generator_of_real_images_has_the_real_accuracy_in_the_reverse_test(
    judges: list[Classifier],
) -> None:
    found = reverse(judges, VAL.images, VAL.labels)
    wanted = [accuracy(judges, VAL.images[VAL.labels == label], label) for label in range(3)]
    assert found == pytest.approx(wanted)
    assert len(set(found)) > 1


def test_images_of_another_class_have_what_is_left(judges: list[Classifier]) -> None:
    wrong: ImageSet = tiny_images(30, seed=5)
    others = (wrong.labels + 1) % 3
    found = reverse(judges, wrong.images, others)
    wanted = [accuracy(judges, wrong.images[others == label], label) for label in range(3)]
    assert found == pytest.approx(wanted)


def test_the_reverse_test_takes_the_first_512_images_of_a_class(judges: list[Classifier]) -> None:
    called = predict(judges[0], VAL.images).argmax(1).numpy()
    label = int(called[0])
    known, unknown = VAL.images[called == label][:1], VAL.images[called != label][:1]
    first = [known.repeat(REVERSE_IMAGES, 0), unknown.repeat(100, 0)]
    found = reverse(
        judges[:1],
        np.concatenate([*first, VAL.images]),
        np.concatenate([np.full(REVERSE_IMAGES + 100, label), VAL.labels]),
    )
    assert found[label] == 1.0
