from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from acgan.errors import InputError
from acgan.gan.models import Discriminator, Generator
from acgan.gan.networks import (
    build_discriminator,
    build_generator,
    check_networks,
    find_networks,
)
from acgan.gan.step import Training, train_step
from acgan.generation.generator import generate, load_generator
from acgan.plugins import NETWORKS
from acgan.run.rundir import RunDir
from acgan.training import generator_bytes, train
from search.study import estimate
from search.study.space import read
from tests.kit import tiny_config, tiny_dataset
from tests.plugins import plugin_installed

CPU = torch.device("cpu")
CODE = """
import torch
from torch import nn
from acgan.config import derive_seed
from acgan.gan.interface import DiscriminatorNetwork, GeneratorNetwork
from acgan.gan.networks import Networks

class Flat(GeneratorNetwork):
    def __init__(self, config, classes):
        super().__init__()
        self.side, self.classes = config.image_size, classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, "flat"))
            self.layer = nn.Linear(config.latent_size + classes, 3 * self.side**2)
    def forward(self, latents, labels):
        one_hot = nn.functional.one_hot(labels, self.classes)
        x = torch.tanh(self.layer(torch.cat([latents, one_hot], 1)))
        return x.unflatten(1, (3, self.side, self.side))

class Deep(Flat):
    def __init__(self, config, classes):
        super().__init__(config, classes)
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]  # as timm's

class Counted(Flat):
    def __init__(self, config, classes):
        super().__init__(config, classes)
        self.mean = self.layer.weight.detach().numpy().mean()

class Judge(DiscriminatorNetwork):
    def __init__(self, config, classes):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, "judge"))
            self.layer = nn.Linear(3 * config.image_size**2, 1 + classes)
    def forward(self, images, noise=None):
        x = self.layer(images.flatten(1))
        return x[:, 0], x[:, 1:]

class Short(Judge):
    def forward(self, images, noise=None):
        source, label = super().forward(images)
        return source, label[:, 1:]

class Partly(Judge):
    def __init__(self, config, classes):
        super().__init__(config, classes)
        self.fixed = nn.Linear(3 * config.image_size**2, 3 * config.image_size**2, bias=False)
        nn.init.eye_(self.fixed.weight).requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(2))
    def forward(self, images, noise=None):
        return super().forward(self.fixed(images.flatten(1)))

flat = Networks(Flat, Judge)
deep, counted = Networks(Deep, Judge), Networks(Counted, Judge)
partly = Networks(Flat, Partly)
short = Networks(Flat, Short)
"""


@pytest.fixture(name="plugin")
def _plugin(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "installed"
    folder.mkdir()
    names = ("flat", "deep", "counted", "partly", "short")
    entries = {**{name: name for name in names}, "broken": "Flat"}
    with plugin_installed(folder, NETWORKS, entries, CODE):
        yield folder


def test_without_a_word_the_networks_are_the_published_ones() -> None:
    config = tiny_config()
    assert type(build_generator(config, 3)) is Generator
    assert type(build_discriminator(config, 3)) is Discriminator


def test_a_plug_ins_networks_are_trained_kept_and_read_again(plugin: Path, tmp_path: Path) -> None:
    assert plugin.is_dir()
    config = tiny_config(networks="flat", ema_decay=0.5, mode_seeking=1.0, hinge=True)
    training = Training(config, classes=3, device=CPU)
    before = [p.detach().clone() for p in training.generator.parameters()]
    noise = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 16, 16).mul(2).sub(1)
    numbers = train_step(training, images, torch.arange(8) % 3, noise)
    assert numbers.isfinite().all()
    after = list(training.generator.parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert training.ema is not None

    path = tmp_path / "epoch-0001.safetensors"
    path.write_bytes(generator_bytes(training, tiny_dataset(), RunDir(tmp_path / "t0000"), 1))
    loaded = load_generator(path, device=CPU)
    assert type(loaded.generator).__name__ == "Flat"
    assert generate(loaded, 2, count=3, seed=1).shape == (3, 3, 16, 16)


@pytest.mark.parametrize("name", ["deep", "counted"])
def test_networks_that_look_at_their_numbers_when_they_are_made_are_read_again(
    plugin: Path, tmp_path: Path, name: str
) -> None:
    assert plugin.is_dir()
    training = Training(tiny_config(networks=name), classes=3, device=CPU)
    path = tmp_path / "epoch-0001.safetensors"
    path.write_bytes(generator_bytes(training, tiny_dataset(), RunDir(tmp_path / "t0000"), 1))
    assert type(load_generator(path, device=CPU).generator).__name__ == name.capitalize()


def test_weights_that_a_plug_in_freezes_stay_and_those_that_it_does_not_use_do_no_harm(
    plugin: Path,
) -> None:
    assert plugin.is_dir()
    config = tiny_config(networks="partly")
    training, twin = (Training(config, classes=3, device=CPU) for _ in range(2))
    images, labels = torch.rand(8, 3, 16, 16).mul(2).sub(1), torch.arange(8) % 3
    noise = torch.Generator().manual_seed(0)
    for _ in range(2):
        train_step(training, images, labels, noise)
        twin.load_tensors(training.tensors())
    state = training.discriminator.state_dict()
    assert torch.equal(state["fixed.weight"], torch.eye(768))
    assert torch.equal(state["unused"], torch.ones(2))
    same = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    for each, random in zip((training, twin), same, strict=True):
        train_step(each, images, labels, random)
    there, own = training.tensors(), twin.tensors()
    assert all(torch.equal(there[name], own[name]) for name in there)


def test_a_plug_ins_networks_are_counted_for_memory_and_disk(plugin: Path) -> None:
    assert plugin.is_dir()
    config = tiny_config(networks="flat")
    generator, discriminator = build_generator(config, 3), build_discriminator(config, 3)
    count = sum(p.numel() for net in (generator, discriminator) for p in net.parameters())
    assert count == (6 + 3 + 1) * 768 + (768 + 1) * 4
    bytes_of = estimate.memory(config, 3) - estimate.memory(tiny_config(), 3)
    published = nn.ModuleList([Generator(tiny_config()), Discriminator(tiny_config())])
    difference = count - sum(p.numel() for p in published.parameters())
    assert bytes_of == estimate.COPIES * 4 * difference


def test_networks_that_are_not_installed_are_refused_with_what_to_do(
    plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tiny_config(networks="flat"), classes=3, device=CPU)
    path = tmp_path / "epoch-0001.safetensors"
    path.write_bytes(generator_bytes(training, tiny_dataset(), RunDir(tmp_path / "t0000"), 1))
    with pytest.raises(InputError, match="'flot' are not installed here; did you mean 'flat'"):
        find_networks("flot")
    with pytest.raises(InputError, match=r"'broken' of acgan_search.networks must name an"):
        find_networks("broken")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(plugin)])
    with pytest.raises(InputError, match="'flat' are not installed here; known: published; inst"):
        load_generator(path, device=CPU)


def test_networks_that_do_not_keep_their_promise_are_refused_before_any_work(plugin: Path) -> None:
    assert plugin.is_dir()
    state = torch.get_rng_state()
    check_networks(tiny_config(networks="flat"), 3)
    check_networks(tiny_config(), 3)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(
        InputError, match=r"'short' give class logits of shape \[2, 2\] where \[2, 3"
    ):
        check_networks(tiny_config(networks="short"), 3)
    with pytest.raises(InputError, match=r"RuntimeError: .*; with grey: true images have one chan"):
        check_networks(tiny_config(networks="flat", grey=True), 3)
    for name, problem in (("short", "give class logits"), ("gone", "are not installed here")):
        run = RunDir(plugin.parent / name)
        with pytest.raises(InputError, match=problem):
            next(train(tiny_config(networks=name), tiny_dataset(), run))
        assert not run.path.exists()


def test_networks_are_no_dimension_of_a_search() -> None:
    with pytest.raises(InputError, match="'networks' cannot be searched"):
        read({"networks": {"choices": ["published", "flat"]}}, tiny_config())
