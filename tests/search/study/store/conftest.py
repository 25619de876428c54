from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest

from tests.object_stores import BUCKET, MAKES, make_bucket, served
from tests.s3_server import S3Server, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as server:
        yield server


@pytest.fixture(params=["s3", "file"])
def address(request: pytest.FixtureRequest, server: S3Server, tmp_path: Path) -> str:
    """An address without objects, of either kind."""
    return f"file://{tmp_path}/bucket" if request.param == "file" else new_place(server.address)


def new_place(address: str) -> str:
    """Return an address below, whose clients begin anew: in another server's environment."""
    fsspec.get_filesystem_class(address.partition(":")[0]).clear_instance_cache()
    return f"{address}/{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], int]]:
    """Give the port of a server of each make, which is started when it is first asked for."""
    found: dict[str, int] = {}
    with ExitStack() as stack:

        def port_of(name: str) -> int:
            if name not in found:
                folder = tmp_path_factory.mktemp(name)
                found[name] = stack.enter_context(served(MAKES[name], folder))
            return found[name]

        yield port_of


@pytest.fixture(params=["s3", "file", *MAKES])
def any_address(
    request: pytest.FixtureRequest,
    server: S3Server,
    tmp_path: Path,
    ports: Callable[[str], int],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """An address without objects, of each store that is installed."""
    make = MAKES.get(request.param)
    if make is None:
        return f"file://{tmp_path}/bucket" if request.param == "file" else new_place(server.address)
    if lacking := make.lacking():
        pytest.skip(lacking)
    for name, value in make.environment(ports(request.param)).items():
        monkeypatch.setenv(name, value)
    address = new_place(f"{make.scheme}://{BUCKET}")
    make_bucket(make.scheme)
    return address


@pytest.fixture
def conditional(request: pytest.FixtureRequest) -> bool:
    """Whether the store of `any_address` writes on a condition."""
    make = MAKES.get(request.node.callspec.params["any_address"])
    return make is None or make.conditional
