"""The three paths, from bridge.py: a walk of `bridge.sample` with a model that is always right."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from notebooks.drawing.pencil import Point, arrow, dot, page, words
from tinybridge import bridge
from tinybridge.bridge import Bridge

T0 = 0.4
State = tuple[float, float]  # how far on the way from y to x0, and the noise level


def seen(state: Tensor) -> State:
    """How far the mean of a x0 + b y + c eps is on its way from y to x0, and its noise level.

    state: a, b, c. Both in 0..1.
    """
    a, b, c = state.tolist()
    return a / (a + b), c / (a + b + c)


def training_states(path: Bridge, count: int = 9) -> list[State]:
    """What the model learns from, at `count` times from T0 to 0."""
    at = path.coefficients(torch.linspace(T0, 0, count, dtype=torch.float64), T0)
    return [seen(state) for state in torch.stack([at.a, at.b, at.c], 1)]  # [count, 3]


def walk(path: Bridge, calls: int = 5) -> list[State]:
    """The states of bridge.sample with a model that is right if there is noise, and where it ends.

    Latents are the three numbers a, b, c themselves: so x0 is 1 0 0, y 0 1 0 and the noise 0 0 1.
    """
    x0, y, noise = torch.eye(3, dtype=torch.float64).split(1)  # [1, 3] each
    states = []

    def velocity(x: Tensor, s: Tensor) -> Tensor:
        return (x - x0) / s if s > 0 else torch.zeros_like(x)  # x0_hat = x - s v = x0

    end = bridge.sample(
        path, velocity, y, calls, T0, noise=noise, callback=lambda k, t, x, x0_hat: states.append(x)
    )
    return [seen(state[0]) for state in [*states, end]]


SAID = {
    "naive": ("learns at y alone,", "is sampled on the way to x₀"),
    "ddbm": ("one path, but the first call, told of", "no noise, corrects nothing"),
    "desired": ("one path for both,", "the noise is the flow's own"),
}


def paths() -> str:
    """Each bridge's training states and its sampler's walk: the mean to the right, noise up."""
    parts = []
    for k, name in enumerate(SAID):
        parts += panel(60 + 270 * k, 50, bridge.find(name), k == 0)
    parts += [
        dot(70, 319, 3.5, "state"),
        words(82, 324, "states in training, at equal steps of t", "start"),
        dot(420, 319, 6, "stop"),
        arrow([(426, 319), (456, 319)], "way"),
        words(466, 324, "sampling in 5 calls, all right where there is noise", "start"),
    ]
    return page(860, 346, "The three paths from a degraded picture to the clean one", parts)


def between(here: Point, there: Point, share: float) -> Point:
    """The point at that share of the way."""
    (x1, y1), (x2, y2) = here, there
    return x1 + share * (x2 - x1), y1 + share * (y2 - y1)


def panel(left: float, top: float, path: Bridge, first: bool) -> list[str]:
    """One bridge in a frame of 220 x 160."""

    def place(state: State) -> Point:
        way, level = state
        return left + 20 + 180 * way, top + 145 - 130 * level / T0

    stops = [place(state) for state in walk(path)]
    parts = [
        words(left + 110, top - 14, path.name, "middle head"),
        f'<rect x="{left:.1f}" y="{top:.1f}" width="220" height="160" class="box"/>',
        words(left + 20, top + 178, "y"),
        words(left + 110, top + 178, "mean", "middle small"),
        words(left + 200, top + 178, "x₀"),
        words(left + 110, top + 208, SAID[path.name][0], "middle small"),
        words(left + 110, top + 225, SAID[path.name][1], "middle small"),
    ]
    parts += [dot(*place(state), 3.5, "state") for state in training_states(path)]
    parts += [dot(*stop, 6, "stop") for stop in stops]
    for here, there in pairwise(stops):
        far = math.dist(here, there)
        if far > 30:  # from ring to ring; the last step of some is too short to see
            edge = 6 / far
            parts.append(arrow([between(here, there, edge), between(here, there, 1 - edge)], "way"))
    if first:
        parts += [
            words(left - 18, top + 150, "0"),
            words(left - 22, top + 20, f"{T0}"),
            words(left - 22, top + 75, "noise", "middle small"),
            words(left - 22, top + 91, "level", "middle small"),
        ]
    return parts
