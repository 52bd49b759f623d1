"""The shared layers against their formulas, written out here with loops and complex numbers."""

import math

import pytest
import torch

from tinybridge.parts.layers import (
    RMSNorm,
    attention,
    grid,
    mlp,
    modulate,
    rope_table,
    rotate,
    sinusoid,
)

AXES = (4, 6, 8)  # a head of 18 features, three axes


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def complex_rope(x, positions, axes=AXES, theta=10_000):
    """x [B, S, h, d]: neighbours are one complex number, turned by exp(i position w)."""
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    for s, position in enumerate(positions.tolist()):
        m = 0
        for place, dim in zip(position, axes, strict=True):
            for k in range(dim // 2):
                angle = place * theta ** (-2 * k / dim)
                z[:, s, :, m] *= complex(math.cos(angle), math.sin(angle))
                m += 1
    return torch.view_as_real(z).flatten(-2)


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_rope_is_a_complex_rotation_of_neighbours(dtype, bar):
    x, places = random(2, 24, 3, 18, dtype=dtype), grid(2, 3, 4, device="cpu")
    got = rotate(x, rope_table(places, AXES, 10_000, dtype))
    want = complex_rope(x.double(), places)
    assert got.dtype == dtype
    assert (got - want).abs().max() < bar * want.abs().max()
    swapped = complex_rope(x.double(), places[:, [0, 2, 1]])
    halves = complex_rope(x.double().unflatten(-1, (2, -1)).mT.flatten(-2), places)
    for wrong in (swapped, halves.unflatten(-1, (-1, 2)).mT.flatten(-2)):
        assert (got - wrong).abs().max() > 0.1


def test_rope_scores_depend_on_relative_positions_only():
    q, k = random(1, 24, 1, 18), random(1, 24, 1, 18, seed=1)
    places = grid(2, 3, 4, device="cpu")
    here, there = (
        torch.einsum("bshd,bSHd->sS", rotate(q, rope), rotate(k, rope))
        for rope in (rope_table(p, AXES, 10_000, q.dtype) for p in (places, places + 17))
    )
    assert (here - there).abs().max() < 1e-12


def test_a_picture_4128_pixels_wide_has_258_distinct_columns_in_bfloat16():
    cos, sin = rope_table(grid(1, 1, 258, device="cpu"), (16, 56, 56), 10_000, torch.bfloat16)
    assert cos.dtype == sin.dtype == torch.float32
    assert len(torch.unique(torch.cat((cos, sin), -1)[:, 0], dim=0)) == 258
    rounded = torch.arange(258).bfloat16()
    assert len(rounded.unique()) < 258  # what bfloat16 positions would do


def test_grid_counts_the_last_axis_fastest():
    assert grid(1, 2, 3, device="cpu").tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2],
    ]  # fmt: skip


def test_sinusoid_has_the_golden_values_cosines_first():
    zero = sinusoid(torch.zeros(1, dtype=torch.float64), 256)[0]
    assert zero.tolist() == [1.0] * 128 + [0.0] * 128
    half = sinusoid(torch.tensor([500.0], dtype=torch.float64), 256)[0]
    # cos and sin of 500, of 5 (j = 64, w = 0.01), and of 500 * 10000^(-127/128)
    golden = {
        0: -0.88384927, 128: -0.46777181, 64: 0.28366219, 192: -0.95892427,
        127: 0.99855687, 255: 0.05370454,
    }  # fmt: skip
    for j, value in golden.items():
        assert abs(half[j].item() - value) < 5e-9
    single = sinusoid(torch.tensor([500.0]), 256)[0]
    assert single.dtype == torch.float32
    assert (single - half).abs().max() < 1e-4


def test_sinusoid_of_a_bfloat16_time_is_computed_in_float32():
    got = sinusoid(torch.tensor([400.0], dtype=torch.bfloat16), 256)
    assert torch.equal(got, sinusoid(torch.tensor([400.0]), 256))


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_rms_norm_is_its_formula(dtype, bar):
    x, norm = random(2, 5, 3, 8, dtype=dtype), RMSNorm(8).to(dtype)
    with torch.no_grad():
        norm.scale.copy_(random(8, seed=1))
        want = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * norm.scale
        assert (norm(x) - want).abs().max() < bar * want.abs().max()
        norm.scale[3] += 0.01
        assert (norm(x) - want).abs().max() > 1e-3


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_modulate_is_layer_norm_then_scale_then_shift(dtype, bar):
    x, shift, scale = (random(*s, dtype=dtype) for s in ((2, 5, 8), (2, 1, 8), (2, 1, 8)))
    scale = scale + 0.5
    norm = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    want = norm * (1 + scale) + shift
    assert (modulate(x, shift, scale) - want).abs().max() < bar * want.abs().max()
    assert (modulate(x, scale, shift) - want).abs().max() > 0.1


@pytest.mark.parametrize("keys", [7, 4])
def test_attention_is_the_softmax_formula_also_across_sequences(keys):
    q, k, v = random(2, 7, 3, 8), random(2, keys, 3, 8, seed=1), random(2, keys, 3, 8, seed=2)
    scores = torch.einsum("bshd,bthd->bhst", q, k) / math.sqrt(8)
    want = torch.einsum("bhst,bthd->bshd", scores.softmax(-1), v).flatten(2)
    assert (attention(q, k, v) - want).abs().max() < 1e-14
    assert (attention(q, k + 0.1 * v, v) - want).abs().max() > 1e-3


def test_mlp_uses_the_tanh_gelu():
    layer = mlp(1, 1)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            weight.fill_(float(name.endswith("weight")))
        assert abs(layer(torch.ones(1, 1)).item() - 0.841192) < 5e-7
