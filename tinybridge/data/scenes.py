"""Procedural captioned landscapes with depth, and the paper's five degradations of them.

Stands in for a data set wherever none is given: the tiny backbones are pre-trained on these scenes
and `train.py` learns prompts from them. Everything is a function of its seed; pictures are float32
in 0..1, channels first. Coordinates `u` (right) and `v` (down) run over 0..1, so a scene looks the
same at every size; `depth` is 0 at the camera and 1 at the sky.

Letters: H W picture size, N number of flakes or drops.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

KINDS = ("haze", "rain", "snow", "blur", "lowlight")
NAMES = {  # what a caption calls a degraded picture
    "haze": "haze",
    "rain": "rain",
    "snow": "snow",
    "blur": "blurry",
    "lowlight": "dark",
}

SKIES = {  # name -> colour at the zenith, colour at the horizon
    "blue": ((0.25, 0.50, 0.85), (0.72, 0.85, 0.95)),
    "pink": ((0.55, 0.45, 0.75), (0.98, 0.75, 0.72)),
    "orange": ((0.45, 0.40, 0.60), (0.99, 0.72, 0.35)),
    "grey": ((0.52, 0.56, 0.62), (0.80, 0.82, 0.84)),
    "teal": ((0.10, 0.45, 0.52), (0.65, 0.88, 0.80)),
}
LANDS = {
    "green": (0.32, 0.55, 0.20),
    "yellow": (0.80, 0.68, 0.28),
    "brown": (0.52, 0.38, 0.24),
    "red": (0.66, 0.34, 0.24),
    "purple": (0.45, 0.34, 0.52),
}
COLOURS = {
    "red": (0.80, 0.16, 0.14),
    "orange": (0.93, 0.52, 0.12),
    "yellow": (0.95, 0.83, 0.20),
    "green": (0.16, 0.48, 0.18),
    "blue": (0.16, 0.33, 0.75),
    "purple": (0.48, 0.22, 0.60),
    "white": (0.93, 0.92, 0.88),
    "brown": (0.42, 0.26, 0.15),
}
THINGS = {  # name -> colours it comes in
    "house": ("red", "yellow", "white", "blue", "orange"),
    "tree": ("green", "orange", "red", "yellow"),
    "pine": ("green", "blue"),
    "balloon": ("red", "yellow", "purple", "blue", "orange"),
}


@dataclass(frozen=True)
class Scene:
    """picture [3, H, W] float32 in 0..1, depth [H, W] float32 in 0..1, one English caption."""

    picture: np.ndarray
    depth: np.ndarray
    caption: str


def scene(
    seed: int, size: int = 64, pan: float = 0.0, drift: tuple[float, float] = (0.0, 0.0)
) -> Scene:
    """Draws one square landscape; the same seed gives the same scene, at any `size` in pixels.

    pan: how far the camera has gone to the right, drift: how far balloons have gone right and
    down, both in widths of the picture; what is near moves by more of `pan`, the sky by none.
    """
    rng = np.random.default_rng([seed, 0])
    v, u = (np.mgrid[0:size, 0:size].astype(np.float32) + 0.5) / size  # [H, W] each
    edge = 1.0 / size  # one pixel: the width over which shapes are antialiased
    picture, depth, sky_name = _sky(rng, u, v, edge)
    horizon = rng.uniform(0.45, 0.62)
    land_name = rng.choice(list(LANDS))
    land = np.array(LANDS[land_name]) * rng.uniform(0.85, 1.15) + rng.normal(0, 0.02, 3)
    haze_of_distance = picture[:, int(horizon * size), 0]
    for k, far in enumerate((0.75, 0.45)):  # ridges: the farther, the paler
        skyline = _ridge(rng, u + pan * (1 - far), 0.09 - 0.03 * k)
        ridge = horizon - 0.10 + 0.10 * k + skyline
        tone = land * (0.75 + 0.1 * k) * (1 - 0.5 * far) + haze_of_distance * 0.5 * far
        slope = 1 - 0.5 * np.clip(v - ridge, 0, 0.5)
        picture = _paint(picture, (v - ridge) / edge, tone[:, None, None] * slope)
        depth = np.where(v > ridge, far, depth)
    near = np.clip((v - horizon) / (1 - horizon), 0, 1)  # 0 at the horizon, 1 at our feet
    ground = horizon + _ridge(rng, u + pan * 0.6, 0.015)
    tone = land[:, None, None] * (0.8 + 0.35 * near)
    picture = _paint(picture, (v - ground) / edge, tone)
    depth = np.where(v > ground, 0.4 - 0.35 * near, depth)
    if rng.random() < 0.4:  # a road to the horizon
        foot, head, width = rng.uniform(0.1, 0.9), rng.uniform(0.3, 0.7), rng.uniform(0.08, 0.16)
        middle, moved = head + (foot - head) * near**1.5, u + pan * (0.6 + 0.35 * near)
        inside = np.minimum(width * near + 0.008 - np.abs(moved - middle), v - ground)
        picture = _paint(picture, inside / edge, np.array([0.55, 0.52, 0.50])[:, None, None])

    words, floor = [], np.sort(rng.uniform(0.12, 0.75, 3))  # far things first, near ones cover
    for k in range(rng.integers(1, 4)):
        thing = rng.choice(list(THINGS))
        name = rng.choice(THINGS[thing])
        tone = np.clip(np.array(COLOURS[name]) + rng.normal(0, 0.03, 3), 0, 1)
        at, base = rng.uniform(0.1, 0.9), horizon + (1 - horizon) * floor[k]
        scale = 0.16 + 0.22 * floor[k]
        far = 0.4 - 0.35 * float(floor[k])
        if thing == "balloon":
            base, scale, far = rng.uniform(0.12, 0.35) + drift[1], rng.uniform(0.10, 0.18), 0.5
            at = at + drift[0]
        moved = u + pan * (1 - far)
        picture, covered = _THING[thing](rng, picture, moved, v, edge, at, base, scale, tone)
        depth = np.where(covered, far, depth)
        words.append(f"{name} {thing}")
    caption = f"{' and '.join(words)}, {land_name} land, {sky_name} sky"
    return Scene(np.clip(picture, 0, 1).astype(np.float32), depth.astype(np.float32), caption)


def _paint(picture: np.ndarray, inside: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Covers where `inside` (signed distance in pixels, positive inside) with `colour`."""
    alpha = np.clip(inside + 0.5, 0, 1)  # [H, W]
    return picture + alpha * (colour - picture)  # [3, H, W]


def _ridge(rng: np.random.Generator, u: np.ndarray, height: float) -> np.ndarray:
    """A smooth random skyline over u: three sines."""
    waves = zip((1.3, 2.9, 6.1), (1.0, 0.5, 0.22), rng.uniform(0, 6.28, 3), strict=True)
    return height * sum(a * np.sin(6.28 * f * u * 0.8 + p) for f, a, p in waves)


def _sky(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, edge: float):
    name = rng.choice(list(SKIES))
    zenith, low = (np.array(c) * rng.uniform(0.9, 1.05) for c in SKIES[name])
    fade = np.clip(v / 0.55, 0, 1) ** 0.8
    picture = zenith[:, None, None] * (1 - fade) + low[:, None, None] * fade  # [3, H, W]
    if rng.random() < 0.7:  # a sun with its glow
        r = np.hypot(u - rng.uniform(0.1, 0.9), v - rng.uniform(0.08, 0.38))
        radius, light = rng.uniform(0.04, 0.08), np.array([1.0, 0.95, 0.75])[:, None, None]
        picture = picture + 0.35 * np.exp(-((r / (3 * radius)) ** 2)) * (light - picture)
        picture = _paint(picture, (radius - r) / edge, light)
    return picture, np.ones_like(u), name


def _house(rng, picture, u, v, edge, at, base, scale, tone):
    w, h, roof = 0.55 * scale, 0.62 * scale, 0.45 * scale
    x, y = u - at, base - v  # y grows upwards from the ground
    wall = np.minimum(w - np.abs(x), np.minimum(y, h - y))
    shade = np.where(x > 0.25 * w, 0.78, 1.0)
    out = _paint(picture, wall / edge, tone[:, None, None] * shade)
    gable = np.minimum((h + roof - y) - np.abs(x) * roof / (1.2 * w), y - h)
    roof_tone = np.array(rng.choice([(0.45, 0.2, 0.15), (0.3, 0.3, 0.35), (0.55, 0.35, 0.2)]))
    out = _paint(out, gable / edge, roof_tone[:, None, None] * shade)
    door = np.minimum(0.16 * w - np.abs(x + 0.45 * w), np.minimum(y, 0.55 * h - y))
    out = _paint(out, door / edge, np.array([0.28, 0.18, 0.12])[:, None, None])
    window = np.minimum(0.17 * w - np.abs(x - 0.35 * w), 0.16 * h - np.abs(y - 0.55 * h))
    out = _paint(out, window / edge, np.array([0.95, 0.9, 0.6])[:, None, None])
    return out, np.maximum(wall, gable) > 0


def _tree(rng, picture, u, v, edge, at, base, scale, tone):
    x, y, r = u - at, base - v, 0.5 * scale
    trunk = np.minimum(0.12 * scale - np.abs(x), np.minimum(y, 0.8 * scale - y))
    out = _paint(picture, trunk / edge, np.array([0.35, 0.22, 0.13])[:, None, None])
    crown = r - np.hypot(x, y - 1.05 * scale)
    light = 0.8 + 0.35 * np.clip((y - 1.05 * scale - x) / r * 0.5 + 0.5, 0, 1)
    return _paint(out, crown / edge, tone[:, None, None] * light), np.maximum(trunk, crown) > 0


def _pine(rng, picture, u, v, edge, at, base, scale, tone):
    x, y = u - at, base - v
    trunk = np.minimum(0.08 * scale - np.abs(x), np.minimum(y, 0.4 * scale - y))
    out = _paint(picture, trunk / edge, np.array([0.30, 0.20, 0.12])[:, None, None])
    light = np.where(x > 0, 0.75, 1.05)
    crown = np.full_like(u, -1.0)
    for low, wide in ((0.25, 0.45), (0.7, 0.36), (1.1, 0.26)):
        cone = np.minimum(wide * scale - np.abs(x) - 0.6 * (y - low * scale), y - low * scale)
        crown = np.maximum(crown, cone)
    return _paint(out, crown / edge, tone[:, None, None] * light), np.maximum(trunk, crown) > 0


def _balloon(rng, picture, u, v, edge, at, base, scale, tone):
    x, y, r = u - at, v - base, 0.5 * scale
    skin = r - np.hypot(x, y * np.where(y > 0, 0.85, 1.0))
    stripe = np.where(np.sin(9.0 * x / r) > 0, 1.0, 0.72)
    out = _paint(picture, skin / edge, tone[:, None, None] * stripe)
    basket = np.minimum(0.28 * r - np.abs(x), 0.2 * r - np.abs(y - 1.55 * r))
    out = _paint(out, basket / edge, np.array([0.40, 0.25, 0.12])[:, None, None])
    return out, np.maximum(skin, basket) > 0


_THING = {"house": _house, "tree": _tree, "pine": _pine, "balloon": _balloon}


def degrade(
    picture: np.ndarray, depth: np.ndarray, kind: str, severity: float, seed: int, frame: int = 0
) -> np.ndarray:
    """One of the five degradations of the paper, deterministic by seed.

    picture [3, H, W] float32 in 0..1, depth [H, W] in 0..1, severity 0 (almost none) to 1. frame:
    number of a frame in a clip: rain and snow have fallen on since frame 0, noise is new.
    Returns [3, H, W] float32 in 0..1. Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"degradation {kind!r} is not known; choose one of {', '.join(KINDS)}")
    rng = np.random.default_rng([seed, 1 + KINDS.index(kind)])
    out = _DEGRADE[kind](rng, picture, depth, severity, frame)
    return np.clip(out, 0, 1).astype(np.float32)


def _haze(rng, picture, depth, severity, frame):
    """Koschmieder's law: what is far fades into the airlight."""
    airlight = rng.uniform(0.80, 0.95) + rng.normal(0, 0.01, (3, 1, 1))
    transmission = np.exp(-(0.3 + 1.2 * severity) * (0.25 + 0.75 * depth))
    return picture * transmission + airlight * (1 - transmission)


def _streaks(rng, shape, drops, length, slant):
    """Bright lines [H, W] in 0..1: points smeared along one direction."""
    h, w = shape
    points = np.zeros(shape, np.float32)
    points[rng.integers(0, h, drops), rng.integers(0, w, drops)] = rng.uniform(0.5, 1, drops)
    smear = [np.roll(points, (k, round(k * slant)), (0, 1)) for k in range(length)]
    return np.max(smear, axis=0)


def _rain(rng, picture, depth, severity, frame):
    h, w = depth.shape
    slant, out = rng.uniform(-0.5, 0.5), picture * (1 - 0.1 * severity)
    for reach in (0.10, 0.22):  # distant short drops, close long ones
        drops = int((0.014 + 0.016 * severity) * h * w * 0.12 / reach)
        streaks = _streaks(rng, (h, w), drops, max(2, round(reach * h)), slant)
        fallen = round(1.3 * reach * h * frame)  # a bit more than their length in every frame
        streaks = np.roll(streaks, (fallen, round(fallen * slant)), (0, 1))
        out = out + (0.40 + 0.35 * severity) * streaks * (0.9 - out)
    return out


def _snow(rng, picture, depth, severity, frame):
    h, w = depth.shape
    n = int(30 + 60 * severity)
    v, u = np.mgrid[0:h, 0:w].astype(np.float32) / h
    cy, cx = rng.uniform(0, 1, (2, n, 1, 1)).astype(np.float32)  # [N, 1, 1]
    r = rng.uniform(0.010, 0.030, (n, 1, 1)).astype(np.float32)
    cy, cx = (cy + 1.5 * r * frame) % 1, (cx + 0.01 * np.sin(400 * r) * frame) % 1  # near: faster
    alpha = np.clip((r - np.hypot(u - cx * w / h, v - cy)) * h + 0.5, 0, 1).max(0)  # [H, W]
    veil = 0.08 * severity
    out = picture * (1 - veil) + 0.9 * veil
    return out + (0.6 + 0.35 * severity) * alpha * (0.97 - out)


def _blur(rng, picture, depth, severity, frame):
    """Defocus (a disc) or motion (a line), applied as a product of spectra on a mirrored frame."""
    h, w = depth.shape
    radius = (0.030 + 0.045 * severity) * h
    pad = int(np.ceil(2 * radius + 1))
    framed = np.pad(picture, ((0, 0), (pad, pad), (pad, pad)), mode="symmetric")
    H, W = framed.shape[1:]
    y, x = np.fft.fftfreq(H, 1 / H)[:, None], np.fft.fftfreq(W, 1 / W)  # signed, 0 at the corner
    if rng.random() < 0.5:
        kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    else:
        angle = rng.uniform(0, np.pi)
        along = np.abs(x * np.cos(angle) + y * np.sin(angle))
        across = np.abs(y * np.cos(angle) - x * np.sin(angle))
        kernel = np.clip(2 * radius + 0.5 - along, 0, 1) * np.clip(1 - across, 0, 1)
    spectrum = np.fft.rfft2(kernel / kernel.sum()) * np.fft.rfft2(framed)
    return np.fft.irfft2(spectrum, s=(H, W))[:, pad : pad + h, pad : pad + w]


def _lowlight(rng, picture, depth, severity, frame):
    """Less light, more contrast loss in the shadows, a cold cast, and sensor noise."""
    rng.bit_generator.advance(frame << 40)  # the sensor's noise does not repeat
    light = (0.70 - 0.36 * severity) * np.array([0.92, 0.97, 1.05])[:, None, None]
    dark = light * picture ** (1 + 0.3 * severity)
    return dark + rng.normal(0, 0.005 + 0.01 * severity, picture.shape)


_DEGRADE = {"haze": _haze, "rain": _rain, "snow": _snow, "blur": _blur, "lowlight": _lowlight}


def pairs(
    kind: str, seeds: list[int], size: int = 64, low: float = 0.4, high: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Degraded and clean pictures, [B, 3, H, W] float32 in 0..1; severity uniform low..high."""
    clean, bad = [], []
    for seed in seeds:
        s = scene(seed, size)
        severity = np.random.default_rng([seed, 99]).uniform(low, high)
        clean.append(s.picture)
        bad.append(degrade(s.picture, s.depth, kind, severity, seed))
    return torch.from_numpy(np.stack(bad)), torch.from_numpy(np.stack(clean))
