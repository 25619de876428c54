"""How many cores a process may use: by its real affinity, and by what the kernel's files say."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from acgan.cores import GROUPS, PIECES, quota, usable_cores

pytestmark = pytest.mark.process

PROGRAM = "from acgan.cores import usable_cores; print(usable_cores())"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("process", "files", "cores"),
    [
        ("0::/job/step\n", {"job/step/cpu.max": "250000 100000\n"}, 2.5),
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000", "job/cpu.max": "400000 100000"}, 4),
        ("0::/job\n", {"job/cpu.max": "800000 100000", "cpu.max": "150000 100000"}, 1.5),
        ("0::/of/the/host\n", {"cpu.max": "300000 100000"}, 3),  # seen from a container
        ("0::/\n", {"cpu.max": "max 100000"}, math.inf),
        ("0::/\n", {"cpu.max": "damaged"}, math.inf),
        ("0::/\n", {}, math.inf),
        (
            "5:memory:/m\n4:cpu,cpuacct:/docker/1\n0::/\n",
            {
                "cpu,cpuacct/docker/1/cpu.cfs_quota_us": "200000\n",
                "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            "4:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
    ],
)
def test_the_least_bound_of_all_groups_above_counts(
    tmp_path: Path, process: str, files: dict[str, str], cores: float
) -> None:
    write(tmp_path, {"process": process})
    groups = write(tmp_path / "groups", files)
    assert quota(tmp_path / "process", groups) == cores


def test_without_control_groups_there_is_no_bound(tmp_path: Path) -> None:
    assert quota(tmp_path / "nothing", tmp_path) == math.inf


def test_a_process_that_is_held_to_one_core_uses_one() -> None:
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{core}]); {PROGRAM}"]
    assert subprocess.check_output(command, text=True) == "1\n"
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


@contextlib.contextmanager
def group_of_one_core() -> Iterator[Path]:
    """Make a control group with the time of one core; skip the test where that is not allowed."""
    version_1 = (GROUPS / "cpu").is_dir()
    folder = GROUPS / ("cpu" if version_1 else "") / f"acgan-test-{os.getpid()}"
    bound = ("cpu.cfs_quota_us", "100000") if version_1 else ("cpu.max", "100000 100000")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("making a control group is not allowed here")
    try:
        try:
            (folder / bound[0]).write_text(bound[1])
        except OSError:
            pytest.skip("this kernel's groups have no quota of cores")
        yield folder
    finally:
        folder.rmdir()


def test_a_real_quota_of_one_core_bounds_cores_and_threads() -> None:
    with group_of_one_core() as folder:
        program = (
            f"import os; open({str(folder / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            "import torch; torch.set_num_threads(2)\n"
            "from acgan.command import run_command; run_command(lambda: 0, resume='')\n"
            f"print(torch.get_num_threads()); {PROGRAM}"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"1\n1\n"


PAGES_OF_A_ROUND = """
import json, resource, sys
from acgan import cores
cores.PIECES, blocks = json.loads(sys.argv[1]), int(sys.argv[2])
cores.keep_freed_memory()
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use = lambda: [bytearray(1024 * resource.getpagesize()) for _ in range(blocks)]
for _ in range(2):  # until glibc knows by itself how large they are
    use()
before = count()
for _ in range(20):
    use()
print((count() - before) / 20)
"""
REFUSED = (1, 10**6)  # M_MXFAST takes 160 bytes at most


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
@pytest.mark.parametrize(
    ("pieces", "blocks"),
    [
        (PIECES, 8),  # of 1,024 pages each, which without it are asked for in each round
        ((REFUSED, PIECES[1]), 8),  # as of an older version
        ((REFUSED,), 1),
    ],
)
def test_what_is_freed_is_not_asked_for_again(
    pieces: Sequence[tuple[int, int]], blocks: int
) -> None:
    program = [sys.executable, "-c", PAGES_OF_A_ROUND, json.dumps(pieces), str(blocks)]
    assert float(subprocess.check_output(program, text=True)) < 100
