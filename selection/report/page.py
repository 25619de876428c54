"""What a person reads after a pick: `report.html`, `candidates.csv` and two pictures.

The page needs nothing but itself: pictures are inside it, and it has no script. What it says stands
in `report.html.j2`; what has to be worked out from a pick for it stands in
`selection.report.tables`.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from acgan.files import replace_bytes, replace_text
from acgan.run.records import EpochRecord
from selection.ledgers.reviews import Entry, Tally, looks, moment
from selection.metrics.intervals import proportion
from selection.metrics.reference import ENOUGH_FOR_FID
from selection.metrics.wording import FILTERS, percent
from selection.pictures.names import changes_name, film_name, grid_name, walks_name
from selection.report.charts import curves_picture, narrow_name, read_curves, scores_picture
from selection.report.first import advice, first_scores, on_scale
from selection.report.glossary import Glossary, code
from selection.report.svg import SVG, inside_page
from selection.report.tables import (
    candidates_csv,
    finalists,
    funnel,
    memorisation_checks,
    metric_tables,
    ranked,
    reference_counts,
    shorts,
    tested_metrics,
)
from selection.settings import SelectionConfig
from selection.steps.result import Pick

TEMPLATE = Path(__file__).with_name("report.html.j2")
MODEL_CARD, DATA_CARD = "model_card.md", "data_card.md"  # beside it, see `selection.report.cards`
LONG = 10  # rows; a longer table of candidates is folded
ENDINGS = (".png", ".webp", SVG)  # of pictures
PAGE_BYTES = 32_000_000  # of its pictures; beyond, browsers grow slow and mail refuses it


@dataclass(frozen=True)
class TrackingLinks:
    """Where a pick stands in MLflow, and how its model is used from there.

    run_id: the pick's own run; model, version, alias: of the registered model
    code: the lines of Python that load it and give images; they name no folder of this machine
    held_back: why it was not made the champion, "" where it was; then it has no alias
    """

    run_id: str
    model: str
    version: str
    alias: str
    code: str
    held_back: str = ""

    @property
    def uri(self) -> str:
        """`models:/cxr-acgan-generator@champion`, or `models:/cxr-acgan-generator/3`."""
        return f"models:/{self.model}" + (f"@{self.alias}" if self.alias else f"/{self.version}")


def write_report(
    pick: Pick,
    folder: Path,
    *,
    records: Mapping[str, Sequence[EpochRecord]],
    tracking: TrackingLinks | None,
    reviews: Sequence[Entry] = (),
) -> None:
    """Write `candidates.csv`, `scores.svg`, `curves.svg` and `report.html` into a folder.

    The two charts are there a second time for a phone's width (`scores-narrow.svg`).

    records: every trial's epochs; tracking: None where nothing is registered yet. Pictures that
    already stand in the folder are taken into the page: `real.png`, `tsne.png`, `closest.png`,
    the finalists' samples and walks, and their trials' films (see `grid_name` and the like). Cards
    that stand there are linked. reviews: what people saw and decided by now.
    """
    replace_text(folder / "candidates.csv", candidates_csv(pick))
    curves = read_curves(pick, records)
    for narrow in (False, True):
        drawn = {
            "scores.svg": scores_picture(pick, narrow=narrow),
            "curves.svg": curves_picture(pick, curves, narrow=narrow),
        }
        for name, picture in drawn.items():
            (folder / name).with_suffix(".png").unlink(missing_ok=True)  # of an earlier version
            replace_bytes(folder / (narrow_name(name) if narrow else name), picture)
    pictures = {path.name: path.read_bytes() for end in ENDINGS for path in folder.glob(f"*{end}")}
    cards = [name for name in (MODEL_CARD, DATA_CARD) if (folder / name).exists()]
    text = page(pick, pictures, tracking=tracking, reviews=reviews, cards=cards)
    replace_text(folder / "report.html", text)


def page(
    pick: Pick,
    pictures: Mapping[str, bytes],
    *,
    tracking: TrackingLinks | None = None,
    reviews: Sequence[Entry] = (),
    cards: Sequence[str] = (),
) -> str:
    """Return `report.html` with these pictures, by file name, inside it.

    A picture that is missing is left out with a sentence, and so is one with which the page would
    exceed 32 MB. cards: files beside it that are linked
    """
    inside = fitting(pick, pictures)
    seen, tables = looks(reviews), metric_tables(pick)
    return page_template(TEMPLATE).render(
        pick=pick,
        advice=advice(pick, seen),
        scores=first_scores(pick),
        shorts=shorts(tables),
        long=LONG,
        tracking=tracking,
        cards=cards,
        descriptions={k: v.description for k, v in SelectionConfig.model_fields.items()},
        created=moment(pick.created),
        enough=ENOUGH_FOR_FID,
        ranked=ranked(pick),
        finalists=finalists(pick),
        funnel=funnel(pick),
        counts=reference_counts(pick),
        tables=tables,
        checks=memorisation_checks(pick),
        tested=tested_metrics(pick),
        pictures={name: embedded(name, pictures[name]) for name in inside},
        left_out=[name for name in pictures if name not in inside],
        grid_name=grid_name,
        looks=seen,
        taken_for_real=taken_for_real,
        walks_name=walks_name,
        changes_name=changes_name,
        film_name=film_name,
        films=films(pick),
    )


def fitting(pick: Pick, pictures: Mapping[str, bytes]) -> list[str]:
    """Return the names of the pictures that the page holds, the most telling ones first.

    They are those of the whole pick, then the finalists' one after another, until the next would
    make the page larger than 32 MB.
    """
    shown = [pick.candidates[place] for place in finalists(pick)]
    later = dict.fromkeys(
        name
        for one in shown
        for name in (grid_name(one), walks_name(one), changes_name(one), film_name(one.trial))
    )
    order = [*(name for name in pictures if name not in later), *later]
    left, found = PAGE_BYTES, []
    for name in (name for name in order if name in pictures):
        left -= -(-len(pictures[name]) // 3) * 4  # base64
        if left < 0:
            break
        found.append(name)
    return found


def embedded(name: str, content: bytes) -> str:
    """Return a picture as a page holds it: an SVG as it is, all else as base64."""
    if name.endswith(SVG):
        return inside_page(content, name.removesuffix(SVG))
    return base64.b64encode(content).decode()


def films(pick: Pick) -> dict[str, list[int]]:
    """Return the finalists' trials, the winner's first, and their finalists' epochs."""
    found: dict[str, list[int]] = {}
    for place in finalists(pick):
        candidate = pick.candidates[place]
        found.setdefault(candidate.trial, []).append(candidate.epoch)
    return {trial: sorted(epochs) for trial, epochs in found.items()}


def page_template(path: Path) -> Template:
    """Return a template of a page, which may use `head.html.j2` and `parts.html.j2`.

    It has a glossary of its own: what is linked by `term` and `linked` is listed at its end.
    """
    environment, glossary = _environment(path, html=True), Glossary()
    environment.filters |= {"linked": glossary.linked, "code": code}
    known = {"glossary": glossary, "term": glossary.term}
    environment.globals |= {**known, "on_scale": on_scale, "narrow_name": narrow_name}
    return environment.get_template(path.name)


def markdown_template(path: Path) -> Template:
    """Return a template of Markdown. What others have named goes into it by `plain`."""
    return _environment(path, html=False).get_template(path.name)


def _environment(path: Path, *, html: bool) -> Environment:
    """Return what templates beside this one are read by, with filters of numbers and times."""
    environment = Environment(
        loader=FileSystemLoader([path.parent, TEMPLATE.parent]),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
    )
    environment.filters |= FILTERS | {"moment": moment}
    return environment


def taken_for_real(counts: Tally) -> str:
    """Return a quiz's count as `9 of 24, 38 % (21 % to 57 %)`; a dash where there was none."""
    taken, judged = counts
    return f"{taken} of {judged}, {percent(proportion(taken, judged))}" if judged else "–"
