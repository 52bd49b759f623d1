"""One file restored into another, a picture or a clip, and what its clean target says of it.

Letters: H W size, n frames of a chunk.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from tinybridge.data import clips, pictures
from tinybridge.metrics import psnr, ssim
from tinybridge.restoration import restore
from tinybridge.stream import restore_stream

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total} frames [{elapsed}<{remaining}]"


class Job(NamedTuple):
    """What is restored, its clean target if there is one, and where the result goes."""

    file: Path
    goal: Path | None
    out: Path

    def check(self, mine: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        """ValueError unless (H, W), of a clip (H, W, frames), are those of the target."""
        if mine != wanted:
            form, both = "{1}x{0}", "size"
            if len(mine) > 2:
                form, both = "{1}x{0} with {2} frames", "size and length"
            raise ValueError(
                f"{self.file} is {form.format(*mine)} but its target {self.goal} is "
                f"{form.format(*wanted)}: both must have one {both}"
            )

    def finite(self, pixels: Tensor, kind: str) -> Tensor:
        """The pixels, or ValueError."""
        if not pixels.isfinite().all():
            raise ValueError(f"{self.file}: a restored {kind} is not finite; try --dtype float32")
        return pixels


def restore_picture(job: Job, backbone, prompts: list, **options: object) -> dict[str, float]:
    """Restores a picture; the measures, if it has a target. options: those of restore.restore.

    ValueError or OSError in one line for what cannot be read, restored or written.
    """
    shown, target = pictures.read(job.file), pictures.read(job.goal) if job.goal else None
    if target:
        job.check(shown.size, target.size)
    pixels = restore(backbone, prompts, shown.pixels[None], **options)[0]  # [3, H, W]
    pictures.write(job.out, job.finite(pixels, "picture"), shown)
    row: dict[str, float] = {}
    if target:
        list(judged([pixels[:, None]], [shown.pixels[:, None]], [target.pixels[:, None]], row))
    return row


def restore_clip(job: Job, backbone, prompts: list, **options: object) -> dict[str, float]:
    """Restores a clip, which is never whole in memory. options: those of stream.restore_stream."""
    shown, target = clips.open_clip(job.file), clips.open_clip(job.goal) if job.goal else None
    for note in shown.notes:
        tqdm.write(note)
    if target:
        job.check((*shown.size, shown.frames), (*target.size, target.frames))
    row: dict[str, float] = {}
    with tqdm(total=shown.frames, desc=job.out.name, bar_format=BAR, leave=False) as bar:

        def progress(latent_frames: float) -> None:
            # The last latent frame may stand for frames that the clip does not have.
            done = latent_frames * backbone.vae.time_stride
            bar.update(min(done, bar.total - bar.n))

        frames = restore_stream(backbone, prompts, clips.read(shown), progress=progress, **options)
        frames = (job.finite(chunk, "frame") for chunk in frames)
        if target:
            frames = judged(frames, clips.read(shown), clips.read(target), row)
        with clips.writer(job.out, shown) as out:
            for chunk in frames:
                for frame in chunk.unbind(1):  # [3, H, W]
                    out.write(frame)
    return row


def judged(
    restored: Iterable[Tensor], degraded: Iterable[Tensor], clean: Iterable[Tensor], row: dict
) -> Iterator[Tensor]:
    """Passes restored frames [3, n, H, W] on; leaves in `row` what the clean ones say of them.

    PSNR and SSIM, their means over frames, and of several frames the mean absolute change from
    one to the next, the clean clip's too. Restored pixels count as a file holds them: in 8 bit.
    """
    parts = degraded, restored, clean
    frames = ((f for chunk in part for f in chunk.unbind(1)) for part in parts)  # [3, H, W] each
    total, n, last = torch.zeros(7, dtype=torch.float64), 0, None
    for bad, mine, good in zip(*frames, strict=True):
        yield mine[:, None]
        now = torch.stack((bad, (mine * 255).round() / 255, good)).double()  # [3, 3, H, W]
        pairs = now[:2], now[[2, 2]]
        alike = torch.stack((psnr(*pairs), ssim(*pairs)), 1)  # [2, 2]: degraded, restored
        change = (now - (now if last is None else last)).abs().flatten(1).mean(1)  # [3]
        total += torch.cat((alike.flatten(), change))
        n, last = n + 1, now
    names = "psnr_degraded", "ssim_degraded", "psnr", "ssim"
    row |= zip(names, (total[:4] / n).tolist(), strict=True)
    if n > 1:
        names = "change_degraded", "change", "change_clean"
        row |= zip(names, (total[4:] / (n - 1)).tolist(), strict=True)
