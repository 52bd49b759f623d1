"""The WAN autoencoder in tiles against itself without: no difference, no seam, bounded maps."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from tests.oracles.plain import both_dtypes, error, random
from tests.oracles.wan_vae import CONFIGS, SMALL, autoencoder, clip, every_config
from tinybridge import wan_vae

FOUR = CONFIGS["four-levels"]


def smooth(model, rows, columns, frames=9, batch=1, dtype=torch.float32):
    """A random smooth clip whose parts differ: dark on the left, bright on the right."""
    coarse = random(batch * frames, 3, rows, columns, seed=4, dtype=dtype) / 4
    coarse = coarse + torch.linspace(-0.7, 0.7, columns, dtype=dtype)
    pictures = F.interpolate(coarse, scale_factor=model.stride, mode="bicubic")
    return pictures.unflatten(0, (batch, frames)).transpose(1, 2)  # [B, 3, T, H, W]


@every_config
@both_dtypes
def test_tiled_equals_untiled(config, dtype):
    model, bar = autoencoder(config, dtype), 1e-5 if dtype == torch.float32 else 1e-12
    for rows, columns, tile in ((7, 5, 3), (2, 7, 2)):
        pixels = smooth(model, rows, columns, 9, 2, dtype)
        z, tile = model.encode(pixels), tile * model.stride
        tiled = model.encode(pixels, tile)
        assert error(tiled, z) <= bar
        assert error(model.moments(pixels, tile)[1], model.moments(pixels)[1]) <= bar
        assert error(model.decode(z, tile), model.decode(z)) <= bar
        stream = torch.cat(list(model.encode_chunks(pixels.split(2, 2), tile)), 2)
        assert torch.equal(stream, tiled)


def test_frames_no_larger_than_the_tile_are_bit_equal_to_the_untiled_ones():
    model = autoencoder(SMALL)
    pixels = smooth(model, 5, 8)
    z = model.encode(pixels, 8 * model.stride)
    assert torch.equal(z, model.encode(pixels))
    assert torch.equal(model.decode(z, 8 * model.stride), model.decode(z))


@every_config
@pytest.mark.parametrize("half", ("encoder", "decoder"))
def test_the_margin_is_wide_enough_and_no_wider_than_it_must_be(half, config, monkeypatch):
    model = autoencoder(config, torch.float64)
    part, tile = getattr(model, half), 4 * model.stride
    x = smooth(model, 12, 12, 1, dtype=torch.float64)
    x = x if half == "encoder" else model.moments(x)[0]
    whole = part(x, {})
    assert error(part(x, {}, tile), whole) <= 1e-12
    real = wan_vae.in_tiles
    monkeypatch.setattr(wan_vae, "in_tiles", lambda *given: real(*given[:-1], given[-1] - 1))
    assert error(part(x, {}, tile), whole) > 1e-9


def seam(difference, borders) -> float:
    """Mean jump between the columns beside a tile's border, over the mean jump elsewhere."""
    jump = (difference[..., 1:] - difference[..., :-1]).abs().mean((0, 1, 2, 3))
    beside = torch.zeros_like(jump, dtype=torch.bool)
    beside[[border - 1 for border in borders]] = True
    return (jump[beside].mean() / jump[~beside].mean()).item()


def test_no_seam_at_the_borders_of_tiles_and_a_large_one_where_tiles_are_decoded_apart():
    model = autoencoder(FOUR)
    z = model.encode(smooth(model, 12, 24, 5))
    whole, borders = model.decode(z), (64, 128)
    tiled = model.decode(z, 64)
    assert error(tiled, whole) <= 1e-5
    assert seam(tiled - whole, borders) < 1.5
    apart = torch.cat([model.decode(part) for part in z.split(8, 4)], 4)
    assert error(apart, whole) > 1e-2
    assert seam(apart - whole, borders) > 3


def test_no_map_above_the_latents_resolution_is_larger_than_a_tile_with_its_margin():
    model, widest = autoencoder(FOUR), {}

    def note(name, layer, given, made):
        widest[name] = max(widest.get(name, 0), *made.shape[3:])

    halves = ("encoder", model.encoder.downsamples), ("decoder", model.decoder.upsamples)
    for half, layers in halves:
        step = getattr(model, half).step
        for n, layer in enumerate(layers):
            level = n // step if half == "encoder" else 3 - n // step
            if level < 3 and hasattr(layer, "residual"):
                layer.residual[2].register_forward_hook(partial(note, (half, level)))
    z = model.encode(smooth(model, 12, 16, 5), 32)
    model.decode(z, 32)
    assert len(widest) == 6
    for (half, level), found in widest.items():
        assert found <= (32 >> level) + 4 * getattr(model, half).step, (half, level)


def test_a_tile_below_the_stride_is_one_clear_error():
    model = autoencoder(FOUR)
    for tile in (7, 0, -8):
        with pytest.raises(ValueError, match="tile too small") as caught:
            model.encode(clip(model), tile)
        assert "\n" not in str(caught.value)
