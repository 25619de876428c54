"""The step in bfloat16 against the step in float32, the numerical reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acgan.data.source import PHANTOM, DataSource
from acgan.errors import InputError
from acgan.files import write_json
from acgan.gan.precision import check_precision
from acgan.gan.step import METRICS, Training, train_step
from acgan.run.weights import parse_weights, weights_bytes
from search.nodes.probe import try_device
from search.nodes.sees import StudyAt
from search.study.estimate import trial_seconds
from search.tune.trial import prepare_scoring
from tests.kit import OPTIONS_ON, tiny_config, tiny_images
from tests.studies import write_study

CPU = torch.device("cpu")
ROUNDING = 2**-8  # half of what two neighbouring bfloat16 numbers lie apart, relative
ALL_BUT_PRECISION = {name: value for name, value in OPTIONS_ON.items() if name != "precision"}


def start(precision: str, **changes: Any) -> Training:
    changes = {"width": 1 / 8, "batch_size": 24, **changes}
    return Training(tiny_config(precision=precision, **changes), classes=3, device=CPU)


def steps(training: Training, count: int) -> Tensor:
    """Return `METRICS` of so many steps on the same batch, [count, 9]."""
    ramps = tiny_images(24)
    images = torch.from_numpy(ramps.images).float().div(127.5).sub(1)[:, None].expand(-1, 3, -1, -1)
    noise = torch.Generator().manual_seed(3)
    labels = torch.from_numpy(ramps.labels)
    return torch.stack([train_step(training, images, labels, noise) for _ in range(count)])


@pytest.mark.parametrize("changes", [{}, ALL_BUT_PRECISION], ids=["published", "options"])
def test_twenty_steps_have_the_losses_of_float32(changes: dict[str, Any]) -> None:
    exact, fewer = (steps(start(each, **changes), 20) for each in ("float32", "bfloat16"))
    losses = [place for place, name in enumerate(METRICS) if "loss" in name]
    torch.testing.assert_close(
        fewer[:, losses], exact[:, losses], rtol=8 * ROUNDING, atol=8 * ROUNDING
    )
    assert not torch.equal(fewer, exact)


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_every_convolution_of_a_step_computes_in_the_asked_precision_and_nothing_else(
    precision: str, expected: torch.dtype
) -> None:
    training, seen = start(precision), []

    def look(_: nn.Module, __: object, output: Tensor) -> None:
        seen.append(output.dtype)

    for network in (training.generator, training.discriminator):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.register_forward_hook(look)
    assert steps(training, 1).dtype == torch.float32
    # In a step both networks compute twice: 2 dense and 4 transposed ones, 5 convolutions, 2 heads.
    assert seen == [expected] * 2 * (2 + 4 + 5 + 2)
    assert {v.dtype for v in training.tensors().values()} == {torch.float32, torch.int64}


def test_what_is_measured_of_an_epoch_is_float32() -> None:
    training = start("bfloat16")
    latents = torch.rand(4, training.config.latent_size)
    with torch.no_grad():
        images = training.candidate.eval()(latents, torch.arange(4) % 3)
    assert images.dtype == torch.float32
    assert len(images.unique()) > 256  # more than bfloat16 has digits for


def test_weights_and_moments_lie_alike_after_a_resumption() -> None:
    training = start("bfloat16")
    steps(training, 1)
    content = weights_bytes(training.tensors(), {})
    resumed = start("bfloat16", seed=7)
    resumed.load_tensors(parse_weights(content)[0])
    weight = resumed.discriminator.get_parameter("convolutions.1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for adam in (resumed.generator_adam, resumed.discriminator_adam):
        for parameter in adam.parameters:
            for moment in ("exp_avg", "exp_avg_sq"):
                assert adam.state[parameter][moment].stride() == parameter.stride()
    assert torch.equal(steps(resumed, 1), steps(training, 1))


@pytest.fixture
def old_gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU that does not compute in bfloat16, as far as PyTorch is asked about it."""

    class Device:
        """In place of `torch.cuda.device`, which wants a GPU."""

        def __init__(self, device: torch.device) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    gpu = torch.device("cuda:0")
    for module in ("search.tune.trial", "search.nodes.probe"):
        monkeypatch.setattr(f"{module}.set_aside", lambda _gpu: gpu)
    return gpu


REFUSED = "Tesla T4 has no bfloat16; train with --precision float32"


def test_a_gpu_without_bfloat16_is_refused_before_any_training(old_gpu: torch.device) -> None:
    with pytest.raises(InputError, match=REFUSED):
        check_precision(tiny_config(precision="bfloat16"), old_gpu)
    check_precision(tiny_config(), old_gpu)
    check_precision(tiny_config(precision="bfloat16"), CPU)


@pytest.mark.usefixtures("old_gpu")
@pytest.mark.parametrize("searched", [False, True])
def test_a_search_is_refused_there_before_its_first_trial(tmp_path: Path, searched: bool) -> None:
    study = write_study(tmp_path / "study")
    if searched:  # some trials would have it, the baseline not
        asked = {"space": {"precision": {"choices": ["float32", "bfloat16"]}}}
    else:
        asked = {"train": study.info.train | {"precision": "bfloat16"}}
    write_json(study.path / "study.json", study.info.model_copy(update=asked))
    at = StudyAt(study.path, study.info.uuid, DataSource(folder=PHANTOM))
    with pytest.raises(InputError, match=REFUSED):
        prepare_scoring(at, gpu=True)
    assert not study.scorer_path.exists()


@pytest.mark.usefixtures("old_gpu")
def test_the_doctor_says_so_of_a_node() -> None:
    assert (
        try_device([tiny_config(), tiny_config(precision="bfloat16")], 48, gpu=True).problem
        == REFUSED
    )


def test_a_trial_is_estimated_by_the_rate_of_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {torch.float32: 1e9, torch.bfloat16: 4e9}
    monkeypatch.setattr("search.study.estimate.matrix_rate", lambda _device, dtype: rates[dtype])
    float32, bfloat16 = (
        trial_seconds(tiny_config(image_size=112, width=1.0, precision=p), 64, CPU)
        for p in ("float32", "bfloat16")
    )
    assert float32 == pytest.approx(4 * bfloat16)
