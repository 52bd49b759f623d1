"""The ladder of spaces: where each kind of prompt enters FLUX and WAN, and how many numbers it is.

From a sentence, of which nothing is learned, down to a residual in every block: each rung enters
further inside than the one above. Sizes come from the models' configs.
"""

from notebooks.drawing.pencil import arrow, box, page, words
from tinybridge.checkpoints.backbones import usual_length
from tinybridge.flux import FluxConfig
from tinybridge.text.encoders import T5Config
from tinybridge.wan import WanConfig

FLUX, WAN = 470, 720  # the columns of the two models
RUNGS = {  # how far down each enters; what it is; what is learned
    "sentence": (96, "1  a sentence", "nothing is learned: words are chosen"),
    "tokens": (166, "2  tokens", "what the text encoder reads: [L, Dt]"),
    "sphere": (306, "3  its rows, on their sphere", "[L, Dt], of the length that its norm gives"),
    "free": (346, "4  its rows, free", "[L, Dt] of any length"),
    "pooled": (416, "5  CLIP's pooled vector", "one vector, which moves all modulations"),
    "first": (486, "6  P in the first block", "[L, D], in one block alone"),
    "every": (556, "7  P in every block", "[L, D] and a gate for each block: the paper's"),
}


def numbers() -> dict[str, tuple[int, int | None]]:
    """How many numbers are learned on each rung, in FLUX and in WAN; None: no such rung."""
    flux, wan = FluxConfig(), WanConfig()
    rows_flux, rows_wan = usual_length("flux", {}), usual_length("wan", {})
    encoder = (rows_flux * T5Config().d_model, rows_wan * T5Config().d_model)
    prompt_flux, prompt_wan = rows_flux * flux.hidden_size, rows_wan * wan.hidden_size
    return {
        "sentence": (0, 0),
        "tokens": encoder,
        "sphere": encoder,
        "free": encoder,
        "pooled": (flux.pooled_dim, None),
        "first": (prompt_flux + 1, prompt_wan + 1),
        "every": (prompt_flux + flux.depth + flux.depth_single, prompt_wan + wan.depth),
    }


def ladder() -> str:
    """The rungs to the left, the two models beside them, from the sentence down to the velocity."""
    parts = [
        words(20, 34, "What may be learned, and where it enters", "head learned"),
        words(FLUX, 34, "FLUX.1", "middle head"),
        words(WAN, 34, "WAN 2.1 (1.3B)", "middle head"),
        words(FLUX, 54, "numbers learned", "middle small"),
        words(WAN, 54, "numbers learned", "middle small"),
    ]
    parts += column(FLUX, "T5", FluxConfig().depth + FluxConfig().depth_single)
    parts += column(WAN, "UMT5", WanConfig().depth)
    for name, (y, title, said) in RUNGS.items():
        parts += [words(20, y + 2, title, "learned"), words(42, y + 20, said, "small")]
        for x, count in zip((FLUX, WAN), numbers()[name], strict=True):
            if count is not None:
                parts.append(enters(x, y, count))
    parts += [
        words(20, 676, "Rungs 1 to 3 say what the encoder's last norm lets through.", "small"),
        words(20, 694, "Rungs 2 to 5 enter once, 6 in one block, 7 in every block.", "small"),
    ]
    return page(860, 712, "The ladder of spaces: where each kind of prompt enters", parts)


def enters(x: float, y: float, count: int) -> str:
    """An arrow into a column from its left, with the number of numbers on it."""
    said = f"{count:,}" if count else "none"
    return "\n".join(
        [words(x - 104, y - 5, said, "middle small"), arrow([(x - 140, y), (x - 66, y)], "way")]
    )


def column(x: float, encoder: str, blocks: int) -> list[str]:
    """One model, from top to bottom; what a rung replaces or is added to is in colour."""
    parts = [
        box(x, 96, 130, "sentence", "prompt"),
        arrow([(x, 112), (x, 150)]),
        box(x, 166, 130, "tokens", "prompt"),
        arrow([(x, 182), (x, 211)]),
        box(x, 236, 130, f"{encoder}: {T5Config().num_layers} layers,\nthen a norm"),
        arrow([(x, 261), (x, 301)]),
        box(x, 326, 130, f"rows of {encoder},\non a sphere or free", "prompt"),
        box(x, 486, 130, "block 1", "prompt"),
        arrow([(x, 502), (x, 531)]),
        box(x, 556, 130, f"blocks 2 to {blocks},\nP in each", "prompt"),
        arrow([(x, 581), (x, 614)]),
        box(x, 630, 130, "velocity v"),
    ]
    if encoder == "T5":
        parts += [
            box(x, 416, 130, "CLIP's vector", "prompt"),
            arrow([(x + 65, 336), (x + 84, 336), (x + 84, 486), (x + 65, 486)]),
            arrow([(x, 432), (x, 470)]),
        ]
    else:
        parts += [
            arrow([(x, 351), (x, 470)]),
            words(x - 104, 420, "no CLIP", "middle small"),
        ]
    return parts
