"""One restoration: picture -> encode -> bridge -> decode -> picture, as train.py and sample.py do.

Clips that fit into one window go the same way, with frames as an axis before the sides; longer
ones are stream.py's job.

Letters: B batch, C h w latent, H W pixels, K prompts, T sampling steps.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from tinybridge import bridge as bridges


@torch.no_grad()
def restore(
    backbone,
    prompts: Sequence,
    pictures: Tensor,
    bridge: str = "desired",
    steps: int = 20,
    t0: float = 0.4,
    seed: int = 42,
    batch_size: int = 16,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tensor:
    """Restored pictures or clips [B, 3, ..., H, W] float32 in 0..1, on the CPU, of degraded ones.

    backbone: tinybridge.backbone.Backbone or what has its methods; prompts: K of them, mixed by
    the mean of their velocities, none: the frozen model alone, from the same noisy state. The
    noise of picture k is that of seed + k, whatever the batch. progress wraps the T steps.
    ValueError for steps or t0 that no path has, KeyError for an unknown bridge.
    """
    path = bridges.BRIDGES[bridge]
    levels = path.sampling(bridges.times(t0, steps=steps), t0).s  # [T]
    terms, done = None, []
    for first in range(0, len(pictures), batch_size):
        shown = pictures[first : first + batch_size]  # [B', 3, ..., H, W]
        y = backbone.encode(shown)  # [B', C, ..., h, w]
        if prompts and terms is None:
            terms = backbone.prepare(prompts, levels.to(y.dtype))
        generators = (torch.Generator().manual_seed(seed + first + k) for k in range(len(y)))
        noise = torch.stack(
            [torch.randn(y.shape[1:], generator=g, dtype=y.dtype) for g in generators]
        )
        x0 = bridges.sample(
            path,
            partial(backbone.velocity, prompt=terms),
            y,
            steps,
            t0,
            noise=noise.to(y.device),
            progress=progress,
        )
        done.append(backbone.decode(x0, tuple(shown.shape[2:])).float().cpu())
    return torch.cat(done)
