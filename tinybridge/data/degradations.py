"""The paper's five degradations, of a picture whose depth is known, and of frames of a clip.

As the world's are: fog is thicker here than there and lit from one side, streaks and flakes hide
what is behind them, a defocused lens blurs by distance, a dark picture is lit unevenly and its
noise grows with the light that there is. So no gain, offset or convolution that is the same
everywhere undoes one of them. A sixth is a function here and a line of DEGRADE. Everything is a
function of the seed; pictures are float32 in 0..1, channels first; depth is 0 at the camera and 1
at the sky.

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


def uneven(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A smooth random field [H, W] in 0..1, the same at every size: five broad waves, added."""
    h, w = shape
    v, u = (np.mgrid[0:h, 0:w].astype(np.float32) + 0.5) / h  # [H, W] each
    total = np.zeros(shape, np.float32)
    for _ in range(5):
        angle = rng.uniform(0, 2 * np.pi)
        waves = rng.uniform(0.3, 1.6)  # from one side of the picture to the other
        along = u * np.cos(angle) + v * np.sin(angle)
        total += np.sin(2 * np.pi * (waves * along + rng.uniform()))
    return 1 / (1 + np.exp(-1.2 * total))


def lit(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A ramp [H, W] from -1 to 1 across the picture, in any direction: light from one side."""
    h, w = shape
    v, u = np.mgrid[0:h, 0:w].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    right = (u / max(w - 1, 1) - 0.5) * np.cos(angle)
    down = (v / max(h - 1, 1) - 0.5) * np.sin(angle)
    along = right + down
    return along / np.abs(along).max() if along.any() else along


def haze(
    rng: np.random.Generator, picture: np.ndarray, depth: np.ndarray, severity: float, frame: int
) -> np.ndarray:
    """Koschmieder's law: what is far fades into the airlight, more so where the fog is thick."""
    airlight = rng.uniform(0.70, 0.95) + rng.normal(0, 0.02, (3, 1, 1))
    airlight = airlight + 0.12 * lit(rng, depth.shape)  # [3, H, W]
    thick = 0.4 + 1.2 * uneven(rng, depth.shape)  # [H, W]
    density = (0.2 + 1.6 * severity) * thick
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
    """Streaks at one slant, in two distances, that hide what is behind; a veil hides the far."""
    h, w = depth.shape
    slant = rng.uniform(-0.5, 0.5)
    cover = 0.30 + 0.50 * severity
    bright = 0.75 + 0.15 * lit(rng, depth.shape)  # [H, W]: the sky's light in the drops
    thick = 0.5 * severity * uneven(rng, depth.shape) * depth  # [H, W]
    out = picture * (1 - 0.15 * severity)
    out = out * (1 - thick) + 0.65 * thick
    for reach in (0.10, 0.22):  # distant short drops, close long ones
        crowd = (0.006 + 0.024 * severity) * h * w
        drops = int(crowd * 0.12 / reach)
        lines = streaks(rng, (h, w), drops, max(2, round(reach * h)), slant)
        fallen = round(1.3 * reach * h * frame)  # a bit more than their length in every frame
        lines = np.roll(lines, (fallen, round(fallen * slant)), (0, 1))
        out = out + cover * lines * (bright - out)
    return out


def snow(
    rng: np.random.Generator, picture: np.ndarray, depth: np.ndarray, severity: float, frame: int
) -> np.ndarray:
    """Opaque flakes, near ones larger and paler at their edges, and a veil before the far."""
    h, w = depth.shape
    n = int(15 + 85 * severity)
    v, u = np.mgrid[0:h, 0:w].astype(np.float32) / h
    places = rng.uniform(0, 1, (2, n, 1, 1)).astype(np.float32)
    size = rng.uniform(0, 1, (n, 1, 1)).astype(np.float32)
    radius = 0.008 + 0.032 * size**2  # [N, 1, 1]
    sway = 0.01 * np.sin(400 * radius)
    down = (places[0] + (0.012 + radius) * frame) % 1  # near ones are faster
    right = (places[1] + sway * frame) % 1
    distance = np.hypot(u - right * w / h, v - down)  # [N, H, W]
    soft = 1 + 60 * np.maximum(radius - 0.02, 0) * h / 64  # near the camera: out of focus
    inside = (radius - distance) * h / soft  # [N, H, W]
    flakes = np.clip(inside + 0.5, 0, 1).max(0)  # [H, W]
    veil = 0.5 * severity * uneven(rng, depth.shape) * depth  # [H, W]
    bright = 0.88 + 0.09 * lit(rng, depth.shape)
    out = picture * (1 - veil) + 0.85 * veil
    return out + (0.75 + 0.25 * severity) * flakes * (bright - out)


def blur(
    rng: np.random.Generator, picture: np.ndarray, depth: np.ndarray, severity: float, frame: int
) -> np.ndarray:
    """Motion (a line, everywhere alike), or a lens focused near or far (a disc, by distance)."""
    h, w = depth.shape
    radius = (0.015 + 0.055 * severity) * h
    pad = int(np.ceil(2 * radius + 1))
    framed = np.pad(picture, ((0, 0), (pad, pad), (pad, pad)), mode="symmetric")
    H, W = framed.shape[1:]
    y = np.fft.fftfreq(H, 1 / H)[:, None]  # signed, 0 at the corner
    x = np.fft.fftfreq(W, 1 / W)

    def smeared(kernel: np.ndarray) -> np.ndarray:  # a product of spectra on the mirrored frame
        spectrum = np.fft.rfft2(kernel / kernel.sum()) * np.fft.rfft2(framed)
        return np.fft.irfft2(spectrum, s=(H, W))[:, pad : pad + h, pad : pad + w]

    if rng.random() < 0.5:
        angle = rng.uniform(0, np.pi)
        along = np.abs(x * np.cos(angle) + y * np.sin(angle))
        across = np.abs(y * np.cos(angle) - x * np.sin(angle))
        line = np.clip(2 * radius + 0.5 - along, 0, 1)
        return smeared(line * np.clip(1 - across, 0, 1))
    focus = rng.choice((0.1, 0.9))  # of what lies there nothing is lost
    share = np.clip(np.abs(depth - focus) / 0.7, 0, 1)  # [H, W] of the largest radius
    far = np.hypot(x, y)
    out = np.zeros_like(picture)
    for k, part in enumerate((0, 0.33, 0.67, 1)):  # between two neighbouring discs: their mixture
        disc = np.clip(part * radius + 0.5 - far, 0, 1)
        near = np.clip(1 - np.abs(3 * share - k), 0, 1)  # [H, W]
        out = out + near * smeared(disc)
    return out


def lowlight(
    rng: np.random.Generator, picture: np.ndarray, depth: np.ndarray, severity: float, frame: int
) -> np.ndarray:
    """Little light, from one side, of any cast; noise that grows with it; dark tones lost."""
    cast = 1 + rng.uniform(-0.10, 0.10, (3, 1, 1))
    light = (0.75 - 0.45 * severity) * (1 + 0.45 * lit(rng, depth.shape)) * cast  # [3, H, W]
    dark = light * picture ** (1 + 0.3 * severity)
    rng.bit_generator.advance(frame << 40)  # the sensor's noise does not repeat
    shot = 0.002 * severity * np.maximum(dark, 0)  # variance of the photons' count
    read = (0.003 + 0.007 * severity) ** 2
    noisy = dark + np.sqrt(shot + read) * rng.normal(0, 1, picture.shape)
    return np.maximum(noisy - 0.02 * severity, 0)  # the black level is set too high


# Random numbers depend on the place in this list: a new one goes to its end.
DEGRADE = {"haze": haze, "rain": rain, "snow": snow, "blur": blur, "lowlight": lowlight}
KINDS = tuple(DEGRADE)
