"""Scenes and degradations: deterministic, in range, scale-free, worse with severity."""

import numpy as np
import pytest
import torch

from tinybridge.data import degradations, scenes
from tinybridge.metrics import psnr


def test_same_seed_same_scene_and_other_seed_another():
    a, b, c = scenes.scene(3), scenes.scene(3), scenes.scene(4)
    assert np.array_equal(a.picture, b.picture) and a.caption == b.caption
    assert not np.array_equal(a.picture, c.picture)


@pytest.mark.parametrize("size", [16, 64, 96])
def test_pictures_have_the_stated_shape_dtype_and_range(size):
    s = scenes.scene(0, size)
    assert s.picture.shape == (3, size, size) and s.depth.shape == (size, size)
    for array in (s.picture, s.depth):
        assert array.dtype == np.float32 and array.min() >= 0 and array.max() <= 1


def test_a_scene_is_the_same_at_every_size():
    small, large = scenes.scene(5, 32), scenes.scene(5, 128)
    shrunk = large.picture.reshape(3, 32, 4, 32, 4).mean((2, 4))
    assert np.abs(shrunk - small.picture).mean() < 0.02
    assert small.caption == large.caption


@pytest.mark.parametrize("kind", degradations.KINDS)
def test_degradation_is_deterministic_and_grows_with_severity(kind):
    weak, strong = [], []
    for seed in range(12):
        s = scenes.scene(seed)
        again = [degradations.degrade(s.picture, s.depth, kind, 0.7, seed) for _ in range(2)]
        assert np.array_equal(*again)
        assert again[0].dtype == np.float32 and again[0].min() >= 0 and again[0].max() <= 1
        for severity, errors in ((0.1, weak), (1.0, strong)):
            out = degradations.degrade(s.picture, s.depth, kind, severity, seed)
            errors.append(np.square(out - s.picture).mean())
    assert np.mean(strong) > 1.5 * np.mean(weak)


def test_haze_hides_the_far_more_than_the_near():
    near, far = [], []
    for seed in range(12):  # fog is uneven: one scene may have all of it at our feet
        depth = scenes.scene(seed).depth
        black, white = (
            degradations.degrade(np.full((3, 64, 64), level, np.float32), depth, "haze", 1.0, seed)
            for level in (0.0, 1.0)
        )
        seen = (white - black).mean(0)  # [H, W]: the transmission
        near.append(seen[depth < 0.3].mean())
        far.append(seen[depth > 0.9].mean())
    assert np.mean(near) > 1.5 * np.mean(far)


def test_blur_keeps_the_mean_and_flat_pictures():
    for seed in range(6):  # lines and discs
        s = scenes.scene(seed)
        out = degradations.degrade(s.picture, s.depth, "blur", 1.0, seed)
        assert abs(out.mean() - s.picture.mean()) < 0.01
        flat = np.full((3, 64, 64), 0.4, np.float32)
        assert np.allclose(degradations.degrade(flat, s.depth, "blur", 1.0, seed), 0.4, atol=1e-6)


def test_a_lens_blurs_by_distance_and_leaves_what_it_is_focused_on():
    """Stripes everywhere: where the lens is focused they stay, far from there they are gone."""
    stripes = np.zeros((3, 64, 64), np.float32)
    stripes[:, :, ::4] = stripes[:, :, 1::4] = 1
    depth = np.full((64, 64), 0.1, np.float32)
    depth[:32] = 0.9
    focused = 0
    for seed in range(24):
        out = degradations.degrade(stripes, depth, "blur", 1.0, seed)
        far, near = out[0, 4:28].std(), out[0, 36:60].std()
        if max(far, near) > 0.45 and min(far, near) < 0.1:
            focused += 1
    assert 6 <= focused <= 18  # half of them are motion, which spares nothing


@pytest.mark.parametrize(("kind", "least"), [("haze", 0.02), ("lowlight", 0.005)])
def test_no_gain_and_offset_of_pixels_undoes_light_that_varies(kind, least):
    """Flat grey at one depth comes out with a slope over the picture, beyond what noise makes."""
    grey, depth = np.full((3, 64, 64), 0.5, np.float32), np.full((64, 64), 0.5, np.float32)
    for seed in range(8):
        out = degradations.degrade(grey, depth, kind, 0.8, seed)
        quarters = [part.mean() for row in np.split(out, 4, 1) for part in np.split(row, 4, 2)]
        assert np.std(quarters) > least


def test_noise_of_a_dark_picture_grows_with_its_light():
    depth, spread = np.full((256, 256), 0.5, np.float32), []
    for level in (0.1, 0.9):
        grey = np.full((3, 256, 256), level, np.float32)
        out = degradations.degrade(grey, depth, "lowlight", 0.8, 1)
        spread.append(np.diff(out, axis=2).std())  # light from one side is the same in neighbours
    assert spread[1] > 1.3 * spread[0]


@pytest.mark.parametrize("kind", ["rain", "snow"])
def test_streaks_and_flakes_hide_what_is_behind_them(kind):
    """Where one is, black and white pictures are nearly alike: what was there is lost."""
    depth = np.full((64, 64), 0.05, np.float32)
    black, white = (
        degradations.degrade(np.full((3, 64, 64), level, np.float32), depth, kind, 1.0, 3)
        for level in (0.0, 1.0)
    )
    left = (white - black).mean(0)  # [H, W]: how much of the picture is seen
    assert left.min() < 0.3 and np.quantile(left, 0.7) > 0.7


def test_rectangular_pictures_and_unknown_kinds():
    picture, depth = np.full((3, 40, 72), 0.3, np.float32), np.ones((40, 72), np.float32)
    for kind in degradations.KINDS:
        assert degradations.degrade(picture, depth, kind, 0.5, 0).shape == (3, 40, 72)
    with pytest.raises(ValueError, match="fog"):
        degradations.degrade(picture, depth, "fog", 0.5, 0)


def test_pairs_are_what_the_readme_table_calls_the_degraded_input():
    for kind, low, high in (
        ("haze", 14, 19), ("rain", 20, 25), ("snow", 19, 23), ("blur", 26, 31), ("lowlight", 9, 13),
    ):  # fmt: skip
        bad, clean = scenes.pairs(kind, list(range(24)))
        assert bad.shape == clean.shape == (24, 3, 64, 64) and bad.dtype == torch.float32
        assert low < psnr(bad, clean).mean() < high
