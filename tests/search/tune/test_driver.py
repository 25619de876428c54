"""What the driver does with what Tune tells it: no Ray runs here."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from acgan.errors import InputError
from acgan.files import write_json
from acgan.run.records import QUALITY, EpochRecord, Ranking
from search.flags import search_parser
from search.plan import SearchRequest, make_search_plan
from search.study.folder import Study, open_or_create
from search.tune.driver import Driver, ReportWatch, crash_reason
from search.tune.progress import Progress
from tests import studies
from tests.searches import write_images
from tests.studies import by_distance

RECORD = EpochRecord(epoch=5, time=1.0, metrics={QUALITY: 41.25, "val/diversity": 0.1})
REPORT = {"trial": "t0003", "record": RECORD.model_dump_json(), "notes": ["its state was damaged"]}


def watch(rules: Callable[[str, EpochRecord], bool], out: io.StringIO | None = None) -> ReportWatch:
    progress = Progress(
        asked=4, ended=0, epochs=9, ranking=Ranking(QUALITY, 1), out=out or io.StringIO()
    )
    return ReportWatch(progress, by_distance(), rules, records_of=lambda _name: [RECORD])


def test_a_report_is_shown_with_its_notes_and_then_judged() -> None:
    seen: list[tuple[str, EpochRecord]] = []
    out = io.StringIO()

    def rules(name: str, record: EpochRecord) -> bool:
        assert "epoch 5 of 9" in out.getvalue()  # before anything is decided
        seen.append((name, record))
        return True

    assert watch(rules, out)("id", REPORT) is True
    assert seen == [("t0003", RECORD)]
    first, second = out.getvalue().splitlines()
    assert first == "t0003: its state was damaged"
    assert second == "t0003 epoch 5 of 9: val/fd_cnn 41.2, best 41.2, one picture per class"


def test_a_young_epoch_is_not_called_one_picture() -> None:
    out = io.StringIO()
    young = RECORD.model_copy(update={"young": True}).model_dump_json()
    watch(lambda *_: False, out)("id", REPORT | {"record": young, "notes": []})
    assert out.getvalue() == "t0003 epoch 5 of 9: val/fd_cnn 41.2, best 41.2\n"


def test_a_trial_that_never_reported_is_nobodys_business() -> None:
    def never(name: str, record: EpochRecord) -> bool:
        raise AssertionError

    assert watch(never)("id", {"training_iteration": 0}) is False


def test_a_trial_that_met_a_full_disk_ends_all() -> None:
    watching = watch(lambda *_: False)
    assert not watching.stop_all()
    assert watching("id", {"trial": "t0001", "disk_error": (errno.ENOSPC, "/runs/x")})
    assert watching.stop_all()
    assert watching.disk_error is not None
    assert (watching.disk_error.errno, watching.disk_error.filename) == (errno.ENOSPC, "/runs/x")


@pytest.mark.parametrize(("number", "ends"), [(errno.EROFS, True), (errno.ECONNRESET, False)])
def test_a_ledger_that_cannot_be_written_ends_all_and_any_other_error_is_an_error(
    number: int, ends: bool
) -> None:
    def rules(name: str, record: EpochRecord) -> bool:
        raise OSError(number, "no")

    watching = watch(rules)
    if ends:
        assert watching("id", REPORT)
    else:
        with pytest.raises(OSError, match="no"):
            watching("id", REPORT)
    assert watching.stop_all() is ends


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("RayActorError: OutOfMemoryError: x", "out of memory: Ray ended its process"),
        ("…\nThe actor died because its node has died. …", "its node died"),
        (
            "its worker process has died, it seems",
            "its process was killed, perhaps by the system for want of memory",
        ),
        ("Traceback …\nValueError: of the trial's own", "ValueError: of the trial's own"),
    ],
)
def test_why_a_trial_crashed_is_a_phrase_and_everything_is_kept(
    tmp_path: Path, error: str, reason: str
) -> None:
    assert crash_reason(Exception(f"{error}\n"), tmp_path) == reason
    assert (tmp_path / "crash.txt").read_text() == f"{error}\n"


def test_a_trial_that_hung_says_where_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "hang.txt").touch()
    dead = Exception("its worker process has died")
    assert "killed" in crash_reason(dead, tmp_path)  # it was watched, and did not hang
    (tmp_path / "hang.txt").write_text("Thread 0x1 …")
    assert crash_reason(dead, tmp_path) == f"it hung; {tmp_path.name}/hang.txt says where"


def test_a_crash_shows_no_password(tmp_path: Path) -> None:
    reason = crash_reason(Exception("cannot reach http://me:secret@mlflow:5000"), tmp_path)
    assert "secret" not in reason + (tmp_path / "crash.txt").read_text()


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Driver, Study]:
    """The driver of a study of a few images that has just been begun."""
    monkeypatch.setenv("ACGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_images(tmp_path / "images")
    words = ["--data", str(tmp_path / "images"), "--image-size", "16", "--study", "demo"]
    words += ["--storage-path", str(tmp_path / "runs"), "--num-samples", "2"]
    words += ["--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    plan = make_search_plan(SearchRequest.of(search_parser("search.run", "").parse_args(words)))
    study = open_or_create(plan.folder, plan.info)
    write_json(study.path / "start.json", plan.last_start)
    progress = Progress(asked=2, ended=0, epochs=9, ranking=plan.search.ranking, out=io.StringIO())
    return Driver(plan, study, plan.ledger(study.ledger_path), progress), study


def test_the_scoring_cnn_is_made_before_ray_is_there(
    driver: tuple[Driver, Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    driving, study = driver
    threads = torch.get_num_threads()
    for elsewhere in ("10.0.0.1:6379", "auto"):
        monkeypatch.setenv("RAY_ADDRESS", elsewhere)
        assert driving.begin_scoring() is None
    monkeypatch.delenv("RAY_ADDRESS")
    begun = driving.begin_scoring()
    assert begun is not None
    begun.result()
    quality = study.quality()
    assert quality is not None
    assert study.scorer_is_whole(quality)
    assert torch.get_num_threads() == threads
    assert driving.begin_scoring() is None  # it is there


def test_what_forbids_a_scoring_cnn_is_raised_where_it_is_waited_for(
    driver: tuple[Driver, Study],
) -> None:
    driving, study = driver
    studies.write_epochs(studies.write_trial(study, 0), [1])  # judged by a CNN that is lost
    begun = driving.begin_scoring()
    assert begun is not None
    with pytest.raises(InputError, match=r"restore scorer\.safetensors"):
        begun.result()
