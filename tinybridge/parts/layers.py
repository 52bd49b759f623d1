"""What the FLUX image model and the WAN video model share: attention, rope, sinusoid, norms.

Letters: B batch, S tokens, h heads, d width of one head (even), D = h d, A position axes,
T times of a table.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class PromptLike(Protocol):
    """What the models ask of a prompt in embedding space; prompt.Prompt is one."""

    @property
    def residual(self) -> Tensor: ...  # P [L, D]

    @property
    def gates(self) -> Tensor: ...  # [n], one for each block


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt d + bias) v: q [B, S, h, d], k and v [B, S', h, d] -> [B, S, D].

    bias [S'], in the dtype of q: added to the logits of each key.
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [B, h, S, d]
    mask = None if bias is None else bias.view(1, 1, 1, -1)  # [1, 1, 1, S']
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [B, h, S, d]
    return out.transpose(1, 2).flatten(2)  # [B, S, D]


Rope = tuple[Tensor, Tensor]  # cosines and signed sines, each [S, 1, d]


def grid(*sizes: int, device: torch.device) -> Tensor:
    """Positions of the cells of an A-axis grid, the last axis fastest: [S, A] int64."""
    return torch.cartesian_prod(*(torch.arange(n, device=device) for n in sizes))


def rope_table(
    positions: Tensor, axes_dim: tuple[int, ...], theta: float, dtype: torch.dtype
) -> Rope:
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


def rotate(x: Tensor, rope: Rope) -> Tensor:
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


class Modulation(NamedTuple):
    """What the time does to one sub-layer f: x + gate * f(LN(x) (1 + scale) + shift)."""

    shift: Tensor  # [B, 1, D]
    scale: Tensor  # [B, 1, D]
    gate: Tensor  # [B, 1, D]


def modulations(rows: Tensor) -> list[Modulation]:
    """Rows [B, 3m, D], shift, scale and gate of m sub-layers in turn, by name."""
    return [Modulation(*three.split(1, 1)) for three in rows.split(3, 1)]


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """LN(x) (1 + scale) + shift, the norm without weights (adaLN, Peebles & Xie 2023).

    x [B, S, D], shift and scale [B, 1, D] -> [B, S, D].
    """
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale)


def mlp(D: int, hidden: int) -> nn.Sequential:
    """Linear, GELU in its tanh form, Linear; the checkpoints name the two weights 0 and 2."""
    return nn.Sequential(nn.Linear(D, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, D))


def rows_at(times: Tensor, t: Tensor) -> Tensor:
    """Which rows of a table made for `times` [T] belong to t [B]: [B] int64.

    ValueError: a t that is not among the times.
    """
    hit = t.float()[:, None] == times.float()  # [B, T]
    if not hit.any(1).all():
        raise ValueError(f"time {t.tolist()} is not among the {len(times)} prepared times")
    return hit.int().argmax(1)


def checkpointed(blocks: Iterable[nn.Module], on: bool) -> list[Callable[..., Any]]:
    """The blocks to call. on: backward computes each once more instead of keeping its insides."""
    if not on or not torch.is_grad_enabled():
        return list(blocks)
    return [partial(checkpoint, block, use_reentrant=False) for block in blocks]
