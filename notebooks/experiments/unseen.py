"""Three degradations that no renderer of the pre-training has: colour cast, JPEG, missing pixels.

No prompt was learned for them; each of the five is tried, and none.
"""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from notebooks.experiments.lab import JUDGING, MEASURES, Budget, Lab, measured
from notebooks.experiments.learning import Recipe, learned, restored, velocity_of
from tinybridge.data import scenes

COLUMNS = {"unseen.csv": ("degradation", "prompt", *MEASURES)}


def cast(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A lamp's colour: every channel has a gain of its own."""
    return picture * rng.uniform(0.5, 1.0, (3, 1, 1))


def jpeg(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """JPEG at quality 5 to 15."""
    levels = (picture * 255).round().astype(np.uint8).transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=int(rng.integers(5, 16)))
    return np.asarray(Image.open(file)).transpose(2, 0, 1) / 255


def missing(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A tenth of the pixels is grey."""
    holes = rng.random(picture.shape[1:]) < 0.1  # [H, W]
    return np.where(holes, 0.5, picture)


UNSEEN = {"cast": cast, "jpeg": jpeg, "missing": missing}


def jobs(budget: Budget, seed: int) -> list[dict]:
    """One job a degradation."""
    return [{"degradation": kind, "seed": seed} for kind in UNSEEN]


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """Degraded, without a prompt, and with each of the five."""
    bad, clean = drawn(key["degradation"], max(2, lab.budget.scenes // 2))
    y = lab.encode(f"{key['degradation']}-{JUDGING}-{len(bad)}", bad)
    rows = [key | {"prompt": "degraded"} | measured(bad, clean)]
    prompts = {"none": []}
    for kind in lab.budget.kinds:
        prompts[kind] = [learned(lab, Recipe(kind, key["seed"]))]
    for name, asked in prompts.items():
        velocity = velocity_of(lab, asked)
        pixels = restored(lab, velocity, y, "desired", lab.budget.calls[0], key["seed"])
        rows.append(key | {"prompt": name} | measured(pixels, clean))
    return {"unseen.csv": rows}


def drawn(kind: str, count: int) -> tuple[Tensor, Tensor]:
    """Degraded and clean pictures, [count, 3, H, W] both."""
    bad, clean = [], []
    for seed in range(JUDGING, JUDGING + count):
        picture = scenes.scene(seed).picture
        spoilt = UNSEEN[kind](picture, np.random.default_rng([seed, 55]))
        bad.append(torch.from_numpy(spoilt.astype(np.float32)))
        clean.append(torch.from_numpy(picture))
    return torch.stack(bad), torch.stack(clean)
