"""Samplers: the paths to walk on, how x0 is read from the model's answer, what becomes of noise.

`walk` is bridge.sample with its inside open: it gives the estimate of every call, takes any path
with any prompt, and may keep the first noise or draw it afresh where bridge.py estimates it.

Letters: x0_hat estimates, y degraded latents, [B, C, ...] both.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tinybridge import bridge

NOISES = ("estimated", "kept", "fresh")


def readout(x: Tensor, v: Tensor, y: Tensor, at: bridge.Coefficients) -> Tensor:
    """x0_hat as bridge.py reads it: the model's own estimate of what is clean."""
    return x - bridge.over(at.s.to(x), x) * v


def ebridge_readout(x: Tensor, v: Tensor, y: Tensor, at: bridge.Coefficients) -> Tensor:
    """x0_hat as E-Bridge reads it (arXiv 2604.10983, its code: jinnh/E-Bridge), which knows y.

    Its velocity is eps - x0 of the state's own x0, so the part b y of the state is taken off first.
    """
    b, s = (bridge.over(k.to(x), x) for k in (at.b, at.s))
    return (x - b * y - s * v) / (1 - b)


@dataclass(frozen=True)
class Sampler:
    """A path to walk on, coefficients(t, t0), and how x0_hat is read on it."""

    path: Callable[..., bridge.Coefficients]
    readout: Callable[..., Tensor] = readout


SAMPLERS = {
    "euler": Sampler(bridge.flow),  # the flow's own path, which forgets y
    "ddbm": Sampler(bridge.ddbm),
    "desired": Sampler(bridge.desired),
    "ebridge": Sampler(bridge.desired, ebridge_readout),
}
OWN = {  # the sampler that the paper, or E-Bridge, pairs with the states that were trained on
    "naive": "euler", "late": "euler", "t0": "euler", "ddbm": "ddbm",
    "desired": "desired", "ebridge": "ebridge",
}  # fmt: skip


@torch.no_grad()
def walk(
    sampler: Sampler,
    velocity: bridge.Velocity,
    y: Tensor,
    noise: Tensor,
    calls: int,
    t0: float = 0.4,
    becomes: str = "estimated",
    seed: int = 0,
) -> list[Tensor]:
    """x0_hat of each of `calls` calls of the model; the last one is what is restored.

    noise: as y, which the walk starts with. becomes: what stands for the noise of the next state:
    `estimated` from this one, as in bridge.py; the first, `kept`; a `fresh` draw of `seed`.
    """
    path = bridge.Bridge("", sampler.path, sampler.path)
    generator = torch.Generator().manual_seed(seed)
    ts = bridge.times(t0, steps=calls)
    begin = bridge.naive if sampler.path is bridge.flow else sampler.path  # the flow has no y
    x = bridge.start(bridge.Bridge("", begin, sampler.path), y, noise, ts[0])
    estimates = []
    for k, t in enumerate(ts):
        at = sampler.path(t, t0)
        v = velocity(x, at.s.to(y).expand(len(y)))
        x0_hat = sampler.readout(x, v, y, at)
        estimates.append(x0_hat)
        if k + 1 == calls:
            break
        if becomes == "estimated":
            x = bridge.step(path, x, x0_hat, y, noise, t, ts[k + 1], t0)
            continue
        eps = noise if becomes == "kept" else bridge.draw_noise(y, generator)
        then = sampler.path(ts[k + 1], t0)
        x = then.a * x0_hat + then.b * y + then.c * eps
    return estimates
