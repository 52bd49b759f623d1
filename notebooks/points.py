"""A world of points: pictures of two numbers, whose flow model is known exactly, without a network.

Clean pictures come in pairs; haze turns both of a pair into one point, halfway to the grey middle.
The frozen model has seen all points, clean and hazy. Its best estimate from a noisy state is an
average of them (`estimate`), and a prompt is one number for each point, a logit: how much more
often the model should expect it. Notebook 00 and notebooks/points.html walk through it.

Letters: N points, B batch; states, clean and degraded points are [B, 2] float64.
"""

import json
import math
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `python notebooks/points.py`

from tinybridge import bridge

PAIRS = 5
RADIUS = 3.0  # of the clean points: their distance from the grey middle
HALF = 0.2  # radians: half of the angle between the two of a pair

# ---- the points --------------------------------------------------------------------------------


def around(offset: float) -> Tensor:
    """One point for each pair at its angle plus `offset`, RADIUS from the middle: [PAIRS, 2]."""
    angle = 2 * math.pi * torch.arange(PAIRS, dtype=torch.float64) / PAIRS + math.pi / 2 + offset
    return RADIUS * torch.stack([angle.cos(), angle.sin()], 1)


PAIR = torch.stack([around(-HALF), around(HALF)], 1)  # [PAIRS, 2 of a pair, 2]
HAZY = PAIR.mean(1) / 2  # [PAIRS, 2]
CLEAN = PAIR.flatten(0, 1)  # [2 PAIRS, 2]
POINTS = torch.cat([CLEAN, HAZY])  # [N, 2]


def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n clean points x0 and their hazy ones y, [n, 2] each."""
    index = torch.randint(2 * PAIRS, (n,), generator=generator)  # [n]
    return CLEAN[index], HAZY[index // 2]


# ---- the frozen model --------------------------------------------------------------------------


def weights(x: Tensor, s: Tensor, logits: Tensor) -> Tensor:
    """How likely each point is behind the states x [B, 2] of noise levels s [B]: [B, N].

    Bayes' rule: a state is (1 - s) point + s noise, and before it is seen a point is as likely as
    the softmax of the prompt's logits [N] says.
    """
    distance = (x[:, None] - (1 - s)[:, None, None] * POINTS).square().sum(2)  # [B, N]
    return (logits - distance / (2 * s[:, None] ** 2)).softmax(1)


def velocity(logits: Tensor) -> bridge.Velocity:
    """The model under a prompt of logits [N], as bridge.py wants it: x, s -> v, [B, 2]."""

    def told(x: Tensor, s: Tensor) -> Tensor:
        s = s.clamp(min=1e-6)  # ddbm begins at s = 0, where any velocity does
        estimate = weights(x, s, logits) @ POINTS  # [B, 2]
        return (x - estimate) / s[:, None]

    return told


# ---- prompts -----------------------------------------------------------------------------------

NO_PROMPT = torch.zeros(len(POINTS), dtype=torch.float64)
WORDS = {"": (0, 0), "clear": (1, 0), "haze": (-1, 0), "left": (0, -1), "right": (0, 1)}
LIMIT = 3.0  # nats: how far the encoder can at most lift the clean points over the hazy ones

CLEAR = torch.cat([torch.full((2 * PAIRS,), 0.5), torch.full((PAIRS,), -0.5)]).double()  # [N]
RIGHT = POINTS[:, 0] / (2 * RADIUS)  # [N]


def encode(token: Tensor, limit: float = LIMIT) -> Tensor:
    """The text encoder: a token [2] through a narrow map, of bounded length, to logits [N]."""
    direction = token / (1 + token.square().sum()).sqrt()  # [2], shorter than 1
    return limit * torch.stack([CLEAR, RIGHT], 1) @ direction


def word(name: str) -> Tensor:
    """The logits [N] of one of WORDS."""
    return encode(torch.tensor(WORDS[name], dtype=torch.float64))


def learn(
    path: bridge.Bridge, space: str, steps: int = 300, limit: float = LIMIT, seed: int = 0
) -> tuple[Tensor, list[float]]:
    """Logits [N] learned on a bridge in `space`, token or embedding; and the loss of every step."""
    generator = torch.Generator().manual_seed(seed)
    size = 2 if space == "token" else len(POINTS)
    prompt = torch.zeros(size, dtype=torch.float64, requires_grad=True)  # [2] or [N]
    optimizer = torch.optim.Adam([prompt], lr=0.1)
    losses = []
    for _ in range(steps):
        x0, y = draw(256, generator)
        t = bridge.draw_times(256, generator=generator)
        noise = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        x, s = bridge.corrupt(path, x0, y, t, noise)
        logits = encode(prompt, limit) if space == "token" else prompt
        loss = bridge.loss(velocity(logits)(x, s), x, x0, s).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return logits.detach(), losses


# ---- what a restoration is worth ---------------------------------------------------------------


def restore(
    path: bridge.Bridge, logits: Tensor, steps: int, t0: float = 0.4, n: int = 2000, seed: int = 1
) -> tuple[Tensor, Tensor]:
    """n hazy points restored, and the clean points they came from: [n, 2] each."""
    generator = torch.Generator().manual_seed(seed)
    x0, y = draw(n, generator)
    restored = bridge.sample(path, velocity(logits), y, steps, t0, generator=generator)
    return restored, x0


def error(restored: Tensor, x0: Tensor) -> float:
    """Mean squared distance from the true clean points: distortion."""
    return (restored - x0).square().sum(1).mean().item()


def off(restored: Tensor) -> float:
    """Mean distance from the nearest clean point, whichever it is: how unlike a clean picture."""
    return torch.cdist(restored, CLEAN).min(1).values.mean().item()


# ---- the page ----------------------------------------------------------------------------------


def numbers() -> dict:
    """What points.html needs and does not compute: the points and the prompts, as plain lists."""
    learned = {}
    for name, path in bridge.BRIDGES.items():
        spaces = {space: learn(path, space)[0] for space in ("token", "embedding")}
        learned[name] = {space: logits.tolist() for space, logits in spaces.items()}
    return {
        "points": POINTS.tolist(),
        "clean": len(CLEAN),
        "words": {name: word(name).tolist() for name in WORDS},
        "learned": learned,
    }


OPENING, CLOSING = '<script type="application/json" id="numbers">\n', "\n</script>"


def main() -> None:
    """Writes `numbers` into the page: python notebooks/points.py."""
    page = Path(__file__).with_name("points.html")
    before, rest = page.read_text().split(OPENING)
    _, after = rest.split(CLOSING, 1)
    page.write_text(before + OPENING + json.dumps(numbers()) + CLOSING + after)


if __name__ == "__main__":
    main()
