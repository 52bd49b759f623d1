"""Restoration: pixels -> latents -> bridge -> pixels; a picture or clip of any size.

`restore` takes a picture, a batch of them or of clips; `restore_stream` a clip as it comes, shot
by shot. A prompt brings the bridge, t0 and time grid that it was trained with. The noise is that
of the seed for every picture and shot, drawn latent frame by latent frame: nothing depends on
neighbours in a batch or on chunks, and both functions give the same. What is larger than the model
sees at once goes in windows, see windows.py.

Letters: B batch, C t h w latent, T H W pixels, n frames.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tinybridge import bridge as bridges
from tinybridge.metrics import cuts, shots
from tinybridge.prompt import agreed
from tinybridge.windows import AtOnce, Windows, out_of_memory, over_sides, sample_windows

TOGETHER = 2**20  # pixels of several pictures that go through the autoencoder at once
EXACT = 2**22  # pixels of a picture whose tiles give the autoencoder's untiled result
SIDE = 2  # places of a latent along a side of a token


def prepare(
    backbone: Any,
    prompts: Any,
    bridge: str | None,
    steps: int,
    t0: float | None,
    at_once: AtOnce,
) -> tuple[Any, bridges.Bridge, float, bridges.Velocity]:
    """Backbone, path, t0 and velocity, as the prompts were trained unless the caller says other.

    prompts: one, or several to be mixed; none: the frozen model alone, `desired` from t0 0.4.
    ValueError for prompts that differ in what they were trained with or do not fit the backbone,
    for steps, t0 or a size that cannot be, for an unknown bridge.
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
    velocity = mixed(backbone, prompts, levels, at_once)
    size = getattr(backbone, "size", None)
    if size:
        windows = Windows.of_side(size, backbone.stride)
        velocity = partial(in_windows, velocity, windows, at_once)
    return backbone, path, t0, velocity


def mixed(backbone: Any, prompts: list, levels: Tensor, at_once: AtOnce) -> bridges.Velocity:
    """The mean of the prompts' velocities; they run as one batch where memory is enough for it."""
    terms = [backbone.prepare(prompts, levels)]

    def velocity(x: Tensor, s: Tensor) -> Tensor:
        nonlocal terms
        while True:
            try:
                parts = [at_once(partial(backbone.velocity, prompt=t), x, s) for t in terms]
                return sum(parts) / len(parts)  # [B, C, ...]
            except (RuntimeError, MemoryError) as error:
                if len(terms) >= len(prompts) or not out_of_memory(error):
                    raise
            at_once.tell("out of memory: from here on one prompt after the other")
            terms = [backbone.prepare([prompt], levels) for prompt in prompts]

    return velocity


def in_windows(
    velocity: bridges.Velocity, windows: Windows, at_once: AtOnce, x: Tensor, s: Tensor
) -> Tensor:
    """The velocity at x [B, C, ..., h, w] of noise level s [B], which may be larger than a window.

    Several windows are one batch.
    """

    def function(part: Tensor) -> Tensor:
        return velocity(part, s.repeat(len(part) // len(s)))

    together = max(1, at_once.n // len(x))
    return over_sides(function, x, windows, (SIDE, SIDE), together)


def encode(backbone: Any, pixels: Tensor) -> Tensor:
    """Latents of pixels [B, 3, ..., H, W], like `backbone.encode`, of a picture of any size.

    Up to EXACT pixels tiles change nothing but rounding. Beyond, the maps between their stages
    would be too large: each tile is a picture of its own, and the latents are blended. The frames
    of a clip depend on those before, and stay whole.
    """
    if not beyond(backbone, pixels.shape):
        return backbone.encode(pixels)
    H, W = pixels.shape[-2:]
    stride = backbone.stride
    margins = (0, -W % stride, 0, -H % stride, 0, 0)[: 2 * pixels.ndim - 4]
    pixels = F.pad(pixels, margins, mode="replicate")
    tiles = Windows.of_side(backbone.tile, stride)
    return over_sides(backbone.encode, pixels, tiles, (stride, SIDE))  # [B, C, ..., h, w]


def decode(backbone: Any, latent: Tensor, size: tuple[int, ...]) -> Tensor:
    """Pixels of that size of a latent [B, C, ..., h, w], like `backbone.decode`; as `encode`."""
    if not beyond(backbone, (*latent.shape[:-2], *size[-2:])):
        return backbone.decode(latent, size)
    H, W = size[-2:]
    tiles = Windows.of_side(backbone.tile, backbone.stride)
    pixels = over_sides(backbone.decode, latent, tiles, (SIDE, backbone.stride))
    return pixels[..., :H, :W]  # [B, 3, ..., H, W]


def beyond(backbone: Any, shape: Sequence[int]) -> bool:
    """Whether a picture, or a clip of one frame, [B, ..., H, W], goes in tiles of its own."""
    H, W = shape[-2:]
    frames = shape[2] if backbone.video else 1
    return frames == 1 and H * W > EXACT and backbone.tile is not None


def only(stream: Iterator[Tensor]) -> tuple[Tensor | None, Iterator[Tensor]]:
    """The tensor of a stream that has but one, else None; and the same stream again."""
    first = list(islice(stream, 2))
    return first[0] if len(first) == 1 else None, chain(first, stream)


@torch.no_grad()
def restore(
    backbone: Any,
    prompts: Any,
    pictures: Any,
    bridge: str | None = None,
    steps: int = 20,
    t0: float | None = None,
    seed: int = 42,
    batch_size: int | AtOnce = 16,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Any:
    """Restored pictures or clips, of the kind and shape that came in.

    pictures: a PIL image, or float pixels [3, H, W] or [B, 3, H, W] in 0..1 on any device; of a
    video model [3, T, H, W] or [B, 3, T, H, W]. -> a PIL image, see `restore_image`, or float32 in
    0..1 on the CPU. backbone: a Backbone or what has its methods. prompts: one, several that are
    mixed by the mean of their velocities, or none; bridge, t0: None: theirs. batch_size: pictures
    or windows that go through the model together; fewer, with a warning, where memory is too small
    for them. progress wraps the steps. Pictures larger than the backbone's size are restored in
    windows, clips longer than its window or with a cut in them as by `restore_stream`. ValueError
    for other pixels, uint8 among them, and as `prepare`.
    """
    at_once = AtOnce.of(batch_size)
    again = partial(restore, bridge=bridge, steps=steps, t0=t0, seed=seed, progress=progress)
    again = partial(again, batch_size=at_once)
    if not isinstance(pictures, Tensor):
        return restore_image(pictures, partial(again, backbone, prompts))
    if pictures.ndim == 3 + backbone.video:
        return again(backbone, prompts, pictures[None])[0]
    done = []
    clips = list(pictures) if backbone.video and pictures.ndim == 5 else []
    if any(clip.shape[1] > backbone.window or cuts(clip) for clip in clips):
        stream = partial(restore_stream, bridge=bridge, steps=steps, t0=t0, seed=seed)
        for clip in progress(clips):
            frames = stream(backbone, prompts, clip, batch_size=at_once)
            done.append(torch.cat(list(frames), 1)[None])  # [1, 3, T, H, W]
        return torch.cat(done)
    backbone, path, t0, velocity = prepare(backbone, prompts, bridge, steps, t0, at_once)
    coded = max(1, min(at_once.n, TOGETHER // max(1, pictures[0, 0].numel())))
    coded_at_once = AtOnce(coded, at_once.tell)
    for batch in pictures.split(at_once.n):  # [B', 3, ..., H, W]
        y = coded_at_once(partial(encode, backbone), batch)  # [B', C, ..., h, w]
        noise = bridges.draw_noise(y[:1], torch.Generator().manual_seed(seed)).expand_as(y)
        x0 = bridges.sample(path, velocity, y, steps, t0, noise=noise, progress=progress)
        pixels = coded_at_once(partial(decode, backbone, size=tuple(batch.shape[2:])), x0)
        done.append(pixels.float().cpu())
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
    batch_size: int | AtOnce = 16,
) -> Iterator[Tensor]:
    """Restored frames [3, n, H, W] float32 in 0..1, on the CPU, as many as came in, lazily.

    frames: float chunks [3, any, H, W] in 0..1 of one clip, in order, or all of it. window and
    overlap in frames, see Windows.of; None: the backbone's window. A shot is a clip of its own, see
    metrics.shots; on_cut: told the frame that begins one. progress: see `sample_windows`. The rest
    and the errors: as `restore`.
    """
    at_once = AtOnce.of(batch_size)
    backbone, path, t0, velocity = prepare(backbone, prompts, bridge, steps, t0, at_once)
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
        photo, shot = only(counted(shot))
        large = photo is not None and beyond(backbone, photo.shape)
        # y and x0: [1, C, 1, h, w] each
        y = iter([encode(backbone, photo)]) if large else backbone.encode_stream(shot)
        x0 = sample_windows(y, velocity, path, windows, steps, t0, seed, progress)
        if large:
            decoded = (decode(backbone, latent, (1, H, W)) for latent in x0)
        else:
            decoded = backbone.decode_stream(x0)
        for pixels in decoded:  # [1, 3, 1 or 4, 8h, 8w]
            # A shot's last latent frame may hold more than was read: the encoder repeated its end.
            pixels = pixels[0, :, : read - given, :H, :W].float().cpu()
            given += pixels.shape[1]
            yield pixels
