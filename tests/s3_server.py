"""A real S3 server on loopback for tests, moto's, which can be made to fail as a real one does."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

import fsspec
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.mlflow_server import free_port
from tests.object_stores import BUCKET, s3_environment

BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"
BROKEN = b"<Error><Code>InternalError</Code><Message>We have an error.</Message></Error>"
CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code><Message>Again.</Message></Error>"
REFUSED = {
    "busy": ("503 Slow Down", BUSY),
    "expired": ("400 Bad Request", EXPIRED),
    "broken": ("500 Internal Server Error", BROKEN),
    "conflict": ("409 Conflict", CONFLICT),
}
BEHIND_S = 1.0

Environ = dict[str, Any]
Start = Callable[..., Any]
Fault = Callable[[Environ], str]


class Quiet(WSGIRequestHandler):
    """Prints nothing of what was asked for."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Print nothing."""


class S3Server:
    """An S3 server with one bucket; its objects outlive it while it is stopped.

    fault: says of each request what happens to it: "" nothing, "busy" (503), "broken" (500),
        "expired" (400), "conflict" (409), "lost" (it is done, and its answer does not come), "cut"
        (half of it is read, and the connection ends), "behind" (a listing is what it was at
        `listed_at`), or a number of seconds by which it is late
    listed_at: when that is, in seconds since 1970
    requests: of each method, how many there were
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.fault: Fault = lambda environ: ""
        self.listed_at: Callable[[], float] = lambda: time.time() - BEHIND_S
        self.requests: dict[str, int] = {}
        self._versions: dict[str, list[tuple[float, str, int]]] = {}
        self.application = DomainDispatcherApplication(create_backend_app)
        self._stop: Callable[[], None] = lambda: None

    @property
    def address(self) -> str:
        """Where studies are, as a user names it."""
        return f"s3://{BUCKET}/runs"

    def start(self) -> None:
        """Listen, again on the same port."""
        server = make_server("127.0.0.1", self.port, self._answer, True, request_handler=Quiet)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._stop = stop

    def stop(self) -> None:
        """Listen no more."""
        self._stop()

    def _answer(self, environ: Environ, start: Start) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        self.requests[method] = self.requests.get(method, 0) + 1
        fault = self.fault(environ)
        if fault in REFUSED:
            return _refuse(environ, start, *REFUSED[fault])
        if fault == "cut":
            _read(environ, share=0.5)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            start("500 Internal Server Error", [])  # which nobody hears
            return []
        if fault == "behind" and _is_listing(environ):
            return self._listing(environ, start, self.listed_at())
        if fault == "lost":
            list(self.application(environ, self._noting(environ, lambda *_: lambda _: None)))
            start("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        if fault and fault != "behind":
            time.sleep(float(fault))
        answer: Iterable[bytes] = self.application(environ, self._noting(environ, start))
        return answer

    def _noting(self, environ: Environ, start: Start) -> Start:
        """Note what a write or a deletion does to the listings, when it is answered."""
        key = unquote(environ["PATH_INFO"]).removeprefix(f"/{BUCKET}/")
        length = environ.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") or environ.get("CONTENT_LENGTH")
        size = int(length or 0)

        def answer(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            if environ["REQUEST_METHOD"] in ("PUT", "DELETE") and status.startswith("2"):
                tag = next((text for name, text in headers if name.lower() == "etag"), "")
                self._versions.setdefault(key, []).append((time.time(), tag, size))
            return start(status, headers, *rest)

        return answer

    def _listing(self, environ: Environ, start: Start, when: float) -> Iterable[bytes]:
        """Answer a listing as it was then; of a deleted object there is no tag."""
        prefix = parse_qs(environ["QUERY_STRING"]).get("prefix", [""])[0]
        rows = []
        for key, versions in sorted(self._versions.items()):
            before = [version for version in versions if version[0] <= when]
            if key.startswith(prefix) and before and before[-1][1]:
                written, tag, size = before[-1]
                date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(written))
                rows.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{date}</LastModified>"
                    f"<ETag>{escape(tag)}</ETag><Size>{size}</Size></Contents>"
                )
        text = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(rows)}</KeyCount>"
            f"<IsTruncated>false</IsTruncated>{''.join(rows)}</ListBucketResult>"
        )
        return _refuse(environ, start, "200 OK", text.encode())


def _is_listing(environ: Environ) -> bool:
    return environ["REQUEST_METHOD"] == "GET" and "list-type=2" in environ["QUERY_STRING"]


def _read(environ: Environ, *, share: float = 1.0) -> None:
    """Read a request's content, or its first part."""
    with contextlib.suppress(ValueError):
        environ["wsgi.input"].read(int(share * int(environ.get("CONTENT_LENGTH") or 0)))


def _refuse(environ: Environ, start: Start, status: str, content: bytes) -> Iterable[bytes]:
    _read(environ)
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))])
    return [content]


@contextlib.contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """Start an S3 server with an empty bucket, which this process and its children then use."""
    server = S3Server()
    for name, value in s3_environment(server.port).items():
        patch.setenv(name, value)
    patch.delenv("AWS_PROFILE", raising=False)
    server.start()
    try:
        # moto keeps its objects in this process, those of servers before, too.
        reset = f"http://127.0.0.1:{server.port}/moto-api/reset"
        urllib.request.urlopen(urllib.request.Request(reset, method="POST"), timeout=60).close()
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # which know the server before
        fsspec.filesystem("s3").mkdir(BUCKET)
        yield server
    finally:
        server.stop()
