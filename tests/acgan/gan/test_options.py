"""Options around the published step: off they change no bit, on they act, and all are resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from acgan.config import TrainConfig
from acgan.errors import InputError
from acgan.gan.step import Training, train_step, update_generator
from acgan.generation.generator import load_generator
from acgan.run.rundir import RunDir
from acgan.run.weights import weights_bytes
from acgan.training import DeviceImages, train_epoch
from search.study.folder import check_same, open_study
from tests.acgan.gan.test_step import gradients_of_all_sizes, keras_adam, linear, stepped
from tests.kit import OPTIONS_OFF, OPTIONS_ON, tiny_config, tiny_dataset, tiny_images
from tests.studies import write_study

CPU = torch.device("cpu")
UNUSED = {"r1_every": 3}  # says how an option works, if it is on
DATA = tiny_dataset(train=21)


def trained(training: Training, epochs: range) -> list[dict[str, float]]:
    images = DeviceImages(DATA.train, CPU)
    return [train_epoch(training, images, epoch) for epoch in epochs]


def start(**changes: Any) -> Training:
    return Training(tiny_config(**changes), classes=3, device=CPU)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_option_is_off_in_the_baseline() -> None:
    assert TrainConfig(**OPTIONS_OFF) == TrainConfig()
    assert OPTIONS_ON.keys() == OPTIONS_OFF.keys()
    assert all(OPTIONS_ON[name] != OPTIONS_OFF[name] for name in OPTIONS_ON)


def test_options_at_their_off_values_change_no_bit() -> None:
    plain, off = start(), start(**OPTIONS_OFF, **UNUSED)
    assert trained(plain, range(1, 4)) == trained(off, range(1, 4))
    assert same(plain.tensors(), off.tensors())


@pytest.mark.parametrize("name", OPTIONS_ON)
def test_each_option_alone_acts_and_stays_finite(name: str) -> None:
    plain, on = start(), start(**{name: OPTIONS_ON[name]})
    trained(plain, range(1, 3))
    second = trained(on, range(1, 3))
    # Not by the losses: R1 of a young discriminator is so small that they may be the same.
    discriminators = (training.discriminator.state_dict() for training in (plain, on))
    assert same(*discriminators) is (name == "ema_decay")
    assert not same(plain.candidate.state_dict(), on.candidate.state_dict())
    assert all(torch.tensor(list(metrics.values())).isfinite().all() for metrics in second)


@pytest.mark.parametrize(
    "changes", [*({name: OPTIONS_ON[name]} for name in OPTIONS_ON), OPTIONS_ON | UNUSED], ids=str
)
def test_training_with_options_continues_from_its_tensors_bit_for_bit(
    changes: dict[str, Any],
) -> None:
    straight, stopped = start(seed=1, **changes), start(seed=1, **changes)
    expected = trained(straight, range(1, 5))
    found = trained(stopped, range(1, 3))
    resumed = start(seed=2, **changes)
    resumed.load_tensors({name: tensor.clone() for name, tensor in stopped.tensors().items()})
    resumed.config = stopped.config
    found += trained(resumed, range(3, 5))
    assert found == expected
    assert same(resumed.tensors(), straight.tensors())


# --- what was written before there were options ----------------------------------------------


def without_options(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if k not in {*OPTIONS_OFF, *UNUSED}}


def test_a_run_of_a_version_without_options_goes_on_and_one_with_them_is_refused(
    tmp_path: Path,
) -> None:
    def claim(config: TrainConfig) -> None:
        RunDir(tmp_path).claim(config, classes=DATA.classes, fingerprint=DATA.fingerprint)

    claim(tiny_config())
    path = tmp_path / "config.json"
    content = json.loads(path.read_bytes())
    assert OPTIONS_OFF.items() <= content["train"].items()
    path.write_text(json.dumps(content | {"train": without_options(content["train"])}))
    claim(tiny_config())
    with pytest.raises(InputError, match=r"ema_decay: 0\.0 → 0\.9"):
        claim(tiny_config(ema_decay=0.9))


def test_a_study_of_a_version_without_options_is_the_same_study(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", trials=1, epochs=2)
    old = study.info.model_copy(update={"train": without_options(study.info.train)})
    assert OPTIONS_OFF.items() <= study.info.train.items()
    (study.path / "study.json").write_text(old.model_dump_json())
    check_same(study.path, study.info)
    assert not OPTIONS_OFF.keys() & open_study(study.path).info.train.keys()
    changed = study.info.model_copy(update={"train": study.info.train | {"cutout": 0.5}})
    with pytest.raises(InputError, match=r"train\.cutout: 0\.0 → 0\.5"):
        check_same(study.path, changed)


def test_weights_of_a_version_without_options_are_read(tmp_path: Path) -> None:
    training = start()
    fields = without_options(training.config.model_dump())
    texts = {"config": json.dumps(fields), "classes": json.dumps(DATA.classes), "run": "t0000"}
    content = weights_bytes(training.candidate.state_dict(), texts | {"epoch": "1"})
    (tmp_path / "old.safetensors").write_bytes(content)
    assert load_generator(tmp_path / "old.safetensors", device=CPU).config == training.config


# --- learning rates --------------------------------------------------------------------------


def test_the_discriminators_adam_has_its_own_step_size() -> None:
    training = start(learning_rate=1e-3, discriminator_rate=4.0)
    rates = [a.learning_rate for a in (training.generator_adam, training.discriminator_adam)]
    assert rates == pytest.approx([1e-3, 4e-3])


def test_a_factor_on_the_rate_is_adam_at_that_rate() -> None:
    config, gradients = TrainConfig(discriminator_rate=3.0), gradients_of_all_sizes(5)
    layer = linear()
    faster = config.model_copy(update={"learning_rate": 3 * config.learning_rate})
    expected = keras_adam(layer.weight.detach().numpy().copy(), gradients, faster)
    adam = type(start().discriminator_adam)(layer, config, rate=config.discriminator_rate)
    assert stepped(layer, gradients, adam.update) == pytest.approx(expected, rel=0, abs=1e-12)


# --- DiffAugment in the step -----------------------------------------------------------------


def seen_by_discriminator(training: Training, step: Callable[[], object]) -> list[Tensor]:
    seen: list[Tensor] = []
    hook = training.discriminator.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    step()
    hook.remove()
    return seen


def test_the_discriminator_sees_all_images_cut_in_both_updates() -> None:
    training = start(cutout=0.5)
    bias = training.generator.get_parameter("image.bias")
    torch.nn.init.constant_(bias, 0.3)  # no pixel is 0
    images = tiny_images(8)
    real = torch.from_numpy(images.images).float().div(255).add(0.1)[:, None].expand(-1, 3, -1, -1)
    labels, noise = torch.from_numpy(images.labels), torch.Generator().manual_seed(0)
    seen = seen_by_discriminator(training, lambda: train_step(training, real, labels, noise))
    assert [len(batch) for batch in seen] == [16, 16]  # real and generated; generated
    for batch in seen:
        cut = (batch == 0).all(dim=1).flatten(1).sum(1)
        assert (cut >= 16).all()  # of 16 × 16 pixels at least a quarter of the square
        assert (cut <= 64).all()


def test_the_generator_learns_through_the_augmentation() -> None:
    training = start(translation=0.125, cutout=0.5)
    before = {k: v.clone() for k, v in training.generator.named_parameters()}
    update_generator(training, 16, torch.Generator().manual_seed(0))
    moved = [k for k, v in training.generator.named_parameters() if not torch.equal(before[k], v)]
    assert len(moved) == len(before)


# --- class-balanced sampling -----------------------------------------------------------------


def test_an_epoch_has_equally_many_real_images_of_each_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = tiny_images(40)
    images.labels[:] = [0] * 4 + [1] * 9 + [2] * 27
    counts = torch.zeros(3, dtype=torch.int64)

    def counted(training: Training, batch: Tensor, labels: Tensor, *rest: Any) -> Tensor:
        counts.add_(torch.bincount(labels, minlength=3))
        return train_step(training, batch, labels, *rest)

    monkeypatch.setattr("acgan.training.train_step", counted)
    train_epoch(start(class_balanced=True), DeviceImages(images, CPU), 1)
    assert sorted(counts.tolist()) == [13, 13, 14]


def test_the_generators_gradient_is_linear_in_the_weight_of_its_class_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gradient(weight: float) -> Tensor:
        training = start(generator_class_weight=weight)
        monkeypatch.setattr(training.generator_adam, "update", lambda: None)
        update_generator(training, 8, torch.Generator().manual_seed(0))
        parts = [p.grad for p in training.generator.parameters() if p.grad is not None]
        return torch.cat([part.flatten() for part in parts])

    none, some, whole = (gradient(weight) for weight in (0.0, 0.3, 1.0))
    assert (whole - none).abs().max() > 0
    torch.testing.assert_close(some, 0.7 * none + 0.3 * whole)
