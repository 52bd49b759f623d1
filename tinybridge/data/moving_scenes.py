"""Moving scenes: what `scenes` draws, seen by a moving camera, and the five degradations in motion.

Stands in for a set of videos, as scenes.py does for pictures. The camera pans, so that near things
pass before far ones; balloons drift. Rain falls and snow drifts from frame to frame, a dark clip's
noise is new in every frame; haze and blur stay as they are. Frame 0 of a clip is the scene of the
same seed. Everything is a function of the seed.

Letters: B batch, T frames, H W size.
"""

import numpy as np
import torch
from torch import Tensor

from tinybridge.data import degradations, scenes


def clip(seed: int, size: int = 64, frames: int = 9) -> tuple[np.ndarray, np.ndarray, str]:
    """Pictures [T, 3, H, W] float32 in 0..1, depths [T, H, W] float32 in 0..1, one caption."""
    rng = np.random.default_rng([seed, 3])
    speed = rng.uniform((-0.02, -0.01, -0.006), (0.02, 0.01, 0.006))  # in every frame
    pan, right, down = speed.tolist()
    shown = [scenes.scene(seed, size, pan * k, (right * k, down * k)) for k in range(frames)]
    pictures, depths = np.stack([s.picture for s in shown]), np.stack([s.depth for s in shown])
    return pictures, depths, shown[0].caption


def degrade(
    pictures: np.ndarray, depths: np.ndarray, kind: str, severity: float, seed: int
) -> np.ndarray:
    """`degradations.degrade` of every frame of a clip [T, 3, H, W], depths [T, H, W]."""
    frames = enumerate(zip(pictures, depths, strict=True))
    return np.stack([degradations.degrade(p, d, kind, severity, seed, k) for k, (p, d) in frames])


def pairs(
    kind: str,
    seeds: list[int],
    size: int = 64,
    frames: int = 9,
    low: float = 0.1,
    high: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Degraded and clean clips, [B, 3, T, H, W] float32 in 0..1; severity uniform low..high."""
    clean, bad = [], []
    for seed in seeds:
        pictures, depths, _ = clip(seed, size, frames)
        severity = np.random.default_rng([seed, 99]).uniform(low, high)
        clean.append(pictures)
        bad.append(degrade(pictures, depths, kind, severity, seed))
    stacked = (torch.from_numpy(np.stack(clips)) for clips in (bad, clean))  # [B, T, 3, H, W]
    degraded, clear = (clips.transpose(1, 2).contiguous() for clips in stacked)
    return degraded, clear  # [B, 3, T, H, W] each
