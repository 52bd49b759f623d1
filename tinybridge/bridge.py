"""The method: three bridges from a degraded latent to the clean one, one loss, one sampler.

A flow model was trained on states (1 - t) x0 + t eps, t in [0, 1], to predict v = eps - x0, so
x0_hat = x - t v. Restoration walks from t0 (0.4), the noisy degraded latent, to t = 0, the clean
one, with that model frozen; a prompt inside `velocity` is all that is learned. The paper holds that
the states of training and of sampling must lie on one path. Every path here is one line,

    x_t = a(t) x0 + b(t) y + c(t) eps,        the model is told the noise level s(t),

with c = s and a + b = 1 - s, so that x_t is a state the model knows: (1 - s) mean + s noise.

Letters (arXiv 2604.04924): x0 clean latent, y degraded latent, eps unit noise, t flow time, v
velocity, x0_hat the estimate x - s v; B batch; latents are [B, ...] of any shape. This file knows
no model: `velocity(x [B, ...], s [B]) -> [B, ...]` is a function.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Time = Tensor | float
Velocity = Callable[[Tensor, Tensor], Tensor]  # states [B, ...] and noise levels [B] -> as states

# ---- the paths: t, t0 -> a, b, c, s ------------------------------------------------------------


class Coefficients(NamedTuple):
    """Of the state a x0 + b y + c eps, and the noise level s that the model is told; each as t."""

    a: Tensor
    b: Tensor
    c: Tensor
    s: Tensor


def flow(t: Time, t0: Time = 0.4) -> Coefficients:
    """The model's own path from noise to data; it does not know y."""
    t = torch.as_tensor(t)
    return Coefficients(1 - t, 0 * t, t, t)


def naive(t: Time, t0: Time = 0.4) -> Coefficients:
    """The noisy degraded latent at every t: never a bit of x0, which sampling walks towards."""
    t = torch.as_tensor(t)
    return Coefficients(0 * t, 1 - t, t, t)


def ddbm(t: Time, t0: Time = 0.4) -> Coefficients:
    """The denoising diffusion bridge (arXiv 2309.16948, eq. 8) with alpha = 1 - t, sigma = t.

    Its mean is (1-t)[(1-r) x0 + r y] with r = SNR(t0) / SNR(t), its deviation d = t sqrt(1-r);
    divided by (1-t) + d it is a state of the flow with s = d / ((1-t) + d). Noise vanishes at
    both ends: at t0 the state is y itself and the model, told s = 0, cannot correct it.
    """
    t = torch.as_tensor(t)
    q = (1 - t0) * t / (t0 * (1 - t))  # sqrt(r)
    u = (t0 - t) / (t0 * (1 - t)) * (1 + q)  # 1 - r = (1 - q)(1 + q), exactly 0 at t0
    d = t * u.clamp(min=0).sqrt()
    s = d / ((1 - t) + d)
    return Coefficients((1 - s) * u, (1 - s) * (1 - u), s, s)


def desired(t: Time, t0: Time = 0.4) -> Coefficients:
    """The paper's bridge: the mean moves from y to x0 while the noise is the flow's own."""
    t = torch.as_tensor(t)
    lam = t / t0
    return Coefficients((1 - t) * (1 - lam), (1 - t) * lam, t, t)


@dataclass(frozen=True)
class Bridge:
    """`coefficients(t, t0)` of the training states and `sampling(t, t0)` of the sampler's.

    t of any shape, t0 0.4 unless it is given.
    """

    name: str
    coefficients: Callable[..., Coefficients]
    sampling: Callable[..., Coefficients]


BRIDGES = {
    "naive": Bridge("naive", naive, flow),  # trained on states that sampling never visits
    "ddbm": Bridge("ddbm", ddbm, ddbm),
    "desired": Bridge("desired", desired, desired),
}


def find(name: str) -> Bridge:
    """The bridge of that name. ValueError for an unknown one."""
    if name not in BRIDGES:
        raise ValueError(f"bridge {name!r} is not known; choose {', '.join(BRIDGES)}")
    return BRIDGES[name]


# ---- training ----------------------------------------------------------------------------------


def draw_times(
    n: int,
    t0: float = 0.4,
    t_min: float = 1e-4,
    power: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """t = t_min + (t0 - t_min) u^power with u uniform in 0..1: [n] float32.

    power 1: all times alike; above 1: more of them near t_min, where the picture is nearly clean.
    """
    return t_min + (t0 - t_min) * torch.rand(n, generator=generator) ** power  # [n]


def corrupt(
    bridge: Bridge, x0: Tensor, y: Tensor, t: Tensor, eps: Tensor, t0: float = 0.4
) -> tuple[Tensor, Tensor]:
    """The training state x_t [B, ...] of times t [B] and its noise level s [B]."""
    at = bridge.coefficients(t, t0)  # [B] each
    a, b, c = (over(k.to(x0), x0) for k in (at.a, at.b, at.c))  # [B, 1, ...] each
    return a * x0 + b * y + c * eps, at.s.to(x0)


def over(k: Tensor, x: Tensor) -> Tensor:
    """Numbers k [B] of the samples of x [B, ...], shaped to be multiplied with it: [B, 1, ...]."""
    return k.view(-1, *[1] * (x.ndim - 1))


def loss(v: Tensor, x_t: Tensor, x0: Tensor, s: Tensor, kind: str = "x0") -> Tensor:
    """Mean squared error per sample, [B]; the paper publishes none, both kinds are our choice.

    "x0": of x0_hat = x_t - s v against x0. "velocity": of v against the velocity that leads to x0,
    which is the same divided by s^2 and weighs small s more (s not below 0.01, where ddbm's ends
    would divide by zero). ValueError for another kind.
    """
    if kind not in ("x0", "velocity"):
        raise ValueError(f"loss {kind!r} is not known; choose x0 or velocity")
    x0_hat = x_t - over(s, x_t) * v  # [B, ...]
    error = (x0_hat - x0).square().flatten(1).mean(1)  # [B]
    return error if kind == "x0" else error / s.clamp(min=0.01).square()


# ---- sampling ----------------------------------------------------------------------------------


def times(t0: float = 0.4, t_min: float = 1e-4, steps: int = 20) -> Tensor:
    """[steps] float64 from t0 down to t_min. ValueError unless 0 < t_min < t0 < 1, steps >= 1."""
    if steps < 1:
        raise ValueError(f"steps is {steps}: at least 1 is needed")
    if not 0 < t_min < t0 < 1:
        raise ValueError(f"t0 is {t0} and t_min {t_min}: 0 < t_min < t0 < 1 is needed")
    return torch.linspace(t0, t_min, steps, dtype=torch.float64)


def draw_noise(y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Unit noise as latents y [B, C, h, w], or of clips [B, C, t, h, w] frame after frame.

    So the noise of a clip's first frames does not depend on how many come after them.
    """
    frames = y.split(1, 2) if y.ndim == 5 else [y]
    noise = [torch.randn(frame.shape, generator=generator, dtype=y.dtype) for frame in frames]
    return (torch.cat(noise, 2) if y.ndim == 5 else noise[0]).to(y.device)


def start(bridge: Bridge, y: Tensor, noise: Tensor, t0: Time = 0.4) -> Tensor:
    """The state at t0, where restoration starts: y [B, ...] with the noise that it takes there."""
    at = bridge.coefficients(t0, t0)
    return at.b * y + at.c * noise


def step(
    bridge: Bridge, x: Tensor, x0_hat: Tensor, y: Tensor, noise: Tensor, t: Time,
    t_next: Time | None, t0: Time,
) -> Tensor:  # fmt: skip
    """From the state x [B, ...] at t, whose estimate is x0_hat, to that at t_next; None: x0_hat.

    The estimate gives the noise that the state must hold, eps_hat; the next state is put together
    from both with the next time's coefficients. noise: what the state was started with.
    """
    if t_next is None:
        return x0_hat
    now, then = bridge.sampling(t, t0), bridge.sampling(t_next, t0)
    # Where the state holds no noise (ddbm at t0) any draw fits it.
    eps_hat = (x - now.a * x0_hat - now.b * y) / now.c if now.c > 0 else noise
    # b y puts the degraded picture back, as much of it as a training state holds at t_next. On the
    # flow's own path, naive's, that is nothing: b = 0.
    return then.a * x0_hat + then.b * y + then.c * eps_hat


@torch.no_grad()
def sample(
    bridge: Bridge,
    velocity: Velocity,
    y: Tensor,
    steps: int = 20,
    t0: float = 0.4,
    t_min: float = 1e-4,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
    callback: Callable[[int, Tensor, Tensor, Tensor], object] | None = None,
) -> Tensor:
    """Restores y [B, ...] in `steps` calls of velocity; deterministic given the noise.

    For `desired` this is the authors' sampler, for `naive` the Euler method. noise: as y, None:
    drawn by `draw_noise`. progress: wraps the
    steps, tqdm for instance. callback(k, t, x, x0_hat): is shown every step, the state x at t and
    the estimate that the model makes of it. ValueError for times that cannot be, see `times`.
    """
    ts = times(t0, t_min, steps)
    if noise is None:
        noise = draw_noise(y, generator)
    x = start(bridge, y, noise, ts[0])
    for k in progress(range(steps)):
        s = bridge.sampling(ts[k], t0).s
        v = velocity(x, s.to(y).expand(len(y)))  # [B, ...]
        x0_hat = x - s * v
        if callback is not None:
            callback(k, ts[k], x, x0_hat)
        t_next = ts[k + 1] if k + 1 < steps else None
        x = step(bridge, x, x0_hat, y, noise, ts[k], t_next, t0)
    return x


# ---- what the model is told --------------------------------------------------------------------


def grid_flux(t: Tensor) -> Tensor:
    """t on the 1000-step grid of the authors' FLUX code: max(1, round(1000 t)) / 1000."""
    return (1000 * t).round().clamp(min=1) / 1000


def grid_wan(t: Tensor) -> Tensor:
    """t on the grid of the authors' WAN code: an integer of 0..999, here over 1000."""
    m = (t / 0.000999).round().clamp(min=1)
    return (0.999 * m).floor() / 1000
