"""One small grid of learning rates for whatever is learned, chosen on the training loss alone.

For states and losses, rungs of the ladder and heads alike: haze, a training seed of its own, few
steps; the rate whose loss over the last third of the steps is lowest is what the others use.
"""

from notebooks.experiments import heads, ladder
from notebooks.experiments.lab import Budget, Lab
from notebooks.experiments.learning import (
    MIDDLE,
    STATES,
    Recipe,
    fit,
    late_mean,
)
from tinybridge.prompt import Prompt

COLUMNS = {"rates.csv": ("what", "rate", "train_loss")}
SEED = 100  # whose pairs no other experiment learns from
PROMPT, OTHER = (1 / 3, 1.0, 3.0, 9.0), (0.1, 1 / 3, 1.0, 3.0, 10.0)  # times the middle of a grid
WAN = ("naive x0", "ddbm x0", "desired x0", "desired velocity", "rung tokens", "rung rows")


def grids(backbone: str) -> dict[str, list[float]]:
    """The rates to try for everything that is learned."""
    found = {}
    for states in STATES:
        for loss in ("x0", "velocity"):
            found[f"{states} {loss}"] = [factor * MIDDLE[backbone] for factor in PROMPT]
    del found["ebridge velocity"], found["times velocity"], found["visited velocity"]
    for rung, middle in ladder.MIDDLE.items():
        if rung == "all":  # which is desired x0
            continue
        found[f"rung {rung}"] = [factor * middle for factor in OTHER]
    found["head lora"] = [factor * heads.LORA for factor in OTHER]
    if backbone == "wan":
        return {what: rates for what, rates in found.items() if what in WAN}
    return found


def jobs(budget: Budget, backbone: str) -> list[dict]:
    """The keys of all rows."""
    found = []
    for what, rates in grids(backbone).items():
        for rate in rates if budget.name == "full" else rates[:1]:
            found.append({"what": what, "rate": float(f"{rate:.3g}")})
    return found


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """The training loss at one rate."""
    what, rate = key["what"], key["rate"]
    steps = lab.budget.rate_steps
    first, second = what.split()
    if first == "rung":
        recipe = Recipe("haze", SEED)
        curve = ladder.climb(lab, second, recipe, rate, steps)[1]
    elif first == "head":
        recipe = Recipe("haze", SEED)
        curve = heads.low_rank(lab, recipe, rate, steps)[1]
    else:
        recipe = Recipe("haze", SEED, states=first, loss=second)
        curve = prompt_curve(lab, recipe, rate, steps)
    return {"rates.csv": [key | {"train_loss": late_mean(curve)}]}


def prompt_curve(lab: Lab, recipe: Recipe, rate: float, steps: int) -> list[float]:
    """The losses of learning a prompt, which is thrown away."""
    b = lab.backbone
    prompt = Prompt.init(b.length, b.width, b.blocks, recipe.seed)
    parts = dict(prompt.named_parameters())
    pairs = lab.pairs(recipe.kind, recipe.seed)
    return fit(lab, parts, lambda x, s: b.velocity(x, s, prompt), pairs, recipe, rate, steps)
