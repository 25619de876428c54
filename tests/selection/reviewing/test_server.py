"""What the page's server tells and does, and above all what not, over real connections."""

from __future__ import annotations

import errno
import http.client
import io
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from acgan.errors import InputError
from search.study.folder import Study, open_study
from selection.ledgers.reviews import (
    NOTE_LIMIT,
    Entry,
    read_reviews,
    review_standing,
    reviews_path,
)
from selection.reviewing import session
from selection.reviewing.quiz import draw_real
from selection.reviewing.server import FILES, PAGE, TOKEN_HEADER, ReviewServer, check_host
from selection.reviewing.session import Finalist, Session
from tests.kit import tiny_images
from tests.studies import write_study

pytestmark = pytest.mark.process

SECRETS = ("t0003", "t0007", "epoch 12", "learning_rate", "0.000123", "42.5")
WEIGHTS = {"t0003, epoch 12": "a" * 64, "t0007, epoch 12": "b" * 64}
Reply = tuple[int, Mapping[str, str], bytes]


def make_finalists() -> list[Finalist]:
    return [
        Finalist(
            name,
            weights,
            {
                label: tiny_images(64, seed=place).images[:, None].repeat(3, axis=1)
                for label in range(3)
            },
            {"learning_rate": "0.000123", "val/fd_cnn": "42.5"},
        )
        for place, (name, weights) in enumerate(WEIGHTS.items())
    ]


class Served:
    """A server over a small study, and a browser that asks whatever it is told to."""

    def __init__(self, folder: Path, reviewer: str = "anna") -> None:
        path = folder / "runs" / "demo"
        self.study = open_study(path) if path.exists() else write_study(path)
        self.stored = 0
        real = draw_real(tiny_images(120, seed=9), classes=3, seed=0)
        session = Session(self.study, reviewer, make_finalists(), real, self._count)
        self.problem = ""
        self.server = ReviewServer("127.0.0.1", 0, session, lambda: self.problem)
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def _count(self) -> None:
        self.stored += 1

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        host: str | None = "",
    ) -> Reply:
        """Send a request as it is, with no more headers than these and a Host."""
        connection = http.client.HTTPConnection(self.host, timeout=400)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        if host is not None:
            connection.putheader("Host", host or self.host)
        given = dict(headers or {})
        if body is not None and not {"Content-Length", "Transfer-Encoding"} & given.keys():
            given["Content-Length"] = str(len(body))
        for name, value in given.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found

    def get(self, name: str = "") -> Reply:
        return self.ask("GET", f"/{self.server.secret}/{name}")

    def post(self, what: str, **content: Any) -> Reply:
        headers = {TOKEN_HEADER: self.server.token}
        body = json.dumps(content).encode()
        return self.ask("POST", f"/{self.server.secret}/{what}", body, headers=headers)

    def done(self, what: str, **content: Any) -> dict[str, Any]:
        status, _, found = self.post(what, **content)
        assert status == 200, found
        answer: dict[str, Any] = json.loads(found)
        return answer

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.get("state")[2])
        return state

    def finalists(self) -> list[str]:
        return [finalist["id"] for finalist in self.state()["finalists"]]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.close()


def entries(served: Served) -> list[Entry]:
    return read_reviews(served.study)


def test_the_page_is_told_what_it_may_load(served: Served) -> None:
    status, headers, content = served.get()
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert not re.search(r"unsafe|\*|https?:|data:", policy)
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert served.server.token.encode() in content
    for name, kind in FILES.items():
        status, headers, content = served.get(name)
        assert (status, headers["Content-Type"]) == (200, kind)
        assert content == PAGE.with_name(name).read_bytes()


def test_the_page_names_nothing_outside_of_itself() -> None:
    for name in ("review.html", *FILES):
        text = PAGE.with_name(name).read_text()
        assert not re.findall(r"""(?:https?:)?//[\w.]+\.\w|url\(|@import|innerHTML|eval\(""", text)


def test_without_the_secret_nothing_is_told_and_nothing_done(served: Served) -> None:
    (finalist, _), image = served.finalists(), served.state()["real"][0]["grids"][0]
    token = {TOKEN_HEADER: served.server.token}
    body = json.dumps({"finalist": finalist, "decision": "kept"}).encode()
    secret = served.server.secret
    for start in (
        "",
        "/x",
        f"/{secret[:-1]}",
        f"/{secret}x",
        f"/{secret.swapcase()}",
    ):
        for name in ("", "state", f"image/{image}", "review.js"):
            assert served.ask("GET", f"{start}/{name}")[0] == 404
        assert served.ask("POST", f"{start}/decide", body, headers=token)[0] == 404
    assert entries(served) == []


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "192.0.2.1:{port}",
     "127.0.0.1@evil.example", "[::1", "", None],
)  # fmt: skip
def test_a_request_for_another_hosts_name_is_refused(served: Served, host: str | None) -> None:
    """As of a site whose name was made to lead to this address (DNS rebinding)."""
    port = served.server.server_address[1]
    named = None if host is None else host.format(port=port) or " "
    secret, finalist = served.server.secret, served.finalists()[0]
    status, _, content = served.ask("GET", f"/{secret}/", host=named)
    assert status == 421
    assert served.server.token.encode() not in content
    body = json.dumps({"finalist": finalist, "decision": "kept"}).encode()
    token = {TOKEN_HEADER: served.server.token}
    assert served.ask("POST", f"/{secret}/decide", body, headers=token, host=named)[0] == 421
    assert entries(served) == []


def test_two_host_headers_are_refused(served: Served) -> None:
    evil = {"Host": "evil.example"}
    assert served.ask("GET", f"/{served.server.secret}/", headers=evil)[0] == 421


@pytest.mark.parametrize("host", ["localhost:{port}", "LOCALHOST", "127.0.0.1:9000", "[::1]:9000"])
def test_its_own_names_are_known_also_through_a_tunnel(served: Served, host: str) -> None:
    named = host.format(port=served.server.server_address[1])
    assert served.ask("GET", f"/{served.server.secret}/", host=named)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {TOKEN_HEADER: "x"}, {TOKEN_HEADER: ""}, {"Origin": "http://evil.example"},
     {"Cookie": "x=1", "Content-Type": "text/plain"}],
)  # fmt: skip
def test_a_post_without_the_pages_token_is_refused(served: Served, headers: dict[str, str]) -> None:
    finalist = served.finalists()[0]
    for what, content in {
        "decide": {"decision": "kept"},
        "look": {},
        "reveal": {},
        "quiz": {},
    }.items():
        body = json.dumps({"finalist": finalist, **content}).encode()
        answer = served.ask("POST", f"/{served.server.secret}/{what}", body, headers=headers)
        assert answer[0] == 403
    assert entries(served) == []


@pytest.mark.parametrize(
    "path",
    ["../review.py", "../../etc/passwd", "/etc/passwd", "image//etc/passwd", "image/../review.py",
     "%2e%2e/review.py", "..%2f..%2fetc%2fpasswd", "review.py", "review.html", "image/", "image",
     "review.js/", "./review.js", "review.js?x=1", "reviews.jsonl", "\\..\\review.py", "%00"],
)  # fmt: skip
def test_no_path_reaches_the_file_system(served: Served, path: str) -> None:
    status, _, content = served.get(path)
    assert (status, content) == (404, b"there is nothing here\n")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"])
def test_other_methods_are_refused(served: Served, method: str) -> None:
    status, headers, _ = served.ask(method, f"/{served.server.secret}/")
    assert status == 501
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b'{"finalist": 1}', {}, 400),
        (b'{"finalist": "x", "more": 1}', {}, 400),
        (b"\xff", {}, 400),
        (b'{"finalist": "x"}', {}, 409),
        (b" " * 4001, {}, 413),
        (b"{}", {"Content-Length": "99999999999999999999"}, 413),
        (b"{}", {"Content-Length": "-1"}, 411),
        (b"{}", {"Content-Length": "²"}, 411),
        (b"0\r\n\r\n", {"Transfer-Encoding": "chunked"}, 411),
    ],
)
def test_a_body_that_is_none_of_the_pages_is_refused(
    served: Served, body: bytes, headers: dict[str, str], status: int
) -> None:
    token = {TOKEN_HEADER: served.server.token}
    path = f"/{served.server.secret}/decide"
    assert served.ask("POST", path, body, headers=token | headers)[0] == status
    assert entries(served) == []
    assert served.get()[0] == 200


def test_what_is_no_http_is_refused(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.server.server_address[1])) as connection:
        connection.sendall(b"\x16\x03\x01 no http\r\n\r\n")
        answer = connection.recv(1000)
    assert answer.startswith(b"Bad request")
    assert served.get()[0] == 200


def test_trial_and_numbers_are_in_nothing_that_was_not_asked_for(served: Served) -> None:
    told = [served.get()[2], served.get("state")[2], *(served.get(name)[2] for name in FILES)]
    told += [json.dumps(served.done("look", finalist=f)).encode() for f in served.finalists()]
    told.append(json.dumps(served.done("quiz", finalist=served.finalists()[0])).encode())
    for content in told:
        assert [name for name in SECRETS if name.encode() in content] == []


def test_what_is_asked_for_is_told_and_written_down(served: Served) -> None:
    one, two = served.finalists()
    assert served.done("decide", finalist=one, decision="kept")["decision"] == "kept"
    told = served.done("reveal", finalist=one)
    assert (told["name"], told["facts"]["val/fd_cnn"]) == ("t0003, epoch 12", "42.5")
    served.done("reveal", finalist=one)
    served.done("decide", finalist=one, decision="rejected")
    served.done("decide", finalist=two, decision="kept")
    found = [(e.action, e.candidate[:5], e.blind) for e in entries(served)]
    assert found == [
        ("kept", "t0003", True),
        ("revealed", "t0003", True),
        ("rejected", "t0003", False),
        ("kept", "t0007", True),
    ]
    assert {e.reviewer for e in entries(served)} == {"anna"}
    assert served.stored == 4


def test_a_note_is_one_line_with_a_decision_and_is_there_after_a_restart(
    served: Served, tmp_path: Path
) -> None:
    one = served.finalists()[0]
    told = served.done("decide", finalist=one, decision="kept", note=" lungs,\n clear “ü” 😀 ")
    assert told["note"] == "lungs, clear “ü” 😀"
    (found,) = entries(served)
    assert (found.action, found.note) == ("kept", told["note"])
    again = Served(tmp_path)
    try:
        assert [f["note"] for f in again.state()["finalists"]] == [told["note"], ""]
    finally:
        again.close()
    longest = "ü" * NOTE_LIMIT
    assert served.done("decide", finalist=one, decision="kept", note=longest)["note"] == longest
    for note in (longest + "x", "a\x00b", "a\u202eb"):
        status, _, content = served.post("decide", finalist=one, decision="kept", note=note)
        assert status == 409
        assert b"at most 500 printable characters" in content
    assert len(entries(served)) == 2


def test_images_to_look_at_are_told_in_grids_of_eight_with_their_number(
    served: Served,
) -> None:
    (one, _) = served.state()["finalists"]
    assert [(own["count"], len(own["grids"])) for own in one["images"]] == [(8, 1)] * 3
    assert {own["count"] for own in served.state()["real"]} == {8}


def test_a_decision_is_on_the_disk_before_it_is_confirmed_and_can_be_taken_back(
    served: Served,
) -> None:
    one = served.finalists()[0]
    served.done("decide", finalist=one, decision="rejected")
    assert review_standing(entries(served)) == {"a" * 64: "rejected"}
    assert served.state()["finalists"][0]["decision"] == "rejected"
    served.done("decide", finalist=one, decision="undecided")
    assert review_standing(entries(served)) == {}
    assert served.post("decide", finalist=one, decision="liked")[0] == 409
    assert served.post("nothing", finalist=one)[0] == 409


def test_decisions_are_there_after_a_restart_and_those_of_others_are_not_shown(
    served: Served, tmp_path: Path
) -> None:
    served.done("decide", finalist=served.finalists()[1], decision="kept")
    for reviewer, wanted in {"anna": ["", "kept"], "bob": ["", ""]}.items():
        again = Served(tmp_path, reviewer)
        try:
            assert [f["decision"] for f in again.state()["finalists"]] == wanted
            assert not set(again.finalists()) & set(served.finalists())
        finally:
            again.close()


def test_a_look_is_written_down_once_a_start(served: Served) -> None:
    for _ in range(3):
        served.done("look", finalist=served.finalists()[0])
    assert [(e.action, e.candidate[:5]) for e in entries(served)] == [("looked", "t0003")]


def test_how_mlflow_stands_is_told_with_every_answer(served: Served) -> None:
    assert served.state()["tracked"] == ""
    served.problem = "MLflow is away"
    assert served.state()["tracked"] == "MLflow is away"
    assert served.done("look", finalist=served.finalists()[0])["tracked"] == "MLflow is away"


def test_a_full_disk_is_told_and_nothing_is_confirmed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(study: Study, entry: Entry) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(reviews_path(study)))

    one = served.finalists()[0]
    with monkeypatch.context() as patch:
        patch.setattr(session, "add_review", full)
        status, _, content = served.post("decide", finalist=one, decision="kept")
        assert status == 507
        assert b"No space left" in content
    assert served.state()["finalists"][0]["decision"] == ""
    assert served.done("decide", finalist=one, decision="kept")["decision"] == "kept"


def questions_of(served: Served, place: int = 0) -> list[dict[str, str]]:
    found: list[dict[str, str]] = served.done("quiz", finalist=served.finalists()[place])[
        "questions"
    ]
    return found


def test_nothing_around_a_quizs_images_says_which_are_real(served: Served) -> None:
    questions = questions_of(served)
    assert len(questions) == 48
    assert {frozenset(question) for question in questions} == {frozenset({"id", "class"})}
    assert len({question["id"] for question in questions}) == 48
    assert {len(question["id"]) for question in questions} == {16}
    replies = [served.get(f"image/{question['id']}") for question in questions]
    around = {tuple((k, v) for k, v in headers.items() if k != "Date") for _, headers, _ in replies}
    assert len(around) == 1
    assert len({len(content) for _, _, content in replies}) == 1
    # All but pixels and checksums are the same bytes: signature, IHDR, and the chunks' names.
    assert len({content[:41] for _, _, content in replies}) == 1
    again = questions_of(served)
    assert not {q["id"] for q in again} & {q["id"] for q in questions}
    assert served.get(f"image/{questions[0]['id']}")[0] == 404


def test_every_image_of_a_quiz_is_judged_once_and_in_its_order(served: Served) -> None:
    questions = questions_of(served)
    assert served.post("answer", image=questions[1]["id"], real=True)[0] == 409
    for question in questions[:-1]:
        assert "this" not in served.done("answer", image=question["id"], real=True)
        assert served.post("answer", image=question["id"], real=False)[0] == 409
    assert entries(served) == []
    told = served.done("answer", image=questions[-1]["id"], real=True)
    assert told["this"]["generated"].startswith("24 of 24: 100 %")
    assert told["this"]["real"].startswith("24 of 24: 100 %")
    assert "do not show" in told["this"]["sentence"]
    assert told["all"] is None
    (entry,) = entries(served)
    assert entry.quiz is not None
    assert entry.quiz.said == "R" * 48
    assert (entry.quiz.truth.count("R"), entry.quiz.truth.count("G")) == (24, 24)
    assert served.post("answer", image=questions[-1]["id"], real=True)[0] == 409


def test_a_quiz_that_is_given_up_leaves_nothing_and_begins_again_with_the_same(
    served: Served,
) -> None:
    first = questions_of(served)
    images = [served.get(f"image/{question['id']}")[2] for question in first]
    served.done("answer", image=first[0]["id"], real=True)
    second = questions_of(served)
    assert [served.get(f"image/{question['id']}")[2] for question in second] == images
    assert entries(served) == []


def test_somebody_who_sees_the_difference_is_said_to_and_quizzes_add_up(served: Served) -> None:
    """Generated images are those of the finalist's first seed: known by their pixels."""
    known = {image.tobytes() for image in make_finalists()[0].generated[0][:, 0]}
    for round_ in (1, 2):
        questions = questions_of(served)
        for question in questions:
            with Image.open(io.BytesIO(served.get(f"image/{question['id']}")[2])) as image:
                real = np.asarray(image).tobytes() not in known
            told = served.done("answer", image=question["id"], real=real)
        assert told["this"]["generated"].startswith("0 of 24: 0 % (0 to 14 %)")
        assert told["this"]["real"].startswith("24 of 24: 100 % (86 to 100 %)")
        assert told["this"]["sentence"] == "You can tell the generated images from real ones."
        assert (told["all"] is None) == (round_ == 1)
    assert told["all"]["generated"].startswith("0 of 48: 0 % (0 to 7 %)")


def test_when_all_images_were_judged_it_says_so(served: Served) -> None:
    for _ in range(7):
        for question in questions_of(served):
            served.done("answer", image=question["id"], real=True)
    status, _, content = served.post("quiz", finalist=served.finalists()[0])
    assert (status, b"judged all images" in content) == (409, True)
    assert len(questions_of(served, place=1)) == 48


def test_a_port_that_is_taken_is_said_to_be(served: Served) -> None:
    port = served.server.server_address[1]
    with pytest.raises(InputError, match=r"cannot listen on 127\.0\.0\.1, port .*--port"):
        ReviewServer("127.0.0.1", port, served.server.session, str)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_host_that_no_browser_can_open_is_refused(host: str) -> None:
    with pytest.raises(InputError, match="no address that a browser can open"):
        check_host(host)


def test_it_listens_on_the_asked_address_only(served: Served) -> None:
    assert served.server.server_address[0] == "127.0.0.1"
    check_host("127.0.0.1")
    check_host("workstation.example")
