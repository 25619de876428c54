"""What a run was computed with, noted beside its epochs, so that it can be told whether another
start must give the same numbers.

    machines.jsonl   a line each time it changed: the first epoch computed so, versions, device
"""

import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from acgan.config import TrainConfig
from acgan.files import replace_text
from acgan.plugins import versions

FILE = "machines.jsonl"
CPU = "cpu"


class Machine(BaseModel):
    """What decides the bits of a result besides configuration and images.

    code: the first digits of the SHA-256 of this package's source
    device: "cpu", or the GPU's name; threads: of PyTorch on the CPU
    plugins: package and version of each plug-in that takes part, see `acgan.plugins.versions`
    """

    model_config = ConfigDict(frozen=True)

    acgan_search: str
    code: str
    python: str
    numpy: str
    torch: str
    processor: str
    instructions: str
    device: str
    threads: int
    plugins: dict[str, str] = Field(default_factory=dict)  # not there in notes of earlier versions


class Since(BaseModel):
    """From which epoch on a run was computed with a machine."""

    model_config = ConfigDict(frozen=True)

    epoch: int = Field(ge=1)
    machine: Machine


def this_machine(device: torch.device, config: TrainConfig) -> Machine:
    """Return what this process computes a configuration with."""
    on_cpu = device.type == CPU
    return Machine(
        acgan_search=importlib.metadata.version("acgan-search"),
        code=_code_digest()[:12],
        python=platform.python_version(),
        numpy=np.__version__,
        torch=torch.__version__,
        processor=processor(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        device=CPU if on_cpu else torch.cuda.get_device_name(device),
        threads=torch.get_num_threads(),
        plugins=versions(config),
    )


def _code_digest() -> str:
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        digest.update(name.encode() + b"\n" + path.read_bytes())
    return digest.hexdigest()


def processor() -> str:
    """Return the processor's model name; what Python knows of it where Linux does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def note_machine(folder: Path, epoch: int, machine: Machine) -> None:
    """Note that a run is computed with `machine` from `epoch` on; nothing if that is known."""
    before = [since for since in read_machines(folder) if since.epoch < epoch]
    if before and before[-1].machine == machine:
        lines = before
    else:
        lines = [*before, Since(epoch=epoch, machine=machine)]
    replace_text(folder / FILE, "".join(line.model_dump_json() + "\n" for line in lines))


def read_machines(folder: Path) -> list[Since]:
    """Return what a run was computed with, the first epoch first; [] where nobody knows."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
        return [Since.model_validate_json(line) for line in lines]
    except (OSError, UnicodeDecodeError, ValidationError):  # it decides nothing but a comparison
        return []


def machine_at(noted: Sequence[Since], epoch: int) -> Machine | None:
    """Return what an epoch was computed with; None where nobody knows."""
    found = [since.machine for since in noted if since.epoch <= epoch]
    return found[-1] if found else None


def what_differs(recorded: Machine, here: Machine) -> list[str]:
    """Name each difference as `torch: 2.12.0 → 2.13.0`."""
    there, own = recorded.model_dump(), here.model_dump()
    return [f"{name}: {there[name]} → {own[name]}" for name in own if there[name] != own[name]]
