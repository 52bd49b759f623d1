"""Do words steer the model at all? Pictures are drawn from noise, told one sky or another.

The warmth of a picture's upper third, mean red minus blue, is set beside that of drawn scenes whose
caption has the word. Text space (words.py) says nothing on a model that does not listen.
"""

import re

import torch
from torch import Tensor

from notebooks.experiments.lab import Budget, Lab
from notebooks.experiments.walks import SAMPLERS, walk
from notebooks.experiments.words import telling
from tinybridge.data import scenes

COLUMNS = {"steering.csv": ("said", "pictures", "warmth", "drawn_warmth")}


def jobs(budget: Budget, seed: int) -> list[dict]:
    """One."""
    return [{"seed": seed}]


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """A row for every word."""
    return {"steering.csv": [key | row for row in steering(lab, key["seed"])]}


def warmth(pixels: Tensor) -> Tensor:
    """Mean red minus blue of the upper third, [M], of pictures [M, 3, H, W]."""
    upper = pixels[:, :, : pixels.shape[2] // 3].mean((2, 3))  # [M, 3]
    return upper[:, 0] - upper[:, 2]


def steering(lab: Lab, seed: int) -> list[dict]:
    """For every word that captions have before "sky": the warmth of what is drawn with it."""
    many = 8 if lab.budget.name == "full" else 1
    seen: dict[str, list[float]] = {}
    captions: dict[str, str] = {}
    for number in range(200):
        scene = scenes.scene(number)
        word = re.search(r"(\w+) (?:sky|heaven)", scene.caption)[1]
        value = warmth(torch.from_numpy(scene.picture)[None]).item()
        seen.setdefault(word, []).append(value)
        captions.setdefault(word, scene.caption)
    usual = next(iter(captions.values()))
    rows = []
    for word, values in seen.items():
        said = re.sub(r"\w+ (?:sky|heaven)", f"{word} sky", usual)
        velocity = telling(lab, [said] * many)
        y = torch.zeros(many, *lab.pairs("haze", seed).y.shape[1:])
        noise = lab.noise(y, seed)
        drawn = walk(SAMPLERS["euler"], velocity, y, noise, lab.budget.calls[-1], 0.999)
        mean = warmth(lab.decode(drawn[-1])).mean().item()
        facts = {"said": word, "pictures": many, "warmth": round(mean, 4)}
        rows.append(facts | {"drawn_warmth": round(sum(values) / len(values), 4)})
    return rows
