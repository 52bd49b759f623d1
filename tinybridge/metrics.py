"""PSNR and SSIM of pictures and clips in 0..1; how a clip changes, and where its shots begin.

Letters: B batch, C channels, T n frames, H W picture size, h w thumbnail size.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter

import torch
import torch.nn.functional as F
from torch import Tensor

EQUAL = 100.0  # dB that pictures without a difference count in a mean, which would be infinite


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, [B], of a and b [B, C, H, W] in 0..1; equal: infinite.

    Of clips [B, C, T, H, W] the mean over their frames, one that is equal counting EQUAL dB.
    """
    if a.ndim == 5:
        return over_frames(lambda one, two: psnr(one, two).clamp(max=EQUAL), a, b)
    return -10 * (a - b).double().square().flatten(1).mean(1).log10()  # [B]


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), [B], of a and b [B, C, H, W] in 0..1.

    Gaussian window 11x11 of deviation 1.5, K = 0.01 and 0.03, population covariance, averaged
    over the positions where the window fits and over channels. In pictures smaller than 11 the
    window shrinks to the largest odd size that fits. Of clips [B, C, T, H, W] the mean over frames.
    """
    if a.ndim == 5:
        return over_frames(ssim, a, b)
    size = min(11, *(side - 1 + side % 2 for side in a.shape[2:]))
    x = torch.arange(size, dtype=torch.float64, device=a.device) - size // 2
    g = (-0.5 * (x / 1.5).square()).exp()
    g = (g / g.sum())[None, None]  # [1, 1, size]
    C = a.shape[1]
    a, b = (k.double().flatten(0, 1)[:, None] for k in (a, b))  # [BC, 1, H, W]

    def mean(k: Tensor) -> Tensor:  # in the window: first down, then right
        return F.conv2d(F.conv2d(k, g[..., None]), g[:, :, None])

    ma, mb, aa, bb, ab = (mean(k) for k in (a, b, a * a, b * b, a * b))
    va, vb, cov = aa - ma * ma, bb - mb * mb, ab - ma * mb
    similarity = (2 * ma * mb + 0.01**2) * (2 * cov + 0.03**2)
    similarity = similarity / ((ma * ma + mb * mb + 0.01**2) * (va + vb + 0.03**2))
    return similarity.flatten(1).mean(1).unflatten(0, (-1, C)).mean(1)  # [B]


def over_frames(measure: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """The mean over frames, [B], of a measure of pictures, of clips a and b [B, C, T, H, W]."""
    pictures = (clip.transpose(1, 2).flatten(0, 1) for clip in (a, b))  # [BT, C, H, W] each
    return measure(*pictures).unflatten(0, (len(a), -1)).mean(1)  # [B]


def temporal_difference(clip: Tensor) -> Tensor:
    """Mean absolute difference of consecutive frames, [B], of clips [B, C, T > 1, H, W] in 0..1.

    It holds what moves and what flickers: compare it with the clean clip's, 0 is no aim.
    """
    return clip.double().diff(dim=2).abs().flatten(1).mean(1)  # [B]


def measures(pixels: Tensor, clean: Tensor) -> dict[str, float]:
    """Means over pictures or clips: psnr, ssim, and for clips `change` from frame to frame."""
    found = {
        "psnr": psnr(pixels, clean).clamp(max=EQUAL).mean().item(),
        "ssim": ssim(pixels, clean).mean().item(),
    }
    if pixels.ndim == 5 and pixels.shape[2] > 1:
        found["change"] = temporal_difference(pixels).mean().item()
    return found


class Score:
    """What clean frames say of degraded and restored ones, added up one by one.

    score = Score()
    for frames in zip(degraded, restored, clean, strict=True):
        score.add(*frames)
    score.row()  # {"psnr_degraded": 14.5, "ssim_degraded": 0.83, "psnr": 25.5, ...}
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, float] = {}
        self.last: dict[str, Tensor] = {}

    def add(self, degraded: Tensor, restored: Tensor, clean: Tensor) -> None:
        """One frame, [3, H, W] in 0..1 each. The restored one counts as a file holds it: in 8 bit.

        PSNR of a frame that is equal to its target is taken as EQUAL.
        """
        frames = {
            "_degraded": degraded.double(),
            "": (restored.double() * 255).round() / 255,
            "_clean": clean.double(),
        }
        clean = frames["_clean"][None]  # [1, 3, H, W]
        for of in ("_degraded", ""):
            self._count("psnr" + of, psnr(frames[of][None], clean).clamp(max=EQUAL).item())
            self._count("ssim" + of, ssim(frames[of][None], clean).item())
        if self.last:
            for of, frame in frames.items():
                self._count("change" + of, (frame - self.last[of]).abs().mean().item())
        self.last = frames
        self.count += 1

    def _count(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value

    def row(self) -> dict[str, float]:
        """Means over frames: psnr and ssim, before (_degraded) and after.

        Of several frames also the mean absolute change from one to the next, the clean clip's too.
        """
        row = {}
        for name, total in self.sums.items():
            steps = self.count - 1 if name.startswith("change") else self.count
            row[name] = total / steps
        return row


def mean_row(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of several rows of measures, of those that all of them have."""
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: sum(row[name] for row in rows) / len(rows) for name in shared}


def format_measures(row: dict[str, float]) -> str:
    """Measures in words: before, after, and of clips also the clean clip's own."""
    words = (
        f"PSNR {row['psnr_degraded']:.2f} -> {row['psnr']:.2f} dB, "
        f"SSIM {row['ssim_degraded']:.3f} -> {row['ssim']:.3f}"
    )
    if "change" in row:
        change = (row[f"change{of}"] for of in ("_degraded", "", "_clean"))
        words += ", change {:.4f} -> {:.4f} (clean {:.4f})".format(*change)
    return words


# ---- shots -------------------------------------------------------------------------------------

SIGHT = 4  # frames on either side that a cut is judged by: what is over sooner is no shot


def thumbnail(frame: Tensor) -> Tensor:
    """A frame [3, H, W] in at most 8x8 cells, [3, h, w]: rain, snow and noise average out."""
    H, W = frame.shape[-2:]
    return F.adaptive_avg_pool2d(frame.float(), (min(8, H), min(8, W))).cpu()


def begins_shot(thumbnails: Tensor, k: int) -> bool:
    """Whether frame k of a clip's thumbnails [n, 3, h, w] is the first one after a cut.

    Its change from the frame before must be 1.5 times any other change in sight: pans, rain and
    fades change alike all the time, a flash changes twice. It must be a fifth of the frames' own
    contrast, and half of it must stay as long as the eye sees: a flash that dies away does not.
    """
    first = max(0, k - SIGHT)
    seen, k = thumbnails[first : k + SIGHT], k - first
    changes = seen.diff(dim=0).abs().flatten(1).mean(1)  # [n - 1], of frame i + 1 from frame i
    jump = changes[k - 1]
    others = [*changes[: k - 1].tolist(), *changes[k:].tolist()]
    stays = (seen[k:] - seen[k - 1]).abs().flatten(1).mean(1).min()
    contrast = seen[k - 1 : k + 1].flatten(1).std(1).max().clamp(min=0.02)
    alone = jump >= 1.5 * max(others, default=0.0)
    return bool(alone and jump >= 0.2 * contrast and stays >= 0.5 * jump)


def cuts(clip: Tensor) -> list[int]:
    """The numbers of the frames of a clip [3, T, H, W] in 0..1 that begin a shot, but for 0."""
    small = torch.stack([thumbnail(frame) for frame in clip.unbind(1)])  # [T, 3, h, w]
    return [k for k in range(1, len(small)) if begins_shot(small, k)]


def format_cuts(frames: list[int]) -> str:
    """Cuts in words: how many, and where the first five are."""
    if len(frames) == 1:
        return f"1 scene cut (frame {frames[0]})"
    places = ", ".join(str(frame) for frame in frames[:5])
    more = ", ..." if len(frames) > 5 else ""
    return f"{len(frames)} scene cuts (frames {places}{more})"


def shots(clip: Tensor | Iterable[Tensor]) -> Iterator[tuple[int, Iterator[Tensor]]]:
    """The shots of a clip [3, T, H, W], or of its chunks; each has its frames [3, 1, H, W].

    With each comes the number of its first frame in the clip. Holds SIGHT frames. A shot's frames
    must be taken before the next shot is asked for.
    """
    chunks = [clip] if isinstance(clip, Tensor) else clip
    for first, marked in groupby(mark_shots(chunks), key=itemgetter(0)):
        yield first, (frame for _, frame in marked)


def mark_shots(chunks: Iterable[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Frames [3, 1, H, W], each with the number of the frame that its shot begins with."""
    held: list[Tensor] = []  # frames that wait for those after them
    small: list[Tensor] = []  # thumbnails of at most SIGHT frames before them, and of them
    number = first = 0  # of held[0], and of its shot

    def judged() -> tuple[int, Tensor]:
        nonlocal number, first
        k = len(small) - len(held)  # of held[0] in `small`
        if k > 0 and begins_shot(torch.stack(small), k):
            first = number
        if k == SIGHT:
            small.pop(0)
        number += 1
        return first, held.pop(0)

    for chunk in chunks:
        for frame in chunk.split(1, 1):  # [3, 1, H, W]
            held.append(frame)
            small.append(thumbnail(frame[:, 0]))
            if len(held) == SIGHT:
                yield judged()
    while held:
        yield judged()
