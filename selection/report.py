"""What a person reads after a pick: `report.html`, `candidates.csv` and two pictures.

The page needs nothing but itself: pictures are inside it, and it has no script. What it says stands
in `report.html.j2`; what has to be worked out from a pick before it can be said stands here.
"""

from __future__ import annotations

import base64
import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from acgan.files import replace_bytes, replace_text
from acgan.records import QUALITY, EpochRecord, metric
from selection.fidelity import ENOUGH_FOR_FID
from selection.intervals import proportion
from selection.result import Candidate, Estimate, Fidelity, Pick, Utility
from selection.reviews import Counts, Entry, looks, moment
from selection.settings import SelectionConfig

TEMPLATE = Path(__file__).with_name("report.html.j2")
MODEL_CARD, DATA_CARD = "model_card.md", "data_card.md"  # beside the page, see `selection.cards`
PAGE_BYTES = 32_000_000  # of its pictures; beyond, browsers grow slow and mail refuses it
MINUS = "\N{MINUS SIGN}"

# Okabe and Ito's colours, which colour-blind people tell apart.
WINNER, BASELINE, CEILING, TIED, LEFT = "#d55e00", "#0072b2", "#009e73", "#000000", "#8a8a8a"

INTRA, STD = "intra_", "_std"  # in names of means over classes, and of standard deviations
LOWER, HIGHER = "lower is better", "higher is better"
METRICS = {  # by the first word of their name; the others name the extractor
    "fid": f"Distance between the distributions of real and generated features; {LOWER}.",
    "fd": f"As FID, but in the features of another network: not comparable with FID; {LOWER}.",
    "kid": f"Distance between the distributions, unbiased also for few images; {LOWER}.",
    "is": f"How clear and how varied the predicted classes are (Inception score); {HIGHER}.",
    "precision": f"Share of the generated images that lie among the real ones; {HIGHER}.",
    "recall": f"Share of the real images that lie among the generated ones; {HIGHER}.",
    "density": f"As precision, but outliers count little; can exceed 1; {HIGHER}.",
    "coverage": f"Share of the real images with a generated one close by; {HIGHER}.",
}


@dataclass(frozen=True)
class TrackingLinks:
    """Where a pick stands in MLflow, and how its model is used from there.

    run_id: the pick's own run; model, version, alias: of the registered model
    code: the lines of Python that load it and give images; they name no folder of this machine
    """

    run_id: str
    model: str
    version: str
    alias: str
    code: str

    @property
    def uri(self) -> str:
        """`models:/cxr-acgan-generator@champion`."""
        return f"models:/{self.model}@{self.alias}"


def write_report(
    pick: Pick,
    folder: Path,
    *,
    records: Mapping[str, Sequence[EpochRecord]],
    tracking: TrackingLinks | None,
    reviews: Sequence[Entry] = (),
) -> None:
    """Write `candidates.csv`, `scores.png`, `curves.png` and `report.html` into a folder.

    records: every trial's epochs; tracking: None where nothing is registered yet. Pictures that
    already stand in the folder are taken into the page: `real.png`, `tsne.png`, `closest.png`,
    the finalists' samples and walks, and their trials' films (see `grid_name` and the like). Cards
    that stand there are linked. reviews: what people saw and decided by now.
    """
    replace_text(folder / "candidates.csv", candidates_csv(pick))
    replace_bytes(folder / "scores.png", scores_picture(pick))
    replace_bytes(folder / "curves.png", curves_picture(pick, records))
    files = [*folder.glob("*.png"), *folder.glob("*.webp")]
    pictures = {path.name: path.read_bytes() for path in files}
    cards = [name for name in (MODEL_CARD, DATA_CARD) if (folder / name).exists()]
    text = page(pick, pictures, tracking=tracking, reviews=reviews, cards=cards)
    replace_text(folder / "report.html", text)


def grid_name(candidate: Candidate) -> str:
    """Return the file name of a candidate's sample grid: `grid-t0007-0288.png`."""
    return f"grid-{candidate.trial}-{candidate.epoch:04d}.png"


def walks_name(candidate: Candidate) -> str:
    """Return the file name of a candidate's walks between latents: `walks-t0007-0288.png`."""
    return f"walks-{candidate.trial}-{candidate.epoch:04d}.png"


def changes_name(candidate: Candidate) -> str:
    """Return the file name of latents in every class: `classes-t0007-0288.png`."""
    return f"classes-{candidate.trial}-{candidate.epoch:04d}.png"


def film_name(trial: str) -> str:
    """Return the file name of a trial's samples epoch by epoch: `film-t0007.webp`."""
    return f"film-{trial}.webp"


def page(
    pick: Pick,
    pictures: Mapping[str, bytes],
    *,
    tracking: TrackingLinks | None = None,
    reviews: Sequence[Entry] = (),
    cards: Sequence[str] = (),
) -> str:
    """Return `report.html` with these PNGs and WebPs, by file name, inside it.

    A picture that is missing is left out with a sentence, and so is one with which the page would
    exceed 32 MB. cards: files beside it that are linked
    """
    inside = fitting(pick, pictures)
    return html_template(TEMPLATE).render(
        pick=pick,
        tracking=tracking,
        cards=cards,
        descriptions={k: v.description for k, v in SelectionConfig.model_fields.items()},
        created=moment(pick.created),
        enough=ENOUGH_FOR_FID,
        ranked=ranked(pick),
        finalists=finalists(pick),
        funnel=funnel(pick),
        counts=reference_counts(pick),
        tables=metric_tables(pick),
        checks=memorisation_checks(pick),
        tested=tested_metrics(pick),
        pictures={name: base64.b64encode(pictures[name]).decode() for name in inside},
        left_out=[name for name in pictures if name not in inside],
        grid_name=grid_name,
        looks=looks(reviews),
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
    own = [
        [grid_name(one), walks_name(one), changes_name(one), film_name(one.trial)] for one in shown
    ]
    later = list(dict.fromkeys(name for names in own for name in names))
    order = [*(name for name in pictures if name not in later), *later]
    left, found = PAGE_BYTES, []
    for name in (name for name in order if name in pictures):
        left -= -(-len(pictures[name]) // 3) * 4  # base64
        if left < 0:
            break
        found.append(name)
    return found


def films(pick: Pick) -> dict[str, list[int]]:
    """Return the finalists' trials, the winner's first, and their finalists' epochs."""
    found: dict[str, list[int]] = {}
    for place in finalists(pick):
        candidate = pick.candidates[place]
        found.setdefault(candidate.trial, []).append(candidate.epoch)
    return {trial: sorted(epochs) for trial, epochs in found.items()}


def html_template(path: Path) -> Template:
    """Return a page's template, with numbers' filters."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number,
        "interval": interval,
        "percent": percent,
        "significant": significant,
        "counted": counted,
        "moment": moment,
    }
    return environment.from_string(path.read_text(encoding="utf-8"))


# --- numbers as they are read --------------------------------------------------------------------


def number(value: float | None, digits: int = 2) -> str:
    """Return `0.62`, `−0.02`; a dash where there is none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)  # + 0.0: never −0.00


def interval(estimate: Estimate | None, digits: int = 2) -> str:
    """Return `0.62 (0.57 to 0.67)`: a number with its 95 % interval."""
    if estimate is None:
        return "–"
    low, high = number(estimate.low, digits), number(estimate.high, digits)
    return f"{number(estimate.value, digits)} ({low} to {high})"


def percent(estimate: Estimate | None) -> str:
    """Return a share with its interval as `4 % (2 % to 7 %)`."""
    if estimate is None:
        return "not judged"
    value, low, high = (f"{100 * v:.0f} %" for v in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def taken_for_real(counts: Counts) -> str:
    """Return a quiz's count as `9 of 24, 38 % (21 % to 57 %)`; a dash where there was none."""
    taken, judged = counts
    return f"{taken} of {judged}, {percent(proportion(taken, judged))}" if judged else "–"


def significant(value: object) -> str:
    """Return a number with three significant digits, `1,218` or `0.0123`; all else as it is."""
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    if not math.isfinite(value):
        return "not finite"
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", MINUS)


def counted(value: int, noun: str) -> str:
    """Return `1 image`, `2,048 images`."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


# --- what follows from a pick --------------------------------------------------------------------


def ranked(pick: Pick) -> list[int]:
    """Return the candidates' places in `Pick.candidates` by step 2's score, failed ones last."""

    def order(place: int) -> tuple[float, str, int]:
        candidate = pick.candidates[place]
        score = candidate.utility.balanced_accuracy.value if candidate.utility else -math.inf
        return -score, candidate.trial, candidate.epoch

    return sorted(range(len(pick.candidates)), key=order)


def finalists(pick: Pick) -> list[int]:
    """Return the places of the candidates that step 3 measured: the winner, then by score."""
    found = [place for place in ranked(pick) if pick.candidates[place].fidelity]
    return sorted(found, key=lambda place: place != pick.decision.winner)


@dataclass(frozen=True)
class Stage:
    """One stage of the funnel: how many epochs are still in, and where the others went."""

    count: int
    name: str
    notes: tuple[str, ...] = ()


def funnel(pick: Pick) -> list[Stage]:
    """Return the stages from all recorded epochs to the winner."""
    step1, competing = pick.filter, [c for c in pick.candidates if c.competes]
    rejected = sum(1 for candidate in pick.candidates if candidate.review == "rejected")
    usable = len(competing) + rejected + step1.over_cap + step1.over_per_trial
    ties = [pick.candidates[place] for place in pick.decision.tie_set]
    passed = [c for c in ties if c.fidelity and not c.fidelity.memorised]
    trials = f"of {counted(step1.trials, 'trial')}"
    failed = ", ".join(f"{total:,} {reason}" for reason, total in step1.reasons.items())
    return [
        Stage(step1.recorded, "recorded epochs", (trials,)),
        Stage(step1.passed, "passed the filter", (f"did not pass: {failed or 'none'}",)),
        Stage(usable, "of these have weights", tuple(_weights_notes(pick))),
        Stage(len(competing), "candidates, scored in step 2", tuple(_cap_notes(pick))),
        Stage(len(ties), "in the tie set, measured in step 3", tuple(_left_notes(competing))),
        Stage(len(passed), "passed the memorisation check"),
        *([Stage(len(pick.decision.kept), "kept by a person")] if pick.decision.kept else []),
        Stage(1, "picked", (f"rule: {pick.decision.rule}",)),
    ]


def _weights_notes(pick: Pick) -> Iterator[str]:
    yield f"weights are kept of {counted(pick.filter.kept, 'epoch')}, whether they pass or not"
    if pick.filter.better_without_weights:
        yield (
            f"{pick.filter.better_without_weights:,} that passed looked better than the last "
            "candidate of their trial but kept no weights: nothing can be said about them"
        )


def _cap_notes(pick: Pick) -> Iterator[str]:
    for limit, cut in (
        ("per_trial", pick.filter.over_per_trial),
        ("max_candidates", pick.filter.over_cap),
    ):
        if cut:
            yield (
                f"{cut:,} cut by {limit} = {pick.settings[limit]}, before any was scored: "
                "whether they would have tied is not known"
            )
    rejected = sum(1 for candidate in pick.candidates if candidate.review == "rejected")
    if rejected:
        yield f"{rejected:,} rejected by people who saw the images"


def _left_notes(competing: Sequence[Candidate]) -> Iterator[str]:
    failed = sum(1 for candidate in competing if candidate.failed)
    if failed:
        yield f"{failed:,} could not be scored"
    left = Counter(c.left_at for c in competing if c.left_at is not None)
    for rung, total in sorted(left.items()):
        yield f"{total:,} told apart from the best with {rung} CNNs each"


def reference_counts(pick: Pick) -> dict[str, list[int]]:
    """Return how many real images of each class the reference sets hold."""
    limit = int(pick.settings["reference_limit"])
    return {
        "validation": [pick.validation.labels.count(c) for c in range(len(pick.classes))],
        "training": [min(images, limit) for images in pick.train_images],
    }


@dataclass(frozen=True)
class Column:
    """One column of a metric's table.

    key: the metric's name in `Fidelity.metrics`; images: real ones it was measured on, if known
    """

    reference: str
    key: str
    images: int | None

    @property
    def part(self) -> str:
        """What of a reference set it was measured on."""
        if self.key.startswith(INTRA):
            return "class mean"
        if STD in self.key:
            return "deviation"
        return self.key.partition("/")[2] or "all"


@dataclass(frozen=True)
class MetricTable:
    """One metric of all finalists: overall, by class, and its mean over the classes."""

    name: str
    meaning: str
    columns: tuple[Column, ...]


def metric_tables(pick: Pick) -> list[MetricTable]:
    """Return step 3's metrics with all reference sets side by side."""
    tables: dict[str, list[Column]] = {}
    for reference, key in _metric_names(pick):
        column = Column(reference, key, _images(pick, reference, key))
        name = key.partition("/")[0].removeprefix(INTRA).replace(STD, "")
        tables.setdefault(name, []).append(column)
    return [MetricTable(name, _meaning(name), tuple(own)) for name, own in tables.items()]


def _metric_names(pick: Pick) -> list[tuple[str, str]]:
    """Return reference set and name of every metric that any finalist has."""
    found = [
        (reference, key)
        for fidelity in _fidelities(pick)
        for reference, values in fidelity.metrics.items()
        for key in values
    ]
    return list(dict.fromkeys(found))


def _fidelities(pick: Pick) -> list[Fidelity]:
    found = [pick.candidates[place].fidelity for place in finalists(pick)]
    return [fidelity for fidelity in found if fidelity]


def _images(pick: Pick, reference: str, key: str) -> int | None:
    counts, name = reference_counts(pick).get(reference), key.partition("/")[2]
    if counts is None:
        return None
    if key.startswith(INTRA):
        return min(counts)
    return counts[pick.classes.index(name)] if name in pick.classes else sum(counts)


def _meaning(name: str) -> str:
    return METRICS.get(name.partition("_")[0], "")


def memorisation_checks(pick: Pick) -> list[tuple[str, int]]:
    """Return the spaces and classes in which the finalists were checked for copies."""
    spaces = [space for fidelity in _fidelities(pick) for space in fidelity.memorisation]
    return list(dict.fromkeys((space.space, space.label) for space in spaces))


def tested_metrics(pick: Pick) -> list[str]:
    """Return the names of the metrics on test images."""
    values = pick.test.metrics.values() if pick.test else ()
    return list(dict.fromkeys(name for own in values for name in own))


# --- candidates.csv ------------------------------------------------------------------------------


def candidates_csv(pick: Pick) -> str:
    """Return one line a candidate, best score of step 2 first, numbers at full precision."""
    rows = [_row(pick, place) for place in ranked(pick)]
    with io.StringIO() as file:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()


def _row(pick: Pick, place: int) -> dict[str, object]:
    candidate = pick.candidates[place]
    return {
        "trial": candidate.trial,
        "epoch": candidate.epoch,
        "verdict": candidate.failed or candidate.verdict,
        "picked": place == pick.decision.winner,
        "tied": place in pick.decision.tie_set,
        "competes": candidate.competes,
        "baseline": candidate.baseline,
        "review": candidate.review,
        "weights": candidate.weights,
        **{f"params/{name}": value for name, value in candidate.params.items()},
        QUALITY: candidate.quality,
        "filter_score": candidate.filter_score,
        **(_utility_cells(pick, candidate.utility) if candidate.utility else {"cnns": 0}),
        **(_cells("behind_best", candidate.behind_best) if candidate.behind_best else {}),
        "left_at": candidate.left_at,
        **(_fidelity_cells(pick, candidate.fidelity) if candidate.fidelity else {}),
    }


def _utility_cells(pick: Pick, utility: Utility) -> dict[str, object]:
    cells = {
        "cnns": len(utility.hits),
        **_cells("balanced_accuracy", utility.balanced_accuracy),
        **_cells("accuracy", utility.accuracy),
    }
    for name, recall in zip(pick.classes, utility.recall, strict=True):
        cells |= _cells(f"recall/{name}", recall)
    return cells


def _fidelity_cells(pick: Pick, fidelity: Fidelity) -> dict[str, object]:
    cells: dict[str, object] = {"memorised": "; ".join(fidelity.memorised) or "no"}
    for space in fidelity.memorisation:
        if space.share is not None:
            cells |= _cells(f"near_copies/{space.space}/{pick.classes[space.label]}", space.share)
    for name, share in zip(pick.classes, fidelity.reverse, strict=True):
        cells[f"reverse/{name}"] = share
    for reference, values in fidelity.metrics.items():
        cells |= {f"{reference}/{name}": value for name, value in values.items()}
    return cells


def _cells(name: str, estimate: Estimate) -> dict[str, object]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


# --- pictures ------------------------------------------------------------------------------------


def scores_picture(pick: Pick) -> bytes:
    """Draw step 2's scores as dots with their intervals, best on top; return a PNG."""
    places = [place for place in ranked(pick) if pick.candidates[place].utility][::-1]
    figure = Figure(figsize=(8, 1.2 + 0.27 * len(places)), layout="constrained")
    axes = figure.add_subplot()
    ceiling, chance = pick.ceiling.balanced_accuracy, 1 / len(pick.classes)
    axes.axvspan(ceiling.low, ceiling.high, color=CEILING, alpha=0.15, linewidth=0)
    axes.axvline(ceiling.value, color=CEILING, label="CNNs trained on real images")
    axes.axvline(chance, color=LEFT, linestyle=":", label="chance")
    for height, place in enumerate(places):
        _draw_score(axes, pick, place, height=height)
    axes.set_yticks(range(len(places)), [pick.candidates[place].name for place in places])
    axes.set_ylim(-0.7, len(places) - 0.3)
    axes.set_xlabel("balanced accuracy on real validation images, 95 % interval")
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure_png(figure)


def _draw_score(axes: Axes, pick: Pick, place: int, *, height: int) -> None:
    utility, colour = pick.candidates[place].utility, _colour(pick, place)
    assert utility is not None
    score, tied = utility.balanced_accuracy, place in pick.decision.tie_set
    axes.plot([score.low, score.high], [height, height], color=colour)
    axes.plot(score.value, height, "o", color=colour, markerfacecolor=colour if tied else "white")


def _colour(pick: Pick, place: int) -> str:
    if place == pick.decision.winner:
        return WINNER
    if pick.candidates[place].baseline:
        return BASELINE
    return TIED if place in pick.decision.tie_set else LEFT


def curves_picture(pick: Pick, records: Mapping[str, Sequence[EpochRecord]]) -> bytes:
    """Draw `val/fd_cnn` of all trials and mark the candidates; return a PNG.

    The first epochs, in which a trial is not judged, are dotted.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yscale("log")
    looks = {pick.baseline.trial: (BASELINE, "baseline")} if pick.baseline else {}
    looks[pick.winner.trial] = (WINNER, "winner's trial")
    for trial in sorted(records, key=lambda name: name in looks):
        colour, role = looks.get(trial, (LEFT, ""))
        _draw_curve(axes, records[trial], colour=colour, label=role and f"{role}, {trial}")
    at = [candidate.epoch for candidate in pick.candidates]
    values = [candidate.quality for candidate in pick.candidates]
    axes.plot(at, values, "o", color=TIED, markerfacecolor="white", label="candidate")
    axes.plot(
        pick.winner.epoch, pick.winner.quality, "*", color=WINNER, markersize=16, label="picked"
    )
    axes.set_xlabel("epoch")
    axes.set_ylabel(QUALITY)
    axes.legend(frameon=False)
    return figure_png(figure)


def _draw_curve(axes: Axes, epochs: Sequence[EpochRecord], *, colour: str, label: str) -> None:
    numbers, values = [record.epoch for record in epochs], metric(epochs, QUALITY)
    grown = sum(record.young for record in epochs)  # the young ones come first
    width = 1.8 if label else 0.8
    young = slice(grown + 1)  # up to the first that is not, so that the line is whole
    axes.plot(numbers[young], values[young], ":", color=colour, linewidth=width)
    name = label or None
    axes.plot(numbers[grown:], values[grown:], color=colour, linewidth=width, label=name)


def figure_png(figure: Figure) -> bytes:
    """Return a figure as a PNG."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
        return file.getvalue()
