"""Text space: sentences in words that the model has read, and guidance from one to another.

Whether words steer at all is asked in steering.py. Here are sentences that name clear weather,
alone and with the scene's own caption (more than anybody who restores would know), against nothing
and against the sentence that names the degradation. The best on training scenes is judged on the
others.
"""

from dataclasses import replace

import torch
from torch import Tensor

import weights
from notebooks.experiments.lab import JUDGING, MEASURES, Budget, Lab, measured
from notebooks.experiments.learning import restored
from tinybridge.bridge import Velocity
from tinybridge.data import scenes
from tinybridge.tiny.make import CLEAR, SAID

COLUMNS = {"words.csv": ("degradation", "set", "sentence", "against", "weight", *MEASURES)}
WEIGHTS = (2, 4, 8)  # of guidance; 1 would be the sentence alone


def jobs(budget: Budget, seed: int) -> list[dict]:
    """One job a degradation."""
    return [{"degradation": kind, "seed": seed} for kind in budget.two]


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """Rows of set `training` for all that was tried, then of set `judging` for the best two."""
    kind, seed = key["degradation"], key["seed"]
    count = max(2, lab.budget.scenes // 2)
    tried, rows = candidates(kind), []
    for sentence, against, weight in tried:
        told = {"sentence": sentence, "against": against, "weight": weight, "set": "training"}
        rows.append(key | told | judge(lab, key, told, seed * 5000, count))
    guided = [row for row in rows if row["weight"] > 1]
    alone = [row for row in rows if row["weight"] == 1 and row["sentence"]]
    names = ("sentence", "against", "weight")
    for found in (alone, guided):
        best = max(found, key=lambda row: row["psnr"])
        told = {name: best[name] for name in names} | {"set": "judging"}
        rows.append(key | told | judge(lab, key, told, None, None))
    return {"words.csv": rows}


def candidates(kind: str) -> list[tuple[str, str, int]]:
    """Sentence, what it is guided away from, weight; {} is the scene's own caption."""
    bad = SAID[kind][0]
    alone = [(said, "", 1) for said in ("", *CLEAR, bad, "{}", "clear, {}")]
    guided = []
    for weight in WEIGHTS:
        guided.append(("clear", "", weight))
        guided.append(("clear", bad, weight))
        guided.append(("clear, {}", f"{bad}, {{}}", weight))
    return alone + guided


def judge(lab: Lab, key: dict, told: dict, first: int | None, count: int | None) -> dict:
    """Measures of scenes restored with a sentence: from seed `first` on, None: to judge by."""
    places = {} if first is None else {"first": first, "count": count}
    held = lab.held_out(key["degradation"], **places)
    start = JUDGING if first is None else first
    captions = [scenes.scene(start + k).caption for k in range(len(held.y))]
    texts = [told["sentence"].format(c) for c in captions]
    others = [told["against"].format(c) for c in captions]
    velocity = guided_velocity(lab, texts, others, told["weight"])
    calls = lab.budget.calls[0]
    pixels = restored(lab, velocity, held.y, "desired", calls, key["seed"])
    found = measured(pixels, held.clean)
    if told["set"] == "training":
        found["psnr_each"] = ""
    return found


def guided_velocity(lab: Lab, texts: list[str], others: list[str], weight: float) -> Velocity:
    """v(other) + weight (v(text) - v(other)), a sentence of each kind for every sample."""
    one = telling(lab, texts)
    if weight == 1:
        return one
    other = telling(lab, others)

    def velocity(x: Tensor, s: Tensor) -> Tensor:
        base = other(x, s)
        return base + weight * (one(x, s) - base)

    return velocity


def telling(lab: Lab, texts: list[str]) -> Velocity:
    """The velocity of the model that is told a sentence for every sample."""
    different = list(dict.fromkeys(texts))
    models = dict(zip(different, weights.with_texts(lab.backbone, different), strict=True))
    context = torch.cat([models[text].context for text in texts])  # [M, L, Dc]
    pooled = torch.cat([models[text].pooled for text in texts])  # [M, Dp]
    told = replace(lab.backbone, context=context, pooled=pooled)
    return lambda x, s: told.velocity(x, s)
