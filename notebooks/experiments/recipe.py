"""What a default may be picked from: the cross at few calls on scenes to choose by.

The scenes of cross.csv are judged on and nothing else; whoever wants the best states, loss and
sampler looks here first, and then there.
"""

from notebooks.experiments import cross
from notebooks.experiments.lab import CHOOSING, MEASURES, Budget, Lab, measured
from notebooks.experiments.learning import Recipe, learned, rate_of, restored, velocity_of

COLUMNS = {
    "recipe.csv": ("degradation", "states", "loss", "sampler", "calls", "rate", *MEASURES),
}


def jobs(budget: Budget, seed: int) -> list[dict]:
    """Seed 0 alone."""
    if seed > 0:
        return []
    found = []
    for key in cross.jobs(budget, seed):
        few = key["calls"] == budget.calls[0]
        if few and key["states"] not in ("none", "ebridge"):
            found.append(key)
    return found


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """A row for each sampler."""
    held = lab.held_out(key["degradation"], CHOOSING)
    recipe = Recipe(key["degradation"], key["seed"], key["states"], key["loss"])
    velocity = velocity_of(lab, [learned(lab, recipe)])
    rate = rate_of(lab, recipe)
    rows = []
    for name in ("euler", "ddbm", "desired"):
        pixels = restored(lab, velocity, held.y, name, key["calls"], key["seed"])
        rows.append(key | {"sampler": name, "rate": rate} | measured(pixels, held.clean))
    return {"recipe.csv": rows}
