"""Whether a file holds the Inception weights that are wanted."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from acgan.errors import InputError
from acgan.evaluation import inception_file


def test_a_file_is_taken_by_its_hash_alone_in_either_case(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert inception_file.checked_file(path, sha256) == b"weights"
    assert inception_file.checked_file(path, sha256.upper()) == b"weights"


def test_any_other_file_and_none_are_refused_with_where_to_get_it(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    with pytest.raises(InputError, match="cannot read"):
        inception_file.checked_file(path)
    path.write_bytes(b"other weights")
    with pytest.raises(InputError, match=r"not 6726825d….*; give the file that https://github"):
        inception_file.checked_file(path)


def test_what_is_no_file_or_far_too_large_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(inception_file.LIMIT_BYTES + 1)
    for path in (Path("/dev/zero"), tmp_path, tmp_path / "pipe", tmp_path / "large"):
        with pytest.raises(InputError, match=r"no file of at most 256 MB; give the file that"):
            inception_file.checked_file(path)


def test_pytorch_keeps_them_under_the_name_in_their_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = "weights-inception-2015-12-05-6726825d.pth"
    assert inception_file.cached_path() == tmp_path / "hub" / "checkpoints" / name
