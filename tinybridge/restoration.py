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


# ---- the machine -------------------------------------------------------------------------------


def pick_device(name: str) -> str:
    """The device that --device names, "auto": a GPU of CUDA if there is one, or else the CPU.

    ValueError in one line if this machine, or this build of PyTorch, has none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not found.get(name, True):
        raise ValueError(f"--device {name}: PyTorch finds none here; use --device cpu or auto")
    return name


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is too small, a GPU's or the machine's own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
