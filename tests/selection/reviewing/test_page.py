"""The page in a real browser, driven by keys alone, over the real server.

The images are made and the browser is started once; each test has a session and a server of its
own, and an empty ledger.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import pytest
import torch

from search.study.folder import Study
from search.tracking import connection, find
from search.tracking.find import StudyNamed
from selection.commands.review import Sender
from selection.ledgers.reviews import Entry, read_reviews, reviews_path
from selection.reviewing.finalists import find_finalists, make_images
from selection.reviewing.quiz import RealImages, draw_real
from selection.reviewing.server import ReviewServer
from selection.reviewing.session import Finalist, Session
from selection.steps.request import Request, load_data, settle
from tests.browser import Browser, browser
from tests.pages import searchable
from tests.picks import send, write_covidx
from tests.selection.steps.test_plan import write_small_study

pytest_plugins = ["tests.mlflow_stores"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        shutil.which("chromium") is None,
        reason="chromium is not installed (Debian: apt install chromium)",
    ),
]
ALL_LOADED = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"


@dataclass(frozen=True)
class Prepared:
    """A study with two finalists and their images, and its MLflow."""

    study: Study
    uri: str
    finalists: list[Finalist]
    real: RealImages


@pytest.fixture(scope="module")
def prepared(
    migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prepared]:
    folder = tmp_path_factory.mktemp("place")
    write_covidx(folder / "images")
    uri = f"sqlite:///{shutil.copy(migrated_database, folder / 'mlflow.db')}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACGAN_CACHE", str(folder / "cache"))
        study = write_small_study(folder / "runs" / "demo", folder / "images")
        send(study, uri)
        settings, source = settle(Request(named=StudyNamed(study="demo")), study)
        data = load_data(study, source, test=False)
        found, where = find_finalists(study, None, data, settings, most=1)
        assert "there is no pick yet" in where
        assert [each.name[:5] for each in found] == ["t0001", "t0000"]
        finalists = make_images(found, seed=0, device=torch.device("cpu"))
        yield Prepared(study, uri, finalists, draw_real(data.val, classes=3, seed=0))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def study(prepared: Prepared) -> Study:
    reviews_path(prepared.study).unlink(missing_ok=True)
    return prepared.study


@pytest.fixture
def start(prepared: Prepared, study: Study) -> Iterator[Callable[..., ReviewServer]]:
    servers = []

    def started(stored: Callable[[], None] = lambda: None) -> ReviewServer:
        session = Session(study, "anna", prepared.finalists, prepared.real, stored)
        server = ReviewServer("127.0.0.1", 0, session, lambda: "")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return server

    yield started
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(start: Callable[..., ReviewServer]) -> ReviewServer:
    return start()


@pytest.fixture
def page(server: ReviewServer, chromium: Browser) -> Browser:
    chromium.open(server.address)
    chromium.shows("Candidate A", "h1")
    return chromium


def told(study: Study) -> list[tuple[str, str]]:
    return [(entry.action, entry.candidate[:5]) for entry in read_reviews(study)]


def entry_of(study: Study, action: str) -> Entry:
    (found,) = [entry for entry in read_reviews(study) if entry.action == action]
    return found


def test_keys_keep_reject_and_take_back_and_all_of_it_is_stored(
    start: Callable[..., ReviewServer], chromium: Browser, prepared: Prepared, study: Study
) -> None:
    sender = Sender(study, prepared.uri)
    sender.start()
    page = chromium
    page.open(start(sender.grown).address)
    page.shows("Candidate A", "h1")
    page.shows("1 of 2, demo, as anna")
    page.press("k")
    page.shows("A kept. 1 to go.", "#said")
    page.shows("Candidate B", "h1")  # the next one that has no decision
    page.press("r")
    page.shows("B rejected. All have a decision.", "#said")
    page.shows("rejected", "#subtitle")
    page.press("u")
    page.shows("B is undecided again. 1 to go.", "#said")
    page.press("p")
    page.shows("kept", "#subtitle")
    a, b = (entry.candidate[:5] for entry in read_reviews(study) if entry.action == "looked")
    assert {a, b} == {"t0000", "t0001"}
    assert [line for line in told(study) if line[0] != "looked"] == [
        ("kept", a),
        ("rejected", b),
        ("undecided", b),
    ]

    def tags() -> dict[str, str]:
        run = find.run_of_study(connection.connect(prepared.uri), study)
        assert run is not None
        known: dict[str, str] = run.data.tags
        return known

    page.until(lambda: tags().get("reviews") == "5", "all five lines in MLflow")
    texts = [value for name, value in tags().items() if name.startswith("review.")]
    assert any(text.startswith(a) and "kept by anna" in text for text in texts)
    assert page.text("#problem") == ""
    sender.finish()
    assert sender.problem == ""


def test_arrows_and_next_go_around_and_a_held_key_decides_once(page: Browser, study: Study) -> None:
    for key, wanted in (("n", "B"), ("n", "A"), ("ArrowLeft", "B"), ("ArrowRight", "A")):
        page.press(key)
        page.shows(f"Candidate {wanted}", "h1")
    held = {"key": "k", "windowsVirtualKeyCode": 75, "autoRepeat": True}
    page.call("Input.dispatchKeyEvent", type="keyDown", **held)
    page.call("Input.dispatchKeyEvent", type="keyDown", **held, modifiers=2)
    page.press("n")
    page.shows("Candidate B", "h1")
    assert {action for action, _ in told(study)} == {"looked"}


def test_trial_and_numbers_are_nowhere_until_they_are_asked_for(
    page: Browser, study: Study
) -> None:
    content = "document.documentElement.outerHTML"
    page.until(lambda: page.value(ALL_LOADED), "all images")
    assert page.value("document.images.length") == 6
    words = searchable(page.value(content))
    assert not any(name in words for name in ("t0000", "t0001", "fd_cnn", "epoch"))
    page.press("i")
    page.shows("val/fd_cnn")
    assert entry_of(study, "revealed").candidate in page.text("main")
    page.press("n")
    page.shows("Candidate B", "h1")
    assert "fd_cnn" not in page.text()
    page.press("p")
    page.shows("Candidate A", "h1")
    page.press("k")
    page.shows("kept", "#said")
    assert not entry_of(study, "kept").blind


def test_two_stand_side_by_side_with_real_images_of_the_same_class(
    page: Browser, study: Study
) -> None:
    alone = page.value("[...document.images].map(i => i.src)")
    page.press("c")
    page.shows("A beside B", "h1")
    page.until(lambda: page.value(ALL_LOADED), "all images")
    assert page.value("document.images.length") == 9
    assert set(alone) < set(page.value("[...document.images].map(i => i.src)"))
    tops = page.value("[...document.images].slice(0, 3).map(i => i.getBoundingClientRect().top)")
    assert len(set(tops)) == 1  # side by side
    page.press("s")
    page.shows("B beside A", "h1")
    page.press("r")
    page.shows("B rejected", "#said")
    page.press("Escape")
    page.shows("Candidate B", "h1")
    looked = {candidate for action, candidate in told(study) if action == "looked"}
    assert looked == {"t0000", "t0001"}


@pytest.mark.parametrize("width", [1280, 390])
def test_a_quiz_is_done_by_two_keys_and_scored_as_answered(
    page: Browser, study: Study, width: int
) -> None:
    page.resize(width, 844)
    page.press("q")
    page.shows("Real or generated?", "h1")
    count = int(page.text("#subtitle").split(" of ")[1].split(",")[0])
    said = ""
    for number in range(count):
        page.shows(f"{number + 1} of {count}", "#subtitle")
        page.until(lambda: page.value(ALL_LOADED), "the image")
        assert page.value("document.images.length") == 1
        page.press("ArrowLeft" if number % 3 else "ArrowRight")
        said += "R" if number % 3 else "G"
    page.shows("Quiz of candidate A", "h1")
    quiz = entry_of(study, "quiz").quiz
    assert quiz is not None
    assert quiz.said == said
    taken, judged = quiz.taken_for_real("G")
    assert f"{taken} of {judged}: {round(100 * taken / judged)} %" in page.text("main")
    page.press("ArrowRight")  # by a hand that goes on
    page.press("r")
    page.press("Escape")
    page.shows("Candidate A", "h1")
    assert {action for action, _ in told(study)} <= {"looked", "quiz"}


def test_a_quiz_that_is_stopped_does_not_count(page: Browser, study: Study) -> None:
    page.press("q")
    page.shows("Real or generated?", "h1")
    page.press("ArrowLeft")
    page.shows("2 of", "#subtitle")
    page.press("Escape")
    page.shows("does not count", "#said")
    assert {action for action, _ in told(study)} == {"looked"}


def test_every_button_is_reached_by_tab_and_pressed_by_enter(page: Browser, study: Study) -> None:
    reached = []
    for _ in range(11):
        page.press("Tab")
        reached.append(page.value("document.activeElement.dataset.key"))
    assert reached == ["k", "r", "u", "p", "n", "m", "e", "w", "c", "q", "i"]
    page.press("Enter")
    page.shows("val/fd_cnn")
    assert page.value("document.activeElement.dataset.key") == "i"


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_nothing_is_wider_than_the_window_and_every_button_is_seen_whole(
    page: Browser, width: int
) -> None:
    page.resize(width, 844)
    shown = (("i", "val/fd_cnn"), ("e", "one image of"), ("Escape", None), ("w", "Why?"))
    for key, wanted in (
        *shown,
        ("Escape", None),
        ("c", "A beside B"),
        ("q", None),
        ("Escape", None),
    ):
        if wanted is None and key == "q":
            page.press("Escape")
            page.shows("Candidate", "h1")
        page.press(key)
        page.shows(wanted or ("Real or generated?" if key == "q" else "Candidate"))
        page.until(lambda: page.value(ALL_LOADED), "all images")
        assert page.value("document.documentElement.scrollWidth") <= width
        buttons = "[...document.querySelectorAll('button')].filter(b => b.offsetParent)"
        assert page.value(f"{buttons}.every(b => b.scrollWidth <= b.clientWidth)")
        inside = (
            "r => r.top >= 0 && r.bottom <= innerHeight && r.left >= 0 && r.right <= innerWidth"
        )
        assert page.value(f"{buttons}.map(b => b.getBoundingClientRect()).every({inside})")
        heights = page.value(f"{buttons}.map(b => b.getBoundingClientRect().height)")
        assert min(heights) >= 44  # a finger's


IMAGES = "[...document.images].map(i => i.src)"
DRAWN = "[...document.querySelectorAll('canvas')].every(c => c.dataset.drawn)"
# Whether a canvas has the pixels of an image of a grid, by its place.
SAME = """(async () => {
  const grid = new Image();
  grid.src = %s;
  await grid.decode();
  const [canvas] = document.querySelectorAll("canvas");
  const side = canvas.width;
  const own = document.createElement("canvas");
  Object.assign(own, { width: side, height: side });
  const place = %d;
  own.getContext("2d").drawImage(grid, -(place %% 4) * side, -Math.floor(place / 4) * side);
  return own.toDataURL() === canvas.toDataURL();
})()"""


def is_drawn(page: Browser, grid: str, place: int) -> bool:
    page.until(lambda: page.value(DRAWN), "the image")
    asked = {"expression": SAME % (json.dumps(grid), place), "awaitPromise": True}
    return bool(page.call("Runtime.evaluate", **asked)["result"]["value"])


def test_one_image_is_enlarged_beside_a_real_one_by_keys_and_by_a_click(
    page: Browser, study: Study
) -> None:
    page.resize(1280, 800)
    page.until(lambda: page.value(ALL_LOADED), "all images")
    grids = page.value(IMAGES)[::2]  # the candidate's, a class each
    page.press("e")
    page.shows("one image of class COVID-19")
    assert page.value("document.querySelectorAll('canvas').length") == 2
    assert is_drawn(page, grids[0], 0)
    assert not is_drawn(page, grids[0], 3)
    page.press("n")
    page.press("ArrowRight")
    page.shows("Candidate A, 3 of 72", "main")
    assert is_drawn(page, grids[0], 2)
    page.press("ArrowDown")
    page.shows("one image of class normal")
    assert is_drawn(page, grids[1], 2)
    width = page.value("document.querySelector('canvas').clientWidth")
    page.press("Escape")
    page.shows("1 of 2, demo", "#subtitle")
    page.until(lambda: page.value(ALL_LOADED), "all images")
    page.value("window.scrollTo(0, 0)")
    box = page.value(
        "(({ x, y, width }) => [x, y, width])(document.images[0].getBoundingClientRect())"
    )
    assert width > 1.5 * box[2] / 4
    side = box[2] / 4
    page.click(box[0] + 1.5 * side, box[1] + 1.5 * side)  # the second one of the second row
    page.shows("Candidate A, 6 of 72", "main")
    assert is_drawn(page, grids[0], 5)
    page.press("r")  # decides on what is shown
    page.shows("A rejected", "#said")
    assert entry_of(study, "rejected").note == ""


def test_more_images_are_others_and_come_round_again(page: Browser) -> None:
    first = page.value(IMAGES)
    seen = [first[::2]]
    for number in range(1, 9):
        page.press("m")
        page.shows(f"Images {8 * number + 1} to {8 * number + 8} of each class", "#said")
        seen.append(page.value(IMAGES)[::2])
        page.until(lambda: page.value(ALL_LOADED), "all images")
    assert len({src for page_of in seen for src in page_of}) == 27
    page.press("m")
    page.shows("Images 1 to 8 of each class", "#said")
    assert page.value(IMAGES) == first


def test_a_note_is_stored_with_the_decision_and_its_letters_decide_nothing(
    page: Browser, server: ReviewServer, study: Study
) -> None:
    words = "kein rand; unsure"  # with the letters of keys
    page.press("w")
    page.until(lambda: page.value("document.activeElement.id") == "note", "the field")
    for letter in words:
        page.press(letter)
    page.press("Enter")
    page.shows("Note on A stored; it has no decision yet.", "#said")
    page.shows(words, "#subtitle")
    page.press("k")
    page.shows("A kept", "#said")
    found = entry_of(study, "kept")
    assert found.note == entry_of(study, "undecided").note == words
    assert {action for action, _ in told(study)} == {"looked", "undecided", "kept"}
    page.open(server.address)
    page.shows(words, "#subtitle")
    page.press("w")
    page.press("x")
    page.press("Escape")
    page.press("u")
    page.shows("A is undecided again", "#said")
    assert read_reviews(study)[-1].note == words


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_everybody_can_read_it_on_a_screen_and_on_a_phone(
    page: Browser, width: int, colours: str
) -> None:
    page.colours(colours)
    page.resize(width, 844)
    found = {"one": page.violations()}
    for key, wanted in {
        "i": "val/fd_cnn",
        "e": "one image of",
        "w": "Why?",
        "c": "A beside B",
        "q": "Real or generated?",
    }.items():
        page.press("Escape")
        page.press("Escape")
        page.shows("1 of 2, demo", "#subtitle")
        page.press(key)
        page.shows(wanted)
        found[key] = page.violations()
    assert {key: each for key, each in found.items() if each} == {}


def test_the_page_asks_its_own_server_only_and_complains_of_nothing(
    page: Browser, server: ReviewServer
) -> None:
    page.events.clear()
    page.open(server.address)
    page.shows("Candidate A", "h1")
    for key, wanted in {"i": "val/fd_cnn", "c": "beside", "q": "Real or", "k": "kept"}.items():
        page.press("Escape")
        page.shows("Candidate A", "h1")
        page.press(key)
        page.shows(wanted)
    addresses = page.addresses()
    assert len(addresses) > 5
    # Chrome asks for the icon at the server's root, once a server.
    own = (server.address, urljoin(server.address, "/favicon.ico"))
    assert [a for a in addresses if not a.startswith(own)] == []
    assert [text for text in page.complaints() if "favicon.ico" not in text] == []


def test_when_the_server_is_gone_the_page_says_that_nothing_is_stored(
    page: Browser, study: Study
) -> None:
    page.until(lambda: page.value(ALL_LOADED), "all images")
    page.cut_off(True)
    page.press("k")
    page.shows("The server does not answer: nothing more is stored", "#problem")
    assert "kept" not in page.text("#said")
    page.cut_off(False)
    assert {action for action, _ in told(study)} <= {"looked"}
