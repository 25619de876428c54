"""The built-in data set: synthetic frontal chest X-rays of three classes.

It lets every command run without a download. A phantom is drawn as a sum of soft shapes in the
coordinates of its patient (u to the image's right, which is the patient's left; v downwards; the
image spans -1 to 1), then exposed like a film. Lungs are clear in `normal`; `pneumonia` adds one
or two dense focal opacities to one lung; `COVID-19` adds a faint haze to the periphery and bases
of both. Unlike in COVIDx, class and source are independent.

The bytes are the same on every machine: random numbers are PCG64's, and pixels use only operations
that IEEE 754 rounds exactly (+, -, *, /, sqrt), no sum over an array, no exp or sin; resizing is
Pillow's, in integers.

`python -m acgan.phantom` shows some.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from acgan.data.dataset import ImageSet
from acgan.errors import InputError

CLASSES = ("COVID-19", "normal", "pneumonia")
COVID, NORMAL, PNEUMONIA = range(3)
SOURCES = ("phantom-a", "phantom-b")
PATIENTS = {"train": (108, 176, 158), "test": (34, 56, 49)}  # per class; 20 % of 108 can validate
SECOND_IMAGE_EVERY = 12  # one patient in twelve has two images

SIZE = 128  # pixels a side as drawn: whatever the image size asked for, the patients are the same

Array = NDArray[np.floating[Any]]  # float32 throughout
Values = dict[str, float]

# What varies between patients, uniform between two bounds; lengths in half image sides.
ANATOMY = {
    "size": (0.88, 1.1),
    "stoutness": (0.92, 1.1),
    "tilt": (-0.08, 0.08),
    "apex": (-0.76, -0.66),
    "base": (0.48, 0.7),
    "chest": (0.68, 0.8),
    "dome": (0.16, 0.28),
    "liver": (0.03, 0.09),
    "mediastinum": (0.1, 0.15),
    "heart": (0.28, 0.48),
    "aorta": (0.03, 0.09),
    "rib_phase": (0.0, 1.0),
    "rib_gap": (0.15, 0.18),
    "rib_slope": (0.1, 0.3),
    "rib_density": (0.06, 0.11),
    "clavicle": (-0.6, -0.5),
    "fat": (0.0, 1.0),
    "vessels": (0.08, 0.2),
    "air": (0.32, 0.42),
    "gas": (-0.1, 0.12),
}
# What varies between two images of one patient.
FILM = {
    "right": (-0.08, 0.08),
    "down": (-0.08, 0.06),
    "breath": (-0.04, 0.04),
    "gain": (0.8, 1.15),
    "level": (-0.07, 0.1),
    "toe": (-0.25, 0.35),
    "grain": (0.03, 0.08),
}
# Where and how dense disease is: every patient draws them, the class decides which are used.
DISEASE = {
    "side": (-1.0, 1.0),
    "across": (0.3, 0.65),
    "along": (0.15, 0.85),
    "radius": (0.2, 0.32),
    "roundness": (0.75, 1.35),
    "density": (0.28, 0.42),
    "second": (0.0, 1.0),
    "second_along": (0.15, 0.85),
    "haze_left": (0.15, 0.3),
    "haze_right": (0.15, 0.3),
    "haze_top": (-0.35, 0.1),
}


def make(image_size: int, *, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Draw the training and the test images: 479 and 151, of 442 and 139 patients.

    The same seed has the same patients at every image size. Raises `InputError` unless
    16 <= image_size <= 256.
    """
    if not 16 <= image_size <= 256:
        raise InputError(f"the phantom data has image sizes from 16 to 256, got {image_size=}")
    train, test = (_split(name, image_size, seed) for name in PATIENTS)
    return train, test


def _split(name: str, image_size: int, seed: int) -> ImageSet:
    rng = np.random.Generator(np.random.PCG64([seed, list(PATIENTS).index(name)]))
    of_patient = rng.permutation(np.repeat(np.arange(len(CLASSES)), PATIENTS[name]))
    count = len(of_patient)
    patient = np.sort(np.append(np.arange(count), np.arange(0, count, SECOND_IMAGE_EVERY)))
    lasting = _draw(rng, ANATOMY | DISEASE, count)
    film = _draw(rng, FILM, len(patient))
    source = rng.integers(0, len(SOURCES), count)[patient]
    labels = of_patient[patient].astype(np.int64)
    images = np.empty((len(patient), image_size, image_size), np.uint8)
    for index in range(len(patient)):
        values = lasting[patient[index]] | film[index]
        values["gain"] -= 0.12 * source[index]  # the second source's films are flatter
        tissue = _tissue(rng, values, int(labels[index]))
        picture = Image.fromarray(_expose(rng, values, tissue))
        size = (image_size, image_size)
        images[index] = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
    return ImageSet(
        images=images,
        labels=labels,
        patients=tuple(f"{name}-{number:03d}" for number in patient),
        sources=tuple(SOURCES[index] for index in source),
    )


def _draw(
    rng: np.random.Generator, ranges: dict[str, tuple[float, float]], count: int
) -> list[Values]:
    return [
        {name: low + (high - low) * rng.random() for name, (low, high) in ranges.items()}
        for _ in range(count)
    ]


def _step(x: Array) -> Array:
    """Rise smoothly from 0 at -1 to 1 at 1."""
    t: Array = np.clip(x * 0.5 + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _bump(x: Array) -> Array:
    """Rise smoothly from 0 at -1 to 1 at 0, and fall again to 0 at 1."""
    t = np.maximum(1 - x * x, 0)
    return t * t


def _wave(phase: Array) -> Array:
    """Return the distance to the nearest whole number: a triangle wave in [-0.5, 0.5]."""
    return phase - np.rint(phase)


def _clouds(rng: np.random.Generator, cells: int) -> Array:
    """Draw smooth noise in [0, 1], [SIZE, SIZE], with so many cells a side."""
    grid = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(grid.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32) / 255


class _Chest:
    """The coordinates of one image, and the borders of its lungs.

    u, side = |u| and floor (the diaphragm, as v) are rows [1, SIZE]; v and wall (the lungs' outer
    border, as |u|) are columns [SIZE, 1]; left is 1 in the patient's left half, where the heart
    is; inner (the lungs' inner border, as |u|) is [SIZE, SIZE].
    """

    def __init__(self, p: Values) -> None:
        pixel = (np.arange(SIZE, dtype=np.float32) + 0.5) * (2 / SIZE) - 1
        self.u = (pixel[None, :] - p["right"]) / (p["size"] * p["stoutness"])
        self.v = (pixel[:, None] - p["down"]) / p["size"]
        self.side = np.abs(self.u)
        self.left = _step(self.u / 0.02)
        base = p["base"] + p["breath"]
        height = np.clip((base + 0.15 - self.v) / (base + 0.15 - p["apex"]), 0, 1)
        self.wall = p["chest"] * np.sqrt(1 - height * height * height)
        across = (self.side - 0.36) / 0.42
        self.floor = base + 0.1 - p["dome"] * (1 - across * across) + p["tilt"] * self.u
        self.floor -= p["liver"] * (1 - self.left)
        apex = np.maximum(p["apex"] + 0.3 - self.v, 0) / 0.3
        below = self.v - base + 0.12
        beat = np.where(below < 0, below / 0.56, below / 0.4)
        heart = np.maximum(1 - beat * beat, 0)
        heart = np.where(below < 0, heart, np.sqrt(heart))  # pointed above, round below
        inner_right = p["mediastinum"] + 0.16 * apex * apex
        inner_left = inner_right + p["aorta"] * _bump((self.v + 0.3) / 0.14)
        inner_left = np.maximum(inner_left, 0.08 + p["heart"] * heart)
        inner_right = np.maximum(inner_right, 0.08 + 0.13 * heart)
        self.inner = inner_right + self.left * (inner_left - inner_right)


def _tissue(rng: np.random.Generator, p: Values, label: int) -> Array:
    """Return how much of the rays each pixel's tissue stops: 0 is air, about 1 the spine."""
    c = _Chest(p)
    lung = _step((c.wall - c.side) / 0.05)
    lung = lung * _step((c.side - c.inner) / 0.04) * _step((c.floor - c.v) / 0.03)
    in_lung = _vessels(rng, p, c) - p["air"] * (0.85 + 0.15 * _step((c.side - 0.3) / 0.3))
    if label == COVID:
        in_lung += _haze(rng, p, c)
    if label == PNEUMONIA:
        in_lung += _focal(rng, p, c)
    return (_soft_tissue(p, c) + _bones(p, c) + in_lung * lung) * _skin(p, c)


def _skin(p: Values, c: _Chest) -> Array:
    """Return 1 inside the body: the neck, then shoulders that soon leave the image."""
    slope = np.clip((c.v + 0.98) / 0.5, 0, 1)
    outline = 0.24 + (0.7 + 0.3 * p["fat"]) * slope * slope
    return _step((outline - c.side) / 0.05)


def _soft_tissue(p: Values, c: _Chest) -> Array:
    heart = c.left * _bump((c.u - 0.1) / 0.4) * _bump((c.v - c.floor + 0.25) / 0.5)
    belly = _step((c.v - c.floor) / 0.05) * _step((c.wall + 0.05 - c.side) / 0.08)
    gas = c.left * _bump((c.u - 0.36) / 0.16) * _bump((c.v - c.floor - 0.14) / 0.1)
    trachea = _bump((c.u + 0.015) / 0.055) * _step((-0.22 - c.v) / 0.1)
    spine = _bump(c.u / 0.12) * (0.1 + 0.04 * _bump(_wave(c.v / 0.13) * 2))
    thickness = 0.46 + 0.06 * p["fat"] + 0.12 * _bump(c.u / 0.8) + 0.05 * c.v
    solid = thickness + spine + 0.1 * heart + 0.12 * belly
    return solid - 0.12 * trachea - max(p["gas"], 0.0) * gas


def _bones(p: Values, c: _Chest) -> Array:
    """Return what the ribs, behind and in front, clavicles and shoulders add."""
    cage = _step((c.wall + 0.06 - c.side) / 0.05) * _step((c.floor + 0.12 - c.v) / 0.15)
    cage *= _step((c.side - 0.08) / 0.08) * _step((c.v - p["apex"] + 0.08) / 0.08)
    cage *= 0.3 + 0.7 * _step((c.side - c.inner) / 0.05)  # faint where the heart outshines them
    level = c.v - p["tilt"] * c.u
    outward = c.side / p["chest"]
    outward *= outward
    behind = level - (p["rib_slope"] * c.side + 0.22 * outward * outward)
    front = level + (0.5 * c.side - 0.25 * outward)
    ribs = _bump(_wave(behind / p["rib_gap"] + p["rib_phase"]) / 0.3)
    ribs += 0.45 * _step((c.side - 0.3) / 0.2) * _bump(_wave(front / p["rib_gap"]) / 0.25)
    length = np.clip((c.side - 0.1) / 0.6, 0, 1)
    rise = p["clavicle"] - 0.16 * _step(2 * length - 1)
    clavicle = _bump((level - rise) / 0.05) * _step((c.side - 0.1) / 0.04)
    clavicle *= _step((0.76 - c.side) / 0.06)
    shoulder = _bump((c.side - 0.88) / 0.18) * _bump((c.v + 0.46) / 0.2)
    return p["rib_density"] * (ribs * cage + 1.2 * clavicle + 0.9 * shoulder)


def _vessels(rng: np.random.Generator, p: Values, c: _Chest) -> Array:
    """Return the lungs' markings: dense at their roots, fading outwards."""
    field = _bump((c.side - 0.14) / 0.5) * _bump(c.v / 0.75)
    root = _bump((c.side - 0.17) / 0.16) * _bump((c.v + 0.02) / 0.25)
    return p["vessels"] * (field * (_clouds(rng, 22) - 0.35) + 0.45 * root)


def _haze(rng: np.random.Generator, p: Values, c: _Chest) -> Array:
    """Return a faint, patchy opacity of the periphery and base of both lungs."""
    depth = (c.side - c.inner) / np.maximum(c.wall - c.inner, 0.05)
    density = p["haze_right"] + c.left * (p["haze_left"] - p["haze_right"])
    outer = 0.25 + 0.75 * _step((depth - 0.45) / 0.4)
    low = _step((c.v - p["haze_top"]) / 0.35)
    haze: Array = outer * low * density * (0.35 + _clouds(rng, 9))
    return haze


def _focal(rng: np.random.Generator, p: Values, c: _Chest) -> Array:
    """Return one dense opacity of one lung; in one patient of four, two."""
    ragged = _clouds(rng, 9)
    places = [p["along"]] if p["second"] < 0.75 else [p["along"], p["second_along"]]
    top, bottom = p["apex"] + 0.1, p["base"] - 0.15
    x = (c.side - p["across"]) / (p["radius"] * p["roundness"])
    focus = np.zeros_like(ragged)
    for along in places:
        y = (c.v - top - along * (bottom - top)) / p["radius"]
        focus = np.maximum(focus, _step((1.1 - x * x - y * y + 1.2 * (ragged - 0.5)) / 0.8))
    own_lung = c.left if p["side"] > 0 else 1 - c.left
    return p["density"] * own_lung * focus


def _expose(rng: np.random.Generator, p: Values, tissue: Array) -> NDArray[np.uint8]:
    """Turn tissue into grey levels: a film's tone curve, then its grain."""
    tone = p["level"] + p["gain"] * tissue
    tone += p["toe"] * tone * (1 - tone)
    grain = rng.random(tone.shape, np.float32) - rng.random(tone.shape, np.float32)
    return (np.clip(tone + p["grain"] * grain, 0, 1) * 255 + 0.5).astype(np.uint8)
