"""Causal layers over time, chunk by chunk: a clip of any length through a network of fixed size.

A causal layer makes a frame of that frame and of earlier ones. So a clip may go through in chunks,
if each layer gets what it needs of the chunks before. That waits in a `Cache` which belongs to one
pass over one clip and is handed down; the layers themselves keep nothing. Any division into chunks
gives the whole clip's result, zeros standing before its first frame.

The first frame is a picture of its own: layers that change the number of frames leave it single.

Letters: B batch, C channels, T frames of a chunk, H W sides.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# By layer: the last frames [B, C, 1 or 2, H, W] that it was given; by number: caches of parts.
Cache = dict[nn.Module | int, "Tensor | Cache"]


def blank(x: Tensor) -> Tensor:
    """What comes before a clip: two frames of zeros [B, C, 2, H, W]."""
    return x.new_zeros(*x.shape[:2], 2, *x.shape[3:])


def over_time(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """layer(x), its kernel 3 frames long and not padded in time: x [B, C, T, H, W]."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or len(x) > 1:
        return layer(x)  # [B, C', (T-3) / stride + 1, H, W]
    # One small clip on a CPU: torch's conv3d has only a slow form there, its conv2d a fast one.
    frames = x[0].transpose(0, 1)  # [T, C, H, W]
    step, padding = layer.stride[0], layer.padding[1:]
    starts = len(frames) - 2
    y = F.conv2d(frames[:starts:step], layer.weight[:, :, 0], layer.bias, padding=padding)
    for k in (1, 2):
        y = y + F.conv2d(frames[k : k + starts : step], layer.weight[:, :, k], padding=padding)
    return y.transpose(0, 1)[None]  # [1, C', (T-3) / stride + 1, H, W]


def causal(layer: nn.Conv3d, x: Tensor, cache: Cache) -> Tensor:
    """A convolution, 3 frames long, not padded in time: x [B, C, T, H, W] -> [B, C', T, H, W]."""
    past = cache.get(layer)
    x = torch.cat((blank(x) if past is None else past, x), 2)  # [B, C, 2+T, H, W]
    cache[layer] = x[:, :, -2:].clone()  # a view would keep all of x alive
    return over_time(layer, x)  # [B, C', T, H, W]


def halve(layer: nn.Conv3d, x: Tensor, cache: Cache) -> Tensor:
    """The first frame as it is, then a convolution of stride 2 and 3 frames length over all.

    x [B, C, T, H, W] -> [B, C, (T+1)/2, H, W] for a clip's first chunk (T odd), [B, C, T/2, H, W]
    for the later ones (T even).
    """
    past = cache.get(layer)
    cache[layer] = x[:, :, -1:].clone()
    if past is not None:
        return over_time(layer, torch.cat((past, x), 2))  # [B, C, T/2, H, W]
    if x.shape[2] == 1:
        return x
    return torch.cat((x[:, :, :1], over_time(layer, x)), 2)  # [B, C, (T+1)/2, H, W]


def double(layer: nn.Conv3d, x: Tensor, cache: Cache) -> Tensor:
    """The first frame as it is; each later one becomes two, by a causal convolution C -> 2C.

    The first frame does not enter that convolution's history either: the second finds zeros there.
    x [B, C, T, H, W] -> [B, C, 2T-1, H, W] for a clip's first chunk, [B, C, 2T, H, W] later.
    """
    starts = layer not in cache
    first, x = x.tensor_split([int(starts)], 2)  # [B, C, 1 or 0, H, W], the rest
    if starts:
        cache[layer] = blank(x)
    if x.shape[2]:
        x = causal(layer, x, cache).unflatten(1, (2, -1))  # [B, 2, C, T, H, W]: earlier, later
        x = x.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)  # [B, C, 2T, H, W]
    return torch.cat((first, x), 2)


def framewise(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of pictures on each frame by itself: x [B, C, T, H, W] -> [B, C', T, H', W']."""
    y = layer(x.transpose(1, 2).flatten(0, 1))  # [BT, C', H', W']
    return y.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)  # [B, C', T, H', W']


def in_groups(chunks: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The frames of chunks [B, C, any, H, W] in other ones: 1 frame, then `size` each, the rest."""
    held, need = None, 1
    for chunk in chunks:
        held = chunk if held is None else torch.cat((held, chunk), 2)
        while held.shape[2] >= need:
            yield held[:, :, :need]  # [B, C, need, H, W]
            held, need = held[:, :, need:], size
        held = held.clone() if held.shape[2] else None  # a view would keep the chunk alive
    if held is not None:
        yield held


def in_turn(stage: Callable[[Tensor, Cache], Tensor], cache: Cache) -> Callable[..., Tensor]:
    """stage as parts/tiles.py calls it, for the tiles of one chunk: each has a cache of its own.

    A tile is known by its turn: tiles come in the same order in every chunk, and each once, for a
    stage of this file's layers has no GroupNorm (with one, tiles.py runs the stage once more).
    """
    turn = count()

    def run(x: Tensor, norm: object) -> Tensor:
        return stage(x, cache.setdefault(next(turn), {}))

    return run
