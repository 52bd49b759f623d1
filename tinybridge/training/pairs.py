"""Pairs as a prompt learns from them: latents encoded once, and held-out pixels to judge it by.

    pairs = drawn_pairs(backbone, "haze", seed=settings.seed)  # scenes that are drawn
    found = find_files(Path("PAIRS"), None, side, frames, backbone.video)  # own files
    pairs = file_pairs(backbone, found, side, frames)

Letters: N training pairs, M held-out pairs, n of them at a time; latents are [C, h, w] of pictures
[3, H, W], or [C, t, h, w] of clips [3, T, H, W].
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from tinybridge.backbone import Backbone
from tinybridge.data import moving_scenes, scenes
from tinybridge.data.pairs import Pair, clip_crops, crops, probe
from tinybridge.data.pairs import pairs as list_pairs
from tinybridge.training.latents import Latents, gathered
from tinybridge.training.machine import raise_together, share

SCENES, CLIPS = (2048, 64), (256, 16)  # drawn: how many to learn from, how many to judge by
EVALUATION_SEED = 1_000_000  # scene seeds: training below, evaluation here, tiny/make.py far above
FEW = 16  # pairs that are looked at on the way
HELD_OUT = 10  # of own pairs, every tenth
TOLD = 10  # mistakes of a training set that are told at once
AT_ONCE = 2**20  # pixels that go through the autoencoder together, those of a crop of 1024x1024


@dataclass
class Pairs:
    """y, x0 [N, C, ...]: latents to learn from; degraded, clean [M, 3, ...]: held-out pixels.

    seen: degraded and clean pixels of a few pairs that are learned from.
    """

    y: Tensor
    x0: Tensor
    degraded: Tensor
    clean: Tensor
    seen: tuple[Tensor, Tensor]


def drawn_pairs(
    backbone: Backbone,
    kind: str,
    size: int = 64,
    frames: int = 9,
    seed: int = 0,
    counts: tuple[int, int] | None = None,
    quiet: bool = False,
    folder: Path | None = None,
) -> Pairs:
    """Drawn scenes, for a video model moving ones; those held out are the same for every seed.

    counts: how many to learn from and how many to judge by; None: SCENES or CLIPS. folder: where
    there is room for latents that are too large for memory, see latents.py.
    """
    count, held_out = counts or (CLIPS if backbone.video else SCENES)
    draw, first = partial(scenes.pairs, kind, size=size), seed % 100 * 5000
    if backbone.video:
        draw = partial(moving_scenes.pairs, kind, size=size, frames=frames)
    batches = [range(first, first + count)[k : k + 16] for k in range(0, count, 16)]
    batches = batches[share(len(batches))]
    judged = draw(list(range(EVALUATION_SEED, EVALUATION_SEED + held_out)))
    parts = (draw(list(b)) for b in batches)
    return encode_pairs(backbone, parts, judged, len(batches), quiet, folder)


def parse_size(size: str, usual: str) -> tuple[int, int]:
    """Side and number of frames, 1 of a picture, that --size names. usual: the default.

    ValueError if it is no size, or frames are not 1 + 4k.
    """
    parts, wanted = size.split("x"), usual.split("x")
    if not all(part.isdecimal() and int(part) for part in parts) or len(parts) > len(wanted):
        form = "side x frames, as 64x9" if len(wanted) > 1 else "a side in pixels, as 64"
        raise ValueError(f"--size {size}: expected {form}")
    side, frames = (int(part) for part in (*parts, *wanted[len(parts) :], "1")[:2])
    if frames % 4 != 1:
        raise ValueError(f"--size {size}: WAN takes 1 + 4k frames, as {frames // 4 * 4 + 1}")
    return side, frames


def find_files(path: Path, kind: str | None, side: int, frames: int, video: bool) -> list[Pair]:
    """The pairs of a folder or a list, each looked at: names, sizes and lengths, no pixel decoded.

    kind: only the rows of that degradation; clips are looked through once. ValueError in one line,
    or an ExceptionGroup of them if several pairs cannot be learned from: the first TOLD are named.
    """
    found = list_pairs(path, kind, video)
    if len(found) < 2:
        raise ValueError(f"{path}: only {len(found)} pair, at least 2 are needed: 1 is held out")
    faults: list[Exception] = []
    for pair in found:
        try:
            probe(pair, side, frames if video else None)
        except (ValueError, OSError) as error:
            faults.append(error)
    if len(faults) > TOLD:
        more = f"{path}: {len(faults) - TOLD} more of {len(found)} pairs cannot be learned from"
        faults[TOLD:] = [ValueError(more)]
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise ExceptionGroup(f"{path}: pairs that cannot be learned from", faults)
    return found


def file_pairs(
    backbone: Backbone,
    found: list[Pair],
    side: int,
    frames: int,
    quiet: bool = False,
    folder: Path | None = None,
) -> Pairs:
    """Latents of the pairs that were found, cut into squares or cubes; each tenth is held out.

    Of a held-out pair the square in the middle is judged, of a clip that of its first frames.
    folder: as `drawn_pairs`. ValueError names a file whose pixels cannot be read.
    """

    def cut(pair: Pair) -> Iterator[tuple[Tensor, Tensor]]:
        if backbone.video:
            return clip_crops(pair, side, frames)
        return iter([crops(pair, side)])

    if len(found) < 2:
        raise ValueError(f"{len(found)} pair to learn from, at least 2 are needed: 1 is held out")
    held_out = found[::HELD_OUT][: (CLIPS if backbone.video else SCENES)[1]]
    learned = [pair for pair in found if pair not in held_out]
    middles = [[p[len(p) // 2] for p in next(cut(pair))] for pair in held_out]
    judged = tuple(torch.stack(pixels) for pixels in zip(*middles, strict=True))
    learned = learned[share(len(learned))]
    parts = (part for pair in learned for part in cut(pair))
    count = None if backbone.video else len(learned)
    return encode_pairs(backbone, parts, judged, count, quiet, folder)


def encode_pairs(
    backbone: Backbone,
    parts: Iterable[tuple[Tensor, Tensor]],
    held_out: tuple[Tensor, Tensor],
    count: int | None,
    quiet: bool = False,
    folder: Path | None = None,
) -> Pairs:
    """Pairs from degraded and clean pixels [n, 3, ...] in `count` parts, encoded once.

    Of several processes each has parts of its own, which follow each other; all get all latents. A
    ValueError or OSError of one is raised in all.
    """
    y, x0 = Latents(folder), Latents(folder)
    seen_degraded, seen_clean = Latents(None), Latents(None)
    fault = None
    try:
        for degraded, clean in tqdm(parts, "encode", count, disable=quiet, leave=False):
            y.add(encode(backbone, degraded))
            x0.add(encode(backbone, clean))
            if len(seen_clean.parts) < FEW:
                seen_degraded.add(degraded[:1])
                seen_clean.add(clean[:1])
    except (ValueError, OSError) as error:
        fault = error
    raise_together(fault)
    kept = y, x0, seen_degraded, seen_clean
    y, x0, *seen = (gathered(latents, backbone.device) for latents in kept)
    return Pairs(y, x0, *held_out, (seen[0][:FEW], seen[1][:FEW]))


def encode(backbone: Backbone, pixels: Tensor) -> Tensor:
    """Latents [n, C, ...] of pixels [n, 3, ...], on the CPU; a few at once, however many come."""
    n = max(1, AT_ONCE // pixels[0, 0].numel())
    return torch.cat([backbone.encode(part).cpu() for part in pixels.split(n)])
