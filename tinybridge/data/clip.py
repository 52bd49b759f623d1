"""One clip before it is restored: what is known of it, and the words for what does not fit.

Letters: H W size in pixels.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

LARGEST = 8192 * 8192  # pixels of a frame


@dataclass(frozen=True)
class Clip:
    """What is known of a clip, all of it from its file.

    size (H, W) upright; frames: as many as can be decoded; rate in frames per second, their mean
    where it varies, None for pictures; kind "video", "animation" or "pictures"; times: where every
    frame begins and where the last one ends, frames + 1 rising numbers in units of `tick` seconds,
    none for pictures; notes: lines to be told once; tags: what else the written file is told, by
    the names of the encoder's attributes.
    """

    path: Path
    size: tuple[int, int]
    frames: int
    rate: Fraction | None
    kind: str
    times: tuple[int, ...] = ()
    tick: Fraction = Fraction(1, 1000)
    notes: tuple[str, ...] = ()
    tags: dict[str, Any] = field(default_factory=dict)


def differs(path: Path, size: Sequence[int], other: object, expected: Sequence[int]) -> str:
    (H, W), (h, w) = size, expected
    return f"{path} is {W}x{H} but {other} is {w}x{h}: both must have one size"


def bounded(path: Path, H: int, W: int) -> None:
    """ValueError if frames of a size that a header names are too large to be decoded."""
    if H * W > LARGEST:
        raise ValueError(f"{path}: frames of {W}x{H}; up to {LARGEST >> 20} megapixels are read")


def notes(
    path: Path, rate: Fraction | None, times: Sequence[int], lost: Sequence[str]
) -> tuple[str, ...]:
    """What to tell of a clip: that its frames last differently long, and what will not be kept.

    Times that differ by no more than their rounding are even.
    """
    told = []
    gaps = [late - early for early, late in itertools.pairwise(times)]
    if gaps and (max(gaps) - min(gaps)) * 4 > min(gaps):
        about = f", {float(rate):.2f} frames per second on the average" if rate else ""
        told.append(f"{path}: variable frame rate{about}; every frame keeps its time")
    if lost:
        told.append(f"{path}: not kept: {', '.join(lost)}")
    return tuple(told)


@contextmanager
def as_oserror(path: Path) -> Iterator[None]:
    """Whatever a library or the system cannot do here is an OSError about `path`, in one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # libav's and libwebp's own as well
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise OSError(f"{path}: cannot be written ({reason})") from None


def to_bytes(pixels: Tensor) -> np.ndarray:
    """[H, W, 3] in 0..255 of [3, H, W] in 0..1."""
    whole = (pixels.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    return whole.permute(1, 2, 0).contiguous().numpy()
