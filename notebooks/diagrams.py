"""Diagrams of README and notebooks as SVG text: where P enters a model, and the three paths.

    python notebooks/diagrams.py [FOLDER]     # notebooks/figures: entry.svg and paths.svg

Sizes come from the models' configs, paths from bridge.py: a walk of `bridge.sample` itself, with
a model that is always right. Coordinates are in pixels, right and down from the upper left corner.
"""

import math
import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from tinybridge import bridge
from tinybridge.bridge import Bridge
from tinybridge.flux import FluxConfig
from tinybridge.wan import WanConfig

FIGURES = Path(__file__).parent / "figures"
T0 = 0.4
Point = tuple[float, float]  # right and down; or a state as `seen` shows it
STYLE = """
text { font: 14px Helvetica, Arial, 'DejaVu Sans', sans-serif; fill: #1f2328 }
.middle { text-anchor: middle }
.head { font-weight: bold; font-size: 15px }
.small { font-size: 12.5px; fill: #59636e }
.learned { fill: #b34700 }
.paper { fill: #ffffff; stroke: #d1d9e0 }
.box { fill: #f3f5f7; stroke: #818b98 }
.prompt { fill: #fff1e5; stroke: #d15704; stroke-width: 1.6 }
.line { fill: none; stroke: #59636e; stroke-width: 1.4 }
.way { fill: none; stroke: #d15704; stroke-width: 1.6 }
.tip { fill: #59636e }
.waytip { fill: #d15704 }
.state { fill: #54a0f0 }
.stop { fill: none; stroke: #d15704; stroke-width: 1.6 }
"""
DARK = """
text { fill: #f0f6fc }
.small { fill: #9aa4af }
.learned { fill: #ffa657 }
.paper { fill: #0d1117; stroke: #3d444d }
.box { fill: #1c222b; stroke: #656c76 }
.prompt { fill: #3a2410; stroke: #f0883e }
.line { stroke: #9aa4af }
.way { stroke: #f0883e }
.tip { fill: #9aa4af }
.waytip { fill: #f0883e }
.state { fill: #388bfd }
.stop { fill: none; stroke: #f0883e }
"""

# ---- the pencil: each gives a line or two of SVG -----------------------------------------------


def words(x: float, y: float, said: str, kind: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{said}</text>'


def box(x: float, y: float, width: float, said: str, kind: str = "box") -> str:
    """A box around the middle (x, y) with a line or two of words."""
    lines = said.split("\n")
    height = 14 + 18 * len(lines)
    left, top = x - width / 2, y - height / 2
    frame = f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5"'
    parts = [f'{frame} class="{kind}"/>']
    for k, line in enumerate(lines):
        parts.append(words(x, top + 21 + 18 * k, line))
    return "\n".join(parts)


def sign(x: float, y: float, said: str) -> str:
    """A small circle with + or a cross in it, of what P takes part in."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="11" class="prompt"/>\n{words(x, y + 5, said)}'


def arrow(points: list[Point], kind: str = "line") -> str:
    """A broken line with a tip at its end."""
    (x1, y1), (x2, y2) = points[-2:]
    far = math.dist((x1, y1), (x2, y2))
    dx, dy = (x2 - x1) / far, (y2 - y1) / far
    corners = [(x2, y2)]
    for side in (-1, 1):
        corners.append((x2 - 8 * dx - 4 * side * dy, y2 - 8 * dy + 4 * side * dx))
    ends = [*points[:-1], (x2 - 6 * dx, y2 - 6 * dy)]
    tip = {"line": "tip", "way": "waytip"}[kind]
    return (
        f'<polyline points="{listed(ends)}" class="{kind}"/>\n'
        f'<polygon points="{listed(corners)}" class="{tip}"/>'
    )


def dot(x: float, y: float, radius: float, kind: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{kind}"/>'


def listed(points: list[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def page(width: int, height: int, title: str, parts: list[str]) -> str:
    """The whole file: paper of its own, so that it can be read on a page of any colour."""
    sizes = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    paper = f'x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {sizes} role="img">',
        f"<title>{title}</title>",
        f"<style>{STYLE}@media (prefers-color-scheme: dark) {{{DARK}}}\n</style>",
        f'<rect {paper} class="paper"/>',
    ]
    return "\n".join([*head, *parts, "</svg>\n"])


# ---- where P enters ----------------------------------------------------------------------------


def entry() -> str:
    """A block of FLUX and a block of WAN, with all that is learned in colour."""
    learned = "learned: P [L, D], shared by all blocks, and one number gates[i] for block i"
    parts = [words(430, 30, learned, "middle head learned"), *flux_block(), *wan_block()]
    return page(860, 470, "Where the prompt enters a block of FLUX and of WAN", parts)


def flux_block() -> list[str]:
    sizes = FluxConfig()
    text, image, both = 170, 330, 250  # columns
    head = f"FLUX.1: {sizes.depth} joint, {sizes.depth_single} single blocks, D {sizes.hidden_size}"
    return [
        words(220, 62, head, "middle head"),
        box(text, 96, 130, "text rows"),
        box(image, 96, 130, "image tokens"),
        arrow([(text, 112), (text, 138)]),
        arrow([(image, 112), (image, 138)]),
        box(text, 154, 130, "modulate"),
        box(image, 154, 130, "modulate"),
        words(text + 12, 190, "h", "start"),
        arrow([(text, 170), (text, 205)]),
        box(62, 216, 84, "gates[i] P", "prompt"),
        arrow([(104, 216), (text - 11, 216)], "way"),
        sign(text, 216, "+"),
        arrow([(text, 227), (text, 256)], "way"),
        arrow([(image, 170), (image, 256)]),
        box(text, 272, 130, "q, k, v", "prompt"),
        box(image, 272, 130, "q, k, v"),
        arrow([(text, 288), (text, 316)]),
        arrow([(image, 288), (image, 316)]),
        box(both, 332, 290, "one attention over text and image"),
        arrow([(text, 348), (text, 374)]),
        arrow([(image, 348), (image, 374)]),
        box(text, 390, 130, "add to rows, MLP"),
        box(image, 390, 130, "add, MLP"),
        words(
            220, 432, "attention alone reads h + gates[i] P, MLP and rows do not;", "middle small"
        ),
        words(
            220,
            450,
            "single blocks: the same, in the text rows of their one sequence",
            "middle small",
        ),
    ]


def wan_block() -> list[str]:
    sizes = WanConfig()
    plain, prompted, both = 550, 730, 640  # columns
    head = f"WAN 2.1 (1.3B): {sizes.depth} blocks, D {sizes.hidden_size}"
    return [
        words(both, 62, head, "middle head"),
        box(both, 96, 130, "video tokens"),
        arrow([(both, 112), (both, 138)]),
        box(both, 154, 290, "self-attention, then queries"),
        arrow([(plain, 170), (plain, 210)]),
        arrow([(prompted, 170), (prompted, 210)]),
        box(plain, 235, 150, "cross-attention\nto text E"),
        box(prompted, 235, 150, "cross-attention\nto E + P", "prompt"),
        arrow([(prompted, 260), (prompted, 283)], "way"),
        sign(prompted, 294, "&#215;"),
        words(prompted + 20, 299, "gates[i]", "start"),
        arrow([(prompted, 305), (prompted, 340), (both + 11, 340)], "way"),
        arrow([(plain, 260), (plain, 340), (both - 11, 340)]),
        sign(both, 340, "+"),
        arrow([(both, 351), (both, 374)]),
        box(both, 390, 130, "add to x, MLP"),
        words(both, 432, "the text is asked a second time, as E + P;", "middle small"),
        words(both, 450, "queries, self-attention and MLP stay as they are", "middle small"),
    ]


# ---- the three paths ---------------------------------------------------------------------------


def seen(state: Tensor) -> Point:
    """How far the mean of a x0 + b y + c eps is on its way from y to x0, and its noise level.

    state: a, b, c. Both in 0..1.
    """
    a, b, c = state.tolist()
    return a / (a + b), c / (a + b + c)


def training_states(path: Bridge, count: int = 9) -> list[Point]:
    """What the model learns from, at `count` times from T0 to 0."""
    at = path.coefficients(torch.linspace(T0, 0, count, dtype=torch.float64), T0)
    return [seen(state) for state in torch.stack([at.a, at.b, at.c], 1)]  # [count, 3]


def walk(path: Bridge, calls: int = 5) -> list[Point]:
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

    def place(state: Point) -> Point:
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


def main(argv: list[str]) -> None:
    folder = Path(argv[0]) if argv else FIGURES
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawing in {"entry": entry(), "paths": paths()}.items():
        (folder / f"{name}.svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
