"""What has to be worked out from a pick before it can be told: order, funnel, tables."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from acgan.evaluation.variety import DIVERSITY, ONE_PICTURE
from selection.metrics.estimate import Estimate
from selection.metrics.metric import CLASS_MEAN, WHOLE, Part
from selection.metrics.registry import parse
from selection.metrics.wording import counted
from selection.report.glossary import KEYS
from selection.steps.result import Candidate, Fidelity, Pick, Utility

NOBODY_OUT = "so this left nobody out"


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
    alike = [f"{step1.one_picture:,} are {ONE_PICTURE}"] if step1.one_picture else []
    return [
        Stage(step1.recorded, "recorded epochs", (trials,)),
        Stage(step1.passed, "passed the filter", (f"did not pass: {failed or 'none'}", *alike)),
        Stage(usable, "of these have weights", tuple(_weights_notes(pick))),
        Stage(len(competing), "candidates, scored in step 2", tuple(_cap_notes(pick))),
        Stage(len(ties), "in the tie set, measured in step 3", tuple(_left_notes(competing))),
        Stage(len(passed), "passed the memorisation check", tuple(_copies_notes(passed))),
        *_narrowing(pick),
        Stage(1, "picked", (f"rule: {pick.decision.rule}",)),
    ]


def _narrowing(pick: Pick) -> Iterator[Stage]:
    """Tell of what left some of those that passed the memorisation check, and not all."""
    decision = pick.decision
    if decision.kept:
        yield Stage(len(decision.kept), "kept by a person")
    if any(pick.is_one_picture(pick.candidates[place]) for place in decision.tie_set):
        none = () if decision.varied else (NOBODY_OUT,)
        yield Stage(len(decision.varied), f"not {ONE_PICTURE}", none)


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


def _copies_notes(passed: Sequence[Candidate]) -> Iterator[str]:
    if not passed:
        yield NOBODY_OUT
    found = [c.fidelity for c in passed if c.fidelity]
    unjudged = sum(fidelity.judged < len(fidelity.memorisation) for fidelity in found)
    if unjudged:
        yield f"{unjudged:,} of them could not be judged in every class"


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

    name: under which its values are stored in `Fidelity.metrics`; part: of the reference set,
    which it was measured on; images: how many real ones these are, if known
    """

    reference: str
    name: str
    part: Part | str
    images: int | None


@dataclass(frozen=True)
class MetricTable:
    """One metric of all finalists: overall, by class, and its mean over the classes."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    better: str = ""  # "lower" or "higher", where this version knows the metric

    def is_zero(self, pick: Pick) -> bool:
        """Return whether every finalist has 0 everywhere."""
        values = [
            fidelity.metrics.get(column.reference, {}).get(column.name)
            for fidelity in _fidelities(pick)
            for column in self.columns
        ]
        return all(value == 0 for value in values if value is not None)


_ENTRIES = {"recall": "precision"}  # of the glossary, where its key is not the metric's name


@dataclass(frozen=True)
class Short:
    """The one column of a metric's table that stands for it."""

    table: str
    better: str
    column: Column
    word: str = ""  # the glossary's key, where it has the metric


def shorts(tables: Sequence[MetricTable]) -> list[Short]:
    """Return each metric's mean over the classes on validation images, else its first column."""

    def preferred(column: Column) -> tuple[bool, bool]:
        return column.reference != "validation", column.part != CLASS_MEAN

    found = []
    for table in tables:
        column = min(table.columns, key=preferred)
        name = key.metric.name if (key := parse(column.name)) else ""
        word = _ENTRIES.get(name, name)
        found.append(Short(table.name, table.better, column, word if word in KEYS else ""))
    return found


def metric_tables(pick: Pick) -> list[MetricTable]:
    """Return step 3's metrics with all reference sets side by side.

    A metric that this version does not know has a table of its own under its stored name.
    """
    columns: dict[tuple[str, str, str], list[Column]] = {}
    for reference, name in _stored_metrics(pick):
        key = parse(name)
        part = key.part if key else WHOLE
        column = Column(reference, name, part, _images(pick, reference, part))
        table = (key.table, key.meaning, key.metric.better) if key else (name, "", "")
        columns.setdefault(table, []).append(column)
    return [
        MetricTable(name, meaning, tuple(own), better)
        for (name, meaning, better), own in columns.items()
    ]


def _stored_metrics(pick: Pick) -> list[tuple[str, str]]:
    """Return reference set and name of every metric that any finalist has."""
    found = [
        (reference, name)
        for fidelity in _fidelities(pick)
        for reference, values in fidelity.metrics.items()
        for name in values
    ]
    return list(dict.fromkeys(found))


def _fidelities(pick: Pick) -> list[Fidelity]:
    found = [pick.candidates[place].fidelity for place in finalists(pick)]
    return [fidelity for fidelity in found if fidelity]


def _images(pick: Pick, reference: str, part: Part | str) -> int | None:
    counts = reference_counts(pick).get(reference)
    if counts is None:
        return None
    if part == CLASS_MEAN:
        return min(counts)
    return counts[pick.classes.index(part)] if part in pick.classes else sum(counts)


def metrics_by_class(pick: Pick) -> list[tuple[str, str, list[float | None]]]:
    """Return the winner's metrics on validation images: name, meaning, one value per class."""
    if pick.winner.fidelity is None:
        return []
    known = pick.winner.fidelity.metrics.get("validation", {})
    keys = [key for name in known if (key := parse(name)) and key.of_class]
    tables = {key.table: key for key in keys}
    return [
        (table, key.meaning, [known.get(str(replace(key, part=name))) for name in pick.classes])
        for table, key in tables.items()
    ]


def memorisation_checks(pick: Pick) -> list[tuple[str, int]]:
    """Return the spaces and classes in which the finalists were checked for copies."""
    spaces = [space for fidelity in _fidelities(pick) for space in fidelity.memorisation]
    return list(dict.fromkeys((space.space, space.label) for space in spaces))


@dataclass(frozen=True)
class Tested:
    """The names of the metrics on test images: those that are 0 for all, and the others."""

    names: list[str]
    zero: list[str]


def tested_metrics(pick: Pick) -> Tested:
    """Return the names of the metrics on test images."""
    values = list(pick.test.metrics.values()) if pick.test else []
    names = dict.fromkeys(name for own in values for name in own)
    zero = [name for name in names if all(own.get(name, 0) == 0 for own in values)]
    return Tested([name for name in names if name not in zero], zero)


# --- candidates.csv ------------------------------------------------------------------------------


def candidates_csv(pick: Pick) -> str:
    """Return one line per candidate, best score of step 2 first, numbers at full precision."""
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
        pick.objective: candidate.quality,
        DIVERSITY: candidate.diversity,
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
    without = "no" if fidelity.judged else "not judged"
    cells: dict[str, object] = {"memorised": "; ".join(fidelity.memorised) or without}
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
