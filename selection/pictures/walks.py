"""What a generator does between two latents of a class, and from class to class at one latent."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from acgan.config import derive_seed
from acgan.evaluation.grids import grid
from acgan.files import replace_bytes
from acgan.gan.models import draw_latents
from acgan.generation.generator import LoadedGenerator, NotFiniteError, Pixels, images_of
from search.nodes.sees import set_aside
from selection.jobs.results import CandidateJob, Result

WALKS = 2  # of a class
WALK_STEPS = 9  # both ends included
LATENTS = 6  # that are shown in every class

WALKS_PICTURE, CHANGES_PICTURE = ".walks.png", ".changes.png"  # endings of files

_SMALLEST = 2.0**-25  # half of what separates two uniform numbers of 32 bits


def between(first: Tensor, second: Tensor, steps: int = WALK_STEPS) -> Tensor:
    """Return a path [steps, D] from one latent ~ U(-1, 1) [D] to another, both ends exact.

    Each number goes through the normal distribution's quantiles and back, and in between by
    cos(t) and sin(t), whose squares sum to one: so each step is distributed as a latent of its
    own is. A straight line is not: its middle is 0.71 times as long as any latent that the
    generator was trained on. A great circle between uniform latents leaves their cube.
    """
    shares = (latent.double().add(1).div(2) for latent in (first, second))
    start, end = (torch.special.ndtri(own.clamp(_SMALLEST, 1 - _SMALLEST)) for own in shares)
    angles = torch.linspace(0, math.pi / 2, steps, dtype=torch.float64)[:, None]
    turned: Tensor = torch.special.ndtr(angles.cos() * start + angles.sin() * end)
    path = turned.mul(2).sub(1).to(first.dtype)
    path[0], path[-1] = first, second
    return path


def walks(loaded: LoadedGenerator, *, seed: int) -> Pixels:
    """Return images along paths within each class, uint8 [classes · 2 · 9, 3, H, W], path by path.

    The same paths in every class. Raises `NotFiniteError`.
    """
    ends = _latents(loaded, 2 * WALKS, seed).view(WALKS, 2, -1)
    paths = torch.cat([between(first, second) for first, second in ends])
    classes = len(loaded.classes)
    labels = torch.arange(classes).repeat_interleave(len(paths))
    return images_of(loaded, paths.repeat(classes, 1), labels)


def changes(loaded: LoadedGenerator, *, seed: int) -> Pixels:
    """Return images of the same latents in every class, uint8 [6 · classes, 3, H, W].

    Latent by latent, the classes in their order. Raises `NotFiniteError`.
    """
    classes = len(loaded.classes)
    latents = _latents(loaded, LATENTS, seed).repeat_interleave(classes, dim=0)
    return images_of(loaded, latents, torch.arange(classes).repeat(LATENTS))


def _latents(loaded: LoadedGenerator, count: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(derive_seed(seed, "walks"))
    return draw_latents(count, loaded.config.latent_size, random)


def walks_picture(loaded: LoadedGenerator, *, seed: int) -> bytes:
    """Return a PNG of `walks`: a row per path, two rows per class."""
    return grid(walks(loaded, seed=seed), columns=WALK_STEPS)


def changes_picture(loaded: LoadedGenerator, *, seed: int) -> bytes:
    """Return a PNG of `changes`: a row a latent, a column per class."""
    return grid(changes(loaded, seed=seed), columns=len(loaded.classes))


@dataclass(frozen=True)
class WalksJob(CandidateJob[Result]):
    """Draws what a finalist does between latents, and from class to class at one latent."""

    kind = "walks"
    model = Result
    setting_names = frozenset({"seed"})
    files = (WALKS_PICTURE, CHANGES_PICTURE)

    @property
    def parts(self) -> tuple[object, ...]:
        """The weights."""
        return (self.weights.sha256,)

    def compute(self, *, gpu: bool) -> Result:
        """Draw the pictures."""
        generator, seed = self.work.load(self.weights, set_aside(gpu)), self.work.settings.seed
        try:
            replace_bytes(self.file(WALKS_PICTURE), walks_picture(generator, seed=seed))
            replace_bytes(self.file(CHANGES_PICTURE), changes_picture(generator, seed=seed))
        except NotFiniteError as error:
            return Result(failed=str(error))
        return Result()
