"""Where the steps go: error parted into bias and variance, and what is left of y - x0 on the way.

If more calls lowered PSNR because the walk sampled detail, the variance over draws of the noise
would grow; if it drifts back to the degraded picture, the bias and the share of y - x0 in x0_hat
do. Then the cures: the velocity loss, training on what the walk visits or at its times, the first
noise kept or a fresh one.
"""

import torch

from notebooks.experiments import analysis
from notebooks.experiments.lab import Budget, Lab, Scenes
from notebooks.experiments.learning import Recipe, learned, velocity_of
from notebooks.experiments.walks import SAMPLERS, walk
from tinybridge import bridge
from tinybridge.metrics import psnr

COLUMNS = {
    "steps.csv": (
        *("degradation", "states", "loss", "sampler", "noise", "calls"),
        *("psnr", "error", "bias", "variance", "sharpness"),
    ),
    "walk.csv": (
        *("degradation", "states", "loss", "sampler", "noise", "calls"),
        *("step", "t", "share", "latent_error"),
    ),
}
RUNS = [  # states, loss, sampler, noise; the paper's three first, then the cures
    ("desired", "x0", "desired", "estimated"),
    ("naive", "x0", "euler", "estimated"),
    ("ddbm", "x0", "ddbm", "estimated"),
    ("t0", "x0", "euler", "estimated"),
    ("desired", "x0", "euler", "estimated"),
    ("desired", "velocity", "desired", "estimated"),
    ("desired", "x0", "desired", "kept"),
    ("desired", "x0", "desired", "fresh"),
    ("times", "x0", "desired", "estimated"),
    ("visited", "x0", "desired", "estimated"),
]


ON_CLIPS = [RUNS[k] for k in (0, 1, 5, 6, 7)]  # those that WAN is asked, too


def jobs(budget: Budget, seed: int) -> list[dict]:
    """All calls of a run belong to one job."""
    names = ("states", "loss", "sampler", "noise")
    places = [("flux", kind) for kind in budget.two] + [("wan", budget.two[0])]
    found = []
    for run in RUNS if budget.name == "full" else RUNS[-4:]:
        key = dict(zip(names, run, strict=True))
        for backbone, kind in places:
            if backbone == "flux" or run in ON_CLIPS:
                found.append(key | {"backbone": backbone, "degradation": kind, "seed": seed})
    return found


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """The curve over calls, and the inside of the longest of the usual walks."""
    recipe = Recipe(key["degradation"], key["seed"], key["states"], key["loss"])
    velocity = velocity_of(lab, [learned(lab, recipe)])
    many = lab.budget.wan_scenes if lab.wan else lab.budget.scenes
    held = lab.held_out(key["degradation"], count=max(2, many // 2))
    inside = lab.budget.calls[-1]
    steps, walks = [], []
    curve = lab.budget.curve
    if lab.wan or key["degradation"] != lab.budget.two[0]:  # there the ends and the middle
        curve = (1, *lab.budget.calls)
    for calls in curve:
        draws = []
        for draw in range(lab.budget.draws):
            noise = lab.noise(held.y, key["seed"], draw)
            sampler = SAMPLERS[key["sampler"]]
            estimates = walk(sampler, velocity, held.y, noise, calls, 0.4, key["noise"], draw)
            draws.append(lab.decode(estimates[-1]))
            if draw == 0 and calls == inside:
                walks = on_the_way(estimates, held)
        found = judged(torch.stack(draws), held.clean)
        steps.append(key | {"calls": calls} | found)
    walks = [key | {"calls": inside} | row for row in walks]
    return {"walk.csv": walks, "steps.csv": steps}


def judged(draws: torch.Tensor, clean: torch.Tensor) -> dict[str, float]:
    """Of pictures or clips [K, M, 3, ...] restored from K draws of noise."""
    found = analysis.bias_variance(draws, clean)
    both = draws.flatten(0, 1), clean.expand_as(draws).flatten(0, 1)  # [KM, 3, ...]
    found["psnr"] = psnr(*both).mean().item()
    found["sharpness"] = analysis.sharpness(draws[0], clean)
    return {name: round(value, 6) for name, value in found.items()}


def on_the_way(estimates: list[torch.Tensor], held: Scenes) -> list[dict]:
    """A row for each call of a walk."""
    rows = []
    ts = bridge.times(steps=len(estimates)).tolist()
    for k, (x0_hat, t) in enumerate(zip(estimates, ts, strict=True)):
        row = {
            "step": k + 1,
            "t": round(t, 4),
            "share": round(analysis.share_left(x0_hat, held.x0, held.y), 4),
            "latent_error": round((x0_hat - held.x0).square().mean().item(), 5),
        }
        rows.append(row)
    return rows
