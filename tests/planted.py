"""Curves with a known optimum, as if configurations had been trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from acgan.config import TrainConfig
from benchmarks.curves import Curve, Curves, Shared

EPOCHS = 9
GRACE = 1
LOW, HIGH = 0.1, 0.6  # the range of the one dimension, dropout


def planted(floors: Mapping[float, float], *, epochs: int = EPOCHS) -> Curves:
    """Return curves that fall towards `floors`, by place in [0, 1]; the baseline's is 0.8."""
    train = TrainConfig(epochs=epochs, grace_fraction=GRACE / epochs, grace_updates=0)
    shared = Shared(
        data="ramps",
        images=64,
        floor=1.0,
        train=train.model_dump(exclude={"seed"}),
        space={"dropout": {"low": LOW, "high": HIGH}},
    )
    return Curves(
        shared,
        [
            Curve(
                params={"dropout": LOW + place * (HIGH - LOW)},
                metrics=metrics([floor + 100 / epoch for epoch in range(1, epochs + 1)]),
            )
            for place, floor in floors.items()
        ],
    )


def metrics(quality: Sequence[float]) -> dict[str, list[float]]:
    """Return a healthy run of this quality."""
    healthy = {"train/g_loss": 1.0, "val/diversity": 0.5}
    healthy |= {"val/acc_real": 0.8, "val/acc_generated": 0.6}
    return {"val/fd_cnn": list(quality)} | {k: [v] * len(quality) for k, v in healthy.items()}
