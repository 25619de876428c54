from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from acgan.data.source import DataSource
from acgan.files import write_json
from search.nodes.sees import StudyAt
from selection.jobs.results import Result, StoredJob, Work, without_test
from selection.settings import SelectionConfig
from tests.kit import tiny_dataset


class Sum(Result):
    value: int


@dataclass(frozen=True)
class Add(StoredJob[Sum]):
    """A job that adds two numbers, one of them a setting's, and leaves them as tensors too."""

    kind = "sum"
    model = Sum
    setting_names = frozenset({"cnn_epochs"})
    files = (".safetensors",)

    number: int

    @property
    def name(self) -> str:
        return str(self.number)

    @property
    def parts(self) -> tuple[object, ...]:
        return (self.number,)

    def compute(self, *, gpu: bool) -> Sum:
        numbers = torch.tensor([self.number, self.work.settings.cnn_epochs])
        save_file({"numbers": numbers}, self.file(".safetensors"))
        return Sum(value=int(numbers.sum()))


@pytest.fixture
def job(tmp_path: Path) -> Add:
    at = StudyAt(tmp_path, "uuid", DataSource(folder="/images"))
    work = Work(at, SelectionConfig(cnn_epochs=7), "fingerprint", None)
    work.folder.mkdir(parents=True)
    return Add(work, 5)


def value(job: Add) -> int | None:
    found = job.result()
    return None if found is None else found.value


def test_a_result_is_there_once_the_job_has_run(job: Add) -> None:
    assert not job.done()
    job.run(gpu=False)
    assert job.done()
    assert value(job) == 12


def test_what_decides_a_result_decides_its_place_and_nothing_else_does(job: Add) -> None:
    job.run(gpu=False)

    def under(**settings: object) -> Add:
        own = SelectionConfig.model_validate({"cnn_epochs": 7, **settings})
        return replace(job, work=replace(job.work, settings=own))

    assert value(under(fidelity_images=99)) == 12
    others = [
        replace(job, number=6),
        under(cnn_epochs=8),
        replace(job, work=replace(job.work, fingerprint="other")),
    ]
    assert [other.result() for other in others] == [None] * 3
    assert len({other.path for other in (job, *others)}) == 4


@pytest.mark.parametrize("length", [0, 7, -1, None])
def test_a_result_whose_further_file_is_cut_or_gone_is_none(job: Add, length: int | None) -> None:
    job.run(gpu=False)
    file = job.file(".safetensors")
    if length is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:length])
    assert not job.done()
    job.run(gpu=False)
    assert value(job) == 12


def test_a_damaged_result_is_none_and_a_failed_one_needs_no_further_file(job: Add) -> None:
    job.path.write_text('{"value": 1')
    assert not job.done()
    write_json(job.path, Sum(value=0, failed="the generator makes one picture"))
    assert cast("Sum", job.result()).failed == "the generator makes one picture"


def test_without_test_images_only_those_are_gone() -> None:
    data = tiny_dataset()
    left = without_test(data)
    assert len(data.test.images) > 0
    assert len(left.test.images) == len(left.test.labels) == 0
    np.testing.assert_array_equal(left.train.images, data.train.images)
    np.testing.assert_array_equal(left.val.images, data.val.images)
