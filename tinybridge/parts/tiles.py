"""A stage of a convolutional network over a large picture, tile by tile, without a seam.

Two things make a tile differ from the same place in the whole picture: its convolutions miss the
neighbours, and its GroupNorms see other statistics. Both can be had exactly. Tiles are read with a
margin as wide as the stage's convolutions reach; and the stage runs once per GroupNorm, stopping
there, to sum that norm's statistics over the whole picture. Nothing is left to blend: the result
is the untiled one up to rounding, for 3 to 5 times the arithmetic.

Letters: B batch, C channels, H W sides of the input, G groups. A cell is one position of the
coarser end of the stage, a square of 2 x 2 positions of the maps in between.
"""

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

Norm = Callable[[nn.GroupNorm, Tensor], Tensor]
Stage = Callable[[Tensor, Norm], Tensor]


def own(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    """The ordinary norm: with the statistics of x itself."""
    return layer(x)


class _Unmeasured(Exception):
    """Raised with (layer, x) at the first norm whose statistics are not known yet."""


def _shared(known: dict[nn.GroupNorm, Tensor], layer: nn.GroupNorm, x: Tensor) -> Tensor:
    """The norm with the statistics of the whole picture: known[layer] [2, B, G], mean, variance."""
    if layer not in known:
        raise _Unmeasured(layer, x)
    mean, variance = known[layer].repeat_interleave(x.shape[1] // layer.num_groups, 2)  # [B, C]
    scale = layer.weight * torch.rsqrt(variance + layer.eps)  # [B, C]
    shift = layer.bias - mean * scale  # [B, C]
    return torch.addcmul(shift[..., None, None], x, scale[..., None, None]).to(x.dtype)


def _run(stage: Stage, x: Tensor, known: dict) -> tuple[Tensor, nn.GroupNorm | None]:
    """The stage's output and None, or the input of its first norm not in `known` and that norm."""
    try:
        return stage(x, partial(_shared, known)), None
    except _Unmeasured as stop:
        layer, x = stop.args
        return x, layer


def _sums(x: Tensor, groups: int) -> Tensor:
    """Count, sum and sum of squares of each group [3, B, G], in float64: tiles are added up."""
    x = x.unflatten(1, (groups, -1))  # [B, G, C/G, H, W]
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    host = "meta" if x.is_meta else "cpu"
    variance, mean = (m.to(host).double() for m in torch.var_mean(x, (2, 3, 4), correction=0))
    return torch.stack((torch.ones_like(mean), mean, variance + mean**2)) * x[0, 0].numel()


def _spans(cells: int, tile: int, margin: int) -> list[tuple[int, int, int, int]]:
    """(start, stop, first, last): a tile owes cells start..stop and reads first..last."""
    count = -(-cells // tile)
    edges = [(cells * i // count, cells * (i + 1) // count) for i in range(count)]
    return [(a, b, max(a - margin, 0), min(b + margin, cells)) for a, b in edges]


def in_tiles(stage: Stage, x: Tensor, cell: int, tile: int | None, margin: int) -> Tensor:
    """stage(x, own), in tiles of `tile` cells a side where the picture has more; None: never.

    x [..., H, W]; cell: input positions along a cell (2 if the stage halves the sides, 1 if it
    doubles them), a divisor of H and W; margin: cells that its convolutions reach. `stage` sends
    each of its GroupNorms through its second argument, once. If gradients are off, only input,
    output and the maps of one tile are held.
    """
    rows, columns = x.shape[-2] // cell, x.shape[-1] // cell
    if tile is None or max(rows, columns) <= tile:
        return stage(x, own)
    if tile < 1:
        raise ValueError("tile too small: give at least the autoencoder's stride, in pixels")
    known: dict[nn.GroupNorm, Tensor] = {}
    out = None
    while out is None:
        sums = 0
        for row, column in product(_spans(rows, tile, margin), _spans(columns, tile, margin)):
            (top, bottom, above, below), (left, right, before, after) = row, column
            window = x[..., cell * above : cell * below, cell * before : cell * after]
            y, layer = _run(stage, window, known)
            n = y.shape[-1] // (after - before)  # positions of y along a cell
            y = y[..., n * (top - above) : n * (bottom - above), :]
            y = y[..., n * (left - before) : n * (right - before)]  # without its margin
            if layer is not None:
                sums = sums + _sums(y, layer.num_groups)
                continue
            if out is None:
                out = y.new_empty(*y.shape[:-2], n * rows, n * columns)
            out[..., n * top : n * bottom, n * left : n * right] = y
        if layer is not None:
            mean, square = sums[1:] / sums[0]  # [B, G] each
            statistics = torch.stack((mean, (square - mean**2).clamp(min=0)))
            known[layer] = statistics.to(x.device, torch.promote_types(x.dtype, torch.float32))
    return out
