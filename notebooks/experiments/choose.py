"""An unknown degradation: can the frozen model say which of several prompts a picture needs?

Every prompt makes one estimate of the noisy input. Scores, of which the lowest wins:
`least`, how much the estimate changes the picture; `most`, the same with the sign turned;
`plausible`, how far the estimate moves when it is made noisy again and the model without a prompt
cleans it, which a clean picture does not; `typical`, how unlike the change is to what the prompt's
own pairs differ by (means and deviations of the latent's channels, 64 numbers that a prompt's file
could carry). The scores' softmax gives soft weights, too.
"""

import torch
from torch import Tensor

from notebooks.experiments.lab import Budget, Lab, Scenes
from notebooks.experiments.learning import Recipe, learned, restored, velocity_of
from notebooks.experiments.walks import SAMPLERS, walk
from tinybridge.bridge import Velocity
from tinybridge.metrics import psnr

COLUMNS = {
    "choose.csv": (
        *("degradation", "score", "prompt", "chosen", "scenes"),
        *("psnr_degraded", "psnr_known", "psnr_prompt", "psnr_chosen", "psnr_soft"),
    ),
}
T0 = 0.4


def jobs(budget: Budget, seed: int) -> list[dict]:
    """One job a degradation."""
    return [{"degradation": kind, "seed": seed} for kind in budget.kinds]


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """For each score and prompt: how many scenes chose it, and what restoring so gives."""
    kinds, seed = lab.budget.kinds, key["seed"]
    held = lab.held_out(key["degradation"])
    asked = [velocity_of(lab, [learned(lab, Recipe(kind, seed))]) for kind in kinds]
    calls = lab.budget.calls[0]
    alone = []
    for velocity in asked:
        pixels = restored(lab, velocity, held.y, "desired", calls, seed)
        alone.append(psnr(pixels, held.clean))
    each = torch.stack(alone)  # [K, M]
    facts = {
        "scenes": len(held.y),
        "psnr_degraded": rounded(psnr(held.degraded, held.clean)),
        "psnr_known": rounded(each[kinds.index(key["degradation"])]),
    }
    rows = []
    found = scored(lab, asked, held, seed)
    for name, scores in found.items():
        pick = scores.argmin(0)  # [M]
        chosen = rounded(each.gather(0, pick[None]))
        soft = restored(lab, mixed(asked, scores), held.y, "desired", calls, seed)
        whole = {"psnr_chosen": chosen, "psnr_soft": rounded(psnr(soft, held.clean))}
        for k, kind in enumerate(kinds):
            own = {"score": name, "prompt": kind, "chosen": int((pick == k).sum())}
            rows.append(key | own | facts | whole | {"psnr_prompt": rounded(each[k])})
    return {"choose.csv": rows}


def rounded(values: Tensor) -> float:
    return round(values.mean().item(), 4)


def scored(lab: Lab, asked: list[Velocity], held: Scenes, seed: int) -> dict[str, Tensor]:
    """Scores [K, M] by name."""
    noise, again = (lab.noise(held.y, seed, draw) for draw in (0, 7))
    plain = velocity_of(lab, [])
    moved, doubt, unlike = [], [], []
    for kind, velocity in zip(lab.budget.kinds, asked, strict=True):
        (x0_hat,) = walk(SAMPLERS["euler"], velocity, held.y, noise, 1)
        (back,) = walk(SAMPLERS["euler"], plain, x0_hat, again, 1)
        moved.append((x0_hat - held.y).square().flatten(1).mean(1))
        doubt.append((back - x0_hat).square().flatten(1).mean(1))
        pairs = lab.pairs(kind, seed)
        usual = change(pairs.y, pairs.x0)  # [N, 2C]
        unlike.append(surprise(change(held.y, x0_hat), usual))
    least = torch.stack(moved)
    scores = {"least": least, "most": -least, "plausible": torch.stack(doubt)}
    return scores | {"typical": torch.stack(unlike)}


def change(y: Tensor, x0: Tensor) -> Tensor:
    """How latents [M, C, h, w] differ: mean and deviation of every channel's change, [M, 2C]."""
    gap = (y - x0).flatten(2)  # [M, C, h w]
    return torch.cat([gap.mean(2), gap.std(2)], 1)


def surprise(features: Tensor, usual: Tensor) -> Tensor:
    """Minus the logarithm of a Gaussian's density, fitted to `usual` [N, D], at features [M, D]."""
    std, mean = torch.std_mean(usual, 0)  # [D] both
    std = std.clamp(min=1e-3)
    return (((features - mean) / std).square() / 2 + std.log()).sum(1)


def mixed(asked: list[Velocity], scores: Tensor) -> Velocity:
    """Sum of the prompts' velocities with weights softmax(-scores / spread), per sample."""
    spread = scores.std(0, keepdim=True).clamp(min=1e-6) / 2
    weight = (-scores / spread).softmax(0)  # [K, M]

    def velocity(x: Tensor, s: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for share, one in zip(weight, asked, strict=True):
            total = total + share[:, None, None, None] * one(x, s)
        return total

    return velocity
