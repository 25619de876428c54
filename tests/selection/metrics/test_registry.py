"""Stored names and what they are of: there and back, for every metric."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from selection.metrics.features import FeatureSet
from selection.metrics.metric import CLASS_MEAN, DEVIATION, WHOLE, Key, Part
from selection.metrics.registry import METRICS, VERSION, parse

NAMES = {
    "fid": ("fid", "", WHOLE),
    "fd_cnn3": ("fid", "cnn3", WHOLE),
    "intra_fid": ("fid", "", CLASS_MEAN),
    "intra_fd_inception_0123abcd": ("fid", "inception_0123abcd", CLASS_MEAN),
    "kid_cnn3/normal": ("kid", "cnn3", "normal"),
    "kid/COVID-19": ("kid", "", "COVID-19"),
    "intra_kid_plain-mean": ("kid", "plain-mean", CLASS_MEAN),
    "is": ("is", "", WHOLE),
    "is_std": ("is", "", DEVIATION),
    "is_std_cnn3": ("is", "cnn3", DEVIATION),
    "coverage_std-like": ("coverage", "std-like", WHOLE),  # a plug-in of that name
    "kid/all": ("kid", "", "all"),  # leukaemia's cells in C-NMC
}


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_name_says_what_it_is_of(name: str) -> None:
    metric, network, part = NAMES[name]
    key = parse(name)
    assert key is not None
    assert (key.metric.name, key.network, key.part) == (metric, network, part)
    assert str(key) == name


@pytest.mark.parametrize("network", ["", "cnn3", "inception_0123abcd", "plain-mean"])
@pytest.mark.parametrize("part", [*Part, *map(str, Part), "normal", "COVID-19"])
def test_every_key_comes_back_from_its_stored_name(network: str, part: Part | str) -> None:
    for metric in METRICS:
        key = Key(metric, network, part)
        assert parse(str(key)) == key


def test_a_name_of_no_metric_of_this_version_is_unknown() -> None:
    assert [parse(name) for name in ("nonesuch", "intra_nonesuch_cnn3", "kidney/normal", "")] == [
        None
    ] * 4


def test_only_frechet_has_another_name_and_meaning_elsewhere() -> None:
    names = {m.name: (Key(m).table, Key(m, "cnn3").table) for m in METRICS}
    assert names.pop("fid") == ("fid", "fd_cnn3")
    assert all(pair == (name, f"{name}_cnn3") for name, pair in names.items())
    fid = next(metric for metric in METRICS if metric.name == "fid")
    assert "not comparable with FID" in Key(fid, "cnn3").meaning
    assert "not comparable" not in Key(fid).meaning


def test_every_metric_is_better_in_the_direction_it_says() -> None:
    random = np.random.default_rng(0)
    real, near, far = (
        FeatureSet(random.normal(loc=shift, size=(120, 4))) for shift in (0.0, 0.0, 3.0)
    )
    for metric in METRICS:
        if metric.compute is None:
            continue
        good, bad = metric.compute(near, real), metric.compute(far, real)
        assert good < bad if metric.better == "lower" else good > bad, metric.name


def test_the_version_is_that_of_the_metric_that_changed_last() -> None:
    assert VERSION == max(metric.since for metric in METRICS) >= 2


def test_a_metrics_name_is_one_word() -> None:
    for name in ("mmd_rbf", "a/b", ""):
        with pytest.raises(ValueError, match="must be one word of letters"):
            dataclasses.replace(METRICS[0], name=name)
