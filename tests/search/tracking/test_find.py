"""Which study a run means."""

from __future__ import annotations

import shutil
from pathlib import Path

from search.tracking.find import StudyRun, open_study_of
from tests import studies


def test_of_a_study_and_its_copy_a_run_means_the_one_that_mlflow_knows(tmp_path: Path) -> None:
    study = studies.write_study(tmp_path / "demo")
    shutil.copytree(study.path, tmp_path / "a copy")
    run = StudyRun("parent", study.info.uuid, str(study.path), None)
    assert open_study_of(run, str(tmp_path)).path == study.path
    shutil.rmtree(study.path)
    assert open_study_of(run, str(tmp_path)).path == tmp_path / "a copy"
