"""Where the prompt enters a block of FLUX and of WAN. Sizes come from the models' configs."""

from notebooks.drawing.pencil import arrow, box, page, sign, words
from tinybridge.flux import FluxConfig
from tinybridge.wan import WanConfig


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
