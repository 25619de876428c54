"""The published baseline, small: it learns, and no rule takes it for a failure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from acgan.config import TrainConfig, find_file, read_file, resolve
from acgan.data.pack import load
from acgan.evaluation.variety import DIVERSITY, is_one_picture
from acgan.run.records import EpochRecord, grace_epochs, metric, read_records
from acgan.run.rundir import RunDir
from acgan.training import train
from search.settings import SearchConfig
from search.study.seeds import trial_seed
from search.tune.stopping import GO_ON, collapsed, decide_stop
from tests.kit import ROOT


def assert_never_stopped(records: Sequence[EpochRecord], grace: int) -> None:
    for count in range(1, len(records) + 1):
        # The baseline is never told that others vary.
        found = decide_stop(
            records[:count],
            SearchConfig(patience=1),
            grace,
            epochs=len(records),
            others_vary=False,
        )
        assert found == GO_ON


@pytest.mark.process
def test_the_demos_baseline_halves_its_worst_score_and_is_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    content = read_file(find_file(Path("configs/demo.yaml")))
    flags = {"seed": trial_seed(SearchConfig().seed, 0)}
    config = resolve(TrainConfig, "train", content["train"], flags)
    data = load(content["data"], image_size=config.image_size)
    records = list(train(config, data, RunDir(tmp_path / "run")))
    scores = metric(records, "val/fd_cnn")
    # The second epoch is often worse than the first, and by how much depends on the processor.
    assert min(scores) <= max(scores[:3]) / 2
    assert_never_stopped(records, grace_epochs(config, len(data.train)))


def test_the_baseline_on_real_x_rays_is_never_stopped() -> None:
    """Records of trial 0 of the README's small search: 64 px, width 1/4, 1,512 updates."""
    records = read_records(ROOT / "tests" / "covidx_mini_baseline.jsonl")
    assert len(records) == 36
    config = TrainConfig(image_size=64, width=0.25, batch_size=16, epochs=36)
    grace = grace_epochs(config, 664)
    assert [record.young for record in records] == [record.epoch <= grace for record in records]
    assert_never_stopped(records, grace)


def test_the_baseline_on_real_x_rays_draws_one_picture_a_class() -> None:
    """Its images hardly vary in any epoch; another trial would end where others' do."""
    records = read_records(ROOT / "tests" / "covidx_mini_baseline.jsonl")
    assert all(is_one_picture(value) for value in metric(records, DIVERSITY))
    assert collapsed(records[:20], SearchConfig(), epochs=36) is None
    reason = collapsed(records[:21], SearchConfig(), epochs=36)
    assert reason is not None
    assert reason.startswith("one picture per class, while others vary")
