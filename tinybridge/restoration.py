"""Restoration: pixels -> latents -> bridge -> pixels; a clip of any length in bounded memory.

`restore` takes a picture, a batch of them or of clips; `restore_stream` a clip as it comes, shot
by shot. A prompt brings the bridge, t0 and time grid that it was trained with. The noise is that
of the seed for every picture and shot, drawn latent frame by latent frame: nothing depends on
neighbours in a batch or on chunks, and both functions give the same.

Letters: B batch, C t h w latent, T H W pixels, n frames, W latent frames of a window.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tinybridge import bridge as bridges
from tinybridge.metrics import cuts, shots
from tinybridge.prompt import agreed


def prepare(
    backbone: Any, prompts: Any, bridge: str | None, steps: int, t0: float | None
) -> tuple[Any, bridges.Bridge, float, bridges.Velocity]:
    """Backbone, path, t0 and velocity, as the prompts were trained unless the caller says other.

    prompts: one, or several to be mixed; none: the frozen model alone, `desired` from t0 0.4.
    ValueError for prompts that differ in what they were trained with or do not fit the backbone,
    for steps or t0 that no path has, for an unknown bridge.
    """
    prompts = list(prompts) if isinstance(prompts, Sequence) else [prompts]
    trained_on, trained_t0 = "desired", 0.4
    if prompts:
        trained_on, trained_t0, grid, _ = agreed(prompts)
        backbone = copy(backbone)  # the caller's own stays as it is
        backbone.grid = grid
    path = bridges.find(bridge or trained_on)
    t0 = trained_t0 if t0 is None else t0
    exact = torch.promote_types(backbone.dtype, torch.float32)
    levels = path.sampling(bridges.times(t0, steps=steps), t0).s.to(exact)  # [steps]
    terms = backbone.prepare(prompts, levels)
    return backbone, path, t0, partial(backbone.velocity, prompt=terms)


@torch.no_grad()
def restore(
    backbone: Any,
    prompts: Any,
    pictures: Any,
    bridge: str | None = None,
    steps: int = 20,
    t0: float | None = None,
    seed: int = 42,
    batch_size: int = 16,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Any:
    """Restored pictures or clips, of the kind and shape that came in.

    pictures: a PIL image, or float pixels [3, H, W] or [B, 3, H, W] in 0..1 on any device; of a
    video model [3, T, H, W] or [B, 3, T, H, W]. -> a PIL image, see `restore_image`, or float32 in
    0..1 on the CPU. backbone: a Backbone or what has its methods. prompts: one, several that are
    mixed by the mean of their velocities, or none; bridge, t0: None: theirs. progress wraps the
    steps. Clips longer than the backbone's window or with a cut in them are restored as by
    `restore_stream`. ValueError for other pixels, uint8 among them, and as `prepare`.
    """
    again = partial(restore, bridge=bridge, steps=steps, t0=t0, seed=seed, progress=progress)
    if not isinstance(pictures, Tensor):
        return restore_image(pictures, partial(again, backbone, prompts))
    if pictures.ndim == 3 + backbone.video:
        return again(backbone, prompts, pictures[None])[0]
    done = []
    clips = list(pictures) if backbone.video and pictures.ndim == 5 else []
    if any(clip.shape[1] > backbone.window or cuts(clip) for clip in clips):
        for clip in progress(clips):
            frames = restore_stream(backbone, prompts, clip, bridge, steps, t0, seed)
            done.append(torch.cat(list(frames), 1)[None])  # [1, 3, T, H, W]
        return torch.cat(done)
    backbone, path, t0, velocity = prepare(backbone, prompts, bridge, steps, t0)
    for batch in pictures.split(batch_size):  # [B', 3, ..., H, W]
        y = backbone.encode(batch)  # [B', C, ..., h, w]
        noise = bridges.draw_noise(y[:1], torch.Generator().manual_seed(seed)).expand_as(y)
        x0 = bridges.sample(path, velocity, y, steps, t0, noise=noise, progress=progress)
        done.append(backbone.decode(x0, tuple(batch.shape[2:])).float().cpu())
    return torch.cat(done)


def restore_image(image: Any, restore: Callable[[Tensor], Tensor]) -> Any:
    """A PIL image through `restore` of pixels [3, H, W]: upright, RGB, or RGBA if it has alpha.

    The colour profile stays. ValueError for what is no image, or is not grey or RGB of 8 bit.
    """
    from PIL import Image, ImageOps  # here, so that tensors need no Pillow

    kind = image.mode if isinstance(image, Image.Image) else type(image).__name__
    if kind not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise ValueError(f"picture of kind {kind}: a tensor or an RGB, grey or P image is expected")
    image = ImageOps.exif_transpose(image)
    rgb = image.convert("RGB")
    levels = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    pixels = levels.view(rgb.height, rgb.width, 3).movedim(2, 0) / 255  # [3, H, W]
    levels = (restore(pixels) * 255).round().to(torch.uint8).movedim(0, 2)  # [H, W, 3]
    restored = Image.frombytes("RGB", rgb.size, levels.contiguous().numpy().tobytes())
    if image.has_transparency_data:
        restored.putalpha(image.convert("RGBA").getchannel("A"))
    if "icc_profile" in image.info and kind in ("P", "RGB", "RGBA"):  # a grey one would not fit
        restored.info["icc_profile"] = image.info["icc_profile"]
    return restored


# ---- clips of any length -------------------------------------------------------------------------
# The model sees W latent frames at a time. Windows overlap, and a step takes the mean of their
# velocities where they do, weighted by ramps, so that no border shows. With all of x, y and noise
# [B, C, n, h, w] in memory that is
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
        return [min(p + 1, self.size - p, self.overlap + 1) for p in range(self.size)]


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
                frame.weight += w
                frame.v = frame.v + (part - frame.v) * (w / frame.weight)
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


@torch.no_grad()
def restore_stream(
    backbone: Any,
    prompts: Any,
    frames: Iterable[Tensor],
    bridge: str | None = None,
    steps: int = 20,
    t0: float | None = None,
    seed: int = 42,
    window: int | None = None,
    overlap: int | None = None,
    progress: Callable[[float], object] = lambda frames: None,
    on_cut: Callable[[int], object] = lambda frame: None,
) -> Iterator[Tensor]:
    """Restored frames [3, n, H, W] float32 in 0..1, on the CPU, as many as came in, lazily.

    frames: float chunks [3, any, H, W] in 0..1 of one clip, in order, or all of it. window and
    overlap in frames, see Windows.of; None: the backbone's window. A shot is a clip of its own, see
    metrics.shots; on_cut: told the frame that begins one. progress: see `sample_windows`. The rest
    and the errors: as `restore`.
    """
    backbone, path, t0, velocity = prepare(backbone, prompts, bridge, steps, t0)
    window = backbone.window if window is None else window
    windows = Windows.of(window, overlap, backbone.vae.time_stride)
    read = given = H = W = 0  # frames so far, and their sides

    def counted(shot: Iterable[Tensor]) -> Iterator[Tensor]:
        nonlocal read, H, W
        for frame in shot:
            read += 1
            H, W = frame.shape[2:]
            yield frame[None]  # [1, 3, 1, H, W]

    for first, shot in shots(frames):
        if first > 0:
            on_cut(first)
        y = backbone.encode_stream(counted(shot))  # [1, C, 1, h, w] each
        x0 = sample_windows(y, velocity, path, windows, steps, t0, seed, progress)
        for pixels in backbone.decode_stream(x0):  # [1, 3, 1 or 4, 8h, 8w]
            # A shot's last latent frame may hold more than was read: the encoder repeated its end.
            pixels = pixels[0, :, : read - given, :H, :W].float().cpu()
            given += pixels.shape[1]
            yield pixels
