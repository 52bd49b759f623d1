"""What the FLUX image model and the WAN video model share: attention, rope, sinusoid, norms.

Letters: B batch, S tokens, h heads, d width of one head (even), D = h d, A position axes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt d) v, no mask: q [B, S, h, d], k and v [B, S', h, d] -> [B, S, D]."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [B, h, S, d]
    out = F.scaled_dot_product_attention(q, k, v)  # [B, h, S, d]
    return out.transpose(1, 2).flatten(2)  # [B, S, D]


def grid(*sizes: int, device: torch.device) -> Tensor:
    """Positions of the cells of an A-axis grid, the last axis fastest: [S, A] int64."""
    return torch.cartesian_prod(*(torch.arange(n, device=device) for n in sizes))


def rope_table(
    positions: Tensor, axes_dim: tuple[int, ...], theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines, each [S, 1, d], of rotary embedding (Su et al. 2021).

    positions [S, A]: integers or floats, in tokens. Axis a turns the next axes_dim[a] (even) of
    the d features, pair k of them by position * theta^(-2k / axes_dim[a]). Never below float32:
    bfloat16 has no integer 257, so wide pictures would lose columns.
    """
    # fp64 angles cost nothing here and make the table exact; Apple's MPS has no fp64.
    exact = torch.float32 if positions.device.type == "mps" else torch.float64
    angles = []
    for axis, dim in enumerate(axes_dim):
        power = torch.arange(0, dim, 2, dtype=exact, device=positions.device) / dim
        angles.append(positions[:, axis, None].to(exact) * theta**-power)  # [S, dim/2]
    angle = torch.cat(angles, -1)  # [S, d/2]
    dtype = torch.promote_types(dtype, torch.float32)
    cos = torch.stack((angle.cos(), angle.cos()), -1).flatten(1)[:, None]  # [S, 1, d]
    sin = torch.stack((-angle.sin(), angle.sin()), -1).flatten(1)[:, None]  # [S, 1, d]
    return cos.to(dtype), sin.to(dtype)


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the neighbours (x_2m, x_2m+1) by the table's angles: x [B, S, h, d] -> the same."""
    cos, sin = rope
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)  # [B, S, h, d]
    return torch.addcmul(x * cos, swapped, sin).to(x.dtype)


def sinusoid(u: Tensor, width: int) -> Tensor:
    """[cos(u w_j) ; sin(u w_j)] with w_j = 10000^(-2j / width): u [B] -> [B, width].

    u in steps of a thousand (FLUX: 1000 t; WAN: t itself). Computed in u's dtype, at least float32.
    """
    u = u.to(torch.promote_types(u.dtype, torch.float32))
    # exp of a log, as the vendors do: at u = 3500 another rounding of w moves the result by 1e-4.
    j = torch.arange(width // 2, dtype=u.dtype, device=u.device)
    angle = u[:, None] * torch.exp(-math.log(10_000) * j / (width // 2))  # [B, width/2]
    return torch.cat((angle.cos(), angle.sin()), -1)  # [B, width]


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2 + eps) * scale over the last axis; FLUX calls the weight `scale`."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.scale.shape, self.scale, self.eps)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """LN(x) (1 + scale) + shift, the norm without weights (adaLN, Peebles & Xie 2023).

    x [B, S, D], shift and scale [B, 1, D] -> [B, S, D].
    """
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale)


def mlp(D: int, hidden: int) -> nn.Sequential:
    """Linear, GELU in its tanh form, Linear; the checkpoints name the two weights 0 and 2."""
    return nn.Sequential(nn.Linear(D, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, D))
