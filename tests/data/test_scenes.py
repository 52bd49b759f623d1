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
    s = scenes.scene(1)
    out = degradations.degrade(s.picture, s.depth, "haze", 1.0, 1)
    contrast = [
        out[:, where].std() / s.picture[:, where].std() for where in (s.depth < 0.2, s.depth > 0.9)
    ]
    assert contrast[0] > contrast[1]


def test_blur_keeps_the_mean_and_flat_pictures():
    s = scenes.scene(2)
    out = degradations.degrade(s.picture, s.depth, "blur", 1.0, 2)
    assert abs(out.mean() - s.picture.mean()) < 0.01
    flat = np.full((3, 64, 64), 0.4, np.float32)
    assert np.allclose(degradations.degrade(flat, s.depth, "blur", 1.0, 2), 0.4, atol=1e-6)


def test_rectangular_pictures_and_unknown_kinds():
    picture, depth = np.full((3, 40, 72), 0.3, np.float32), np.ones((40, 72), np.float32)
    for kind in degradations.KINDS:
        assert degradations.degrade(picture, depth, kind, 0.5, 0).shape == (3, 40, 72)
    with pytest.raises(ValueError, match="fog"):
        degradations.degrade(picture, depth, "fog", 0.5, 0)


def test_pairs_are_what_the_readme_table_calls_the_degraded_input():
    for kind, low, high in (
        ("haze", 12, 17), ("rain", 16, 20), ("snow", 17, 21), ("blur", 22, 28), ("lowlight", 8, 12),
    ):  # fmt: skip
        bad, clean = scenes.pairs(kind, list(range(24)))
        assert bad.shape == clean.shape == (24, 3, 64, 64) and bad.dtype == torch.float32
        assert low < psnr(bad, clean).mean() < high
