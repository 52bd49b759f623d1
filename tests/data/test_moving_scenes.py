"""Moving scenes: frame 0 is the still one, near things pass first, weather moves as in videos."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from tinybridge.data import degradations, moving_scenes, scenes


@pytest.fixture(scope="module")
def clip() -> tuple[np.ndarray, np.ndarray, str]:
    return moving_scenes.clip(5, 64, 9)


def test_a_clip_begins_with_the_scene_of_its_seed_and_is_repeatable(clip):
    pictures, depths, caption = clip
    still = scenes.scene(5)
    assert pictures.shape == (9, 3, 64, 64) and depths.shape == (9, 64, 64)
    assert np.array_equal(pictures[0], still.picture) and np.array_equal(depths[0], still.depth)
    assert caption == still.caption
    assert all(map(np.array_equal, moving_scenes.clip(5, 64, 9)[:2], (pictures, depths)))
    assert pictures.dtype == np.float32 and pictures.min() >= 0 and pictures.max() <= 1
    longer = moving_scenes.clip(5, 64, 12)[0]
    assert np.array_equal(longer[:9], pictures)


def test_every_frame_moves_a_little_and_the_sky_does_not():
    for seed in range(6):
        pictures, depths, _ = moving_scenes.clip(seed)
        steps = np.abs(np.diff(pictures, axis=0)).mean((1, 2, 3))
        assert (steps > 1e-4).all() and steps.max() < 0.05
        sky = (depths == 1).all(0)  # but for the smooth edges of what passes before it
        assert np.abs(np.diff(pictures[:, :, sky], axis=0)).mean() < 0.2 * steps.mean()


def test_a_thing_passes_the_faster_the_nearer_it_is():
    """Where the camera pans by p, a thing at depth d moves by p (1 - d) to the left."""
    found = []
    for seed in range(12):
        still, panned = (scenes.scene(seed, 128, pan=pan) for pan in (0.0, 0.05))
        depths, counts = np.unique(still.depth[still.depth < 0.35], return_counts=True)
        for d in depths[counts > 150]:  # the ground has another depth in every row
            masks = [s.depth == d for s in (still, panned)]
            if any(mask[:, [0, -1]].any() for mask in masks) or masks[1].sum() != masks[0].sum():
                continue  # cut off by the border or covered by another thing
            left = np.subtract(*(np.nonzero(mask)[1].mean() / 128 for mask in masks))
            found.append((left, 0.05 * (1 - d)))
    assert len(found) >= 3
    assert all(abs(moved - expected) < 0.005 for moved, expected in found)


def shift(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """How far b [H, W] is moved down and right against a: the peak of their correlation."""
    spectrum = np.fft.fft2(b - b.mean()) * np.conj(np.fft.fft2(a - a.mean()))
    down, right = np.unravel_index(np.fft.ifft2(spectrum).real.argmax(), a.shape)
    return (down + 32) % 64 - 32, (right + 32) % 64 - 32


def weather(kind: str, frames: int = 4) -> np.ndarray:
    """What a degradation adds to a grey clip that stands still: [T, H, W]."""
    grey = np.full((frames, 3, 64, 64), 0.3, np.float32)
    return moving_scenes.degrade(grey, np.full((frames, 64, 64), 0.5), kind, 0.7, 3).mean(1)


def test_streaks_fall_along_their_slant_and_flakes_drift_down_slowly():
    rain, snow = weather("rain"), weather("snow")
    falls = [shift(a, b) for a, b in pairwise(rain)]
    assert all(down > 3 for down, _ in falls)
    drifts = [shift(a, b) for a, b in pairwise(snow)]
    assert all(0 < down <= 4 and abs(right) <= 1 for down, right in drifts)
    assert np.abs(rain[1] - rain[0]).mean() > np.abs(snow[1] - snow[0]).mean()


def test_haze_and_blur_are_steady_and_noise_is_new_in_every_frame():
    assert np.array_equal(*weather("haze", 2)) and np.array_equal(*weather("blur", 2))
    dark = np.diff(weather("lowlight", 3), axis=-1)  # light from one side is hardly in it
    alike = np.corrcoef(dark.reshape(3, -1))
    assert np.abs(alike[np.triu_indices(3, 1)]).max() < 0.05


@pytest.mark.parametrize("kind", degradations.KINDS)
def test_pairs_of_clips_are_the_pairs_of_pictures_in_motion(kind):
    degraded, clean = moving_scenes.pairs(kind, [1, 2], 32, 5)
    assert degraded.shape == clean.shape == (2, 3, 5, 32, 32)
    assert degraded.dtype == clean.dtype == torch.float32
    still = scenes.pairs(kind, [1, 2], 32)
    assert torch.equal(degraded[:, :, 0], still[0]) and torch.equal(clean[:, :, 0], still[1])
    assert not torch.equal(degraded, moving_scenes.pairs(kind, [2, 3], 32, 5)[0])
