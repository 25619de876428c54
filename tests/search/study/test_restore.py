from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from acgan.config import TrainConfig
from acgan.errors import InputError
from acgan.files import write_json
from acgan.run.weights import checksum, weights_bytes
from search.study import space
from search.study.folder import Outcome, Study
from search.study.optuna_ledger import Ledger
from search.study.restore import mark_interrupted, restore, trial_info, write_missing_ends
from search.study.table import missing_repeats
from tests.studies import by_distance, write_end, write_epochs, write_study, write_trial

CONFIG = TrainConfig()
SPACE = space.read({"dropout": {"low": 0.1, "high": 0.6}}, CONFIG)
DAMAGE = [
    (name, content)
    for name in ("trial.json", "end.json", "config.json", "quality.json")
    for content in (b"", b"{", b'{"outcome": 1}')
    if name != "config.json" or content != b'{"outcome": 1}'  # which the run itself refuses
]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study of two trials that have finished and one that has not; its ledger agrees."""
    study = write_study(tmp_path / "study")
    ledger = open_ledger(study)
    for number in range(3):
        ledger.propose()
        trial = write_trial(study, number)
        write_epochs(trial, range(1, 3))
        if number < 2:
            ledger.tell(number, Outcome.FINISHED, value=1.0)
            write_end(trial, Outcome.FINISHED)
    return study


def open_ledger(study: Study) -> Ledger:
    start = space.baseline(SPACE, CONFIG)
    return Ledger(study.ledger_path, SPACE, start=start, config=by_distance())


def test_a_whole_study_is_left_as_it_is(study: Study) -> None:
    before = {path: path.read_bytes() for path in study.path.rglob("*.json")}
    for copy in ("t1", "t0001-backup"):  # no trials: people keep copies beside them
        shutil.copytree(study.path / "t0001", study.path / copy)
        before |= {path: path.read_bytes() for path in (study.path / copy).glob("*.json")}
    assert restore(study, open_ledger(study), seed=0) == []
    assert {path: path.read_bytes() for path in study.path.rglob("*.json")} == before


def test_a_study_goes_on_without_the_folder_of_a_trial_that_has_ended(study: Study) -> None:
    shutil.rmtree(study.path / "t0001")
    (said,) = restore(study, open_ledger(study), seed=0)
    assert said.startswith(f"{study.path / 't0001'} is gone, though its trial has ended")
    assert [trial.name for trial in study.trials()] == ["t0000", "t0002"]
    assert open_ledger(study).ended() == 2


@pytest.mark.parametrize(("name", "content"), DAMAGE)
def test_a_damaged_file_is_named_and_made_again_or_made_way_for(
    study: Study, name: str, content: bytes
) -> None:
    path = study.path / name if name == "quality.json" else study.path / "t0001" / name
    path.write_bytes(content)
    assert restore(study, open_ledger(study), seed=0) == [f"{path} was damaged and is made again"]
    ledger = open_ledger(study)
    end = study.trial("t0001").end()
    assert end is not None
    assert end.outcome is Outcome.FINISHED
    if name == "trial.json":
        assert study.trial("t0001").info == trial_info(ledger.rows()[1], 0)
    if name in ("config.json", "quality.json"):  # by the trial, or the scoring CNN's task
        assert not path.exists()


@pytest.mark.parametrize(("name", "content"), [d for d in DAMAGE if d[0] != "quality.json"])
def test_a_damaged_file_of_a_repeat_makes_way_and_the_repeat_is_begun_again(
    study: Study, name: str, content: bytes
) -> None:
    config = by_distance(repeats=1)
    shutil.copytree(study.path / "t0000", study.path / "t0000r1")
    info = study.trial("t0000").info.model_copy(update={"origin": "repeat", "repeats": "t0000"})
    write_json(study.path / "t0000r1" / "trial.json", info)
    (study.path / "t0000r1" / "config.json").write_text("{}")
    assert missing_repeats(study, config) == {}
    path = study.path / "t0000r1" / name
    path.write_bytes(content)
    assert restore(study, open_ledger(study), seed=0) == [f"{path} was damaged and is made again"]
    assert not path.exists()
    again = {} if name == "config.json" else {"t0000r1": "t0000"}
    assert missing_repeats(study, config) == again


@pytest.mark.parametrize("there", [True, False])
def test_a_finished_trial_without_records_is_said(study: Study, there: bool) -> None:
    path = study.path / "t0000" / "epochs.jsonl"
    path.unlink()
    if there:
        path.touch()
    (study.path / "t0002" / "epochs.jsonl").write_bytes(b"")  # it has not finished: it goes on
    (said,) = restore(study, open_ledger(study), seed=0)
    assert said.startswith(f"{path} is damaged, though its trial has ended")


@pytest.mark.parametrize("cut", [1, 40])
@pytest.mark.parametrize("whole", [True, False])
def test_a_torn_last_line_of_an_ended_trial_comes_from_its_state(
    study: Study, cut: int, whole: bool
) -> None:
    path = study.path / "t0001" / "epochs.jsonl"
    lines, records = path.read_bytes(), study.trial("t0001").records()
    text = records[-1].model_dump_json()
    metadata = {"record": text, "checksum": checksum({}, text if whole else "")}
    (path.parent / "state.safetensors").write_bytes(weights_bytes({}, metadata))
    path.write_bytes(lines[:-cut])
    (study.path / "t0002" / "epochs.jsonl").write_bytes(lines[:-cut])  # it goes on: it mends itself
    (said,) = restore(study, open_ledger(study), seed=0)
    if whole:
        assert said == f"{path} was damaged and is made again"
        assert path.read_bytes() == lines
    else:
        assert said.startswith(f"{path} is damaged, though its trial has ended")
        assert path.read_bytes() == lines[:-cut]


def test_a_ledger_that_lacks_trials_is_refused(study: Study) -> None:
    study.ledger_path.unlink()
    with pytest.raises(InputError, match=r"lacks trials that are there \(t0000 and 2 more\)"):
        restore(study, open_ledger(study), seed=0)


def test_ends_come_from_the_ledger_and_the_rest_was_interrupted(study: Study) -> None:
    for name in ("t0000", "t0001"):
        (study.path / name / "end.json").unlink()
    write_missing_ends(study, open_ledger(study))
    mark_interrupted(study)
    ends = [trial.end() for trial in study.trials()]
    outcomes = [end.outcome for end in ends if end is not None]
    assert outcomes == [Outcome.FINISHED, Outcome.FINISHED, Outcome.INTERRUPTED]
