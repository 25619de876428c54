from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from acgan.config import TrainConfig
from acgan.gan.models import Discriminator, Generator
from benchmarks.peers import plain, plain_recipe
from benchmarks.peers.torch_worker import recipe
from benchmarks.peers.worker import Settings
from benchmarks.step import (
    KERAS,
    PLAIN,
    PLAIN_BFLOAT16,
    PLAIN_RECIPE,
    PROJECT,
    PROJECT_BFLOAT16,
    PUBLISHED,
    RECIPE,
    RECIPE_PEERS,
    Worker,
    commands,
    flop,
    measure,
    recipe_commands,
    recipe_flop,
    rows,
    workers,
)

pytestmark = pytest.mark.process

TINY = Settings(size=16, width=0.0625, batch=4, threads=1)
NO_PEERS = Path("no-such-python")


def test_the_plain_port_has_the_published_parameters() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(plain.Generator(112, 1.0)) == count(Generator(TrainConfig())) == 22_301_316
    ours = Discriminator(TrainConfig())
    assert count(plain.Discriminator(112, 1.0, 0.5)) == count(ours) == 1_670_916


def test_a_step_of_the_port_moves_both_networks_and_no_other_than_its_own() -> None:
    port = plain.Port(size=16, width=0.0625, device=torch.device("cpu"))
    before = [p.clone() for p in (*port.generator.parameters(), *port.discriminator.parameters())]
    losses = port.step(torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0]))
    after = [*port.generator.parameters(), *port.discriminator.parameters()]
    assert all(0 < loss < 10 for loss in losses)
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) > 20


def test_each_way_takes_its_steps_and_has_a_row() -> None:
    with workers(TINY, commands(NO_PEERS)) as ways:
        answers = measure(ways, 2)
        profile = ways[PROJECT].ask("profile")
    assert [len(found) for found in answers.values()] == [2, 2]
    found = rows(answers, TINY, {torch.float32: 1e9})
    assert [row[0] for row in found] == [PLAIN, PROJECT]
    assert {row[5] for row in found} == {row[7] for row in found} == {"not measured"}
    assert str(found[0][6]).startswith("1.00 ")
    assert 0 < sum(share for _, share in profile) <= 1


def test_the_recipe_stands_beside_its_plain_port_and_the_published_step() -> None:
    with workers(TINY, recipe_commands()) as ways:
        answers = measure(ways, 2)
    found = rows(answers, TINY, {torch.float32: 1e9}, RECIPE_PEERS)
    assert [row[0] for row in found] == [PLAIN_RECIPE, RECIPE, PUBLISHED]
    assert str(found[0][5]).startswith("1.00 ")
    assert str(found[2][6]).startswith("1.00 ")


def test_the_plain_port_of_the_recipe_has_its_parameters_but_for_the_grey_channels() -> None:
    config = recipe(Settings(size=32, width=0.25, batch=16, threads=1))

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(plain_recipe.Generator(32, 0.25)) == count(Generator(config))
    ours = Discriminator(config)
    spared = 2 * 9 * len(ours.convolutions[0].bias)  # type: ignore[arg-type]
    assert count(plain_recipe.Discriminator(32, 0.25)) == count(ours) - spared


def test_a_step_of_the_recipes_port_moves_both_networks_and_the_average() -> None:
    port = plain_recipe.RecipePort(size=16, width=0.0625, device=torch.device("cpu"))
    networks = (port.generator, port.discriminator, port.average)
    before = [[p.clone() for p in network.parameters()] for network in networks]
    for _ in range(2):
        losses = port.step(torch.rand(4, 1, 16, 16), torch.tensor([0, 1, 2, 0]))
        assert all(map(math.isfinite, losses))
    for network, former in zip(networks, before, strict=True):
        pairs = zip(network.parameters(), former, strict=True)
        assert sum(not torch.equal(a, b) for a, b in pairs) > len(former) / 2


def test_the_recipes_step_computes_fewer_products_than_the_published_one() -> None:
    size = Settings(size=32, width=0.25, batch=16, threads=1)
    assert 0.5 < recipe_flop(size) / flop(size) < 0.75


def test_a_row_in_bfloat16_is_held_against_the_same_limit_and_the_same_peer() -> None:
    seconds = {PLAIN: 4.0, PLAIN_BFLOAT16: 2.0, PROJECT_BFLOAT16: 1.0}
    answers = {
        name: [{"wall_s": value, "cpu_s": value, "peak_bytes": 1.0}]
        for name, value in seconds.items()
    }
    rate = {torch.float32: flop(TINY) / 2.0, torch.bfloat16: flop(TINY) / 0.5}
    plain_row, reduced_row, own = rows(answers, TINY, rate)
    assert [row[-1] for row in (plain_row, reduced_row, own)] == ["50 %", "25 %", "50 %"]
    assert [str(cell).split()[0] for cell in own[6:8]] == ["4.00", "2.00"]


@pytest.mark.parametrize("way", ["plain-bfloat16", "step-bfloat16"])
def test_a_step_in_bfloat16_is_taken(way: str) -> None:
    command = [sys.executable, "-m", "benchmarks.peers.torch_worker", way]
    with Worker(command, TINY) as worker:
        assert worker.ask("step")["wall_s"] > 0


def test_keras_is_measured_where_it_is_installed(tmp_path: Path) -> None:
    python = tmp_path / "python"
    assert KERAS not in commands(python)
    python.touch()
    assert commands(python)[KERAS] == [str(python), "-m", "benchmarks.peers.keras_worker"]


def test_a_process_that_has_ended_is_an_error() -> None:
    with Worker(["false"], TINY) as worker, pytest.raises(RuntimeError, match="has ended"):
        worker.ask("step")


def test_the_published_step_has_two_tera_operations() -> None:
    assert flop(Settings(size=112, width=1.0, batch=64, threads=1)) == pytest.approx(2.06e12)
    smaller = Settings(size=112, width=0.5, batch=32, threads=1)
    assert flop(smaller) == pytest.approx(2.06e12 / 8)
