"""README's diagram: a restoration from left to right, and below it what P learns from."""

from notebooks.drawing.paths import SAID, panel
from notebooks.drawing.pencil import arrow, box, dot, page, words
from tinybridge import bridge

ROW = 90  # of the walk, in pixels from above


def method() -> str:
    """The walk of a restoration; the three bridges."""
    title = "A frozen model that P steers walks from a degraded picture to a restored one"
    return page(860, 590, title, [*restoration(), *bridges()])


def restoration() -> list[str]:
    """Degraded picture and noise, the frozen model again and again, restored picture."""
    return [
        words(430, 30, "restoring: the model stays frozen, P alone is learned", "middle head"),
        box(86, ROW, 132, "degraded\npicture"),
        arrow([(152, ROW), (203, ROW)]),
        words(178, ROW - 10, "encode", "middle small"),
        words(178, ROW + 18, "y", "middle small"),
        words(214, ROW - 36, "noise ε", "middle small"),
        arrow([(214, ROW - 30), (214, ROW - 11)]),
        dot(214, ROW, 11, "box"),
        words(214, ROW + 5, "+"),
        arrow([(225, ROW), (268, ROW)]),
        words(246, ROW + 18, "t = 0.4", "middle small"),
        box(328, ROW, 120, "mixture\nat time t"),
        arrow([(388, ROW), (418, ROW)]),
        box(488, ROW, 140, "frozen model\nFLUX.1, WAN 2.1"),
        box(488, ROW + 88, 140, "P and its gates", "prompt"),
        arrow([(488, ROW + 72), (488, ROW + 25)], "way"),
        words(498, ROW + 52, "in every block", "start learned"),
        arrow([(558, ROW), (588, ROW)]),
        box(642, ROW, 108, "estimate of\nthe clean one"),
        arrow([(642, ROW + 25), (642, ROW + 134), (328, ROW + 134), (328, ROW + 25)]),
        words(488, ROW + 128, "again, with less noise: 20 times", "middle small"),
        arrow([(696, ROW), (747, ROW)]),
        words(722, ROW - 10, "decode", "middle small"),
        words(722, ROW + 18, "at last", "middle small"),
        box(797, ROW, 100, "restored\npicture"),
    ]


def bridges() -> list[str]:
    """The three paths, as in paths.svg."""
    top = 316
    said = "learning: which mixtures of clean x₀, degraded y and noise does P see?"
    parts = [words(430, top - 44, said, "middle head")]
    for k, name in enumerate(SAID):
        parts += panel(60 + 270 * k, top, bridge.find(name), k == 0)
    return parts + [
        dot(110, top + 254, 3.5, "state"),
        words(122, top + 259, "mixtures that P learns from", "start"),
        dot(420, top + 254, 6, "stop"),
        arrow([(426, top + 254), (456, top + 254)], "way"),
        words(466, top + 259, "what sampling then meets, if its guesses are right", "start"),
    ]
