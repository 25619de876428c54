"""The review page's server: which requests are answered, and how.

All addresses lie under a secret that only the printed address holds, because others may have
accounts on this machine. Requests for another host's name are refused (a site whose name leads to
this address could else read the page), and what changes anything needs the page's own token.
Nothing of a request is ever taken for a path: pages and images are looked up by their names.
"""

import hmac
import json
import secrets
import socket
import socketserver
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from acgan.errors import InputError
from selection.reviewing.session import RefusedError, Session

BODY_LIMIT_BYTES = 4000  # a note's characters may have four bytes
IDLE_S = 60
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN_HEADER = "X-Review-Token"
PAGE = Path(__file__).with_name("review.html")
FILES = {"review.css": "text/css; charset=utf-8", "review.js": "text/javascript; charset=utf-8"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Asked(BaseModel):
    """The body of a POST request."""

    model_config = ConfigDict(strict=True, extra="forbid")

    finalist: str = ""
    decision: str = ""
    note: str = ""
    image: str = ""
    real: bool = False


@dataclass(frozen=True)
class _Reply:
    status: HTTPStatus
    kind: str
    content: bytes


class ReviewServer(socketserver.ThreadingTCPServer):
    """Serves one session; `tracked` says in words how MLflow stands."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, session: Session, tracked: Callable[[], str]) -> None:
        self.session, self.tracked = session, tracked
        self.host = host
        self.names = {host.lower(), *(LOOPBACK if _is_loopback(host) else ())}
        self.secret, self.token = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        page = PAGE.read_text(encoding="utf-8").replace("{{ token }}", self.token)
        self.files = {
            "": ("text/html; charset=utf-8", page.encode()),
            **{name: (kind, PAGE.with_name(name).read_bytes()) for name, kind in FILES.items()},
        }
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise InputError(
                f"cannot listen on {host}, port {port}: {error.strerror}; "
                "see --host, and choose another --port"
            ) from error

    @property
    def address(self) -> str:
        """What is to be opened in a browser."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/{self.secret}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless a browser only went away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_host(host: str) -> None:
    """Raise `InputError` for a host that is no address by which a browser finds this machine."""
    try:
        everywhere = ip_address(host).is_unspecified
    except ValueError:
        everywhere = not host
    if everywhere:
        raise InputError(
            f"--host {host or repr(host)} is no address that a browser can open; name the one of "
            "this machine that it will open"
        )


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S

    def version_string(self) -> str:
        return "review"

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: an address holds the secret."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no request, in plain text and with the headers of all answers."""
        self.close_connection = True
        self._send(_text(HTTPStatus(code), message or explain or HTTPStatus(code).phrase))

    def do_GET(self) -> None:
        self._send(self._refused() or self._found())

    def do_POST(self) -> None:
        reply = self._refused() or self._unsafe()
        if reply:
            self.close_connection = True  # its body stays unread
        self._send(reply or self._done())

    def _send(self, reply: _Reply) -> None:
        self.send_response(reply.status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(reply.content)

    def _refused(self) -> _Reply | None:
        """Refuse another host's name and all that does not begin with the secret."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or _name(hosts[0]) not in self.server.names:
            return _text(HTTPStatus.MISDIRECTED_REQUEST, "this is another machine's name")
        secret = self.path.removeprefix("/").partition("/")[0]
        if not _same(secret, self.server.secret):
            return _text(HTTPStatus.NOT_FOUND, "open the address that the command printed")
        return None

    @property
    def _asked_for(self) -> str:
        return self.path.removeprefix(f"/{self.server.secret}").removeprefix("/")

    def _found(self) -> _Reply:
        name = self._asked_for
        if name in self.server.files and self.path.count("/") == 2:
            return _Reply(HTTPStatus.OK, *self.server.files[name])
        if name == "state":
            return self._answered(self.server.session.state)
        image = self.server.session.image(name.removeprefix("image/"))
        if image is None or not name.startswith("image/"):
            return _text(HTTPStatus.NOT_FOUND, "there is nothing here")
        return _Reply(HTTPStatus.OK, "image/png", image)

    def _unsafe(self) -> _Reply | None:
        """Refuse what another site's page may have sent, and bodies that are none of the page's."""
        if not _same(self.headers.get(TOKEN_HEADER, ""), self.server.token):
            return _text(HTTPStatus.FORBIDDEN, "load the page again")
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or "Transfer-Encoding" in self.headers:
            return _text(HTTPStatus.LENGTH_REQUIRED, "how long is it?")
        if len(length) > 4 or int(length) > BODY_LIMIT_BYTES:
            return _text(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "this is too long")
        return None

    def _done(self) -> _Reply:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            asked = _Asked.model_validate_json(body)
        except ValidationError:
            return _json(HTTPStatus.BAD_REQUEST, {"error": "the page asked for nothing known"})
        return self._answered(lambda: self._do(asked))

    def _answered(self, ask: Callable[[], Mapping[str, Any]]) -> _Reply:
        """Return what the session says, or why it cannot."""
        try:
            return _json(HTTPStatus.OK, {**ask(), "tracked": self.server.tracked()})
        except (RefusedError, InputError) as error:
            return _json(HTTPStatus.CONFLICT, {"error": str(error)})
        except OSError as error:
            problem = f"not stored: {error.strerror}; when that is mended, try again"
            return _json(HTTPStatus.INSUFFICIENT_STORAGE, {"error": problem})

    def _do(self, asked: _Asked) -> dict[str, Any]:
        session = self.server.session
        match self._asked_for:
            case "look":
                return session.look(asked.finalist)
            case "decide":
                return session.decide(asked.finalist, asked.decision, asked.note)
            case "reveal":
                return session.reveal(asked.finalist)
            case "quiz":
                return session.start_quiz(asked.finalist)
            case "answer":
                return session.answer(asked.image, asked.real)
        raise RefusedError("the page asked for nothing known")


def _name(host: str) -> str:
    """Return the name in a Host header, without its port: a tunnel of ssh may have another."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())


def _text(status: HTTPStatus, content: str) -> _Reply:
    return _Reply(status, "text/plain; charset=utf-8", f"{content}\n".encode())


def _json(status: HTTPStatus, content: Mapping[str, Any]) -> _Reply:
    return _Reply(status, "application/json", json.dumps(content).encode())
