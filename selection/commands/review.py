"""The page on which a person looks at finalists: what `selection.review` does."""

import argparse
import getpass
import sys
import threading
from collections import Counter
from collections.abc import Sequence

from acgan.command import typed
from acgan.errors import InputError
from acgan.run.device import named_device
from acgan.streams import without_passwords
from search.study.folder import Study
from search.tracking import connection, find, uris
from selection.jobs.results import without_test
from selection.ledgers.reviews import check_writable, looks, read_reviews, reviews_path
from selection.registry.publish import send_reviews
from selection.reviewing.finalists import find_finalists, make_images
from selection.reviewing.quiz import draw_real
from selection.reviewing.server import ReviewServer, check_host
from selection.reviewing.session import Session
from selection.steps.request import (
    Request,
    load_data,
    naming,
    one_reviewer,
    require_idle,
    settle,
)

AGAIN_S = 15.0  # until MLflow is asked again
LAST_TRY_S = 30.0
NAME_LIMIT = 60  # characters


class Sender(threading.Thread):
    """Brings the ledger to MLflow whenever it has grown; MLflow never keeps the page waiting.

    problem: why MLflow lacks something, "" if it lacks nothing that is not just being sent
    """

    def __init__(self, study: Study, uri: str) -> None:
        super().__init__(daemon=True)
        self._study, self.uri = study, uri
        self._grown, self._ended = threading.Event(), threading.Event()
        self.problem = ""

    def says(self) -> str:
        """Return what MLflow lacks and why in words, "" for nothing."""
        return f"MLflow at {uris.shown(self.uri)} {self.problem}" if self.problem else ""

    def grown(self) -> None:
        """Say that the ledger has a further line."""
        self._grown.set()

    def run(self) -> None:
        """Send until `finish` is called, and then once more."""
        while not self._ended.is_set():
            self._try()
            self._grown.wait(AGAIN_S if self.problem else None)
        self._try()

    def _try(self) -> None:
        self._grown.clear()
        try:
            uris.check_there(self.uri)
            send_reviews(connection.connect(self.uri), self._study)
        except connection.FAILURES as error:
            self.problem = f"takes no data: {connection.reason(self.uri, error)}"
        except InputError as error:
            self.problem = f"lacks what was decided: {error}"
        else:
            self.problem = ""

    def finish(self) -> None:
        """Send what is left; `problem` then says whether MLflow has all of it."""
        self._ended.set()
        self._grown.set()
        self.join(LAST_TRY_S)
        if self.is_alive():
            self.problem = "does not answer in time"


def review(arguments: argparse.Namespace, again: str) -> int:
    """Serve the page until it is interrupted; return the exit code. again: as typed."""
    if arguments.finalists < 1:
        raise InputError(f"--finalists must be at least 1, got {arguments.finalists}")
    if not 0 <= arguments.port < 2**16:
        raise InputError(f"--port must be between 0 and 65535, got {arguments.port}")
    check_host(arguments.host)
    reviewer = _reviewer(arguments.reviewer)
    device = named_device(arguments.device)
    asked = Request.of(arguments)
    uri = uris.resolve_uri(asked.named.tracking_uri)
    study, trial = find.asked_study(asked.named)
    require_idle(study)
    settings, source = settle(asked, study)
    check_writable(study)
    data = without_test(load_data(study, source, test=False))
    found, where = find_finalists(study, trial, data, settings, most=arguments.finalists)
    finalists = make_images(found, seed=settings.seed, device=device)
    real = draw_real(data.val, classes=len(data.classes), seed=settings.seed)
    sender = Sender(study, uri)
    session = Session(study, reviewer, finalists, real, sender.grown)
    own = one_reviewer(study)
    with own, ReviewServer(arguments.host, arguments.port, session, sender.says) as server:
        print(f"{len(finalists)} finalists {where}; the reviewer is {reviewer}")
        print(f"open {server.address} in a browser; Ctrl-C ends", flush=True)
        sender.start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    sender.finish()
    named = naming(study, uri, asked.named.run_id if trial else None)
    return _conclude(study, reviewer, sender, again, named)


def _conclude(study: Study, reviewer: str, sender: Sender, again: str, named: Sequence[str]) -> int:
    """Say what was decided, and what to type now; named: the flags of the study or its trial."""
    own = [look for look in looks(read_reviews(study)) if look.reviewer == reviewer]
    counts = Counter(look.decision or "undecided" for look in own)
    what = ", ".join(f"{count} {decision}" for decision, count in counts.items())
    print(f"{reviewer} looked at {len(own)} candidates{f' ({what})' if what else ''}")
    if sender.problem:
        print(f"error: {sender.says()}", file=sys.stderr)
        print(
            f"nothing is lost, all stands in {reviews_path(study)}; selection.pick sends it, and "
            f"so does: {again}",
            file=sys.stderr,
        )
        return 1
    pick = typed(["python", "-m", "selection.pick", *named])
    print(f"to pick with what was decided: {pick}")
    return 0


def _reviewer(name: str | None) -> str:
    """Return the reviewer's name; `InputError` if there is none, or it is none to be printed."""
    if name is None:
        try:
            name = getpass.getuser()
        except (KeyError, OSError) as error:
            raise InputError("this login has no name; give one with --reviewer") from error
    name = name.strip()
    plain = name.isprintable() and without_passwords(name) == name
    if not name or not plain or len(name) > NAME_LIMIT:
        raise InputError(
            f"--reviewer must be a name of 1 to {NAME_LIMIT} printable characters, got {name!r}"
        )
    return name
