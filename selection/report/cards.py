"""What is handed over with picked weights: `model_card.md` and `data_card.md`.

The words stand in the two templates; every number comes from the pick, from the study, or from the
data set's labels. What was not measured is said to be not measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from acgan.data import label_files, phantom
from acgan.files import replace_text
from selection.ledgers.reviews import Entry, looks, of_weights
from selection.metrics.confounding import (
    DataFacts,
    cramers_v,
    each_against_the_rest,
    of_known_source,
    right_by_frequency,
    right_by_source,
)
from selection.metrics.reference import ENOUGH_FOR_FID
from selection.metrics.wording import interval_text, number, plain
from selection.registry.versions import NAME, usage
from selection.report.page import DATA_CARD, MODEL_CARD, markdown_template
from selection.report.tables import metrics_by_class, reference_counts
from selection.steps.objections import objections
from selection.steps.result import Difference, Pick
from selection.steps.scores import rows

TEMPLATES = {name: Path(__file__).with_name(f"{name}.j2") for name in (MODEL_CARD, DATA_CARD)}
DESCRIPTION_LIMIT = 5000  # characters; MLflow's databases take no more
STRONG = 0.5  # of Cramér's V: from here on, class and source are called strongly confounded


def cards(
    pick: Pick, facts: DataFacts, train: Mapping[str, Any], reviews: Sequence[Entry] = ()
) -> dict[str, str]:
    """Return both cards by file name, Markdown.

    train: the configuration with which the winner's trial was trained
    reviews: what people saw and decided by now
    """
    # Which version it becomes is not known yet, and whether it is the champion may change.
    uri = f"models:/{NAME}/VERSION"
    context = {
        "pick": pick,
        "winner": pick.winner,
        "classes": [plain(name) for name in pick.classes],
        "facts": facts,
        "train": train,
        "looked": of_weights(reviews, pick.winner.weights),
        "against": _against(pick, reviews),
        "drawn": _drawn(facts),
        "kind": images_of(facts),
        "created": f"{datetime.fromtimestamp(pick.created, UTC):%Y-%m-%d}",
        "confounding": confounding(facts),
        "on_validation": validation_rows(pick, facts),
        "by_class": metrics_by_class(pick),
        "enough": ENOUGH_FOR_FID,
        "real": reference_counts(pick)["validation"],
        "model": NAME,
        "uri": uri,
        "code": usage(pick.classes[0], uri),
    }
    return {name: markdown_template(path).render(context) for name, path in TEMPLATES.items()}


def images_of(facts: DataFacts) -> str:
    """Return what the images are called: chest X-rays only where they are known to be some."""
    return "chest X-rays" if _drawn(facts) or facts.layout == label_files.NAME else "images"


def _drawn(facts: DataFacts) -> bool:
    return set(facts.sources) <= set(phantom.SOURCES)


def write_cards(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the cards into a pick's folder."""
    for name, text in texts.items():
        replace_text(folder / name, text)


@dataclass(frozen=True)
class Confounding:
    """How much class and source are one among the training and validation images.

    All of images of known source, which `known` is the share of.
    v: Cramér's V; classes: of each class against the others; strong: whether it is large
    right_by_source, right_by_frequency: share of right guesses, see `selection.metrics.confounding`
    """

    v: float | None
    classes: dict[str, float | None]
    right_by_source: float | None
    right_by_frequency: float | None
    known: float

    @property
    def strong(self) -> bool:
        """Whether a score may measure the hospital for all that is known."""
        return self.v is not None and self.v >= STRONG


def confounding(facts: DataFacts) -> Confounding:
    """Return how much class and source are one."""
    whole = sum(facts.splits[name].counts for name in ("training", "validation"))
    assert not isinstance(whole, int)  # every data set has both
    known = of_known_source(whole, facts.sources)
    return Confounding(
        v=cramers_v(known),
        classes=dict(zip(facts.classes, each_against_the_rest(known), strict=True)),
        right_by_source=right_by_source(known),
        right_by_frequency=right_by_frequency(known),
        known=float(known.sum() / whole.sum()),
    )


def validation_rows(pick: Pick, facts: DataFacts) -> list[Difference]:
    """Return the winner's scores on validation images, overall, by class and by source.

    Beside each stands, as `baseline`, that of CNNs trained on the real images. Nothing where the
    winner was not scored.
    """
    if pick.winner.utility is None:
        return []
    return rows(
        pick.winner.utility.hits,
        pick.ceiling.hits,
        pick.validation,
        sources=facts.validation_sources,
        classes=pick.classes,
    )


def description(pick: Pick, facts: DataFacts, reviews: Sequence[Entry] = ()) -> str:
    """Return what stands at the registered version: the cards' gist, at most 5,000 characters.

    reviews: what people saw and decided by now
    """
    winner, found = pick.winner, confounding(facts)
    against = _against(pick, reviews)
    score = winner.utility and winner.utility.balanced_accuracy
    lines = [
        f"Generator of {images_of(facts)} ({', '.join(map(plain, pick.classes))}), study "
        f"{pick.study}, "
        f"{winner.name}. For research. **Not for diagnosis.**",
        "Balanced accuracy of classifiers trained on its images alone, on real validation images: "
        f"{interval_text(score) if score else 'not measured'} (optimistic: it was picked on them); "
        f"trained on real images: {interval_text(pick.ceiling.balanced_accuracy)}.",
        *([f"**Against using it**: {against}."] if against else []),
        _on_test(pick),
        f"Check for copies of training images: {pick.memorisation}.",
        _confounded(found),
        f"More in {MODEL_CARD} and {DATA_CARD} beside the model, and in report.html of the run. "
        f"To train it again: python -m search.reproduce --study {pick.study} "
        f"--trial {winner.trial}",
    ]
    return "\n\n".join(lines)[:DESCRIPTION_LIMIT]


def _against(pick: Pick, reviews: Sequence[Entry]) -> str:
    """Return what speaks against using the winner, "" for nothing."""
    return "; ".join(objection.reason for objection in objections(pick, looks(reviews)))


def _on_test(pick: Pick) -> str:
    if pick.test is None or not pick.test.rows:
        return "On test images: not measured."
    row: Difference = pick.test.rows[0]
    return f"On {pick.test.images} test images: {row.name} {interval_text(row.winner)}."


def _confounded(found: Confounding) -> str:
    if found.v is None:
        return "Whether class and hospital are confounded in its data is not known."
    text = f"Class and source of its real images: Cramér's V {number(found.v)} (0 unrelated, 1 one)"
    return f"{text}: a score may measure the hospital." if found.strong else f"{text}."
