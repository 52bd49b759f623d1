"""What must a model have seen? The same prompts on tiny FLUXes of other pre-trainings.

Whatever model lies below runs/tiny-flux-SEEN-STEPS/ is asked, the bundled one beside it. Those of
results/seen.csv were made by, for each SEEN of named, clean, unnamed, scrambled, without-haze,

    W=runs/tiny-flux-SEEN-600
    python -m tinybridge.tiny.make --seen SEEN --steps 600 --work $W --out $W/model

with the bundled model's autoencoder.pt put into $W before, so that all share one (14 minutes of a
busy core each); named and clean also for 300 steps, clean and scrambled for 3,600 as the bundled
one (an hour each).
"""

import re
from pathlib import Path

from notebooks.experiments.lab import MEASURES, ROOT, Budget, Lab, measured
from notebooks.experiments.learning import Recipe, learned, rate_of, restored, velocity_of
from tinybridge.tiny.make import RECIPES

COLUMNS = {
    "seen.csv": (
        *("seen", "pretraining", "degradation", "states", "loss", "sampler", "calls", "rate"),
        *MEASURES,
    ),
}
MODEL = "flux1-tiny.safetensors"
USUAL = RECIPES["flux"][3]  # steps of a whole pre-training


def folders(root: Path) -> list[Path]:
    """The models that lie below runs/, by name."""
    return sorted(file.parent for file in root.glob(f"runs/tiny-flux-*/**/{MODEL}"))


def described(folder: str) -> tuple[str, int]:
    """What a model has seen, and for how many steps, by its folder's name; "flux": bundled."""
    if folder == "flux":
        return "named", USUAL
    parts = Path(folder).parts
    work = next(part for part in parts if part.startswith("tiny-flux-"))
    seen = work.removeprefix("tiny-flux-")
    steps = re.search(r"-(\d+)$", parts[-1]) or re.search(r"-(\d+)$", seen)
    return re.sub(r"-\d+$", "", seen), int(steps[1]) if steps else USUAL


def jobs(budget: Budget, seed: int) -> list[dict]:
    """For every model and kind a job with a prompt and one without."""
    models = ["flux", *(str(folder.relative_to(ROOT)) for folder in folders(ROOT))]
    found = []
    for model in models if budget.name == "full" else models[:1]:
        seen, pretraining = described(model)
        about = {"backbone": model, "seen": seen, "pretraining": pretraining, "seed": seed}
        for kind in budget.kinds:
            key = about | {"degradation": kind}
            found.append(key | {"states": "none", "loss": "-"})
            found.append(key | {"states": "desired", "loss": "x0"})
    return found


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """Few calls of the desired sampler and of Euler's."""
    held = lab.held_out(key["degradation"])
    seed, calls = key["seed"], lab.budget.calls[0]
    prompts, rate, rows = [], 0.0, []
    if key["states"] == "none":
        still = {"states": "degraded", "sampler": "-", "calls": 0}
        rows.append(key | still | measured(held.degraded, held.clean))
    else:
        recipe = Recipe(key["degradation"], seed)
        prompts, rate = [learned(lab, recipe)], rate_of(lab, recipe)
    velocity = velocity_of(lab, prompts)
    for name in ("desired", "euler"):
        pixels = restored(lab, velocity, held.y, name, calls, seed)
        told = {"sampler": name, "calls": calls, "rate": rate}
        rows.append(key | told | measured(pixels, held.clean))
    return {"seen.csv": rows}
