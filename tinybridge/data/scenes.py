"""Procedural captioned landscapes with depth, and pairs of them, degraded and clean.

Stands in for a data set wherever none is given: the tiny backbones are pre-trained on these scenes
and `train.py` learns prompts from them. Everything is a function of its seed; pictures are float32
in 0..1, channels first. Coordinates `u` (right) and `v` (down) run over 0..1, so a scene looks the
same at every size; `depth` is 0 at the camera and 1 at the sky.

Letters: B batch, H W picture size.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tinybridge.data.degradations import degrade

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
SUN, ROAD = (1.0, 0.95, 0.75), (0.55, 0.52, 0.50)
ROOFS = [(0.45, 0.2, 0.15), (0.3, 0.3, 0.35), (0.55, 0.35, 0.2)]
DOOR, WINDOW = (0.28, 0.18, 0.12), (0.95, 0.9, 0.6)
TRUNK, STEM, BASKET = (0.35, 0.22, 0.13), (0.30, 0.20, 0.12), (0.40, 0.25, 0.12)
THINGS = {  # name -> colours it comes in
    "house": ("red", "yellow", "white", "blue", "orange"),
    "tree": ("green", "orange", "red", "yellow"),
    "pine": ("green", "blue"),
    "balloon": ("red", "yellow", "purple", "blue", "orange"),
}
WORDS = {  # what people call them
    "house": ("house", "home", "cottage"),
    "tree": ("tree", "oak"),
    "pine": ("pine", "fir"),
    "balloon": ("balloon",),
    "land": ("land", "ground", "fields"),
    "sky": ("sky", "sky", "heaven"),
    "sun": ("sun", "sunshine"),
    "road": ("road", "path"),
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
    words = np.random.default_rng([seed, 5])  # what is said changes nothing of what is seen
    v, u = (np.mgrid[0:size, 0:size].astype(np.float32) + 0.5) / size  # [H, W] each
    edge = 1.0 / size  # one pixel: the width over which shapes are antialiased
    picture, sky_name, sunny = _sky(rng, u, v, edge)
    depth = np.ones_like(u)
    horizon = rng.uniform(0.45, 0.62)
    land_name = rng.choice(list(LANDS))
    land = np.array(LANDS[land_name]) * rng.uniform(0.85, 1.15) + rng.normal(0, 0.02, 3)

    haze_of_distance = picture[:, int(horizon * size), 0]
    for k, far in enumerate((0.75, 0.45)):  # ridges: the farther, the paler
        skyline = _ridge(rng, u + pan * (1 - far), 0.09 - 0.03 * k)
        ridge = horizon - 0.10 + 0.10 * k + skyline
        tone = land * (0.75 + 0.1 * k) * (1 - 0.5 * far) + haze_of_distance * 0.5 * far
        slope = 1 - 0.5 * np.clip(v - ridge, 0, 0.5)
        picture = _paint(picture, (v - ridge) / edge, _flat(tone) * slope)
        depth = np.where(v > ridge, far, depth)

    near = np.clip((v - horizon) / (1 - horizon), 0, 1)  # 0 at the horizon, 1 at our feet
    ground = horizon + _ridge(rng, u + pan * 0.6, 0.015)
    picture = _paint(picture, (v - ground) / edge, _flat(land) * (0.8 + 0.35 * near))
    depth = np.where(v > ground, 0.4 - 0.35 * near, depth)
    road = rng.random() < 0.4
    if road:  # to the horizon
        foot = rng.uniform(0.1, 0.9)
        head = rng.uniform(0.3, 0.7)
        width = rng.uniform(0.08, 0.16)
        middle = head + (foot - head) * near**1.5
        moved = u + pan * (0.6 + 0.35 * near)
        beside = width * near + 0.008 - np.abs(moved - middle)
        picture = _paint(picture, np.minimum(beside, v - ground) / edge, _flat(ROAD))

    named = []
    floor = np.sort(rng.uniform(0.12, 0.75, 3))  # far things first, near ones cover
    for k in range(rng.integers(1, 4)):
        thing = rng.choice(list(THINGS))
        name = rng.choice(THINGS[thing])
        tone = np.clip(np.array(COLOURS[name]) + rng.normal(0, 0.03, 3), 0, 1)
        at = rng.uniform(0.1, 0.9)
        base = horizon + (1 - horizon) * floor[k]
        scale = 0.16 + 0.22 * floor[k]
        far = 0.4 - 0.35 * float(floor[k])
        if thing == "balloon":
            at = at + drift[0]
            base = rng.uniform(0.12, 0.35) + drift[1]
            scale = rng.uniform(0.10, 0.18)
            far = 0.5
        x = u + pan * (1 - far) - at
        y = base - v  # grows upwards from the ground
        picture, covered = DRAW[thing](rng, picture, x, y, edge, scale, tone)
        depth = np.where(covered, far, depth)
        named.append(f"{name} {words.choice(WORDS[thing])}")
    said = [" and ".join(named)]
    said.append(f"{land_name} {words.choice(WORDS['land'])}")
    said.append(f"{sky_name} {words.choice(WORDS['sky'])}")
    for there, thing in ((sunny, "sun"), (road, "road")):
        if there and words.random() < 0.5:  # not everything is worth a word
            said.append(words.choice(WORDS[thing]))
    caption = ", ".join(said)
    return Scene(np.clip(picture, 0, 1).astype(np.float32), depth.astype(np.float32), caption)


def _flat(colour: np.ndarray | tuple[float, float, float]) -> np.ndarray:
    """[3] to [3, 1, 1]: the same colour everywhere."""
    return np.array(colour)[:, None, None]


def _paint(picture: np.ndarray, inside: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Covers where `inside` (signed distance in pixels, positive inside) with `colour`."""
    alpha = np.clip(inside + 0.5, 0, 1)  # [H, W]
    return picture + alpha * (colour - picture)  # [3, H, W]


def _ridge(rng: np.random.Generator, u: np.ndarray, height: float) -> np.ndarray:
    """A smooth random skyline over u: three sines."""
    phases = rng.uniform(0, 6.28, 3)
    long = 1.0 * np.sin(6.28 * 1.3 * u * 0.8 + phases[0])
    middle = 0.5 * np.sin(6.28 * 2.9 * u * 0.8 + phases[1])
    short = 0.22 * np.sin(6.28 * 6.1 * u * 0.8 + phases[2])
    return height * (long + middle + short)


def _sky(
    rng: np.random.Generator, u: np.ndarray, v: np.ndarray, edge: float
) -> tuple[np.ndarray, str, bool]:
    """A sky [3, H, W], its name, and whether a sun and its glow are there: in seven of ten."""
    name = rng.choice(list(SKIES))
    zenith, low = SKIES[name]
    zenith = np.array(zenith) * rng.uniform(0.9, 1.05)
    low = np.array(low) * rng.uniform(0.9, 1.05)
    fade = np.clip(v / 0.55, 0, 1) ** 0.8
    picture = _flat(zenith) * (1 - fade) + _flat(low) * fade  # [3, H, W]
    sunny = rng.random() < 0.7
    if sunny:
        distance = np.hypot(u - rng.uniform(0.1, 0.9), v - rng.uniform(0.08, 0.38))
        radius = rng.uniform(0.04, 0.08)
        glow = np.exp(-((distance / (3 * radius)) ** 2))
        picture = picture + 0.35 * glow * (_flat(SUN) - picture)
        picture = _paint(picture, (radius - distance) / edge, _flat(SUN))
    return picture, name, sunny


# Things: x to the right of the middle, y up from the base, both [H, W]; edge a pixel's width.
# Each gives the picture with the thing in it, and where it covers.


def _house(
    rng: np.random.Generator, picture: np.ndarray, x: np.ndarray, y: np.ndarray,
    edge: float, scale: float, tone: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    width = 0.55 * scale
    height = 0.62 * scale
    roof = 0.45 * scale
    shade = np.where(x > 0.25 * width, 0.78, 1.0)
    wall = np.minimum(width - np.abs(x), np.minimum(y, height - y))
    out = _paint(picture, wall / edge, _flat(tone) * shade)
    slope = (height + roof - y) - np.abs(x) * roof / (1.2 * width)
    gable = np.minimum(slope, y - height)
    out = _paint(out, gable / edge, _flat(rng.choice(ROOFS)) * shade)
    beside = 0.16 * width - np.abs(x + 0.45 * width)
    door = np.minimum(beside, np.minimum(y, 0.55 * height - y))
    out = _paint(out, door / edge, _flat(DOOR))
    beside = 0.17 * width - np.abs(x - 0.35 * width)
    window = np.minimum(beside, 0.16 * height - np.abs(y - 0.55 * height))
    out = _paint(out, window / edge, _flat(WINDOW))
    return out, np.maximum(wall, gable) > 0


def _tree(
    rng: np.random.Generator, picture: np.ndarray, x: np.ndarray, y: np.ndarray,
    edge: float, scale: float, tone: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    radius = 0.5 * scale
    trunk = np.minimum(0.12 * scale - np.abs(x), np.minimum(y, 0.8 * scale - y))
    out = _paint(picture, trunk / edge, _flat(TRUNK))
    above = y - 1.05 * scale  # the crown's middle
    crown = radius - np.hypot(x, above)
    light = 0.8 + 0.35 * np.clip((above - x) / radius * 0.5 + 0.5, 0, 1)
    out = _paint(out, crown / edge, _flat(tone) * light)
    return out, np.maximum(trunk, crown) > 0


def _pine(
    rng: np.random.Generator, picture: np.ndarray, x: np.ndarray, y: np.ndarray,
    edge: float, scale: float, tone: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    trunk = np.minimum(0.08 * scale - np.abs(x), np.minimum(y, 0.4 * scale - y))
    out = _paint(picture, trunk / edge, _flat(STEM))
    crown = np.full_like(x, -1.0)
    for low, wide in ((0.25, 0.45), (0.7, 0.36), (1.1, 0.26)):
        above = y - low * scale
        cone = np.minimum(wide * scale - np.abs(x) - 0.6 * above, above)
        crown = np.maximum(crown, cone)
    light = np.where(x > 0, 0.75, 1.05)
    out = _paint(out, crown / edge, _flat(tone) * light)
    return out, np.maximum(trunk, crown) > 0


def _balloon(
    rng: np.random.Generator, picture: np.ndarray, x: np.ndarray, y: np.ndarray,
    edge: float, scale: float, tone: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    radius = 0.5 * scale
    down = -y  # from the balloon's middle
    skin = radius - np.hypot(x, down * np.where(down > 0, 0.85, 1.0))
    stripe = np.where(np.sin(9.0 * x / radius) > 0, 1.0, 0.72)
    out = _paint(picture, skin / edge, _flat(tone) * stripe)
    basket = np.minimum(0.28 * radius - np.abs(x), 0.2 * radius - np.abs(down - 1.55 * radius))
    out = _paint(out, basket / edge, _flat(BASKET))
    return out, np.maximum(skin, basket) > 0


DRAW = {"house": _house, "tree": _tree, "pine": _pine, "balloon": _balloon}


def pairs(
    kind: str, seeds: list[int], size: int = 64, low: float = 0.1, high: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Degraded and clean pictures, [B, 3, H, W] float32 in 0..1; severity uniform low..high."""
    clean, bad = [], []
    for seed in seeds:
        s = scene(seed, size)
        severity = np.random.default_rng([seed, 99]).uniform(low, high)
        clean.append(s.picture)
        bad.append(degrade(s.picture, s.depth, kind, severity, seed))
    return torch.from_numpy(np.stack(bad)), torch.from_numpy(np.stack(clean))
