"""What a search needs, checked without a trial: what `search.doctor` does."""

import argparse
import contextlib
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from acgan.command import typed
from acgan.data.dataset import Dataset
from acgan.data.source import DataSource, named_source
from acgan.errors import InputError
from acgan.evaluation.inception_file import STANDARD_SHA256, URL, cached_path, checked_file
from search.flags import WEIGHTS_FLAG
from search.nodes.cluster import Node, ray_cluster
from search.nodes.environment import made_token
from search.nodes.fleet import Finding, Level, Wanted, how_many, look, room_and_time, skipped
from search.plan import (
    Asked,
    SearchRequest,
    in_colour,
    largest,
    load_images,
    read_asked,
    study_folder,
    study_info,
    unpickable,
)
from search.settings import SearchConfig
from search.study import estimate
from search.study.folder import check_same, open_study
from search.study.lock import driver_at_work
from search.study.store.study_copy import address_of, shown_place
from search.tracking import check
from search.tracking.uris import resolve_uri, shown

NO_INCEPTION = (
    "none are named, and none are in PyTorch's cache: where they cannot be downloaded either, "
    "selection measures in features of CNNs trained on your images, and its numbers are no "
    f"FID; give {WEIGHTS_FLAG} FILE, which {URL} offers"
)


def examine(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Print a line for each check; return the exit code. words: the flags as typed."""
    levels = []
    for finding in _findings(SearchRequest.of(arguments), arguments.inception_weights):
        print(finding, flush=True)
        levels.append(finding.level)
    errors, warnings = levels.count(Level.ERROR), levels.count(Level.WARNING)
    counts = f"{how_many(errors, 'error')}, {how_many(warnings, 'warning')}"
    if errors:
        again = shown(typed(["python", "-m", "search.doctor", *words]))
        print(f"{counts}: the search cannot start; mend the errors, then type: {again}")
        return 1
    start = shown(typed(["python", "-m", "search.run", *_without_weights(words)]))
    print(f"{counts}: the search can start; type: {start}")
    return 0


def _without_weights(words: Sequence[str]) -> list[str]:
    """Leave out the one flag that a search does not have."""
    kept = [word for word in words if not word.startswith(f"{WEIGHTS_FLAG}=")]
    if WEIGHTS_FLAG in kept:
        place = kept.index(WEIGHTS_FLAG)
        del kept[place : place + 2]
    return kept


def _findings(request: SearchRequest, weights: Path | None) -> Iterator[Finding]:
    asked = yield from _configuration(request)
    asked, source, data = yield from _data(request, asked)
    folder, trials, begun = yield from _study(request, asked, data)
    yield _disk(folder, trials, begun, asked, data)
    yield _mlflow(request, asked)
    inception = yield from _inception(weights, asked)
    address = request.address or os.environ.get("RAY_ADDRESS")
    token = _token(address)
    yield token
    wanted = Wanted(asked, data, source, folder and folder.parent, inception)
    with contextlib.ExitStack() as stack:
        nodes: Sequence[Node] = ()
        if token.level is Level.ERROR:
            yield skipped("cluster", "a token")
        else:
            nodes = yield from _cluster(stack, address, verbose=request.verbose)
        answers = yield from look(nodes, wanted)
        yield from room_and_time(answers, wanted, trials=trials, budget_s=request.time_budget_s)


def _configuration(request: SearchRequest) -> Generator[Finding, None, Asked | None]:
    try:
        asked = read_asked(request)
    except InputError as error:
        yield Finding(Level.ERROR, "configuration", str(error))
        return None
    train = asked.train
    trials = how_many(asked.search.num_samples, "trial")
    text = (
        f"{asked.note or asked.configuration}, {trials} of {train.epochs} epochs at "
        f"{train.image_size} px, width {train.width:g}, batches of {train.batch_size}"
    )
    yield Finding(Level.OK, "configuration", text)
    return asked


def _data(
    request: SearchRequest, asked: Asked | None
) -> Generator[Finding, None, tuple[Asked | None, DataSource | None, Dataset | None]]:
    if asked is None:
        yield skipped("data", "the configuration")
        return None, None, None
    try:
        source = named_source(request.values, asked.content, default=asked.source)
        asked = in_colour(request, asked, source)
        data = load_images(asked, source)
    except InputError as error:
        yield Finding(Level.ERROR, "data", str(error))
        return asked, None, None
    yield Finding(Level.OK, "data", f"{data.name}, {_counts(data)}")
    report = typed(["python", "-m", "acgan.covidx", source.folder, *source.flags()])
    more = "" if source.is_phantom else f"; to see more, type: {report}"
    for warning in (*data.warnings, *unpickable(asked.train, data)):
        yield Finding(Level.WARNING, "data", f"{warning}{more}")
    return asked, source, data


def _counts(data: Dataset) -> str:
    texts = []
    for name, images in (("training", data.train), ("validation", data.val), ("test", data.test)):
        numbers = images.per_class(len(data.classes))
        pairs = zip(numbers, data.classes, strict=True)
        classes = ", ".join(f"{number} {class_name}" for number, class_name in pairs)
        texts.append(f"{len(images)} {name} images ({classes})")
    return ", ".join(texts)


def _study(
    request: SearchRequest, asked: Asked | None, data: Dataset | None
) -> Generator[Finding, None, tuple[Path | None, int, list[Path]]]:
    """Check that this search may go on in its study.

    Return its folder, how many trials are to be trained, and the folders of those begun.
    """
    if asked is None:
        yield skipped("study", "the configuration")
        return None, 0, []
    folder, ended, begun = None, 0, list[Path]()
    try:
        folder = study_folder(request, asked)
        text, ended, begun = _study_state(folder, asked, data)
    except InputError as error:
        yield Finding(Level.ERROR, "study", str(error))
    else:
        yield Finding(Level.OK, "study", text)
    missing = max(asked.search.num_samples - ended, 0)
    return folder, missing + 2 * asked.search.repeats, begun


def _study_state(folder: Path, asked: Asked, data: Dataset | None) -> tuple[str, int, list[Path]]:
    """Return what is at a study's folder, as text, how many trials there count, and the others."""
    place = shown_place(folder)
    if not (folder / "study.json").exists():
        return f"{place} is new", 0, []
    if data is not None:
        check_same(folder, study_info(folder.name, asked, data))
    if driver_at_work(folder) or driver_at_work(folder / "selection"):
        raise InputError(f"the study at {place} is being searched or picked from; wait for that")
    trials = [trial for trial in open_study(folder).trials() if trial.info.origin == "search"]
    ends = [trial.end() for trial in trials]
    counts = [end is not None and end.outcome.counts for end in ends]
    begun = [trial.path for trial, own in zip(trials, counts, strict=True) if not own]
    text = f"{place} goes on: {sum(counts)} of {asked.search.num_samples} trials have ended"
    return text, sum(counts), begun


def _disk(
    folder: Path | None,
    trials: int,
    begun: Sequence[Path],
    asked: Asked | None,
    data: Dataset | None,
) -> Finding:
    if asked is None or folder is None or data is None:
        return skipped("disk", "a study's folder and the data")
    each = estimate.disk(largest(asked.train, asked.space), len(data.classes))
    needed = estimate.still_needed(each, trials, begun)
    if address_of(folder.parent):
        text = f"{shown_place(folder)} will take {estimate.gigabytes(needed)}"
        return Finding(Level.OK, "disk", text)
    try:
        estimate.check_disk(folder, needed)
    except InputError as error:
        return Finding(Level.ERROR, "disk", str(error))
    there = estimate.existing(folder)
    text = f"{there} has room for the {estimate.gigabytes(needed)} of {how_many(trials, 'trial')}"
    return Finding(Level.OK, "disk", text)


def _mlflow(request: SearchRequest, asked: Asked | None) -> Finding:
    settings = asked.search if asked else SearchConfig()
    try:
        text = check.check_mlflow(resolve_uri(request.tracking_uri), settings.experiment)
    except InputError as error:
        return Finding(Level.ERROR, "MLflow", str(error))
    return Finding(Level.OK, "MLflow", text)


def _inception(
    named: Path | None, asked: Asked | None
) -> Generator[Finding, None, tuple[Path, str] | None]:
    """Check the weights that selection will use; return those that every node must see."""
    section = asked.content.get("selection") if asked else None
    expected = str((section or {}).get("inception_sha256") or STANDARD_SHA256)
    path = (named or cached_path()).absolute()
    try:
        checked_file(path, expected)
    except InputError as error:
        level, text = Level.ERROR, str(error)
        if named is None:
            level, text = Level.WARNING, NO_INCEPTION
        yield Finding(level, "Inception weights", text)
        return None
    yield Finding(Level.OK, "Inception weights", f"{path} has the SHA-256 {expected[:8]}…")
    return (path, expected) if named else None


def _token(address: str | None) -> Finding:
    """Check the token of this process; those of the nodes show when they are joined."""
    level = Level.ERROR if address else Level.WARNING
    todo = "set RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN here and on every node"
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode != "token":
        text = f"RAY_AUTH_MODE is {mode!r}: whoever reaches Ray's ports can run programs; {todo}"
        return Finding(level, "token", text)
    if made_token():
        alone = "none is set, so Ray on this machine alone gets a random one; for a cluster, "
        return Finding(level, "token", f"none is set; {todo}" if address else alone + todo)
    return Finding(Level.OK, "token", "RAY_AUTH_MODE=token, and a token is set")


def _cluster(
    stack: contextlib.ExitStack, address: str | None, *, verbose: bool
) -> Generator[Finding, None, Sequence[Node]]:
    """Start or join Ray until `stack` is closed."""
    try:
        nodes = stack.enter_context(ray_cluster(address, verbose=verbose))
    except InputError as error:
        yield Finding(Level.ERROR, "cluster", str(error))
        return ()
    where = f"at {address}" if address else "of this machine alone"
    yield Finding(Level.OK, "cluster", f"{how_many(len(nodes), 'node')} {where}")
    return nodes
