"""The report in a real browser: on a screen, on a phone, in the dark, by keyboard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from selection.pictures.names import grid_name
from selection.report.page import write_report
from tests.browser import Browser, browser
from tests.selection.report.test_page import (
    LINKS,
    TOUCH,
    changed,
    estimate,
    make_pick,
    make_records,
    picture,
)

pytestmark = pytest.mark.browser

ALL_LEFTS = "[...document.querySelectorAll({})].map(e => e.getBoundingClientRect().left)"
OPEN_ALL = "document.querySelectorAll('details').forEach(each => { each.open = true })"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of many candidates, with pictures."""
    folder = tmp_path_factory.mktemp("report")
    look = TOUCH.model_copy(update={"ceiling": estimate(0.8)})
    pick = changed(make_pick(24, ties=4), test=look)
    for seed, name in enumerate(("real.png", "closest.png", "tsne.png", grid_name(pick.winner))):
        (folder / name).write_bytes(picture(seed))
    write_report(pick, folder, records=make_records(12), tracking=LINKS)
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_everybody_can_read_it_on_a_screen_and_on_a_phone(
    chromium: Browser, address: str, width: int, colours: str
) -> None:
    chromium.colours(colours)
    chromium.open(address, width=width)
    chromium.value(OPEN_ALL)
    assert chromium.violations() == []
    assert chromium.value("document.documentElement.scrollWidth") <= width
    dark = chromium.value("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (colours == "dark")


def test_images_and_score_and_what_to_do_stand_on_the_first_screen(
    chromium: Browser, address: str
) -> None:
    chromium.colours("light")
    chromium.open(address)
    for selector in ("#advice", ".first img", ".intervals"):
        bottom = f"document.querySelector('{selector}').getBoundingClientRect().bottom"
        assert chromium.value(bottom) <= 800
    edges = chromium.value(
        "[...document.querySelectorAll('.first img')].map(i => i.getBoundingClientRect().top)"
    )
    assert len(edges) == 2
    assert edges[0] == edges[1]  # side by side


@pytest.mark.parametrize("width", [1280, 390])
def test_all_scores_are_drawn_on_one_scale(chromium: Browser, address: str, width: int) -> None:
    chromium.open(address, width=width)
    lefts = ALL_LEFTS.format("'.mark'")
    assert len(chromium.value(lefts)) == 4  # the winner's, the baseline's, of real images, chance
    assert len(set(chromium.value(lefts))) == 1
    dots = chromium.value(ALL_LEFTS.format("'.dot'"))
    assert dots[1] < dots[0] < dots[2]  # 0.55, 0.61, 0.80
    assert abs(dots[3] + 5 - chromium.value(lefts)[0]) < 1  # chance is what is marked


def test_values_of_the_protocol_have_the_width_of_a_phone(chromium: Browser, address: str) -> None:
    chromium.open(address, width=390)
    widths = chromium.value("[...document.querySelectorAll('dd')].map(d => d.clientWidth)")
    assert min(widths) > 300


def test_a_phone_is_given_the_charts_that_are_drawn_for_it(chromium: Browser, address: str) -> None:
    drawn = "[...document.querySelectorAll('.chart')].filter(e => e.offsetParent)"
    for width, kind in ((1280, "for-screen"), (390, "for-phone")):
        chromium.open(address, width=width)
        chromium.value(OPEN_ALL)
        assert chromium.value(f"{drawn}.map(e => e.className)") == [f"chart {kind}"] * 2 + ["chart"]
        sizes = f"{drawn}.flatMap(e => [...e.querySelectorAll('text')]).map(t => %s)"
        heights = chromium.value(sizes % "t.getBoundingClientRect().height")
        assert len(heights) > 30
        assert min(heights) > 10


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_charts_have_the_colours_of_the_page(chromium: Browser, address: str, colours: str) -> None:
    chromium.colours(colours)
    chromium.open(address)
    fills = chromium.value(
        "['.chart text', '.chart path'].map(s => getComputedStyle(document.querySelector(s)).fill)"
    )
    page = chromium.value(
        "[getComputedStyle(document.body)].flatMap(s => [s.color, s.backgroundColor])"
    )
    assert fills == page


def test_a_table_is_reached_by_tab_and_scrolled_by_arrows(chromium: Browser, address: str) -> None:
    chromium.open(address, width=390)
    chromium.value(OPEN_ALL)
    label = "document.activeElement.getAttribute('aria-label')"
    chromium.value("document.querySelector('.wide').previousElementSibling.focus()")
    chromium.until(lambda: _tab(chromium) and chromium.value(label), "a table")
    assert chromium.value(label) == "Candidates and their scores"
    chromium.press("ArrowRight")
    chromium.until(lambda: chromium.value("document.activeElement.scrollLeft") > 0, "scrolling")


def _tab(chromium: Browser) -> bool:
    chromium.press("Tab")
    return True


def test_the_check_for_accessibility_finds_what_is_wrong(chromium: Browser) -> None:
    body = "<main><h1>x</h1><p{}>pale</p><div style='width:9em;overflow:auto'>{}</div></main>"
    for style, text, wrong in (
        ("", "short", []),
        (" style='color:%23ccc'", "short", ["color-contrast"]),
        ("", "long" * 99, ["scrollable-region-focusable"]),
    ):
        content = body.format(style, text)
        chromium.open(f"data:text/html,<html lang=en><title>x</title>{content}")
        assert [found.split(" ")[0] for found in chromium.violations()] == wrong
