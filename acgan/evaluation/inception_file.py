"""The standard Inception weights: where they come from, and whether a file holds them.

They are torch-fidelity's (TensorFlow's network of 2015-12-05), without which no distance is FID.
"""

import hashlib
import stat
from pathlib import Path

import torch

from acgan.errors import InputError

URL = (  # where torch-fidelity takes them from
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
LIMIT_BYTES = 256_000_000  # theirs are 96 MB
STANDARD_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def cached_path(url: str = URL) -> Path:
    """Return where PyTorch keeps what was downloaded from `url`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def checked_file(path: Path, expected: str = STANDARD_SHA256) -> bytes:
    """Return the content of a file with this SHA-256; `InputError` for any other."""
    try:
        there = path.stat()
        if not stat.S_ISREG(there.st_mode) or there.st_size > LIMIT_BYTES:
            raise InputError(
                f"{path} does not hold the Inception weights: it is no file of at most "
                f"{LIMIT_BYTES // 10**6} MB; give the file that {URL} offers"
            )
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the Inception weights {path}: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected.lower():
        raise InputError(
            f"{path} does not hold the Inception weights that are wanted: its SHA-256 is "
            f"{found[:8]}…, not {expected[:8]}…; give the file that {URL} offers"
        )
    return content
