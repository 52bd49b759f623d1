"""A clip of any length in bounded memory: every sampling step is a filter over its latent frames.

The model sees W latent frames at a time. Windows overlap, and a step takes the mean of their
velocities where they do, weighted by ramps, so that no border shows. What a step makes of a frame
is final once the last window over that frame has been seen. So the steps are generators in a
chain, each pulling frames from the one before: step k works in a window when step k - 1 has worked
in the next. They hold about steps x W latent frames, whatever the clip's length, and the result is
that of moving the whole clip step by step.

Letters: B batch (1 here), C h w latent, H W pixels, n frames, W latent frames of a window.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import torch
from torch import Tensor

from tinybridge import bridge as bridges


@dataclass
class Frame:
    """A latent frame on its way: state x, degraded y and unit noise, each [B, C, 1, h, w].

    v: the mean of its velocities in the windows seen so far, `weight` their weights' sum.
    """

    x: Tensor
    y: Tensor
    noise: Tensor
    v: Tensor | float = 0.0
    weight: float = 0.0


@dataclass(frozen=True)
class Windows:
    """Windows of `size` latent frames that begin at 0, h, 2h, ... with h = size - overlap."""

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

    @property
    def weights(self) -> list[int]:
        """Of a window's frames in the mean, up to one factor: rising over the overlap, falling."""
        ramp = range(1, self.size + 1)
        return [min(*pair, self.overlap + 1) for pair in zip(ramp, reversed(ramp), strict=True)]


def moved(
    frames: Iterator[Frame],
    velocity: Callable[[Tensor], Tensor],
    step: Callable[[Frame], Frame],
    windows: Windows,
    progress: Callable[[int], object],
) -> Iterator[Frame]:
    """One step as a filter: the same frames in their next states, each as soon as it is final.

    velocity: of states [B, C, W or fewer, h, w], as they; step: a frame to its next state, given
    its mean velocity. The last window may be shorter. progress: told how many frames are final.
    """
    held: list[Frame] = []
    while fresh := list(islice(frames, windows.size - len(held))):
        held += fresh
        v = velocity(torch.cat([frame.x for frame in held], 2))  # [B, C, n, h, w]
        for frame, part, weight in zip(held, v.split(1, 2), windows.weights, strict=False):
            frame.weight += weight
            frame.v = frame.v + (part - frame.v) * (weight / frame.weight)
        del fresh, frame, v, part  # or they stay alive while this waits to be pulled
        final = windows.size - windows.overlap if len(held) == windows.size else len(held)
        progress(final)
        for _ in range(final):
            yield step(held.pop(0))
    progress(len(held))  # a full window was the last
    while held:
        yield step(held.pop(0))


@torch.no_grad()
def walk(
    latents: Iterable[Tensor],
    velocity: Callable[[Tensor, Tensor], Tensor],
    bridge: bridges.Bridge,
    windows: Windows,
    steps: int = 20,
    t0: float = 0.4,
    seed: int = 42,
    progress: Callable[[float], object] = lambda frames: None,
) -> Iterator[Tensor]:
    """bridge.sample over a stream of latent frames y [B, C, 1, h, w] -> x0_hat, likewise.

    The noise is drawn frame by frame from one generator, so that it does not depend on windows.
    progress: told of latent frames done; in each of the steps a frame counts 1 / steps.
    """
    ts = bridges.times(t0, steps=steps)

    def begin() -> Iterator[Frame]:
        generator = torch.Generator().manual_seed(seed)
        for y in latents:
            noise = torch.randn(y.shape, generator=generator, dtype=y.dtype).to(y.device)
            yield Frame(bridges.start(bridge, y, noise, ts[0]), y, noise)

    def told(x: Tensor, t: Tensor) -> Tensor:
        return velocity(x, bridge.sampling(t, t0).s.to(x).expand(len(x)))

    def step(f: Frame, t: Tensor, t_next: Tensor | None) -> Frame:
        x = f.x - bridge.sampling(t, t0).s * f.v
        if t_next is not None:
            x = bridges.step(bridge, f.x, x, f.y, f.noise, t, t_next, t0)
        return Frame(x, f.y, f.noise)

    frames = begin()
    for t, t_next in zip(ts, [*ts[1:], None], strict=True):
        at, over = partial(told, t=t), partial(step, t=t, t_next=t_next)
        frames = moved(frames, at, over, windows, lambda n: progress(n / steps))
    for frame in frames:
        yield frame.x


@torch.no_grad()
def restore_stream(
    backbone,
    prompts: list,
    frames: Iterable[Tensor],
    bridge: str = "desired",
    steps: int = 20,
    t0: float = 0.4,
    seed: int = 42,
    window: int | None = None,
    overlap: int | None = None,
    progress: Callable[[float], object] = lambda frames: None,
) -> Iterator[Tensor]:
    """Restored frames [3, n, H, W] float32 in 0..1, on the CPU, as many as came in, lazily.

    frames [3, any, H, W] in 0..1 of one clip, in order. backbone: tinybridge.backbone.Backbone of
    a video model or what has its methods; prompts as in restoration.py. window and overlap are
    in frames, see Windows.of; None: the backbone's window. progress as in `walk`. ValueError for
    steps, t0, window or overlap that cannot be, KeyError for an unknown bridge.
    """
    path, ts = bridges.BRIDGES[bridge], bridges.times(t0, steps=steps)
    window = backbone.window if window is None else window
    windows = Windows.of(window, overlap, backbone.vae.time_stride)
    chunks = iter(frames)
    if (first := next(chunks, None)) is None:
        return
    size, seen, given = tuple(first.shape[2:]), 0, 0
    chunks = chain((first,), chunks)
    del first

    def counted() -> Iterator[Tensor]:
        nonlocal seen
        for chunk in chunks:
            seen += chunk.shape[1]
            yield chunk[None]  # [1, 3, n, H, W]

    exact = torch.promote_types(backbone.dtype, torch.float32)
    levels = path.sampling(ts, t0).s.to(exact)  # [steps]
    velocity = partial(backbone.velocity, prompt=backbone.prepare(prompts, levels))
    y = backbone.encode_stream(counted())  # [1, C, 1, h, w] each
    x0 = walk(y, velocity, path, windows, steps, t0, seed, progress)
    for pixels in backbone.decode_stream(x0, size):
        # Only the last latent frame may hold more than was seen: the encoder repeated the end.
        pixels = pixels[0, :, : seen - given].float().cpu()  # [3, n, H, W]
        given += pixels.shape[1]
        yield pixels
