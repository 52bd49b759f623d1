"""More than PSNR: sharpness, gradients, and whether restored scenes look like clean ones at all.

Two of the measures know the clean scene of each restored one: gradient energy, and the gradient
magnitude similarity deviation. Two do not: the Frechet distance of latents to those of other, fresh
clean scenes, and how often a small classifier tells the two apart. None needs a download.
"""

import torch
from torch import Tensor

from notebooks.experiments import analysis
from notebooks.experiments.lab import JUDGING, Budget, Lab, Scenes
from notebooks.experiments.learning import Recipe, learned, restored, velocity_of
from tinybridge.data import scenes
from tinybridge.metrics import psnr, ssim

COLUMNS = {
    "perception.csv": (
        *("degradation", "states", "loss", "sampler", "calls"),
        *("psnr", "ssim", "gmsd", "sharpness", "frechet", "accuracy", "scenes"),
    ),
}
RUNS = [  # states, loss, sampler, calls
    ("degraded", "-", "-", 0),
    ("clean", "-", "-", 0),
    ("autoencoder", "-", "-", 0),
    ("none", "-", "desired", 4),
    ("desired", "x0", "desired", 1),
    ("desired", "x0", "desired", 4),
    ("desired", "x0", "desired", 20),
    ("desired", "x0", "euler", 4),
    ("desired", "velocity", "desired", 4),
    ("t0", "x0", "euler", 4),
    ("naive", "x0", "euler", 4),
    ("ddbm", "x0", "ddbm", 20),
]
FRESH = JUDGING + 10_000  # clean scenes that nothing is restored of


def jobs(budget: Budget, seed: int) -> list[dict]:
    """A job for each way of restoring."""
    names = ("states", "loss", "sampler", "calls")
    runs = RUNS if budget.name == "full" else RUNS[:5]
    return [
        {"degradation": kind, "seed": seed} | dict(zip(names, run, strict=True))
        for kind in budget.two
        for run in runs
    ]


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """One row."""
    many = lab.budget.many
    held = lab.held_out(key["degradation"], count=many)
    fresh = torch.stack([picture(FRESH + k) for k in range(many)])
    pixels = shown(lab, key, held)
    found = {
        "psnr": psnr(pixels, held.clean).clamp(max=100).mean().item(),
        "ssim": ssim(pixels, held.clean).mean().item(),
        "gmsd": analysis.gmsd(pixels, held.clean).mean().item(),
        "sharpness": analysis.sharpness(pixels, held.clean),
        "frechet": analysis.frechet(features(lab, pixels), features(lab, fresh)),
        "accuracy": accuracy(pixels, fresh, lab, key["seed"]),
    }
    rounded = {name: round(value, 4) for name, value in found.items()}
    return {"perception.csv": [key | rounded | {"scenes": many}]}


def shown(lab: Lab, key: dict, held: Scenes) -> Tensor:
    """The pictures to judge, [M, 3, H, W]."""
    if key["states"] == "degraded":
        return held.degraded
    if key["states"] == "clean":
        return held.clean
    if key["states"] == "autoencoder":
        return lab.decode(held.x0)
    prompts = []
    if key["states"] != "none":
        recipe = Recipe(key["degradation"], key["seed"], key["states"], key["loss"])
        prompts = [learned(lab, recipe)]
    velocity = velocity_of(lab, prompts)
    return restored(lab, velocity, held.y, key["sampler"], key["calls"], key["seed"])


def accuracy(pixels: Tensor, fresh: Tensor, lab: Lab, seed: int) -> float:
    """Of the classifier, which is trained anew for every row."""
    return analysis.two_sample_accuracy(pixels, fresh, seed, lab.budget.classifier)


def picture(seed: int) -> Tensor:
    return torch.from_numpy(scenes.scene(seed).picture)


def features(lab: Lab, pixels: Tensor) -> Tensor:
    """What the Frechet distance compares: 16 numbers a picture, the means of latent channels."""
    parts = [lab.backbone.encode(part) for part in pixels.split(16)]
    latents = torch.cat(parts)  # [M, C, h, w]
    return latents.mean((2, 3))  # [M, C]
