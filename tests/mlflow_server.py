"""Real MLflow servers for tests, each in a process group of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

START_S = 400
QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServerCommand:
    """A command that is an `mlflow server` on a port of loopback; started and stopped at will."""

    def __init__(
        self, folder: Path, port: int, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self._folder, self._port = folder, port
        self._command, self._environment = command, environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env={**os.environ, **QUIET, **self._environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        """Kill it, as a machine that goes down would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Server(ServerCommand):
    """An `mlflow server` over one sqlite file, or over the database at a URI.

    Its artifacts go through it, to a folder beside its log.
    """

    def __init__(self, folder: Path, store: Path | str) -> None:
        port = free_port()
        uri = store if isinstance(store, str) else f"sqlite:///{store}"
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        command += ["--backend-store-uri", uri]
        command += ["--serve-artifacts", "--artifacts-destination", str(folder / "mlartifacts")]
        super().__init__(folder, port, command, {})
