"""More than a model takes at once: windows over frames and sides, batches in parts that fit.

A model sees a window: so many latent frames, so many tokens along each side. Windows overlap, and
a step takes the mean of their velocities where they do, weighted by ramps, so that no border shows.
`over_sides` has a whole picture in memory; `sample_windows` takes the frames of a clip as they
come. Both weigh by `Windows.weights` and average by `blend`, and one may stand inside the other:
ramps along three axes multiply.

Letters: B batch, C t h w latent, n frames, W latent frames of a window.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise, product

import torch
from torch import Tensor

from tinybridge import bridge as bridges


@dataclass(frozen=True)
class Windows:
    """Windows of `size` frames or tokens, of which neighbours share `overlap`."""

    size: int
    overlap: int

    @classmethod
    def of(cls, frames: int, overlap: int | None, time_stride: int) -> "Windows":
        """For a window and an overlap in frames of the clip; overlap None: a third of the window.

        A window of 1 + 4k frames is one of 1 + k latent frames. ValueError for what cannot be.
        """
        if frames < 1:
            raise ValueError(f"window is {frames} frames: at least 1 is needed")
        size = 1 + (frames - 1) // time_stride
        if overlap is None:
            return cls(size, min(size - 1, max(1, size // 3)))
        shared = -(-overlap // time_stride)
        if not 0 <= shared < size:
            needs = f"0 to {(size - 1) * time_stride} are possible"
            raise ValueError(f"overlap is {overlap} frames in a window of {frames}: {needs}")
        return cls(size, shared)

    @classmethod
    def of_side(cls, pixels: int, stride: int) -> "Windows":
        """Along a side, in tokens of `stride` pixels; a third is shared. ValueError below 2."""
        size = pixels // stride
        if size < 2:
            raise ValueError(f"size is {pixels} pixels: at least {2 * stride} are needed")
        return cls(size, -(-size // 3))

    @property
    def weights(self) -> list[int]:
        """Of a window's places in the mean, up to one factor: rising over the overlap, falling."""
        return [min(p + 1, self.size - p, self.overlap + 1) for p in range(self.size)]

    def starts(self, length: int) -> list[int]:
        """Where windows over `length` places begin, evenly: the overlap or more is shared."""
        room = length - self.size
        if room <= 0:
            return [0]
        gaps = -(-room // (self.size - self.overlap))
        return [room * k // gaps for k in range(gaps + 1)]


Weight = Tensor | float


def blend(mean: Weight, weight: Weight, part: Tensor, w: Weight) -> tuple[Tensor, Weight]:
    """A weighted mean with one more part in it, and its weight; exact where all parts agree."""
    weight = weight + w
    return mean + (part - mean) * (w / weight), weight


# ---- batches that fit --------------------------------------------------------------------------


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is too small, a GPU's or the machine's own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@dataclass
class AtOnce:
    """How many samples go through a network at once: halved for good when memory is too small."""

    n: int
    tell: Callable[[str], object] = warnings.warn  # is told so, in one line

    @classmethod
    def of(cls, n: "int | AtOnce") -> "AtOnce":
        return n if isinstance(n, AtOnce) else cls(n)

    def __call__(self, network: Callable[..., Tensor], *batch: Tensor) -> Tensor:
        """network(*batch), each [B, ...], in parts of `n` samples. Errors of a single one pass."""
        while True:
            parts = zip(*(rows.split(self.n) for rows in batch), strict=True)
            try:
                return torch.cat([network(*part) for part in parts])
            except (RuntimeError, MemoryError) as error:
                tried = min(self.n, len(batch[0]))
                if tried == 1 or not out_of_memory(error):
                    raise
            self.n = tried // 2
            self.tell(f"out of memory: from here on {self.n} at once instead of {tried}")


# ---- sides -------------------------------------------------------------------------------------


def over_sides(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    windows: Windows,
    cell: tuple[int, int],
    together: int = 1,
) -> Tensor:
    """function(x) of x [B, C, ..., H, W], in windows over H and W that are averaged.

    function: [nB, C, ..., k a, k b] -> [nB, C', ..., m a, m b] of `together` windows, or fewer, of
    a x b tokens. cell: k and m, the places of x and of the result along a side of a token; k
    divides H and W. Where one window is enough it is function(x) itself.
    """
    k, m = cell
    rows, columns = x.shape[-2] // k, x.shape[-1] // k
    height, width = min(rows, windows.size), min(columns, windows.size)  # of a window, in tokens
    corners = list(product(windows.starts(rows), windows.starts(columns)))
    if len(corners) == 1:
        return function(x)
    fine = Windows(m * windows.size, m * windows.overlap)
    ramp = torch.tensor(fine.weights, device=x.device) / (fine.overlap + 1)  # 0..1
    ramp = (torch.pi / 2 * ramp).sin().square()  # smooth at both ends, still 1 in sum
    w = ramp[: m * height, None] * ramp[: m * width]  # [m a, m b]
    mean = weight = None
    for first in range(0, len(corners), together):
        some = corners[first : first + together]
        seen = [
            x[..., k * i : k * (i + height), k * j : k * (j + width)] for i, j in some
        ]  # n of [B, C, ..., k a, k b]
        parts = function(torch.cat(seen)).split(len(x))  # n of [B, C', ..., m a, m b]
        for (i, j), part in zip(some, parts, strict=True):
            if mean is None:
                mean = part.new_zeros(*part.shape[:-2], m * rows, m * columns)
                weight = w.new_zeros(m * rows, m * columns)
            place = (..., slice(m * i, m * (i + height)), slice(m * j, m * (j + width)))
            mean[place], weight[place] = blend(mean[place], weight[place], part, w)
    return mean


# ---- frames ------------------------------------------------------------------------------------
# With all of x, y and noise [B, C, n, h, w] in memory, a clip in windows is
#
#     x = bridges.start(path, y, noise, ts[0])
#     for t, t_next in zip(ts, [*ts[1:], None]):
#         s = path.sampling(t, t0).s
#         v, total = torch.zeros_like(x), torch.zeros(n, 1, 1)
#         for first in range(0, max(1, n - overlap), W - overlap):
#             window = slice(first, first + W)
#             part = velocity(x[:, :, window], s)
#             w = torch.tensor([min(p + 1, W - p, overlap + 1) for p in range(part.shape[2])])
#             v[:, :, window] += w[:, None, None] * part
#             total[window] += w[:, None, None]
#         x0_hat = x - s * v / total
#         x = bridges.step(path, x, x0_hat, y, noise, t, t_next, t0)
#
# A frame's next state is final once the last window over it has been seen. So the steps stand in a
# row, and each is pushed what is final in the one before: step k works in a window while step k - 1
# is already in the next. They hold about steps x W frames, however long the clip.


@dataclass
class Frame:
    """A latent frame on its way: state x, degraded y and unit noise, each [B, C, 1, h, w]."""

    x: Tensor
    y: Tensor
    noise: Tensor
    v: Tensor | float = 0.0  # the mean of its velocities in the windows so far
    weight: float = 0.0  # the sum of their weights in it


@dataclass
class WindowStep:
    """One sampling step over a clip's latent frames, from t to t_next or, None, to x0_hat."""

    velocity: bridges.Velocity
    bridge: bridges.Bridge
    windows: Windows
    progress: Callable[[int], object]  # told how many frames are moved on
    t0: float
    t: Tensor
    t_next: Tensor | None
    held: list[Frame] = field(default_factory=list)
    fresh: int = 0  # how many of the held frames have been in no window yet

    def push(self, frames: list[Frame]) -> list[Frame]:
        """More frames of the clip; those that became final, moved on."""
        done = []
        for frame in frames:
            self.held.append(frame)
            self.fresh += 1
            if len(self.held) == self.windows.size:
                done += self.window(self.windows.size - self.windows.overlap)
        return done

    def window(self, final: int) -> list[Frame]:
        """A window over the held frames, unless all have been in one; the first `final`, moved."""
        s = self.bridge.sampling(self.t, self.t0).s
        if self.fresh:
            x = torch.cat([frame.x for frame in self.held], 2)  # [B, C, W or fewer, h, w]
            v = self.velocity(x, s.to(x).expand(len(x)))
            for frame, part, w in zip(self.held, v.split(1, 2), self.windows.weights, strict=False):
                frame.v, frame.weight = blend(frame.v, frame.weight, part, w)
            self.fresh = 0
        done, self.held = self.held[:final], self.held[final:]
        at = self.t, self.t_next, self.t0
        for frame in done:
            x, x0_hat = frame.x, frame.x - s * frame.v
            frame.x = bridges.step(self.bridge, x, x0_hat, frame.y, frame.noise, *at)
            frame.v, frame.weight = 0.0, 0.0
        self.progress(len(done))
        return done


@torch.no_grad()
def sample_windows(
    latents: Iterable[Tensor],
    velocity: bridges.Velocity,
    bridge: bridges.Bridge,
    windows: Windows,
    steps: int = 20,
    t0: float = 0.4,
    seed: int = 42,
    progress: Callable[[float], object] = lambda frames: None,
) -> Iterator[Tensor]:
    """bridge.sample over a stream of latent frames y [B, C, 1, h, w] -> x0_hat, likewise.

    progress: told of latent frames done, 1 / steps of one whenever a step is done with it.
    """
    ts = bridges.times(t0, steps=steps)
    of_step = (velocity, bridge, windows, lambda frames: progress(frames / steps), t0)
    row = [WindowStep(*of_step, t, t_next) for t, t_next in pairwise([*ts, None])]

    def through(frames: list[Frame], first: int) -> list[Frame]:
        for step in row[first:]:
            frames = step.push(frames)
        return frames

    generator = torch.Generator().manual_seed(seed)
    for y in latents:
        noise = bridges.draw_noise(y, generator)
        x = bridges.start(bridge, y, noise, ts[0])
        for frame in through([Frame(x, y, noise)], 0):
            yield frame.x
    for k, step in enumerate(row):  # the last window of each may be shorter
        for frame in through(step.window(len(step.held)), k + 1):
            yield frame.x
