from __future__ import annotations

import os
from pathlib import Path

import pytest

from search.nodes import environment

NAMES = (*environment.SETTINGS, "RAY_AUTH_MODE", environment.TOKEN, "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    environment.set_up()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "1"


def test_without_a_token_a_process_makes_one_and_keeps_it() -> None:
    environment.set_up()
    token = os.environ.pop(environment.TOKEN)
    assert len(token) == 64
    environment.set_up()
    assert os.environ[environment.TOKEN] == token
    assert environment.made_token()


def test_a_token_of_ones_own_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.TOKEN, "mine")
    environment.set_up()
    assert os.environ[environment.TOKEN] == "mine"
    monkeypatch.delenv(environment.TOKEN)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("kept")
    environment.set_up()
    assert environment.TOKEN not in os.environ
    assert not environment.made_token()
