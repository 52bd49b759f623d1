"""One file restored with prompts, written beside nothing that it would replace, and measured.

`look` is told a file and its size (H, W) as soon as they are known; `options` go to restore or to
restore_stream.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from tinybridge.backbone import Backbone
from tinybridge.data import clips, container, formats, pictures
from tinybridge.data.jobs import Job, shown
from tinybridge.metrics import Score, format_cuts
from tinybridge.restoration import restore, restore_stream

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total} frames [{elapsed}<{remaining}]"
BRIEF = 2  # seconds; a picture that takes longer gets a bar of its own

Look = Callable[[Path, tuple[int, int]], None]


def frame_size(file: Path) -> tuple[int, int] | None:
    """(H, W) of a picture, or of a clip's frames as stored, by its header; None: unsaid."""
    try:
        if file.is_dir():
            file = pictures.pictures(file)[0]
        if file.suffix.lower() in container.MUXERS:
            with container.opened(file) as (_, track):
                return track.codec_context.height, track.codec_context.width
        with formats.opened(file) as image:
            return image.height, image.width
    except (ValueError, OSError):  # whoever restores it will tell
        return None


def timed(name: str, steps: Sequence[int]) -> Iterator[int]:
    """The steps with a bar; where they are slow a line says after the first how long they take."""
    began = time.perf_counter()
    for k, step in enumerate(tqdm(steps, name, delay=BRIEF, leave=False)):
        yield step
        seconds = time.perf_counter() - began
        left = len(steps) - 1
        if k == 0 and left and seconds > BRIEF:
            rest = tqdm.format_interval(left * seconds)
            tqdm.write(f"{name}: {seconds:.1f} s a step, {rest} for the {left} others")


def restore_picture(
    job: Job,
    backbone: Backbone,
    prompts: list,
    look: Look,
    most: int,
    **options: Any,
) -> None:
    """Restores a picture of up to `most` pixels."""
    try:
        degraded = pictures.read(job.file, most)
    except formats.TooLarge as error:
        raise ValueError(f"{error}: make it smaller, or set a larger --max-pixels") from None
    look(job.file, degraded.size)
    bar = partial(timed, job.file.name)
    pixels = restore(backbone, prompts, degraded.pixels[None], progress=bar, **options)[0]
    pictures.write(job.out, finite(job, pixels, "picture"), degraded)  # [3, H, W]
    if lost := pictures.not_kept(degraded, job.out):
        tqdm.write(f"{shown(job.file)}: not kept: {', '.join(lost)}")


def restore_clip(
    job: Job,
    backbone: Backbone,
    prompts: list,
    look: Look,
    **options: Any,
) -> None:
    """Restores a clip, which is never whole in memory."""
    clip = clips.open_clip(job.file)
    look(job.file, clip.size)
    for note in clip.notes:
        tqdm.write(note)
    with (
        tqdm(total=clip.frames, desc=job.out.name, bar_format=BAR, leave=False) as bar,
        clips.writer(job.out, clip) as out,
    ):
        # The first latent frame stands for one frame; with cuts there are some more than this.
        latents = 1 + -(-(clip.frames - 1) // backbone.vae.time_stride)

        def progress(latent_frames: float) -> None:
            bar.update(min(latent_frames * clip.frames / latents, bar.total - bar.n))

        cuts: list[int] = []
        options |= {"progress": progress, "on_cut": cuts.append}
        for chunk in restore_stream(backbone, prompts, clips.read(clip), **options):
            for frame in finite(job, chunk, "frame").unbind(1):  # [3, H, W]
                out.write(frame)
    if cuts:
        tqdm.write(f"{shown(job.file)}: {format_cuts(cuts)}: each shot is restored by itself")


def finite(job: Job, pixels: Tensor, kind: str) -> Tensor:
    """The pixels, or ValueError."""
    if not pixels.isfinite().all():
        raise ValueError(f"{job.file}: a restored {kind} is not finite; try --dtype float32")
    return pixels


def measure(job: Job, video: bool) -> dict[str, float]:
    """What the target says of the input and of the file that was written, which is read back.

    ValueError if input and target do not have one size, and length if they are clips.
    """
    files = job.file, job.out, job.target or job.file
    score = Score()
    if video:
        degraded, restored, clean = (clips.open_clip(file) for file in files)
        job.fit((*degraded.size, degraded.frames), (*clean.size, clean.frames))
        in_turn = clips.read(degraded), clips.in_time(restored, degraded), clips.read(clean)
        for frames in zip(*in_turn, strict=True):  # [3, 1, H, W] each
            score.add(*(frame[:, 0] for frame in frames))
    else:
        before, after, target = (pictures.read(file) for file in files)
        job.fit(before.size, target.size)
        score.add(before.pixels, after.pixels, target.pixels)
    return score.row()
