"""WAN: both claims on clips, and flicker; tiny FLUX frame by frame is what it has to beat.

Noise may be `independent` for every latent frame, as in restoration.py, or `shared` by all of them.
Flicker is the change from frame to frame over that of the clean clips: 1 is what the scene does.
"""

import torch
from torch import Tensor

from notebooks.experiments import ladder
from notebooks.experiments.lab import MEASURES, Budget, Lab, Scenes, measured
from notebooks.experiments.learning import Recipe, learned, tuned, velocity_of
from notebooks.experiments.walks import OWN, SAMPLERS, walk
from tinybridge.bridge import Velocity

COLUMNS = {
    "video.csv": (
        *("degradation", "method", "sampler", "calls", "noise", "flicker"),
        *MEASURES,
    ),
}
METHODS = {  # states and loss
    "desired": ("desired", "x0"), "naive": ("naive", "x0"), "ddbm": ("ddbm", "x0"),
    "velocity": ("desired", "velocity"),
}  # fmt: skip
RUNGS = ("tokens", "rows")
OTHERS = {"desired": ["euler"], "naive": ["desired"], "ddbm": ["desired"], "velocity": ["euler"]}


def jobs(budget: Budget, seed: int) -> list[dict]:
    """A job for each method."""
    methods = ("none", "frames", *METHODS, *RUNGS)
    if budget.name == "small":
        methods = ("none", "frames", "desired", "rows")
    kinds = budget.two
    return [{"degradation": k, "method": m, "seed": seed} for k in kinds for m in methods]


def run(lab: Lab, key: dict) -> dict[str, list[dict]]:
    """A row for each sampler, number of calls and kind of noise."""
    held, method = lab.held_out(key["degradation"]), key["method"]
    rows = []
    if method == "none":
        still = {"method": "degraded", "sampler": "-", "calls": 0, "noise": "-"}
        rows.append(key | still | measured(held.degraded, held.clean))
        return {"video.csv": rows + walked(lab, key, held, velocity_of(lab, []), ["desired"])}
    if method == "frames":
        return {"video.csv": frame_by_frame(lab, key, held)}
    seed = key["seed"]
    recipe = Recipe(key["degradation"], seed)
    if method in RUNGS:
        rate = tuned(lab, f"rung {method}", ladder.MIDDLE[method])
        built, _ = ladder.climb(lab, method, recipe, rate, lab.budget.steps)
        return {"video.csv": walked(lab, key, held, built[0], ["desired"])}
    states, loss = METHODS[method]
    recipe = Recipe(key["degradation"], seed, states, loss)
    velocity = velocity_of(lab, [learned(lab, recipe)])
    return {"video.csv": walked(lab, key, held, velocity, [OWN[states], *OTHERS[method]])}


def walked(
    lab: Lab, key: dict, held: Scenes, velocity: Velocity, samplers: list[str]
) -> list[dict]:
    """Rows of one velocity: the first sampler with all calls and both noises, others with few."""
    rows = []
    few, many = lab.budget.calls
    ways = [(samplers[0], many, "independent"), (samplers[0], few, "shared")]
    ways += [(name, few, "independent") for name in samplers]
    for name, calls, kind in ways:
        noise = lab.noise(held.y, key["seed"])
        if kind == "shared":
            noise = noise[:, :, :1].expand_as(noise).contiguous()
        x0 = walk(SAMPLERS[name], velocity, held.y, noise, calls)[-1]
        told = {"sampler": name, "calls": calls, "noise": kind}
        rows.append(key | told | measured(lab.decode(x0), held.clean))
    return rows


def frame_by_frame(lab: Lab, key: dict, held: Scenes) -> list[dict]:
    """Every frame restored by tiny FLUX as a picture, with noise of its own or all with one."""
    pictures = Lab("flux", lab.budget, lab.store.parent)
    velocity = velocity_of(pictures, [learned(pictures, Recipe(key["degradation"], key["seed"]))])
    frames = held.degraded.transpose(1, 2).flatten(0, 1)  # [MT, 3, H, W]
    y = torch.cat([pictures.backbone.encode(part) for part in frames.split(16)])
    rows = []
    calls = lab.budget.calls[0]
    for kind in ("independent", "shared"):
        noise = pictures.noise(y, key["seed"])
        if kind == "shared":
            noise = noise[:1].expand_as(noise)
        x0 = walk(SAMPLERS["desired"], velocity, y, noise, calls)[-1]
        told = {"sampler": "desired", "calls": calls, "noise": kind}
        clips = whole(pictures.decode(x0), len(held.clean))
        rows.append(key | told | measured(clips, held.clean))
    return rows


def whole(frames: Tensor, clips: int) -> Tensor:
    """Frames [MT, 3, H, W] as clips [M, 3, T, H, W] again."""
    return frames.unflatten(0, (clips, -1)).transpose(1, 2)
