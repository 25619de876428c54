"""Who may work on a study at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

from acgan.errors import InputError
from search.study.lock import driver_at_work, driver_lock
from selection.steps.request import at_work, require_idle
from tests.studies import write_study


def test_a_search_that_begins_while_a_pick_is_planned_keeps_the_pick_away(tmp_path: Path) -> None:
    study = write_study(tmp_path / "runs" / "demo")
    require_idle(study)
    with (
        driver_lock(study.path),
        pytest.raises(InputError, match="is being searched; wait for its end"),
        at_work(study),
    ):
        pytest.fail("both are at work")
    selection = study.path / "selection"
    assert not driver_at_work(selection)
    with at_work(study):
        assert driver_at_work(selection)
        with pytest.raises(InputError, match="is being worked on by process"), at_work(study):
            pytest.fail("two picks are at work")
