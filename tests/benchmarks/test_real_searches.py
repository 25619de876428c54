from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from acgan.errors import InputError
from benchmarks import real_searches as module
from benchmarks.real_searches import RealSearches, command, found_in, search_within
from benchmarks.replay import RANDOM, SEARCHERS
from search.run import parser
from search.settings import STOPPING_RULES, SearchConfig
from search.study.folder import Outcome, open_study
from tests.kit import tiny_config
from tests.studies import write_end, write_epochs, write_study, write_trial

pytestmark = pytest.mark.process

EPOCHS = 10


@pytest.fixture
def asked(tmp_path: Path) -> RealSearches:
    config = Path("configs/covidx.yaml")
    return RealSearches(config, "phantom", tiny_config(epochs=EPOCHS), tmp_path, 85, jobs=2)


def test_the_command_is_one_that_a_user_may_type(asked: RealSearches) -> None:
    for searcher in (SEARCHERS[0], RANDOM):
        module_flag, name, *words = command(asked, searcher.settings(0), "study", 7)
        assert (module_flag, name) == ("-m", "search.run")
        typed = parser().parse_args(words)
        assert (typed.num_samples, typed.epochs, typed.data) == ("7", "10", "phantom")
        assert typed.sampler == searcher.sampler
        assert {getattr(typed, rule) for rule in STOPPING_RULES} == {searcher.stopping}


def test_trials_are_added_until_no_full_one_fits_the_budget(
    asked: RealSearches, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = []

    def run(words: list[str]) -> None:
        """Give every second trial all its epochs, prune the others after three."""
        flags = dict(itertools.pairwise(words))
        path, asked_for = asked.folder / flags["--study"], int(flags["--num-samples"])
        study = open_study(path) if path.exists() else write_study(path)
        for number in range(len(study.trials()), asked_for):
            trial = write_trial(study, number)
            write_epochs(trial, range(1, (3 if number % 2 else EPOCHS) + 1))
            write_end(trial, Outcome.PRUNED if number % 2 else Outcome.FINISHED)
        wanted.append(asked_for)

    monkeypatch.setattr(module, "_run", run)
    found = search_within(asked, SEARCHERS[0])
    assert wanted == [8, 11, 12]  # 8 may cost 80 of 85; they cost 52, then 75 after three more
    assert (found.trials, found.epochs) == (12, 78)
    assert search_within(asked, SEARCHERS[0]) == found
    assert len(wanted) == 3


def test_a_trial_that_has_not_ended_is_not_counted(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", trials=2, epochs=EPOCHS)
    write_epochs(write_trial(study, 2), range(1, 5))
    found = found_in(study, SearchConfig())
    assert (found.trials, found.epochs) == (2, 20)
    assert found.value < 1.0  # of the first trial


def test_a_search_that_fails_ends_the_benchmark() -> None:
    module._run(["-c", "pass"])
    with pytest.raises(InputError, match="exit code 3"):
        module._run(["-c", "raise SystemExit(3)"])
