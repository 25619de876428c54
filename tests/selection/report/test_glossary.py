"""A page's words: they are those of docs/glossary.md, and every link leads to one."""

from __future__ import annotations

from selection.report.glossary import WORDS, Glossary, code
from tests.kit import ROOT
from tests.selection.report.test_page import TOUCH, changed, make_pick, report


def test_every_word_stands_in_the_glossary_of_the_docs_with_the_same_sentence() -> None:
    lines = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    assert [w.word for w in WORDS if f"| {w.word} | {w.meaning} |" not in lines] == []


def test_a_word_is_linked_once_in_a_text_and_the_rest_is_escaped() -> None:
    glossary = Glossary()
    text = glossary.linked("12 young <b>, 3 young")
    assert text == ('12 <a class="term" href="#term-young">young</a> &lt;b&gt;, 3 young')
    assert [word.key for word in glossary.used()] == ["young"]


def test_a_part_of_a_word_is_none() -> None:
    assert "href" not in Glossary().linked("trials younger")


def test_what_stands_between_backticks_is_code() -> None:
    assert code("`a<b` of c") == "<code>a&lt;b</code> of c"


def test_every_link_of_a_report_leads_to_a_place_on_the_page() -> None:
    shown = report(changed(make_pick(), test=TOUCH))
    assert set(shown.anchors) <= shown.ids
    assert {f"term-{key}" for key in ("young", "tie-set", "ceiling", "cnn3", "look")} <= set(
        shown.anchors
    )


def test_a_page_explains_only_the_words_that_it_has() -> None:
    assert "term-arm" not in report(make_pick()).ids
    assert "term-look" not in report(make_pick()).ids
