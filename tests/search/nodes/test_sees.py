"""A process on a node works only on the driver's own study and images."""

from __future__ import annotations

from pathlib import Path

import pytest

from acgan.config import TrainConfig
from acgan.data.pack import load
from acgan.data.source import DataSource
from acgan.errors import InputError
from acgan.files import write_json
from acgan.plugins import LAYOUTS, NETWORKS
from search.nodes.sees import StudyAt, same_data, same_plugins, same_study, set_aside
from search.study.folder import Study, new_uuid
from tests import studies
from tests.picks import write_covidx
from tests.plugins import on_the_path, write_plugin

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return studies.write_study(tmp_path / "runs" / "demo")


def at(study: Study, source: str = "phantom") -> StudyAt:
    return StudyAt(study.path, study.info.uuid, DataSource(folder=source))


def test_the_drivers_study_is_opened(study: Study) -> None:
    assert same_study(at(study)).info == study.info


def test_a_node_that_sees_no_folder_says_so(study: Study, tmp_path: Path) -> None:
    elsewhere = StudyAt(tmp_path / "nowhere", study.info.uuid, DataSource(folder="phantom"))
    with pytest.raises(InputError, match=r"node \S+ does not see the study's folder: there is no"):
        same_study(elsewhere)


def test_another_study_in_the_same_place_is_refused(study: Study) -> None:
    where = at(study)
    other = study.info.model_copy(update={"uuid": new_uuid()})
    write_json(study.path / "study.json", other)
    with pytest.raises(InputError, match=r"sees another study .* must be a folder that all nodes"):
        same_study(where)


def test_only_the_images_that_the_study_was_begun_with_will_do(
    study: Study, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    write_covidx(folder, train=120, test=30)
    config = TrainConfig(image_size=16)
    with pytest.raises(InputError, match=r"has other images at .*; copy the same folder there"):
        same_data(at(study, str(folder)), study, config)
    info = study.info.model_copy(
        update={"fingerprint": load(str(folder), image_size=16).fingerprint}
    )
    known = Study(study.path, info)
    assert same_data(at(known, str(folder)), known, config).fingerprint == info.fingerprint


def test_without_a_gpu_set_aside_a_task_computes_on_the_cpu() -> None:
    assert set_aside(gpu=False).type == "cpu"


def test_a_node_has_the_plug_ins_of_the_driver(tmp_path: Path) -> None:
    config = TrainConfig(networks="mine")
    same_plugins(TrainConfig(), "class folders", {})
    wanted = {"networks mine": "plugin 1.0", "layouts own": "plugin 1.0"}
    with pytest.raises(InputError, match=r"node \S+ has no package for networks mine, and the dri"):
        same_plugins(config, "own", wanted)
    groups = {NETWORKS: {"mine": "x"}, LAYOUTS: {"own": "x"}}
    write_plugin(tmp_path, groups, "")
    with on_the_path(tmp_path):
        same_plugins(config, "own", wanted)
        write_plugin(tmp_path, groups, "", version="1.1")
        with pytest.raises(InputError, match=r"has plugin 1\.1 for networks mine, and the dri"):
            same_plugins(config, "own", wanted)
