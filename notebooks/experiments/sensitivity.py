"""What else matters: t0 for each degradation, the rows of the prompt, the gates' start."""

from notebooks.experiments.lab import MEASURES, Budget, Lab, measured
from notebooks.experiments.learning import Recipe, learned, rate_of, restored, velocity_of

COLUMNS = {
    "sensitivity.csv": ("what", "value", "degradation", "rate", *MEASURES),
}
T0S, GATES, SHARES = (0.2, 0.4, 0.6), (0.0, 0.5, 1.0), (0.05, 0.1, 0.25, 0.5, 1.0)


def jobs(budget: Budget, seed: int) -> list[dict]:
    """t0 for all kinds, the rest for one."""
    full, found = budget.name == "full", []
    for kind in budget.kinds:
        for t0 in T0S if full else T0S[:1]:
            found.append({"what": "t0", "value": t0, "degradation": kind, "seed": seed})
    for what, values in (("gate", GATES), ("rows", SHARES)):
        for value in values if full else values[:1]:
            found.append({"what": what, "value": value, "degradation": "haze", "seed": seed})
    return found


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """One prompt."""
    changes = {key["what"]: key["value"]}
    if key["what"] == "rows":
        changes["rows"] = max(1, round(key["value"] * lab.backbone.length))
    recipe = Recipe(key["degradation"], key["seed"], **changes)
    held = lab.held_out(key["degradation"])
    velocity = velocity_of(lab, [learned(lab, recipe)])
    calls = lab.budget.calls[0]
    pixels = restored(lab, velocity, held.y, "desired", calls, recipe.seed, recipe.t0)
    row = key | {"rate": rate_of(lab, recipe)} | measured(pixels, held.clean)
    return {"sensitivity.csv": [row]}
