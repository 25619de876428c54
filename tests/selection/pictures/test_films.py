"""A film has one frame for each kept epoch, in order, with its number, and a bounded size."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acgan.evaluation.grids import png
from acgan.run.records import QUALITY, EpochRecord
from search.study.folder import Trial, TrialInfo
from selection.pictures import films
from selection.pictures.films import LAST_MS, MOST_FRAMES, STRIP, film

SIZE = (48, 32)  # columns, rows


def make_trial(folder: Path, epochs: int, *, every: int = 1, noise: bool = False) -> Trial:
    """A trial whose samples grow brighter from epoch to epoch."""
    (folder / "samples").mkdir(parents=True)
    random = np.random.default_rng(0)
    for epoch in range(every, epochs + 1, every):
        level = 20 + 200 * epoch // epochs
        picture = np.full((SIZE[1], SIZE[0], 3), level, np.uint8)
        if noise:
            picture = random.integers(0, 256, (336, 896, 3), np.uint8)
        (folder / "samples" / f"epoch-{epoch:04d}.png").write_bytes(png(picture))
    return Trial(folder, TrialInfo(number=7, params={}, seed=0))


def records(epochs: int, *, every: int = 1) -> list[EpochRecord]:
    return [
        EpochRecord(
            epoch=epoch,
            time=0.0,
            metrics={QUALITY: 1.0},
            samples=f"samples/epoch-{epoch:04d}.png" if epoch % every == 0 else None,
        )
        for epoch in range(1, epochs + 1)
    ]


def frames(content: bytes) -> tuple[list[np.ndarray], list[int]]:
    """Return the frames of a WebP, and for how long each is shown in ms."""
    images, durations = [], []
    with Image.open(io.BytesIO(content), formats=("WEBP",)) as film:
        for place in range(getattr(film, "n_frames", 1)):
            film.seek(place)
            images.append(np.asarray(film.convert("RGB")))
            durations.append(int(film.info["duration"]))
    return images, durations


@pytest.mark.parametrize("every", [1, 3])
def test_a_film_has_a_frame_for_each_kept_epoch_in_their_order(tmp_path: Path, every: int) -> None:
    found = film(make_trial(tmp_path / "t0007", 12, every=every), records(12, every=every))
    assert found is not None
    kept = tuple(range(every, 13, every))
    assert found.epochs == kept
    images, durations = frames(found.content)
    assert len(images) == len(kept)
    levels = [image[STRIP + 2 :, : SIZE[0] - 2].mean() for image in images]
    np.testing.assert_allclose(levels, [20 + 200 * epoch // 12 for epoch in kept], atol=3)
    assert durations[-1] == LAST_MS
    assert len(set(durations[:-1])) == 1
    # The number above: another one in each frame, on white.
    strips = [image[:STRIP] for image in images]
    assert all(strip.max() > 240 and strip.min() < 90 for strip in strips)
    for one, other in itertools.pairwise(strips):
        assert np.abs(one.astype(int) - other).max() > 60


def test_epochs_that_look_alike_keep_frames_of_their_own(tmp_path: Path) -> None:
    trial = make_trial(tmp_path / "t0007", 5)
    same = (trial.path / "samples" / "epoch-0001.png").read_bytes()
    for path in (trial.path / "samples").iterdir():
        path.write_bytes(same)
    found = film(trial, records(5))
    assert found is not None
    assert len(frames(found.content)[0]) == 5


def test_damaged_missing_and_foreign_samples_are_passed_over(tmp_path: Path) -> None:
    trial = make_trial(tmp_path / "t0007", 5)
    (trial.path / "samples" / "epoch-0002.png").write_bytes(b"broken")
    (trial.path / "samples" / "epoch-0004.png").unlink()
    (tmp_path / "secret.png").write_bytes((trial.path / "samples" / "epoch-0001.png").read_bytes())
    own = records(5)
    own[4] = own[4].model_copy(update={"samples": "samples/../../secret.png"})
    found = film(trial, own)
    assert found is not None
    assert found.epochs == (1, 3)
    assert film(trial, []) is None


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    trial = make_trial(tmp_path / "t0007", 4)
    first, second = film(trial, records(4)), film(trial, records(4))
    assert first == second


def test_a_film_is_made_smaller_until_it_fits(tmp_path: Path) -> None:
    trial = make_trial(tmp_path / "t0007", 6, noise=True)
    large = film(trial, records(6), limit=10**9)
    small = film(trial, records(6), limit=200_000)
    assert large is not None
    assert small is not None
    assert len(large.content) > 200_000 >= len(small.content)
    assert large.epochs == small.epochs
    full, shrunk = (frames(found.content)[0] for found in (large, small))
    assert full[0].shape == (336 + STRIP, 896, 3)
    assert len(shrunk) == 6
    width, height = shrunk[0].shape[1], shrunk[0].shape[0] - STRIP
    assert width / height == pytest.approx(896 / 336, rel=0.02)


def test_a_long_run_shows_every_second_epoch_and_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_FRAMES >= 388  # the published number of epochs
    monkeypatch.setattr(films, "MOST_FRAMES", 6)
    found = film(make_trial(tmp_path / "t0007", 10), records(10))
    assert found is not None
    assert found.epochs == (1, 3, 5, 7, 9, 10)
