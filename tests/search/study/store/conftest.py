from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.s3_server import S3Server, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as server:
        yield server


@pytest.fixture(params=["s3", "file"])
def address(request: pytest.FixtureRequest, server: S3Server, tmp_path: Path) -> str:
    """An address without objects, of either kind."""
    if request.param == "file":
        return f"file://{tmp_path}/bucket"
    fsspec.filesystem("s3").invalidate_cache()
    return f"{server.address}/{tmp_path.name}"
