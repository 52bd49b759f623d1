"""PSNR and SSIM of pictures and clips in 0..1, and how much a clip changes from frame to frame.

Letters: B batch, C channels, T frames, H W picture size.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, [B], of a and b [B, C, H, W] in 0..1; equal: infinite.

    Of clips [B, C, T, H, W] the mean over their frames.
    """
    if a.ndim == 5:
        return over_frames(psnr, a, b)
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
    window = (g[:, None] * g / g.sum().square())[None, None]  # [1, 1, size, size]
    C = a.shape[1]
    a, b = (k.double().flatten(0, 1)[:, None] for k in (a, b))  # [BC, 1, H, W]

    ma, mb, aa, bb, ab = (F.conv2d(k, window) for k in (a, b, a * a, b * b, a * b))
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
    found = {"psnr": psnr(pixels, clean).mean().item(), "ssim": ssim(pixels, clean).mean().item()}
    if pixels.ndim == 5 and pixels.shape[2] > 1:
        found["change"] = temporal_difference(pixels).mean().item()
    return found
