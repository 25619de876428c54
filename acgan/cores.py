"""What of the machine this process uses: cores, and no more of them; memory, and kept."""

import ctypes
import math
import os
from collections.abc import Iterator
from pathlib import Path

PROCESS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
# glibc's mallopt: what is freed goes back to the system from so many bytes on. M_MMAP_THRESHOLD, in
# a piece: the first that is taken, older versions refuse more than 32 MiB. M_TRIM_THRESHOLD, at the
# top of the heap.
PIECES, TRIM = ((-3, 2**30), (-3, 2**25)), (-1, 2**31 - 1)


def usable_cores() -> int:
    """Return the cores that this process may use: its affinity's, and no more than its quota.

    A part of a core does not count, but for the first.
    """
    return max(1, min(len(os.sched_getaffinity(0)), math.floor(min(quota(), 1e9))))


def use_own_cores() -> None:
    """Have PyTorch compute with no more threads than this process has cores to use.

    It follows the affinity by itself, but not a control group's quota, beyond which threads only
    wait for each other; fewer threads that the user has set stay.
    """
    import torch  # noqa: PLC0415 (not every process computes)

    if torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())


def keep_freed_memory() -> None:
    """Keep what is freed for what comes next, in a process that is there to compute.

    By itself glibc gives each large tensor back to the system and asks for it again at the next
    step, page by page: 4 to 15 % of the time on a CPU. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    if any(mallopt(*piece) for piece in PIECES):
        # Never alone: once told either, glibc no longer learns how large pieces are.
        mallopt(*TRIM)


def quota(process: Path = PROCESS, groups: Path = GROUPS) -> float:
    """Return how many cores' time the control groups of this process allow; inf without a bound.

    process: what the kernel says of its groups; groups: where those are. In a container a group
    may stand at their root instead of at its own path, and any group above may have the bound.
    """
    try:
        lines = process.read_text().splitlines()
    except OSError:
        return math.inf
    return min((_bound(folder) for folder in _folders(lines, groups)), default=math.inf)


def _folders(lines: list[str], groups: Path) -> Iterator[Path]:
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = groups / controllers
        own = root / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root))


def _bound(folder: Path) -> float:
    """Return a group's own bound, of version 2 or 1 of control groups."""
    try:
        if (folder / "cpu.max").exists():
            allowed, period = (folder / "cpu.max").read_text().split()
        else:
            allowed = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return math.inf if allowed.strip() in ("max", "-1") else int(allowed) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
