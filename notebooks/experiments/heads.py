"""Against small heads, and how few pairs: is it the frozen prior that restores, or any few numbers?

Heads, each fitted to the same pairs: gain and offset of every colour of the pixels (6 numbers); one
3x3 convolution of the latent by ridge regression, in closed form; a change of rank 1 of the very
weights that P enters (LoRA); P. All inside and outside of the severities they learned.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from notebooks.experiments import analysis
from notebooks.experiments.lab import CHOOSING, MEASURES, Budget, Lab, Scenes, measured
from notebooks.experiments.learning import (
    Recipe,
    few,
    fit,
    learned,
    rate_of,
    restored,
    tuned,
    velocity_of,
)
from tinybridge.backbone import Backbone

COLUMNS = {
    "heads.csv": ("degradation", "head", "pairs", "severity", "numbers", "rate", *MEASURES),
}
LORA = 0.02  # the middle of the rates that rates.py tries
COUNTS = (512, 8, 1, 2, 4, 32, 128)
SEVERITIES = {"inside": None, "harsh": (1.0, 1.4)}  # those that were learned; beyond them
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, chosen on scenes to choose by


def jobs(budget: Budget, seed: int) -> list[dict]:
    """All pairs and eight of them for every kind; the curve for two."""
    found = []
    for count in COUNTS if budget.name == "full" else (4,):
        kinds = budget.kinds if count in (512, 8) else budget.two
        for kind in kinds:
            key = {"degradation": kind, "pairs": count, "seed": seed}
            found += [key | {"head": head} for head in ("colour", "convolution", "P")]
            if count in (512, 8, 4):
                found.append(key | {"head": "lora"})
    return found


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """One head, judged at all severities, and what was degraded beside the first of them."""
    restore, facts = fitted(lab, key)
    rows = []
    for severity, bounds in SEVERITIES.items():
        if bounds and key["pairs"] not in (512, 8, 4):
            continue
        held = lab.held_out(key["degradation"], severity=bounds)
        if key["head"] == "colour":
            still = {"head": "degraded", "severity": severity, "numbers": 0}
            rows.append(key | still | measured(held.degraded, held.clean))
        found = measured(restore(held), held.clean)
        rows.append(key | {"severity": severity} | facts | found)
    return {"heads.csv": rows}


def fitted(lab: Lab, key: dict) -> tuple:
    """A function from held-out scenes to restored pixels, and its numbers and rate."""
    kind, seed, count, head = (key[name] for name in ("degradation", "seed", "pairs", "head"))
    recipe = Recipe(kind, seed, pairs=None if count == lab.budget.pairs else count)
    calls = lab.budget.calls[0]
    if head == "colour":
        fit6 = analysis.colour_fit(*lab.draw(kind, seed * 5000, count))
        return lambda held: analysis.colour_apply(fit6, held.degraded), {"numbers": 6}
    if head == "convolution":
        kernel, penalty = best_ridge(lab, recipe)
        facts = {"numbers": kernel.numel(), "rate": penalty}
        return lambda held: lab.decode(analysis.ridge_apply(kernel, held.y)), facts
    if head == "P":
        prompt = learned(lab, recipe)
        velocity = velocity_of(lab, [prompt])
        facts = {"numbers": sum(p.numel() for p in prompt.parameters())}
        facts["rate"] = rate_of(lab, recipe)
        return lambda held: restored(lab, velocity, held.y, "desired", calls, seed), facts
    rate = tuned(lab, "head lora", LORA)
    change, _ = low_rank(lab, recipe, rate, lab.budget.steps)
    facts = {"numbers": sum(part.numel() for part in change.values()), "rate": rate}

    def by_lora(held: Scenes) -> Tensor:
        with changed(lab.backbone, change):
            return restored(lab, lab.backbone.velocity, held.y, "desired", calls, seed)

    return by_lora, facts


def best_ridge(lab: Lab, recipe: Recipe) -> tuple[Tensor, float]:
    """The convolution with the penalty that is best on scenes to choose by, and that penalty."""
    pairs = few(lab.pairs(recipe.kind, recipe.seed), recipe.pairs)
    held = lab.held_out(recipe.kind, CHOOSING)

    def error(kernel: Tensor) -> float:
        return (analysis.ridge_apply(kernel, held.y) - held.x0).square().mean().item()

    kernels = {penalty: analysis.ridge(pairs.y, pairs.x0, penalty) for penalty in PENALTIES}
    best = min(PENALTIES, key=lambda penalty: error(kernels[penalty]))
    return kernels[best], best


# ---- LoRA --------------------------------------------------------------------------------------


def places(b: Backbone) -> list[nn.Linear]:
    """The linears whose first 3D outputs are the q, k, v that P enters, of every block."""
    joint = [block.txt_attn.qkv for block in b.model.double_blocks]
    return joint + [block.linear1 for block in b.model.single_blocks]


@contextmanager
def changed(b: Backbone, change: dict[str, Tensor]) -> Iterator[None]:
    """W + out in^T for the q, k, v of every block: `in` [n, D], `out` [n, 3D]."""

    def add(
        inner: Tensor, outer: Tensor, module: nn.Module, inputs: tuple, result: Tensor
    ) -> Tensor:
        added = (inputs[0] @ inner)[..., None] * outer  # [B, S, 3D]
        rest = result.shape[-1] - added.shape[-1]
        return result + nn.functional.pad(added, (0, rest))

    hooks = []
    for k, place in enumerate(places(b)):
        hook = partial(add, change["in"][k], change["out"][k])
        hooks.append(place.register_forward_hook(hook))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def low_rank(
    lab: Lab, recipe: Recipe, rate: float, steps: int
) -> tuple[dict[str, Tensor], list[float]]:
    """What was learned, by name, and the losses. `out` starts at zero: nothing is changed yet."""
    b = lab.backbone
    generator = torch.Generator().manual_seed(recipe.seed)
    inner = torch.randn(b.blocks, b.width, generator=generator) / b.width**0.5
    change = {"in": nn.Parameter(inner), "out": nn.Parameter(torch.zeros(b.blocks, 3 * b.width))}
    pairs = few(lab.pairs(recipe.kind, recipe.seed), recipe.pairs)
    with changed(b, change):
        curve = fit(lab, change, lambda x, s: b.velocity(x, s), pairs, recipe, rate, steps)
    return change, curve
