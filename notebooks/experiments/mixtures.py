"""Two degradations at once: how prompts are put together.

v + sum w_k (v_k - v), with v without a prompt (Composable Diffusion, arXiv 2206.01714): w = 1/K is
the paper's mean, w = 1 a product of both. Beside it P1 + P2 in one call, and one after the other.
"""

import torch
from torch import Tensor

from notebooks.experiments.lab import JUDGING, MEASURES, Budget, Lab, measured
from notebooks.experiments.learning import Recipe, learned, restored, velocity_of
from tinybridge.bridge import Velocity
from tinybridge.data import degradations, scenes
from tinybridge.flux import Terms

COLUMNS = {"mixtures.csv": ("pair", "how", "prompts", "weight", *MEASURES)}
PAIRS = ("haze+snow", "haze+rain", "rain+snow", "lowlight+snow")
WEIGHTS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
SEVERITY = 0.7


def jobs(budget: Budget, seed: int) -> list[dict]:
    """One job a pair."""
    pairs = PAIRS if budget.name == "full" else ("haze+rain",)
    return [{"pair": pair, "seed": seed} for pair in pairs]


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """All ways of putting two prompts together, and each alone."""
    kinds, seed = key["pair"].split("+"), key["seed"]
    bad, clean = both(kinds, max(2, lab.budget.scenes // 2))
    y = lab.encode(f"{key['pair']}-{JUDGING}-{len(bad)}", bad)
    calls = lab.budget.calls[0]
    prompts = [learned(lab, Recipe(kind, seed)) for kind in kinds]
    rows = []

    def note(how: str, names: str, weight: float, pixels: Tensor) -> None:
        told = {"how": how, "prompts": names, "weight": weight}
        rows.append(key | told | measured(pixels, clean))

    def walked(velocity: Velocity, start: Tensor = y) -> Tensor:
        return restored(lab, velocity, start, "desired", calls, seed)

    plain = velocity_of(lab, [])
    asked = [velocity_of(lab, [prompt]) for prompt in prompts]
    note("degraded", "", 0, bad)
    note("none", "", 0, walked(plain))
    for weight in WEIGHTS:
        for kind, velocity in zip(kinds, asked, strict=True):
            note("one", kind, weight, walked(weighted(plain, [velocity], weight)))
        note("two", key["pair"], weight, walked(weighted(plain, asked, weight)))
    note("sum", key["pair"], 1, walked(summed(lab, prompts)))
    for order in ((0, 1), (1, 0)):
        first = walked(asked[order[0]])
        pixels = walked(asked[order[1]], lab.backbone.encode(first))
        note("sequence", ", then ".join(kinds[k] for k in order), 1, pixels)
    return {"mixtures.csv": rows}


def both(kinds: list[str], count: int) -> tuple[Tensor, Tensor]:
    """Scenes with the one degradation and then the other, and without: [count, 3, H, W] both."""
    bad, clean = [], []
    for seed in range(JUDGING, JUDGING + count):
        scene = scenes.scene(seed)
        picture = scene.picture
        for kind in kinds:
            picture = degradations.degrade(picture, scene.depth, kind, SEVERITY, seed)
        bad.append(torch.from_numpy(picture))
        clean.append(torch.from_numpy(scene.picture))
    return torch.stack(bad), torch.stack(clean)


def weighted(plain: Velocity, asked: list[Velocity], weight: float) -> Velocity:
    """v + weight * sum of (v_k - v)."""

    def velocity(x: Tensor, s: Tensor) -> Tensor:
        base = plain(x, s)
        return base + weight * sum(one(x, s) - base for one in asked)

    return velocity


def summed(lab: Lab, prompts: list) -> Velocity:
    """One prompt whose term in every block is the sum of the prompts': gate P + gate' P'."""
    terms = lab.backbone.prepare(prompts)  # qkv: n of [K, L, 3D]
    one = Terms([term.sum(0, keepdim=True) for term in terms.qkv])
    return lambda x, s: lab.backbone.velocity(x, s, one)
