"""What all commands share: exit codes, and how they end when interrupted."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from acgan.errors import InputError


def run_command(body: Callable[[], int], *, resume: str) -> int:
    """Run a command's body; return 0, 1, 2 (wrong usage or bad input) or 130 (interrupted).

    `resume` says, after Ctrl-C, what continues the work.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        return body()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted; to continue, {resume}", file=sys.stderr)
        return 130
