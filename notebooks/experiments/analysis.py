"""What is made of restored pictures and losses: closed forms, each tested against numbers by hand.

Letters: M scenes, K draws of noise, C channels, H W sides, h w latent sides, N samples, D features.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ---- differences -------------------------------------------------------------------------------


def numbers(text: str) -> list[float]:
    """The values of a column like psnr_each."""
    return [float(part) for part in text.split()]


def paired(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Mean of the differences of pairs and its standard error; NaN as the error of one pair."""
    a = torch.tensor(one, dtype=torch.float64)
    b = torch.tensor(other, dtype=torch.float64)
    d = a - b
    if len(d) < 2:
        return d.mean().item(), math.nan
    error = d.std() / math.sqrt(len(d))
    return d.mean().item(), error.item()


def bias_variance(restored: Tensor, clean: Tensor) -> dict[str, float]:
    """Squared errors of pictures from K draws of noise [K, M, C, H, W], clean [M, C, H, W].

    error: of a draw; variance: of a draw around the mean over all draws; bias: of that mean.
    Unbiased in K, so that error = bias + variance and no number of draws is favoured.
    """
    K = len(restored)
    error = (restored - clean).square().mean()
    variance = restored.var(0).mean() if K > 1 else torch.zeros(())
    return {
        "error": error.item(),
        "bias": (error - variance).item(),
        "variance": variance.item(),
    }


def share_left(x0_hat: Tensor, x0: Tensor, y: Tensor) -> float:
    """How much of y - x0 is left in x0_hat, by least squares; [M, C, ...] all. 1: all of it."""
    gap = y - x0
    along = (x0_hat - x0) * gap
    share = along.sum() / gap.square().sum()
    return share.item()


# ---- pictures ----------------------------------------------------------------------------------


def gradient_energy(pixels: Tensor) -> Tensor:
    """Sum of squared differences of neighbours, [M], of [M, ..., H, W]."""
    down = pixels.diff(dim=-2).square().flatten(1).sum(1)
    right = pixels.diff(dim=-1).square().flatten(1).sum(1)
    return down + right


def sharpness(pixels: Tensor, clean: Tensor) -> float:
    """Gradient energy of all pictures over that of the clean ones."""
    return (gradient_energy(pixels).sum() / gradient_energy(clean).sum()).item()


def gmsd(pixels: Tensor, clean: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation (Xue et al. 2014), [M], of [M, 3, H, W] in 0..1.

    Prewitt gradients of the grey picture at half the size, c = 170 of 255^2; 0: the same gradients,
    more: worse.
    """
    one = gradients(pixels)  # [M, H/2, W/2]
    two = gradients(clean)
    similarity = (2 * one * two + 170) / (one.square() + two.square() + 170)
    return similarity.flatten(1).std(1, unbiased=False)


def gradients(pixels: Tensor) -> Tensor:
    """Magnitudes of the Prewitt gradients of grey pictures at half the size, [M, H/2, W/2]."""
    prewitt = torch.tensor([1.0, 0.0, -1.0]).expand(3, 3) / 3
    kernels = torch.stack([prewitt, prewitt.T])
    weights = torch.tensor([0.299, 0.587, 0.114])
    grey = torch.einsum("mchw,c->mhw", pixels, weights) * 255
    small = F.avg_pool2d(grey[:, None], 2)  # [M, 1, H/2, W/2]
    both = F.conv2d(small, kernels[:, None], padding=1)  # [M, 2, H/2, W/2]
    return both.square().sum(1).sqrt()


# ---- distributions -----------------------------------------------------------------------------


def frechet(one: Tensor, two: Tensor) -> float:
    """Frechet distance of the Gaussians that fit features [N, D] and [N', D], float64 inside."""
    one, two = one.double(), two.double()
    apart = one.mean(0) - two.mean(0)
    a = torch.cov(one.T)  # [D, D]
    b = torch.cov(two.T)
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    both = torch.linalg.eigvalsh(root @ b @ root)
    cross = both.clamp(min=0).sqrt().sum()
    total = apart.square().sum() + a.trace() + b.trace()
    return (total - 2 * cross).item()


def two_sample_accuracy(one: Tensor, two: Tensor, seed: int = 0, steps: int = 150) -> float:
    """How often a small network tells pictures `one` from `two`, [N, 3, H, W] both; 0.5: never.

    Learned on the first halves with shifts and mirrors, judged on the second ones. The pictures of
    the two must not show the same scenes.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    one = one * 2 - 1
    two = two * 2 - 1
    half = len(one) // 2
    x = torch.cat([one[:half], two[:half]])  # [2 half, 3, H, W]
    label = torch.arange(2).repeat_interleave(half).float()
    network = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 1),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(steps):
        pick = torch.randint(len(x), (32,), generator=generator)
        shift = torch.randint(-8, 9, (2,), generator=generator).tolist()
        batch = x[pick].roll(shift, (2, 3))
        if torch.rand((), generator=generator) < 0.5:
            batch = batch.flip(3)
        loss = F.binary_cross_entropy_with_logits(network(batch)[:, 0], label[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        of_one = (network(one[half:]) < 0).float().mean()
        of_two = (network(two[half:]) > 0).float().mean()
    return ((of_one + of_two) / 2).item()


# ---- linear heads ------------------------------------------------------------------------------


def colour_fit(degraded: Tensor, clean: Tensor) -> Tensor:
    """Gain and offset of each channel, [3, 2], least squares of pixels [N, 3, H, W]: 6 numbers."""
    fits = []
    for channel in range(3):
        x = degraded[:, channel].double()  # [N, H, W]; a million pixels are too many for float32
        target = clean[:, channel].double()
        together = (x * target).mean() - x.mean() * target.mean()
        gain = together / x.var(correction=0)
        fits.append(torch.stack([gain, target.mean() - gain * x.mean()]))
    return torch.stack(fits).to(degraded)


def colour_apply(fit: Tensor, degraded: Tensor) -> Tensor:
    """Pixels [M, 3, H, W] with the gains and offsets of `fit`, cut to 0..1."""
    gain, offset = fit[:, :, None, None].unbind(1)  # [3, 1, 1] both
    return (degraded * gain + offset).clamp(0, 1)


def patches(latents: Tensor) -> Tensor:
    """3x3 neighbourhoods of latents [N, C, h, w], edges repeated, and a one: [N h w, 9C + 1]."""
    framed = F.pad(latents, (1, 1, 1, 1), mode="replicate")
    rows = F.unfold(framed, 3).transpose(1, 2).flatten(0, 1)  # [N h w, 9C]
    return torch.cat([rows, torch.ones(len(rows), 1)], 1)


def ridge(y: Tensor, x0: Tensor, penalty: float) -> Tensor:
    """The 3x3 convolution [9C + 1, C] that adds to y what brings it nearest to x0, [N, C, h, w].

    Least squares with `penalty` times the squared weights per row, but for the offset: a large one
    leaves y as it is.
    """
    rows = patches(y).double()
    target = (x0 - y).movedim(1, 3).flatten(0, 2).double()  # [N h w, C]
    weight = torch.full((rows.shape[1],), penalty * len(rows), dtype=torch.float64)
    weight[-1] = 0
    left = rows.T @ rows + torch.diag(weight)
    right = rows.T @ target
    solved = torch.linalg.lstsq(left, right)
    return solved.solution.to(y)


def ridge_apply(kernel: Tensor, y: Tensor) -> Tensor:
    """Latents y [M, C, h, w] with the convolution's correction added."""
    added = patches(y) @ kernel  # [M h w, C]
    return y + added.unflatten(0, (len(y), *y.shape[2:])).movedim(3, 1)
