"""Tensors and text on disk: safetensors files, whole or refused."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from acgan.files import write_cached

HEADER_LIMIT_BYTES = 1_000_000  # fifty times that of a state
WEIGHTS_LIMIT_BYTES = 8_000_000_000  # twenty-five times a full-size state

_LENGTH = 8  # bytes of a safetensors file that say how long its header is


def checksum(tensors: Mapping[str, Tensor], record: str) -> str:
    """Return the SHA-256 of a state: all of its tensors, and the record's JSON."""
    digest = hashlib.sha256(record.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Serialise tensors and text metadata as one safetensors file, the same bytes each time.

    The library writes the texts in an order that varies from call to call.
    """
    content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, dict(metadata))
    end = _header_end(content)
    header = json.loads(content[_LENGTH:end])
    ordered = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    ordered += b" " * (-len(ordered) % _LENGTH)  # what follows is aligned
    return b"".join((len(ordered).to_bytes(_LENGTH, "little"), ordered, memoryview(content)[end:]))


def _header_end(content: bytes) -> int:
    return _LENGTH + int.from_bytes(content[:_LENGTH], "little")


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `weights_bytes` serialised: tensors and text metadata.

    Raises `SafetensorError` for a file that is no such file, `OSError` as `weights_content`.
    """
    return parse_weights(weights_content(path))


def weights_content(path: Path) -> bytes:
    """Return a weights file's bytes; `OSError` for one that is not there, too large, or no file.

    They are read, not mapped: a file that is cut while it is mapped kills the process.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a device may never end, a pipe never begin
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if found.st_size > WEIGHTS_LIMIT_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return path.read_bytes()


def cached_tensors(path: Path, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of a file of the cache; made, and kept there, if missing or damaged.

    make: returns them, on the CPU. Raises `InputError` where the file cannot be written.
    """
    try:
        tensors, metadata = read_weights(path)
        if checksum(tensors, "") == metadata.get("checksum"):
            return tensors
    except (SafetensorError, OSError):
        pass
    made = dict(make())
    write_cached(path, weights_bytes(made, {"checksum": checksum(made, "")}))
    return made


def parse_weights(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what `weights_bytes` serialised; `SafetensorError` for anything else."""
    end = _header_end(content)
    if end > HEADER_LIMIT_BYTES:
        raise SafetensorError(f"its header has more than {HEADER_LIMIT_BYTES} bytes")
    try:
        tensors = load(content)
    except (KeyError, RuntimeError, TypeError) as error:  # types and shapes that PyTorch lacks
        raise SafetensorError(f"it holds a tensor that cannot be read ({error})") from error
    return tensors, json.loads(content[_LENGTH:end]).get("__metadata__") or {}
