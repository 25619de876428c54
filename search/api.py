"""What Python code calls: `search.search` and `search.load_study`; see docs/python.md.

Nothing that takes long to import is imported before a function is called.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acgan.config import TrainConfig, nearest_name
from acgan.data.source import HINTS, DataSource
from acgan.errors import InputError
from search.settings import SearchConfig

OWN_PACKAGES = ("search", "selection")
_warned: set[tuple[str, str, int]] = set()  # texts, with the file and the line that they are of

if TYPE_CHECKING:
    from search.study.searched import SearchedStudy
    from search.tracking.find import StudyNamed


def search(  # noqa: PLR0913 - one for each thing that a user may say
    data: str | Path | DataSource | None = None,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    space: Mapping[str, Any] | None = None,
    study: str | None = None,
    storage_path: str | Path = "runs",
    tracking_uri: str | None = None,
    address: str | None = None,
    time_budget_s: float | None = None,
    tell: Callable[[str], None] | None = None,
    bar: bool = False,
    **settings: Any,
) -> SearchedStudy:
    """Search as `python -m search.run` does; called again, go on with the same study.

    data: a folder of labelled images, or "phantom"; None: the configuration's
    config: a YAML file, or what one would hold, by section; None: the demo's, or a recipe
    space: instead of the configuration's section of that name, for example
        `{"dropout": {"low": 0, "high": 0.5}}`
    study, storage_path: the study's name and the folder of studies
    tracking_uri: of MLflow; None: as MLFLOW_TRACKING_URI says, or the file mlflow.db
    address: of the Ray cluster to join; None: as RAY_ADDRESS says, or this machine. A Ray that is
        initialised in this process already is used instead, and left running.
    time_budget_s: after which no further trial is begun and those under way end
    tell: is given each line about how far it is, and warnings, which are Python's own without it
    bar: whether a bar of tqdm is shown
    settings: fields of `SearchConfig` and `TrainConfig`, `num_samples=8, epochs=40`

    Raises `InputError` for what cannot be searched, before any long work, and `KeyboardInterrupt`
    once what is there is safe. The environment and the handlers of signals are as before then.
    """
    known = {*SearchConfig.model_fields, *TrainConfig.model_fields, *HINTS} - {"folder"}
    check_names(settings, known)
    with left_as_it_was():
        from search.plan import SearchRequest, make_search_plan  # noqa: PLC0415 (takes seconds)
        from search.study.searched import SearchedStudy  # noqa: PLC0415
        from search.tune.carry_out import carry_out  # noqa: PLC0415

        request = SearchRequest(
            config=Path(config) if isinstance(config, str) else config,
            space=space,
            study=study,
            storage_path=str(storage_path),
            tracking_uri=tracking_uri,
            address=address,
            time_budget_s=time_budget_s,
            values=settings | values_of(data),
        )
        plan = make_search_plan(request, say=tell or nobody)
        for warning in plan.warnings:
            warn(warning, tell)
        done = carry_out(plan, tell=tell or nobody, bar=bar)
    if done.interrupted:
        raise KeyboardInterrupt
    return SearchedStudy(done.study, plan.tracking_uri, done.missing + done.repeats)


def load_study(
    study: str | None = None,
    *,
    run_id: str | None = None,
    storage_path: str | Path | None = None,
    tracking_uri: str | None = None,
) -> SearchedStudy:
    """Load a study that is there, by its name or by the MLflow run of it or of one of its trials.

    storage_path: folder of studies; None: "runs", or with `run_id` where MLflow says. Raises
    `InputError` where it is not there.
    """
    with left_as_it_was():
        from search.study.searched import SearchedStudy  # noqa: PLC0415 (takes seconds)
        from search.tracking.find import asked_study  # noqa: PLC0415
        from search.tracking.uris import resolve_uri  # noqa: PLC0415

        found, _ = asked_study(named_study(study, run_id, storage_path, tracking_uri))
        return SearchedStudy(found, resolve_uri(tracking_uri))


def named_study(
    study: Any, run_id: str | None, storage_path: str | Path | None, tracking_uri: str | None
) -> StudyNamed:
    """Return how a study is named; `InputError` where it is by nothing, or by two things.

    study: its name, or what has it as `study` and MLflow's address as `tracking_uri`
    """
    from search.tracking.find import StudyNamed  # noqa: PLC0415 (takes seconds)

    if (study is None) is (run_id is None):
        raise InputError("name the study, or run_id=ID of its MLflow run, and not both")
    if not isinstance(study, str | None):
        tracking_uri = tracking_uri or study.tracking_uri
        storage_path, _, study = study.study.place.rpartition("/")
    return StudyNamed(
        run_id=run_id,
        study=study,
        storage_path=None if storage_path is None else str(storage_path),
        tracking_uri=tracking_uri,
    )


def values_of(data: str | Path | DataSource | None) -> dict[str, Any]:
    """Return what a request says of the images."""
    if data is None:
        return {}
    if not isinstance(data, str | Path | DataSource):
        raise InputError(
            "images in memory must be a folder first, which every process can read: give what "
            "acgan.data.arrays.save_images(folder, images, labels) returns"
        )
    source = data if isinstance(data, DataSource) else DataSource(folder=str(data))
    return {"data": source.folder, **source.hints()}


def check_names(given: Mapping[str, Any], known: set[str], *, what: str = "setting") -> None:
    """Raise `InputError` for a name that is not known."""
    for name in given:
        if name not in known:
            raise InputError(f"there is no {what} {name!r}{nearest_name(name, sorted(known))}")


@contextlib.contextmanager
def left_as_it_was() -> Iterator[None]:
    """Set what Ray and MLflow read in the environment; put back what was there."""
    before = dict(os.environ)
    try:
        from search.nodes import environment as of_ray  # noqa: PLC0415 (imports Ray's settings)
        from search.tracking import environment as of_mlflow  # noqa: PLC0415

        of_ray.set_up()
        of_mlflow.set_up()
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def warn(text: str, tell: Callable[[str], None] | None) -> None:
    """Give a warning to `tell`, or to Python's `warnings`, once for the line that called the API.

    Python's own memory of what it has shown is emptied by each library that changes its filters.
    """
    if tell is not None:
        tell(f"warning: {text}")
        return
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in OWN_PACKAGES:
        frame, level = frame.f_back, level + 1
    place = text, frame.f_code.co_filename, frame.f_lineno
    if place not in _warned:
        warnings.warn(text, UserWarning, stacklevel=level)
        _warned.add(place)


def nobody(line: str) -> None:
    """Hear a line."""
