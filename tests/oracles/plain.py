"""What the oracles share: seeded numbers, the relative error, and formulas in plain torch."""

import math
from types import SimpleNamespace

import pytest
import torch

both_dtypes = pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=1, dtype=torch.float32):
    """Standard normal; the same numbers in every dtype."""
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed)).to(dtype)


def error(got, want) -> float:
    """Greatest difference over the greatest wanted value."""
    return ((got.double() - want.double()).abs().max() / want.double().abs().max()).item()


def a_prompt(seed=5, *, rows, width, blocks, dtype=torch.float32):
    return SimpleNamespace(
        residual=random(rows, width, seed=seed, dtype=dtype),
        gates=random(blocks, seed=seed + 50, dtype=dtype),
    )


# ---- arguments of forward --------------------------------------------------------------------


def exact(given: dict) -> dict:
    return {name: None if value is None else value.double() for name, value in given.items()}


def repeated(given: dict, K: int) -> dict:
    """Sample-major, K of each; what all samples share stays one row."""
    return {
        name: value.repeat_interleave(K, 0) if len(value) > 1 else value
        for name, value in given.items()
    }


def one_text(given: dict) -> dict:
    """Conditioning of the first sample for all, as one row."""
    return {name: value if name in "xt" else value[:1] for name, value in given.items()}


def expanded(given: dict) -> dict:
    """What all samples share, once for each: diffusers wants it so."""
    B = len(given["x"])
    return {name: value.expand(B, *value.shape[1:]) for name, value in given.items()}


# ---- formulas ----------------------------------------------------------------------------------


def silu(z):
    return z / (1 + torch.exp(-z))


def gelu(z):
    return 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def softmax(z):
    weights = torch.exp(z - z.amax(-1, keepdim=True))
    return weights / weights.sum(-1, keepdim=True)


def rms(z, eps):
    return z / torch.sqrt((z**2).mean(-1, keepdim=True) + eps)


def layer_norm(z, eps):
    return rms(z - z.mean(-1, keepdim=True), eps)


def waves(u, width):
    """Cosines, then sines, of 1000 u at width / 2 frequencies."""
    half = width // 2
    angle = torch.stack([1000 * u * 10_000 ** (-j / half) for j in range(half)], -1)
    return torch.cat((torch.cos(angle), torch.sin(angle)), -1)


def phases(places, axes):
    """One complex number for each place and pair of features: the rotation of rope."""
    turns = [(a, 10_000 ** (-2 * k / d)) for a, d in enumerate(axes) for k in range(d // 2)]
    angles = [[place[a] * w for a, w in turns] for place in places]
    angles = torch.tensor(angles, dtype=torch.float64)
    return torch.polar(torch.ones_like(angles), angles)


def turn(z, phase):
    """z [B, S, h, d]: neighbours are one complex number."""
    pairs = torch.complex(z[..., 0::2], z[..., 1::2]) * phase[:, None]
    return torch.stack((pairs.real, pairs.imag), -1).flatten(-2)


def attend(q, k, v):
    """q [B, S, h, d], k and v [B, S', h, d] -> [B, S, D]."""
    scores = torch.einsum("bshd,bthd->bhst", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("bhst,bthd->bshd", softmax(scores), v).flatten(2)
