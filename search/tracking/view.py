"""The view of a study that MLflow's page opens: its trials ranked, few charts, then their images.

MLflow (3.17 on) keeps a view as a tag of the experiment, and a link opens it by the tag's key. What
stands there is read by the page alone: columns are sort keys as those of a search, charts and
sections are known by UUIDs. A view that a person has overridden on the page says so by its times.
"""

import json
import uuid
from typing import Any
from urllib.parse import urlencode

from acgan.run.records import QUALITY
from search.settings import SearchConfig
from search.study.folder import StudyInfo
from search.tracking.connection import Client
from search.tracking.study_runs import SAMPLES

TAG = "mlflow.sharedViewState."
# After what trials are ranked by: the spread within a class, losses and accuracies on validation
# images.
CHARTS = ("val/diversity", "val/g_loss", "val/d_loss", "val/acc_class", "val/acc_generated")
CHARTS_A_ROW = 3
COLUMN_WIDTH, CHART_HEIGHT, IMAGES_HEIGHT = 110, 300, 320  # pixels


def key_of(study_id: str) -> str:
    """Return the key by which a link opens a study's view."""
    return study_id[:12]


def links(study_id: str, experiment_id: str) -> tuple[str, str]:
    """Return the parts of the addresses after the host: the table, and the charts with images."""
    asked = {"workflowType": "machine_learning", "viewStateShareKey": key_of(study_id)}
    page = f"/#/experiments/{experiment_id}/runs?{urlencode(asked)}"
    return page, f"{page}&compareRunsMode=CHART"


def tag(info: StudyInfo) -> tuple[str, str]:
    """Return the experiment's tag, key and value, that holds the study's view."""
    created_ms = round(1000 * info.created)
    times = {"createdAt": created_ms, "updatedAt": created_ms}
    view = {"name": info.name, **times, "state": json.dumps(_state(info))}
    return f"{TAG}{key_of(info.uuid)}", json.dumps(view)


def send(client: Client, experiment_id: str, info: StudyInfo) -> None:
    """Write a study's view, unless it is there or a person has overridden it."""
    key, value = tag(info)
    there = client.get_experiment(experiment_id).tags.get(key)
    if there != value and (there is None or _is_own(there)):
        client.set_experiment_tag(experiment_id, key, value)


def _is_own(value: str) -> bool:
    try:
        view = json.loads(value)
        return bool(view["updatedAt"] == view["createdAt"])
    except (ValueError, TypeError, KeyError):
        return False


def _state(info: StudyInfo) -> dict[str, Any]:
    config = SearchConfig.model_validate(info.search)
    first = f"metrics.`{config.ranking.best}`"
    shown = [
        first,
        "tags.`outcome`",
        "metrics.`val/diversity`",
        *(f"params.`train.{field}`" for field in info.space),
    ]
    curves, images = _uuid(info, "curves"), _uuid(info, "images")
    charts = [
        _chart(info, curves, metric, logarithmic=metric == QUALITY)
        for metric in dict.fromkeys([config.objective, *CHARTS])
    ]
    # Of one image the page makes a column of large ones; with a second row, side by side.
    grid = {"type": "IMAGE", "imageKeys": [SAMPLES, ""], "step": info.train["epochs"]}
    charts.append(_card(info, images, SAMPLES) | grid | {"showRunParams": False})
    sections = [
        _section(curves, "curves", CHARTS_A_ROW, CHART_HEIGHT),
        _section(images, "images", 1, IMAGES_HEIGHT),
    ]
    return {
        "searchFilter": f"tags.study_id = '{info.uuid}' AND tags.origin = 'search'",
        "orderByKey": first,
        "orderByAsc": config.ranking.sign == 1,
        "selectedColumns": shown,
        "columnOrder": shown,
        "columnWidths": dict.fromkeys(shown, COLUMN_WIDTH),
        "compareRunCharts": charts,
        "compareRunSections": sections,
        "isAccordionReordered": True,  # else sections stand by their names
        "runListHidden": True,  # beside charts
    }


def _uuid(info: StudyInfo, what: str) -> str:
    return str(uuid.uuid5(uuid.UUID(info.uuid), what))


def _section(known_by: str, name: str, columns: int, height: int) -> dict[str, Any]:
    size = {"columns": columns, "cardHeight": height}
    return {"uuid": known_by, "name": name, "display": True, "isReordered": True, **size}


def _card(info: StudyInfo, section: str, what: str) -> dict[str, Any]:
    known = {"uuid": _uuid(info, f"chart {what}"), "metricSectionId": section}
    return known | {"deleted": False, "isGenerated": False, "runsCountToCompare": 10}


def _chart(info: StudyInfo, section: str, metric: str, *, logarithmic: bool) -> dict[str, Any]:
    line = {"type": "LINE", "metricKey": metric, "xAxisKey": "step", "yAxisKey": "metric"}
    scale = {"xAxisScaleType": "linear", "scaleType": "log" if logarithmic else "linear"}
    general = {"useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "lineSmoothness": 0}
    rest: dict[str, Any] = {"selectedXAxisMetricKey": "", "yAxisExpressions": []}
    return _card(info, section, metric) | line | scale | general | rest
