"""The paper's five degradations, of a picture whose depth is known, and of frames of a clip.

A sixth is a function here and a line of DEGRADE. Everything is a function of the seed; pictures
are float32 in 0..1, channels first; depth is 0 at the camera and 1 at the sky.

Letters: H W picture size, N number of flakes.
"""

import numpy as np


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
    out = DEGRADE[kind](rng, picture, depth, severity, frame)
    return np.clip(out, 0, 1).astype(np.float32)


def haze(
    rng: np.random.Generator, picture: np.ndarray, depth: np.ndarray, severity: float, frame: int
) -> np.ndarray:
    """Koschmieder's law: what is far fades into the airlight."""
    airlight = rng.uniform(0.80, 0.95) + rng.normal(0, 0.01, (3, 1, 1))
    density = 0.3 + 1.2 * severity
    transmission = np.exp(-density * (0.25 + 0.75 * depth))  # [H, W]
    return picture * transmission + airlight * (1 - transmission)


def streaks(
    rng: np.random.Generator, shape: tuple[int, int], drops: int, length: int, slant: float
) -> np.ndarray:
    """Bright lines [H, W] in 0..1: points smeared along one direction."""
    h, w = shape
    light = rng.uniform(0.5, 1, drops)
    rows = rng.integers(0, h, drops)
    columns = rng.integers(0, w, drops)
    points = np.zeros(shape, np.float32)
    points[rows, columns] = light
    smeared = points
    for k in range(1, length):
        smeared = np.maximum(smeared, np.roll(points, (k, round(k * slant)), (0, 1)))
    return smeared


def rain(
    rng: np.random.Generator, picture: np.ndarray, depth: np.ndarray, severity: float, frame: int
) -> np.ndarray:
    """Streaks at one slant, in two distances, before a slightly darker scene."""
    h, w = depth.shape
    slant = rng.uniform(-0.5, 0.5)
    strength = 0.40 + 0.35 * severity
    out = picture * (1 - 0.1 * severity)
    for reach in (0.10, 0.22):  # distant short drops, close long ones
        drops = int((0.014 + 0.016 * severity) * h * w * 0.12 / reach)
        lines = streaks(rng, (h, w), drops, max(2, round(reach * h)), slant)
        fallen = round(1.3 * reach * h * frame)  # a bit more than their length in every frame
        lines = np.roll(lines, (fallen, round(fallen * slant)), (0, 1))
        out = out + strength * lines * (0.9 - out)
    return out


def snow(
    rng: np.random.Generator, picture: np.ndarray, depth: np.ndarray, severity: float, frame: int
) -> np.ndarray:
    """Round flakes, near ones larger, and a white veil."""
    h, w = depth.shape
    n = int(30 + 60 * severity)
    v, u = np.mgrid[0:h, 0:w].astype(np.float32) / h
    places = rng.uniform(0, 1, (2, n, 1, 1)).astype(np.float32)
    radius = rng.uniform(0.010, 0.030, (n, 1, 1)).astype(np.float32)  # [N, 1, 1]
    sway = 0.01 * np.sin(400 * radius)
    down = (places[0] + 1.5 * radius * frame) % 1  # near ones are faster
    right = (places[1] + sway * frame) % 1
    distance = np.hypot(u - right * w / h, v - down)  # [N, H, W]
    flakes = np.clip((radius - distance) * h + 0.5, 0, 1).max(0)  # [H, W]
    veil = 0.08 * severity
    out = picture * (1 - veil) + 0.9 * veil
    return out + (0.6 + 0.35 * severity) * flakes * (0.97 - out)


def blur(
    rng: np.random.Generator, picture: np.ndarray, depth: np.ndarray, severity: float, frame: int
) -> np.ndarray:
    """Defocus (a disc) or motion (a line), applied as a product of spectra on a mirrored frame."""
    h, w = depth.shape
    radius = (0.030 + 0.045 * severity) * h
    pad = int(np.ceil(2 * radius + 1))
    framed = np.pad(picture, ((0, 0), (pad, pad), (pad, pad)), mode="symmetric")
    H, W = framed.shape[1:]
    y = np.fft.fftfreq(H, 1 / H)[:, None]  # signed, 0 at the corner
    x = np.fft.fftfreq(W, 1 / W)
    if rng.random() < 0.5:
        kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    else:
        angle = rng.uniform(0, np.pi)
        along = np.abs(x * np.cos(angle) + y * np.sin(angle))
        across = np.abs(y * np.cos(angle) - x * np.sin(angle))
        kernel = np.clip(2 * radius + 0.5 - along, 0, 1) * np.clip(1 - across, 0, 1)
    spectrum = np.fft.rfft2(kernel / kernel.sum()) * np.fft.rfft2(framed)
    blurred = np.fft.irfft2(spectrum, s=(H, W))
    return blurred[:, pad : pad + h, pad : pad + w]


def lowlight(
    rng: np.random.Generator, picture: np.ndarray, depth: np.ndarray, severity: float, frame: int
) -> np.ndarray:
    """Less light, more contrast loss in the shadows, a cold cast, and sensor noise."""
    rng.bit_generator.advance(frame << 40)  # the sensor's noise does not repeat
    cast = np.array([0.92, 0.97, 1.05])[:, None, None]
    light = (0.70 - 0.36 * severity) * cast
    dark = light * picture ** (1 + 0.3 * severity)
    noise = rng.normal(0, 0.005 + 0.01 * severity, picture.shape)
    return dark + noise


# Random numbers depend on the place in this list: a new one goes to its end.
DEGRADE = {"haze": haze, "rain": rain, "snow": snow, "blur": blur, "lowlight": lowlight}
KINDS = tuple(DEGRADE)
