"""Real or generated? What a quiz shows, and what a person's answers say.

A quiz of a candidate holds as many real validation images of each class as generated ones, so the
class says nothing. Each real image is of another patient, which makes answers independent, and no
image of a quiz stands in the grids that are shown beside the truth.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from acgan.config import derive_seed
from acgan.data.dataset import ImageSet
from selection.ledgers.reviews import Tally
from selection.metrics.estimate import Estimate
from selection.metrics.intervals import proportion, proportion_difference

GRID_IMAGES = 8  # of a class, shown beside the truth at once
MOST_PAGES = 9  # of such images
QUIZ_IMAGES = 8  # generated ones of a class in one quiz, and as many real ones
QUIZZES = 7  # of one candidate, none of whose images comes again

Pixels = NDArray[np.uint8]
Places = dict[int, NDArray[np.intp]]


@dataclass(frozen=True)
class RealImages:
    """Which validation images a person is shown, by class, as places in the image set.

    shown: beside the generated ones; hidden: in quizzes; all of them of different patients
    """

    images: ImageSet
    shown: Places
    hidden: Places

    def in_a_quiz(self, label: int) -> int:
        """Return how many real images of a class a quiz holds, and so generated ones."""
        return min(QUIZ_IMAGES, len(self.hidden[label]))


def draw_real(images: ImageSet, *, classes: int, seed: int) -> RealImages:
    """Draw one image per patient, and part them into those for the grids and those for quizzes.

    A patient with images of several classes is shown for the rarest of them. Beyond the first
    eight of a class only those are shown that no quiz needs.
    """
    order = np.random.default_rng(derive_seed(seed, "real images")).permutation(len(images))
    counts = images.per_class(classes)
    patients: set[str] = set()
    places: dict[int, list[int]] = {label: [] for label in range(classes)}
    for place in sorted(order.tolist(), key=lambda place: counts[images.labels[place]]):
        if images.patients[place] not in patients:
            patients.add(images.patients[place])
            places[int(images.labels[place])].append(place)
    shown, hidden = {}, {}
    for label, own in places.items():
        cut = min(GRID_IMAGES, (len(own) + 1) // 2)
        spare = len(own) - cut - QUIZZES * QUIZ_IMAGES
        cut += min(max(spare, 0), (MOST_PAGES - 1) * GRID_IMAGES)
        shown[label], hidden[label] = np.array(own[:cut], int), np.array(own[cut:], int)
    return RealImages(images, shown, hidden)


@dataclass(frozen=True)
class QuizQuestion:
    """One image of a quiz: grey [H, W], or in colour [3, H, W]."""

    image: Pixels
    label: int
    real: bool


def draw_quiz(
    real: RealImages, generated: Mapping[int, Pixels], *, before: int, of_this: int, seed: int
) -> list[QuizQuestion]:
    """Return a quiz in the order in which it is shown; none if all generated images were used.

    generated: by class, uint8 [N, 3, H, W], of which the grids show the first; before: how many
    quizzes the person has done, so that real images come again as late as may be; of_this: how
    many of them of this candidate, whose images never come again
    """
    questions = []
    for label, images in generated.items():
        count, hidden = real.in_a_quiz(label), real.hidden[label]
        start = GRID_IMAGES + of_this * QUIZ_IMAGES
        if start + count > len(images):
            return []
        places = hidden[(before * count + np.arange(count)) % max(len(hidden), 1)]
        questions += [QuizQuestion(real.images.images[place], label, True) for place in places]
        questions += [
            QuizQuestion(one if real.images.in_colour else as_grey(one), label, False)
            for one in images[start : start + count]
        ]
    order = np.random.default_rng(derive_seed(seed, before, of_this)).permutation(len(questions))
    return [questions[place] for place in order]


def as_grey(image: Pixels) -> Pixels:
    """Return the mean of an image's channels [3, H, W] as 8-bit grey, which real X-rays are."""
    mean: Pixels = image.mean(axis=0).round().astype(np.uint8)
    return mean


def plain_png(image: Pixels) -> bytes:
    """Encode an image, grey [H, W] or [3, H, W], as PNG without compression.

    All images of one size have the same number of bytes, which so tells nothing of them.
    """
    picture = Image.fromarray(image if image.ndim == 2 else image.transpose(1, 2, 0))
    with io.BytesIO() as file:
        picture.save(file, format="PNG", compress_level=0)
        return file.getvalue()


@dataclass(frozen=True)
class Score:
    """How a person did.

    fooling_rate: the share of generated images that were taken for real; real: that of real ones
    apart: real minus fooling rate; 0 is what somebody has who cannot tell
    """

    fooling_rate: Estimate
    real: Estimate
    apart: Estimate

    @property
    def told_apart(self) -> bool:
        """Whether the answers show that the person can tell generated from real."""
        return self.apart.low > 0


def score(generated: Tally, real: Tally) -> Score:
    """Return the score of counts of images that were taken for real, of how many."""
    fooling_rate, of_real = proportion(*generated), proportion(*real)
    return Score(fooling_rate, of_real, proportion_difference(of_real, fooling_rate))


def in_a_sentence(found: Score) -> str:
    """Return what a score shows, no more than its interval allows."""
    if found.told_apart:
        return "You can tell the generated images from real ones."
    if found.apart.high < 0:
        return "You took the generated images for real more often than the real ones."
    return "These answers do not show that you can tell generated images from real ones."
