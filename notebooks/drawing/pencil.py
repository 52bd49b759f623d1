"""The pencil of the diagrams: words, boxes, arrows and a page, each as SVG text.

Coordinates are in pixels, right and down from the upper left corner. The page is white, or dark
where the reader's browser asks for it.
"""

import math

Point = tuple[float, float]  # right and down
STYLE = """
text { font: 14px Helvetica, Arial, 'DejaVu Sans', sans-serif; fill: #1f2328 }
.middle { text-anchor: middle }
.head { font-weight: bold; font-size: 15px }
.small { font-size: 12.5px; fill: #59636e }
.code { font: 13px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace }
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

# ---- each gives a line or two of SVG -----------------------------------------------------------


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
