"""What several test files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import search  # noqa: F401 - before any test file imports Ray, which reads its token mode then


@pytest.fixture(scope="module")
def ray_local() -> Iterator[None]:
    """One Ray of two CPUs for a module: other modules connect and shut down in this process."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()
