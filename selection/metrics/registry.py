"""All metrics of step 3. One more is a file that makes a `Metric`, and a line here.

Step 3, the report's tables, the cards, MLflow and the version of the stored results follow.
"""

import re

from selection.metrics import fid, inception_score, kid, neighbourhood
from selection.metrics.metric import CLASS_MEAN, DEVIATION, INTRA, STD, WHOLE, Key, Metric

# In the order of the report.
METRICS: tuple[Metric, ...] = (
    fid.FID,
    kid.KID,
    neighbourhood.PRECISION,
    neighbourhood.RECALL,
    neighbourhood.DENSITY,
    neighbourhood.COVERAGE,
    inception_score.IS,
)
VERSION = max(metric.since for metric in METRICS)  # of the stored results of step 3

_BY_WORD = {word: m for m in METRICS for word in (m.name, m.elsewhere) if word}


def parse(name: str) -> Key | None:
    """Return what a stored value is of; None for a metric that this version does not know."""
    whole, _, class_name = name.partition("/")
    mean = whole.startswith(INTRA) and whole.removeprefix(INTRA).partition("_")[0] in _BY_WORD
    word, _, rest = (whole.removeprefix(INTRA) if mean else whole).partition("_")
    if word not in _BY_WORD:
        return None
    found = re.fullmatch(rf"({STD[1:]}(?=_|$))?_?(.*)", rest)
    assert found is not None  # it matches anything
    part = class_name or (CLASS_MEAN if mean else DEVIATION if found[1] else WHOLE)
    return Key(_BY_WORD[word], found[2], part)
