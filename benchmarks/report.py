"""Tables that end a benchmark, and the page that keeps them."""

from __future__ import annotations

import argparse
import functools
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from acgan.command import command, command_parser, run_command
from acgan.config import user_path
from acgan.cores import usable_cores
from acgan.data.source import PHANTOM
from acgan.run.machine import processor

ROOT = Path(__file__).parents[1]


def benchmark_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser for `python -m benchmarks.NAME` with the flag `--out`."""
    parser = command_parser(f"benchmarks.{name}", description)
    parser.add_argument(
        "--out",
        type=functools.partial(_page, name),
        metavar="PAGE",
        help="the page whose section is written anew",
    )
    return parser


def whole(least: int) -> Callable[[str], int]:
    """Return the type of a flag that takes whole numbers from `least` on."""

    def number(text: str) -> int:
        found = int(text) if text.isdecimal() else -1
        if found < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least}, got {text!r}")
        return found

    return number


def image_source(text: str) -> str:
    """Return "phantom", or a folder of images as every process may be told of it."""
    return text if text == PHANTOM else str(user_path(text))


def _page(name: str, text: str) -> Path:
    """Return the page that a flag names; it must have the section before anything is measured."""
    page = Path(text)
    try:
        _parts(page.read_text(), name)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{page} cannot keep the result: {error}") from error
    return page


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; numbers are shown with three digits."""
    lines = [list(header), ["---"] * len(header), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def publish(name: str, text: str, page: Path | None) -> None:
    """Print a benchmark's result and, where a page is named, put it into the page's section."""
    whole = f"{text}\n\n{provenance(name)}"
    print(whole)
    if page is not None:
        replace_section(page, name, whole)


def provenance(name: str) -> str:
    """Return when, on which machine and from which commit a benchmark was measured."""
    command = shlex.join(["python", "-m", f"benchmarks.{name}", *_asked(sys.argv[1:])])
    return f"`{command}`, {time.strftime('%Y-%m-%d')}, {machine()}, commit {_commit()}."


def _asked(words: Sequence[str]) -> Iterator[str]:
    """Yield the flags of a benchmark that others can type too: no folder of this machine."""
    given = iter(words)
    for word in given:
        if word in ("--out", "--folder"):
            next(given)
        elif word == "--data":
            yield word
            yield PHANTOM if next(given) == PHANTOM else "DIR"
        else:
            yield word


def machine() -> str:
    """Return the machine in words, without its name."""
    cores = usable_cores()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    load = os.getloadavg()[0]
    words = f"{cores} cores ({processor()}), {memory:.0f} GiB, load {load:.1f}"
    if torch.cuda.is_available():
        words += f", {torch.cuda.get_device_name()}"
    return f"{words}, PyTorch {torch.__version__}, Python {platform.python_version()}"


def _commit() -> str:
    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", "acgan", "search", "selection", "benchmarks")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")


def benchmark(
    parser: Callable[[], argparse.ArgumentParser], report: Callable[[argparse.Namespace], str]
) -> Callable[..., int]:
    """Return a benchmark's command: it measures what the flags say, and publishes the report."""

    @command
    def main(argv: Sequence[str] | None) -> int:
        made = parser()
        options = made.parse_args(argv)

        def measure() -> int:
            publish(made.prog.rpartition(".")[2], report(options), options.out)
            return 0

        return run_command(measure, resume="type the same command again")

    return main


def replace_section(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` in a page.

    Raises `ValueError` for a page without these marks.
    """
    before, after = _parts(page.read_text(), name)
    page.write_text(f"{before}\n{text}\n{after}")


def _parts(text: str, name: str) -> tuple[str, str]:
    """Return a page up to a section's first mark and from its last one on, both included."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"it has no section {begin} … {end}")
    return before + begin, end + after
