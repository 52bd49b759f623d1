"""The cross: training states x loss x sampler. Three things differ between the paper's bridges.

Naive, ddbm and desired are each trained on states of their own and walked on a path of their own;
here every prompt walks every path, so that what training gives and what sampling gives come apart.
The states `ebridge` are desired's, learned with E-Bridge's readout, and walk with it alone.
"""

from notebooks.experiments.lab import MEASURES, Budget, Lab, measured
from notebooks.experiments.learning import Recipe, learned, rate_of, restored, velocity_of
from notebooks.experiments.walks import SAMPLERS

COLUMNS = {
    "cross.csv": ("degradation", "states", "loss", "sampler", "calls", "rate", *MEASURES),
}
STATES, LOSSES = ("desired", "naive", "t0", "ddbm", "late"), ("x0", "velocity")


def jobs(budget: Budget, seed: int) -> list[dict]:
    """Keys: all samplers of a prompt belong to one job; 20 calls come later than 4."""
    found = []
    kinds = budget.kinds if budget.name == "full" else budget.two
    for calls in budget.calls:
        for kind in kinds:
            key = {"degradation": kind, "calls": calls, "seed": seed}
            found.append(key | {"states": "none", "loss": "-"})
            for loss in LOSSES:
                found += [key | {"states": states, "loss": loss} for states in STATES]
            found.append(key | {"states": "ebridge", "loss": "x0"})
    return found


def samplers(states: str, calls: int, few: int) -> list[str]:
    """Those that a prompt walks with; with many calls only the paper's three."""
    if states == "ebridge":
        return ["ebridge"]
    if states == "none":
        return ["euler", "desired"]
    return [name for name in SAMPLERS if name != "ebridge" or calls == few]


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """A row for each sampler; of no prompt also what was degraded."""
    held = lab.held_out(key["degradation"])
    seed, calls, rows, rate = key["seed"], key["calls"], [], 0.0
    if key["states"] == "none":
        velocity = velocity_of(lab, [])
        still = {"states": "degraded", "sampler": "-", "rate": 0.0}
        rows.append(key | still | measured(held.degraded, held.clean))
    else:
        recipe = Recipe(key["degradation"], seed, key["states"], key["loss"])
        velocity, rate = velocity_of(lab, [learned(lab, recipe)]), rate_of(lab, recipe)
    for name in samplers(key["states"], calls, lab.budget.calls[0]):
        pixels = restored(lab, velocity, held.y, name, calls, seed)
        rows.append(key | {"sampler": name, "rate": rate} | measured(pixels, held.clean))
    return {"cross.csv": rows}
