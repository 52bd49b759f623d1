"""Clips in windows through a WAN: nothing shows where windows meet, any length and size returns."""

from functools import partial

import pytest
import torch

import weights
from tests.method.test_long_clips import STEPS, close, literal, random, walked
from tests.oracles.wan import tiny
from tests.oracles.wan_vae import CONFIGS, autoencoder
from tinybridge import bridge as bridges
from tinybridge.backbone import Backbone
from tinybridge.data import moving_scenes
from tinybridge.restoration import restore_stream
from tinybridge.windows import Windows

DESIRED = bridges.BRIDGES["desired"]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """Random weights: space stride 8, time stride 4, windows of 9 frames."""
    vae = autoencoder(CONFIGS["three-levels"])
    context = random(1, 7, 20)
    context[:, 3:] = 0
    model = tiny(in_channels=vae.config.z_channels)
    return Backbone("wan", model, vae, context, video=True, window=9)


def prepared(backbone: Backbone):
    levels = DESIRED.sampling(bridges.times(steps=STEPS), 0.4).s.float()
    return partial(backbone.velocity, prompt=backbone.prepare([], levels))


def still(x, s):
    """A model that takes every window for a still picture: its estimate is the window's mean."""
    return (x - x.mean(2, keepdim=True)) / s.view(-1, 1, 1, 1, 1)


def test_what_windows_disagree_on_is_spread_over_the_overlap():
    y, found = torch.linspace(0, 1, 45).view(1, 1, -1, 1, 1).expand(1, 4, -1, 8, 8), {}
    for overlap in (0, 1, 2, 3):
        x0 = walked(y, still, DESIRED, Windows(9, overlap))
        found[overlap] = x0.mean((0, 1, 3, 4)).diff().abs()
    jump = [found[overlap].max().item() for overlap in range(4)]
    assert jump[0] > 2 * jump[1] > 3 * jump[2] > 3 * jump[3]
    assert jump[3] < 0.02273 + 1e-4, "as much as the clip itself changes from frame to frame"


def test_nothing_shows_where_windows_meet_in_clips_of_the_bundled_model():
    backbone, changes = weights.load_backbone("wan"), {}
    velocity = prepared(backbone)
    _, clean = moving_scenes.pairs("haze", [1_000_100, 1_000_101], 64, 33)  # 9 latent frames
    ys = [backbone.encode(clip[None]) for clip in clean]
    for overlap in (0, 1):
        for y in ys:
            x0 = walked(y, velocity, DESIRED, Windows(3, overlap))
            change = x0.diff(dim=2).abs().mean((0, 1, 3, 4))  # [8]
            changes[overlap] = changes.get(overlap, 0) + change / len(ys)
    # The clip changes more in some places than in others: compare the same places.
    ends = torch.arange(8) % 3 == 2  # where a window ends, if none overlaps
    apart = (changes[0] / changes[1])[ends].mean().item()
    shared = (changes[1] / changes[0])[~ends].mean().item()
    print(f"between windows {apart:.3f} of what it is in shared ones, those {shared:.3f} of inside")
    assert shared < 1.02


@pytest.mark.parametrize("size, overlap", ((3, 1), (5, 2)))
def test_the_chain_is_the_whole_clip_moved_step_by_step(backbone, size, overlap):
    velocity = prepared(backbone)
    y, windows = random(1, 6, 12, 4, 6), Windows(size, overlap)
    close(walked(y, velocity, DESIRED, windows), literal(y, velocity, DESIRED, windows))


@pytest.mark.parametrize("n", range(1, 13))
def test_any_number_of_frames_of_any_size_comes_back(backbone, n):
    height, width = 8 + n, 23 - n
    clip = torch.rand(3, n, height, width)
    out = torch.cat(list(restore_stream(backbone, [], clip.split(1, 1), steps=2)), 1)
    assert out.shape == clip.shape and out.min() >= 0 and out.max() <= 1
