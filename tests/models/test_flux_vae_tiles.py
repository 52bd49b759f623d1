"""The FLUX autoencoder in tiles against itself without: no difference, no seam, bounded maps."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from tests.oracles.flux_vae import SMALL, autoencoder, every_config
from tests.oracles.plain import both_dtypes, error, random
from tinybridge.parts import tiles

# ---- tiles -------------------------------------------------------------------------------------


def smooth(model, rows, columns, batch=1, dtype=torch.float32):
    """A random smooth picture whose parts differ: dark on the left, bright on the right."""
    coarse = random(batch, 3, rows, columns, seed=4, dtype=dtype) / 4
    coarse = coarse + torch.linspace(-0.7, 0.7, columns, dtype=dtype)
    return F.interpolate(coarse, scale_factor=model.stride, mode="bicubic")


@every_config
@both_dtypes
def test_tiled_equals_untiled(config, dtype):
    model, bar = autoencoder(config, dtype), 1e-5 if dtype == torch.float32 else 1e-12
    for rows, columns, tile in ((7, 5, 3), (5, 9, 4), (2, 7, 2)):
        pixels = smooth(model, rows, columns, 2, dtype)
        z = model.encode(pixels)
        tile = tile * model.stride
        assert error(model.encode(pixels, tile=tile), z) <= bar
        assert error(model.moments(pixels, tile)[1], model.moments(pixels)[1]) <= bar
        assert error(model.decode(z, tile=tile), model.decode(z)) <= bar


def test_a_picture_no_larger_than_the_tile_is_bit_equal_to_the_untiled_one():
    model = autoencoder(SMALL)
    pixels = smooth(model, 5, 8)
    z = model.encode(pixels, tile=8 * model.stride)
    assert torch.equal(z, model.encode(pixels))
    assert torch.equal(model.decode(z, tile=8 * model.stride), model.decode(z))


@pytest.mark.parametrize("half", ("encoder", "decoder"))
def test_the_margin_is_wide_enough_and_no_wider_than_it_must_be(half):
    model = autoencoder(SMALL, torch.float64)
    part = getattr(model, half)
    x = smooth(model, 12, 12, dtype=torch.float64)
    x, tile = (x, 32) if half == "encoder" else (model.moments(x)[0], 32)
    whole = part(x)
    assert error(part(x, tile), whole) <= 1e-12
    part.margin -= 1
    assert error(part(x, tile), whole) > 1e-9


def seam(difference, borders) -> float:
    """Mean jump between the columns beside a tile's border, over the mean jump elsewhere."""
    jump = (difference[..., 1:] - difference[..., :-1]).abs().mean((0, 1, 2))
    beside = torch.zeros_like(jump, dtype=torch.bool)
    beside[[border - 1 for border in borders]] = True
    return (jump[beside].mean() / jump[~beside].mean()).item()


def test_no_seam_at_the_borders_of_tiles_and_a_large_one_with_each_tiles_own_statistics(
    monkeypatch,
):
    model = autoencoder(SMALL)
    pixels = smooth(model, 16, 24)
    z = model.encode(pixels)
    whole = model.decode(z)
    borders = (64, 128)
    tiled = model.decode(z, tile=64)
    assert error(tiled, whole) <= 1e-5
    assert seam(tiled - whole, borders) < 1.5
    monkeypatch.setattr(tiles, "_shared", lambda known, layer, x: layer(x))
    naive = model.decode(z, tile=64)
    assert error(naive, whole) > 1e-2
    assert seam(naive - whole, borders) > 3


def test_tiles_in_bfloat16_cost_no_precision():
    model, half = autoencoder(SMALL), autoencoder(SMALL, torch.bfloat16)
    z = model.encode(smooth(model, 8, 12)).bfloat16()
    truth = autoencoder(SMALL).decode(z.float())
    untiled = (half.decode(z) - truth).norm()
    assert (half.decode(z, tile=32) - truth).norm() <= 1.1 * untiled


def test_no_map_above_the_latents_resolution_is_larger_than_a_tile_with_its_margin():
    model, widest = autoencoder(SMALL), {}

    def note(name, conv, given, made):
        widest[name] = max(widest.get(name, 0), *made.shape[2:])

    levels = [("down", model.encoder.down[:-1]), ("up", model.decoder.up[:-1])]
    for side, stages in levels:
        for i, stage in enumerate(stages):
            for block in stage.block:
                block.conv1.register_forward_hook(partial(note, f"{side}.{i}"))
    pixels = smooth(model, 12, 16)
    model.decode(model.encode(pixels, tile=32), tile=32)
    for name, found in widest.items():
        side, i = name.split(".")
        margin = (model.encoder if side == "down" else model.decoder).margin
        assert found <= (32 >> int(i)) + 4 * margin, name
    assert len(widest) == 6
