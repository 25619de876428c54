"""What the nodes of a cluster say of themselves, held against what a search wants of them."""

import contextlib
import secrets
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from acgan.command import duration
from acgan.data.dataset import Dataset
from acgan.data.source import DataSource
from acgan.errors import InputError
from search.nodes import probe
from search.nodes.cluster import Node, needs
from search.nodes.probe import Device, Found, NodeAnswer, NodeQuestion
from search.plan import Asked, largest
from search.study import estimate, space
from search.study.store.objects import ObjectStore, StoreError
from search.study.store.study_copy import address_of
from search.tracking.uris import shown

PLACED_S = 60.0  # in which a trial's CPUs and GPUs must be free
MUST_AGREE = ("acgan-search", "python", "ray")  # between nodes; others only should


class Level(StrEnum):
    """How bad it is; with an error the search cannot start, or not well."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """What one check found, and what to do about it."""

    level: Level
    what: str
    text: str

    def __str__(self) -> str:
        """Return the finding as one line, without secrets."""
        return shown(f"{self.level:<9}{self.what}: {' '.join(self.text.split())}")


@dataclass(frozen=True)
class Wanted:
    """What is looked for on the nodes; None for what an earlier check could not find out.

    source: the data folder, or "phantom"; storage: the folder of studies; inception: the weights
    file and its SHA-256, where one is named
    """

    asked: Asked | None
    data: Dataset | None
    source: DataSource | None
    storage: Path | None
    inception: tuple[Path, str] | None


def skipped(what: str, missing: str) -> Finding:
    """Say that a check needs something that another one did not find."""
    return Finding(Level.WARNING, what, f"not checked without {missing}; mend that first")


def how_many(number: int, what: str) -> str:
    """Return `no errors`, `1 error`, `2 errors`."""
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def look(
    nodes: Sequence[Node], wanted: Wanted
) -> Generator[Finding, None, Mapping[Node, NodeAnswer]]:
    """Have each node look at itself; without nodes only this process looks at the storage.

    Return what the nodes answered that did.
    """
    mark = secrets.token_hex(16)
    with contextlib.ExitStack() as stack:
        shared = None
        if wanted.storage is None:
            yield skipped("storage", "a study's folder")
        elif address := address_of(wanted.storage):
            yield from _object_store(address, f".doctor-{mark}/", nodes)
        else:
            try:
                shared = stack.enter_context(probe.shared_folder(wanted.storage, mark))
            except InputError as error:
                yield Finding(Level.ERROR, "storage", str(error))
        source = None if wanted.source is None or wanted.source.is_phantom else wanted.source
        question = NodeQuestion(shared, mark, source, wanted.inception)
        answers, silent = probe.ask(nodes, probe.answer_for_node, question)
        for node, problem in silent.items():
            text = f"cannot run this program ({problem}); install the same version there"
            yield Finding(Level.ERROR, f"node {node.name}", text)
        if shared is not None:
            yield from _storage(shared, answers)
    if answers:
        yield from compared(answers, wanted)
    else:
        yield skipped("nodes", "a cluster")
    return answers


def _storage(shared: Path, answers: Mapping[Node, NodeAnswer]) -> Iterator[Finding]:
    """Find the nodes that do not see what this process and the others have written."""
    storage = shared.parent
    problems = {node: a.shared.problem for node, a in answers.items() if a.shared.problem}
    written = [a.shared.value for a in answers.values() if a.shared.value]
    seeing = [node for node in answers if node not in problems]
    unseen, silent = probe.ask(seeing, probe.unseen, shared, written)
    problems |= {node: "does not see what others wrote" for node, files in unseen.items() if files}
    problems |= silent
    names = {f"node {node.name}": problem for node, problem in problems.items()}
    if probe.unseen(shared, written):
        names["this process"] = "does not see what nodes wrote"
    for name, problem in names.items():
        text = f"{storage}: {name} {problem}; mount the one folder there at this path"
        yield Finding(Level.ERROR, "storage", text)
    if not names:
        seen = f"the same from {how_many(len(answers), 'node')}" if answers else "seen from here"
        yield Finding(Level.OK, "storage", f"{storage} can be written, {seen}")


def _object_store(address: str, folder: str, nodes: Sequence[Node]) -> Iterator[Finding]:
    """Write here and on every node, in a folder of its own that is removed again."""
    try:
        store = ObjectStore(address)
        store.write(f"{folder}{probe.DRIVER}", b"")
        lock = [store.write_if_absent(f"{folder}lock", content) for content in (b"1", b"2")]
    except (InputError, StoreError) as error:
        yield Finding(Level.ERROR, "storage", str(error))
        return
    answers, problems = probe.ask(nodes, probe.try_store, address, folder)
    problems |= {node: found.problem for node, found in answers.items() if found.problem}
    written = store.list(folder)
    missing = {
        node for node, found in answers.items() if found.value and found.value not in written
    }
    problems |= dict.fromkeys(missing, "writes what is not seen from here")
    store.delete(written)
    for node, problem in problems.items():
        yield Finding(Level.ERROR, "storage", f"node {node.name}: {problem}")
    if not problems:
        how = (
            "on a condition" if lock == [True, False] else "on no condition, so by heartbeats alone"
        )
        text = f"{address} can be written from {how_many(len(answers), 'node')}; it locks {how}"
        yield Finding(Level.OK, "storage", text)


def compared(answers: Mapping[Node, NodeAnswer], wanted: Wanted) -> Iterator[Finding]:
    """Hold what the nodes say against what this process has."""
    for node in (node for node, answer in answers.items() if not answer.token):
        text = "lets in whoever has none; start Ray there with RAY_AUTH_MODE=token"
        yield Finding(Level.ERROR, "token", f"node {node.name} {text}")
    yield from _versions(answers)
    if wanted.source is not None and not wanted.source.is_phantom:
        own = probe.data_hash(wanted.source)
        found = {node: answer.data for node, answer in answers.items()}
        yield from _same_files("data", f"the same images at {wanted.source}", own, found)
    if wanted.inception is not None:
        path, sha256 = wanted.inception
        found = {node: answer.inception for node, answer in answers.items()}
        yield from _same_files("Inception weights", f"the same file at {path}", sha256, found)


def _versions(answers: Mapping[Node, NodeAnswer]) -> Iterator[Finding]:
    own, right = probe.versions(), True
    for node, answer in answers.items():
        there = answer.versions
        differing = [name for name in own if not _alike(own[name], there.get(name))]
        if not differing:
            continue
        right = False
        level = Level.ERROR if set(differing) & set(MUST_AGREE) else Level.WARNING
        what = ", ".join(f"{n} {there.get(n, 'missing')} (here {own[n]})" for n in differing)
        text = f"node {node.name} has {what}; install the same versions there"
        yield Finding(level, "versions", text)
    if right:
        same = ", ".join(f"{name} {own[name]}" for name in (*MUST_AGREE, "torch"))
        yield Finding(Level.OK, "versions", f"the same on every node: {same}, and all others")


def _alike(here: str, there: str | None) -> bool:
    """Whether versions agree; 2.13.0+cpu and 2.13.0+cu130 are one, built for two devices."""
    return there is not None and here.partition("+")[0] == there.partition("+")[0]


def _same_files(
    what: str, asked_for: str, own: str, found: Mapping[Node, Found]
) -> Iterator[Finding]:
    wrong = {node: there for node, there in found.items() if there.value != own}
    for node, there in wrong.items():
        reason = f" ({there.problem})" if there.problem else ""
        text = f"node {node.name} does not have {asked_for}{reason}; copy them there"
        yield Finding(Level.ERROR, what, text)
    if not wrong:
        yield Finding(Level.OK, what, f"every node has {asked_for}")


def room_and_time(
    answers: Mapping[Node, NodeAnswer], wanted: Wanted, *, trials: int, budget_s: float | None
) -> Iterator[Finding]:
    """Find out how many trials the nodes hold at once, and how long `trials` of them take."""
    asked, data = wanted.asked, wanted.data
    if asked is None or data is None or not answers:
        yield skipped("devices and time", "the configuration, the data and a cluster")
        return
    settings = asked.search
    cpus, gpus = settings.cpus_per_trial, settings.gpus_per_trial
    try:
        aside = needs(list(answers), cpus=cpus, gpus=gpus, unit="trial")
    except InputError as error:
        yield Finding(Level.ERROR, "devices", str(error))
        return
    rooms = {node: room(node, aside) for node in answers}
    a_trial = estimate.memory(largest(asked.train, asked.space), len(data.classes))
    for node, answer in answers.items():
        free = int(min(answer.free_memory, node.memory))
        yield memory_finding(node, rooms[node], free=free, a_trial=a_trial)
    devices = yield from _devices(rooms, asked, aside, images=len(data.train))
    if devices:
        places = [(rooms[node], device) for node, device in devices.items()]
        yield time_finding(places, trials, most=settings.max_concurrent, budget_s=budget_s)


def room(node: Node, aside: Mapping[str, float]) -> int:
    """Return how many trials a node holds at once, by its CPUs and GPUs."""
    return estimate.places(node.cpus, node.gpus, cpus_each=aside["cpu"], gpus_each=aside["gpu"])


def memory_finding(node: Node, trials: int, *, free: int, a_trial: int) -> Finding:
    """Hold a node's free memory against the trials that its CPUs and GPUs have room for."""
    text = (
        f"{how_many(int(node.cpus), 'CPU')}, {how_many(int(node.gpus), 'GPU')}, room for "
        f"{how_many(trials, 'trial')} at once of roughly {estimate.gigabytes(a_trial)} of memory, "
        f"{estimate.gigabytes(free)} free"
    )
    if trials * a_trial <= free:
        return Finding(Level.OK, f"node {node.name}", text)
    text += "; free some memory, or have fewer at once with --max-concurrent or --cpus-per-trial"
    return Finding(Level.WARNING, f"node {node.name}", text)


def _devices(
    rooms: Mapping[Node, int], asked: Asked, aside: Mapping[str, float], *, images: int
) -> Generator[Finding, None, dict[Node, Device]]:
    """Compute a little on each node in a trial's place; return the devices that can be used."""
    if not aside["gpu"]:
        text = "no GPU: trials compute on CPUs; if the time below is too long, add nodes with GPUs"
        yield Finding(Level.WARNING, "devices", text)
    nodes = [node for node, trials in rooms.items() if trials]
    what = (space.each_precision(asked.space, asked.train), images, aside["gpu"] > 0)
    tried, busy = probe.ask(nodes, probe.try_device, *what, resources=aside, wait_s=PLACED_S)
    for node, problem in busy.items():
        text = f"node {node.name} has no place for a trial now ({problem}); see what runs there"
        yield Finding(Level.WARNING, "devices", text)
    for node, device in tried.items():
        if device.problem:
            yield Finding(Level.ERROR, "devices", f"node {node.name}: {device.problem}")
    return {node: device for node, device in tried.items() if not device.problem}


def time_finding(
    places: Sequence[tuple[int, Device]], trials: int, *, most: int | None, budget_s: float | None
) -> Finding:
    """Say how long all trials take on devices that hold so many each; `most`: trials at once."""
    speeds = [(count, device.seconds) for count, device in places]
    whole = estimate.search_seconds(trials, speeds, most=most)
    each = [duration(extreme(seconds for _, seconds in speeds)) for extreme in (min, max)]
    text = (
        f"roughly {' to '.join(dict.fromkeys(each))} a trial on "
        f"{' and '.join(sorted({device.name for _, device in places}))}, {duration(whole)} for "
        f"{how_many(trials, 'trial')}, less where they are ended early"
    )
    if budget_s is None or whole <= budget_s:
        return Finding(Level.OK, "time", text)
    text += "; --time-budget ends it before: give more, or type the search's command again then"
    return Finding(Level.WARNING, "time", text)
