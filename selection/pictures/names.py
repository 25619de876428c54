"""What the pictures of candidates are called: in the folder of a pick, and in MLflow."""

import functools
from typing import Protocol


class OneEpoch(Protocol):
    """A candidate in whatever form."""

    @property
    def trial(self) -> str:
        """The trial's name."""

    @property
    def epoch(self) -> int:
        """The epoch, from 1."""


def _picture_name(kind: str, candidate: OneEpoch) -> str:
    """Return the file name of a candidate's picture: `grid-t0007-0288.png`."""
    return f"{kind}-{candidate.trial}-{candidate.epoch:04d}.png"


# Of its samples, of its walks between latents, and of the same latents in every class.
grid_name = functools.partial(_picture_name, "grid")
walks_name = functools.partial(_picture_name, "walks")
changes_name = functools.partial(_picture_name, "classes")


def film_name(trial: str) -> str:
    """Return the file name of a trial's samples epoch by epoch: `film-t0007.webp`."""
    return f"film-{trial}.webp"
