"""A real S3 server on loopback for tests, moto's, which can be made to fail as a real one does."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import fsspec
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests.mlflow_server import free_port

BUCKET = "studies"
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"

Environ = dict[str, Any]
Start = Callable[..., Any]
Fault = Callable[[Environ], str]


class S3Server:
    """An S3 server with one bucket; its objects outlive it while it is stopped.

    fault: says of each request what happens to it: "" nothing, "busy" (503), "expired" (400),
        "lost" (it is done, and its answer does not come), or a number of seconds by which it is
        late
    requests: of each method, how many there were
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.fault: Fault = lambda environ: ""
        self.requests: dict[str, int] = {}
        self._application = DomainDispatcherApplication(create_backend_app)
        self._stop: Callable[[], None] = lambda: None

    @property
    def address(self) -> str:
        """Where studies are, as a user names it."""
        return f"s3://{BUCKET}/runs"

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables by which a client finds it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "reader",
            "AWS_SECRET_ACCESS_KEY": "not-to-be-seen",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Listen, again on the same port."""
        server = make_server("127.0.0.1", self.port, self._answer, threaded=True)
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
        if fault == "busy":
            return _refuse(environ, start, "503 Slow Down", BUSY)
        if fault == "expired":
            return _refuse(environ, start, "400 Bad Request", EXPIRED)
        if fault == "lost":
            list(self._application(environ, lambda *_: lambda _: None))
            start("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        if fault:
            time.sleep(float(fault))
        answer: Iterable[bytes] = self._application(environ, start)
        return answer


def _refuse(environ: Environ, start: Start, status: str, content: bytes) -> Iterable[bytes]:
    with contextlib.suppress(ValueError):
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))])
    return [content]


@contextlib.contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """Start an S3 server with an empty bucket, which this process and its children then use."""
    server = S3Server()
    for name, value in server.environment.items():
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
