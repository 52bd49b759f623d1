"""Causal layers over time, chunk by chunk: a clip of any length through a network of fixed size.

A causal layer makes a frame of that frame and of earlier ones. So a clip may go through in chunks,
if each layer gets what it needs of the chunks before. That waits in a `Cache` which belongs to one
pass over one clip and is handed down; the layers themselves keep nothing. Any division into chunks
gives the whole clip's result, zeros standing before its first frame.

The first frame is a picture of its own: layers that change the number of frames leave it single,
and convolutions find only zeros behind it, so that they are those of pictures, see `first_frame`.

Letters: B batch, C channels, T frames of a chunk, H W sides.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# By layer: the last frames [B, C, 1 or 2, H, W] that it was given; by number: caches of parts.
# None: the clip's first chunk, of which nothing is kept.
Cache = dict[nn.Module | int, "Tensor | Cache"] | None


def recall(cache: Cache, layer: nn.Module) -> Tensor | None:
    """What a layer kept of the chunks before; None in a clip's first."""
    return None if cache is None else cache.get(layer)


def keep(cache: Cache, layer: nn.Module, frames: Tensor) -> None:
    if cache is not None:
        cache[layer] = frames.clone()  # a view would keep all of the chunk alive


def part_of(cache: Cache, number: int) -> Cache:
    """The cache of a part of the network, or of one tile."""
    return None if cache is None else cache.setdefault(number, {})


def first_frame(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """A causal convolution of a clip's first frame: x [B, C, 1, H, W] -> [B, C', 1, H, W].

    Two frames of zeros stand behind it, so only the last slice of the kernel meets anything.
    """
    kernel = layer.weight[:, :, -1]  # [C', C, 3, 3] or [C', C, 1, 1]
    return F.conv2d(x[:, :, 0], kernel, layer.bias, padding=layer.padding[1:])[:, :, None]


def over_time(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """layer(x), its kernel 3 frames long and not padded in time: x [B, C, T, H, W]."""
    if x.device.type not in ("cpu", "meta") or x.dtype != torch.float32 or len(x) > 1:
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
    past = recall(cache, layer)
    seen = x if past is None else torch.cat((past, x), 2)  # [B, C, T to 2+T, H, W]
    keep(cache, layer, seen[:, :, -2:])
    if seen.shape[2] == 1:
        return first_frame(layer, seen)  # [B, C', 1, H, W]
    missing = 2 + x.shape[2] - seen.shape[2]
    if missing:
        seen = F.pad(seen, (0, 0, 0, 0, missing, 0))  # [B, C, 2+T, H, W]
    return over_time(layer, seen)  # [B, C', T, H, W]


def halve(layer: nn.Conv3d, x: Tensor, cache: Cache) -> Tensor:
    """The first frame as it is, then a convolution of stride 2 and 3 frames length over all.

    x [B, C, T, H, W] -> [B, C, (T+1)/2, H, W] for a clip's first chunk (T odd), [B, C, T/2, H, W]
    for the later ones (T even).
    """
    past = recall(cache, layer)
    keep(cache, layer, x[:, :, -1:])
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
    starts = recall(cache, layer) is None
    first, x = x.tensor_split([int(starts)], 2)  # [B, C, 1 or 0, H, W], the rest
    if starts:
        keep(cache, layer, torch.zeros_like(first).repeat(1, 1, 2, 1, 1))  # [B, C, 2, H, W]
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


def over_clip(network: Callable[[Tensor, Cache], Tensor]) -> Callable[[Tensor], Tensor]:
    """network(x, cache) as a function of the chunks x of one clip, called in their order.

    What the first frame leaves for later ones is most of the memory that it takes, and a picture
    has no later ones. So it leaves nothing, and is run once more when a second chunk comes.
    """
    first: Tensor | None = None
    cache: Cache = None

    def run(x: Tensor) -> Tensor:
        nonlocal first, cache
        if cache is None and first is None:
            first = x.clone()
            return network(x, None)
        if first is not None:
            cache = {}
            network(first, cache)
            first = None
        return network(x, cache)

    return run


def in_turn(stage: Callable[[Tensor, Cache], Tensor], cache: Cache) -> Callable[..., Tensor]:
    """stage as parts/tiles.py calls it, for the tiles of one chunk: each has a cache of its own.

    A tile is known by its turn: tiles come in the same order in every chunk, and each once, for a
    stage of this file's layers has no GroupNorm (with one, tiles.py runs the stage once more).
    """
    turn = count()

    def run(x: Tensor, norm: object) -> Tensor:
        return stage(x, part_of(cache, next(turn)))

    return run
