"""What is learned, from which states, and by which loss: one short loop for all experiments.

`fit` is training/loop.py without files, processes and looks on the way: the same random numbers,
the same optimiser, the same prompt. It takes any parameters and any velocity, so that a text row,
a summary vector or a low-rank change of the weights is learned as a prompt is.

Letters: B batch, N pairs, C h w latent; x0 clean, y degraded, eps noise, x_t state, v velocity.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from notebooks.experiments import table
from notebooks.experiments.lab import Lab, Latents
from notebooks.experiments.walks import SAMPLERS, Sampler, ebridge_readout, readout, walk
from tinybridge import bridge
from tinybridge.prompt import Prompt

# ---- what is trained on ------------------------------------------------------------------------


@dataclass(frozen=True)
class States:
    """Training states: a path's, at times t0 down to `low` t0, or at those of a walk of `calls`.

    visited: not the path's states, but those that such a walk with the prompt of now has come to.
    """

    path: Callable[..., bridge.Coefficients]
    low: float = 0.0
    readout: Callable[..., Tensor] = readout
    calls: int | None = None
    visited: bool = False


STATES = {
    "naive": States(bridge.naive),
    "late": States(bridge.naive, low=0.75),
    "t0": States(bridge.naive, low=1.0),
    "ddbm": States(bridge.ddbm),
    "desired": States(bridge.desired),
    "ebridge": States(bridge.desired, readout=ebridge_readout),
    "times": States(bridge.desired, calls=4),
    "visited": States(bridge.desired, calls=4, visited=True),
}


@dataclass(frozen=True)
class Recipe:
    """All that a learned prompt depends on besides the model. Names as in the tables.

    steps, pairs, rate: None: the budget's, the budget's, the tuned one. rows: of the residual that
    may differ from zero, None: all. gate: at the start.
    """

    kind: str
    seed: int
    states: str = "desired"
    loss: str = "x0"
    t0: float = 0.4
    rows: int | None = None
    gate: float = 1.0
    steps: int | None = None
    pairs: int | None = None
    rate: float | None = None


# ---- the loop ----------------------------------------------------------------------------------


def times(states: States, B: int, t0: float, generator: torch.Generator) -> Tensor:
    """The times of a batch, [B]."""
    if states.calls is None:
        return bridge.draw_times(B, t0, max(1e-4, states.low * t0), generator=generator)
    ts = bridge.times(t0, steps=states.calls).float()  # [calls]
    if states.visited:  # the walk of a batch stops at one time
        return ts[torch.randint(states.calls, (1,), generator=generator)].expand(B)
    return ts[torch.randint(states.calls, (B,), generator=generator)]


def losses(
    velocity: bridge.Velocity, states: States, loss: str, x0: Tensor, y: Tensor, t: Tensor,
    eps: Tensor, t0: float,
) -> Tensor:  # fmt: skip
    """The loss of every sample, [B]. x0, y, eps: [B, C, ...], t: [B]."""
    path = bridge.Bridge("", states.path, states.path)
    x_t, s = bridge.corrupt(path, x0, y, t, eps, t0)  # [B, C, ...], [B]
    if states.visited:
        x_t = visited(velocity, states, y, t, eps, t0)
    v = velocity(x_t, s)
    if states.readout is readout:
        return bridge.loss(v, x_t, x0, s, loss)
    x0_hat = states.readout(x_t, v, y, states.path(t, t0))
    return (x0_hat - x0).square().flatten(1).mean(1)


@torch.no_grad()
def visited(
    velocity: bridge.Velocity, states: States, y: Tensor, t: Tensor, eps: Tensor, t0: float
) -> Tensor:
    """The state at t [B], one value, that a walk of `states.calls` calls comes to, [B, C, ...]."""
    path = bridge.Bridge("", states.path, states.path)
    ts = bridge.times(t0, steps=states.calls)
    x = bridge.start(path, y, eps, ts[0]).to(y)
    for now, then in pairwise(ts):
        if now <= t[0] + 1e-6:
            break
        at = states.path(now, t0)
        v = velocity(x, at.s.to(y).expand(len(y)))
        x = bridge.step(path, x, readout(x, v, y, at), y, eps, now, then, t0).to(y)
    return x


def fit(
    lab: Lab,
    learned: dict[str, Tensor],
    velocity: bridge.Velocity,
    pairs: Latents,
    recipe: Recipe,
    rate: float,
    steps: int,
) -> list[float]:
    """Changes what is learned, by name, so that x0_hat comes near x0; the loss of every step.

    velocity(x, s) reads `learned`. The rate falls to 0 along half a cosine; gates learn at a fifth
    of it, as in training/loop.py.
    """
    groups = [{"params": [p], "slower": 5 if n == "gates" else 1} for n, p in learned.items()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    states = STATES[recipe.states]
    B = lab.budget.wan_batch if lab.wan else lab.budget.batch
    curve = []
    for step in range(steps):
        g = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        pick = torch.randint(len(pairs.x0), (B,), generator=g)  # [B]
        t = times(states, B, recipe.t0, g)  # [B]
        eps = torch.randn(B, *pairs.x0.shape[1:], generator=g)  # [B, C, ...]
        batch = pairs.x0[pick], pairs.y[pick], t, eps
        loss = losses(velocity, states, recipe.loss, *batch, recipe.t0).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned.values(), 1.0)
        for group in optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = rate * cosine / group["slower"]
        optimizer.step()
        curve.append(loss.item())
    return curve


# ---- prompts -----------------------------------------------------------------------------------

MIDDLE = {"flux": 0.15, "wan": 0.4}  # rates that the grid of rates.py lies around


def tuned(lab: Lab, what: str, middle: float) -> float:
    """The rate of lowest training loss in rates.csv; the grid's middle where nothing was tried."""
    rows = table.read(table.RESULTS / "rates.csv")
    rows = rows[(rows["backbone"] == lab.backbone.name) & (rows["what"] == what)]
    if rows.empty:
        return middle
    return float(rows.loc[rows["train_loss"].idxmin(), "rate"])


def rate_of(lab: Lab, recipe: Recipe) -> float:
    """What a prompt is learned with."""
    what = f"{recipe.states} {recipe.loss}"
    return recipe.rate or tuned(lab, what, MIDDLE[lab.backbone.name])


def few(pairs: Latents, count: int | None) -> Latents:
    """The first so many pairs; None: all."""
    return Latents(pairs.y[:count], pairs.x0[:count])


def learned(lab: Lab, recipe: Recipe) -> Prompt:
    """The prompt of a recipe: from the store, or learned and put there."""
    recipe = replace(recipe, rate=rate_of(lab, recipe), steps=recipe.steps or lab.budget.steps)
    told = json.dumps(asdict(recipe) | {"budget": asdict(lab.budget)})
    name = f"{recipe.kind}-{recipe.states}-{recipe.loss}-{recipe.seed}"
    file = lab.store / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:10]}.safetensors"
    if file.is_file():
        return Prompt.load(file)
    backbone, pairs = lab.backbone, few(lab.pairs(recipe.kind, recipe.seed), recipe.pairs)
    sizes = backbone.length, backbone.width, backbone.blocks
    prompt = Prompt.init(*sizes, recipe.seed, gate=recipe.gate)
    if recipe.rows is not None:
        shorten(prompt, recipe.rows)
    parts = dict(prompt.named_parameters())
    curve = fit(
        lab, parts, lambda x, s: backbone.velocity(x, s, prompt), pairs, recipe, recipe.rate,
        recipe.steps,
    )  # fmt: skip
    prompt.meta |= {"backbone": backbone.name, "bridge": "desired", "t0": str(recipe.t0)}
    prompt.meta |= {"recipe": told, "loss": str(late_mean(curve))}
    file.parent.mkdir(parents=True, exist_ok=True)
    prompt.save(file)
    return prompt


def late_mean(curve: list[float]) -> float:
    """The mean loss of the last third of the steps."""
    last = curve[-max(1, len(curve) // 3) :]
    return sum(last) / len(last)


def shorten(prompt: Prompt, rows: int) -> None:
    """From here on only the first `rows` rows are learned; those beyond are zero and stay so."""
    kept = (torch.arange(len(prompt.residual)) < rows)[:, None].to(prompt.residual)  # [L, 1]
    with torch.no_grad():
        prompt.residual.mul_(kept)
    prompt.residual.register_hook(lambda gradient: gradient * kept)


def velocity_of(lab: Lab, prompts: list[Prompt]) -> bridge.Velocity:
    """The frozen model's velocity under prompts, whose terms are computed once; none: alone."""
    terms = lab.backbone.prepare(prompts)
    return lambda x, s: lab.backbone.velocity(x, s, terms)


def restored(
    lab: Lab, velocity: bridge.Velocity, y: Tensor, sampler: str | Sampler, calls: int,
    seed: int = 0, t0: float = 0.4,
) -> Tensor:  # fmt: skip
    """Pixels [M, 3, ...] in 0..1 of degraded latents y [M, C, ...], with the noise of the seed."""
    sampler = SAMPLERS[sampler] if isinstance(sampler, str) else sampler
    noise = lab.noise(y, seed)
    return lab.decode(walk(sampler, velocity, y, noise, calls, t0)[-1])
