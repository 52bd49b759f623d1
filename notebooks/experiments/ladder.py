"""The ladder of spaces: how far into the model must what is learned reach?

Rungs from outside in: what T5 reads (tokens); what T5 says, kept to the length that its last norm
gives every row (sphere); the same rows free; CLIP's summary; P in the first block alone; P in all
of them. Equal budgets, one grid of rates. Sentences, where nothing is learned, are in words.py.
"""

from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from notebooks.experiments.lab import MEASURES, Budget, Lab, measured
from notebooks.experiments.learning import Recipe, fit, late_mean, restored, tuned
from tinybridge.backbone import Backbone, Contexts
from tinybridge.bridge import Velocity
from tinybridge.prompt import Prompt, Tokens

COLUMNS = {
    "ladder.csv": (
        *("degradation", "rung", "steps", "rate", "numbers", "row_norm", "train_loss"),
        *MEASURES,
    ),
}
MIDDLE = {"all": 0.15, "first": 0.5, "pooled": 0.5, "rows": 1.5, "sphere": 1.5, "tokens": 30.0}
SLOW = ("pooled", "rows", "sphere", "tokens")  # those that go on at 300 and 1,000 steps
Learned = dict[str, Tensor]


def jobs(budget: Budget, seed: int) -> list[dict]:
    """Keys: every rung on all kinds; on the first kind the slow ones go on, the long runs last."""
    found = []
    for kind in budget.kinds:
        key = {"degradation": kind, "seed": seed}
        found += [key | {"rung": rung, "steps": budget.steps} for rung in MIDDLE]
    if budget.name == "full":
        key = {"degradation": budget.kinds[0], "seed": seed}
        for steps in (300, 1000):
            found += [key | {"rung": rung, "steps": steps} for rung in SLOW]
    return found


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """One rung, learned for so many steps, walked with the desired sampler in 4 calls."""
    rung = key["rung"]
    recipe = Recipe(key["degradation"], key["seed"])
    rate = tuned(lab, "desired x0" if rung == "all" else f"rung {rung}", MIDDLE[rung])
    (velocity, learned, rows), curve = climb(lab, rung, recipe, rate, key["steps"])
    with torch.no_grad():
        norm = rows().norm(dim=-1).mean().item()
        held = lab.held_out(key["degradation"])
        pixels = restored(lab, velocity, held.y, "desired", lab.budget.calls[0], key["seed"])
    facts = {
        "rate": rate,
        "numbers": sum(part.numel() for part in learned.values()),
        "row_norm": round(norm, 2),
        "train_loss": round(late_mean(curve), 5),
    }
    return {"ladder.csv": [key | facts | measured(pixels, held.clean)]}


def climb(
    lab: Lab, rung: str, recipe: Recipe, rate: float, steps: int
) -> tuple[tuple, list[float]]:
    """A rung's velocity, what was learned, the text rows it is told; and the losses."""
    built = RUNGS[rung](lab.backbone, recipe.seed)
    velocity, learned, _ = built
    pairs = lab.pairs(recipe.kind, recipe.seed)
    return built, fit(lab, learned, velocity, pairs, recipe, rate, steps)


# ---- the rungs: velocity, what is learned, and text rows [1, L, Dc] as a function ----------------


def near(values: Tensor, seed: int) -> Tensor:
    """Where learning starts: a little apart from what the null prompt gives, as Tokens.init."""
    return nn.Parameter(Tokens.init(values, seed).tokens.detach())


def tokens(b: Backbone, seed: int) -> tuple[Velocity, Learned, object]:
    """Input embeddings of T5, [L, Dt]."""
    read = Tokens.init(b.null_embeddings(), seed)
    learned = {"tokens": read.tokens}
    return lambda x, s: b.velocity(x, s, read), learned, lambda: b.encode_tokens(read.tokens)


def sphere(b: Backbone, seed: int) -> tuple[Velocity, Learned, object]:
    """T5's output rows [L, Dc], each as long as the null prompt's."""
    raw = near(b.context[0], seed)
    length = b.context[0].norm(dim=1, keepdim=True)  # [L, 1]

    def told() -> Tensor:
        return (raw / raw.norm(dim=1, keepdim=True) * length)[None]  # [1, L, Dc]

    return lambda x, s: b.velocity(x, s, Contexts(told())), {"rows": raw}, told


def rows(b: Backbone, seed: int) -> tuple[Velocity, Learned, object]:
    """T5's output rows [L, Dc], of any length."""
    raw = near(b.context[0], seed)
    return lambda x, s: b.velocity(x, s, Contexts(raw[None])), {"rows": raw}, lambda: raw[None]


def pooled(b: Backbone, seed: int) -> tuple[Velocity, Learned, object]:
    """CLIP's summary [1, Dp], which shifts and scales every block."""
    summary = near(b.pooled, seed)
    told = replace(b, pooled=summary)
    return lambda x, s: told.velocity(x, s), {"summary": summary}, lambda: b.context


def first(b: Backbone, seed: int) -> tuple[Velocity, Learned, object]:
    """P [L, D] and one gate: the prompt enters the first block and no other."""
    prompt = Prompt.init(b.length, b.width, 1, seed)
    none = torch.zeros(b.blocks - 1)

    def velocity(x: Tensor, s: Tensor) -> Tensor:
        gates = torch.cat([prompt.gates, none])  # [n]
        return b.velocity(x, s, SimpleNamespace(residual=prompt.residual, gates=gates))

    return velocity, dict(prompt.named_parameters()), lambda: b.context


def everywhere(b: Backbone, seed: int) -> tuple[Velocity, Learned, object]:
    """P [L, D] and a gate for each block: the paper's prompt."""
    prompt = Prompt.init(b.length, b.width, b.blocks, seed)
    parts = dict(prompt.named_parameters())
    return lambda x, s: b.velocity(x, s, prompt), parts, lambda: b.context


RUNGS = {
    "tokens": tokens, "sphere": sphere, "rows": rows, "pooled": pooled, "first": first,
    "all": everywhere,
}  # fmt: skip
