"""A sheet to look at: rows of samples, columns of what was made of them.

Letters: B samples, K columns, H W size in pixels.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tinybridge.data import pictures


def sheet(
    path: Path,
    columns: Sequence[Tensor],
    titles: Sequence[str],
    notes: Sequence[Sequence[str]] | None = None,
    labels: Sequence[str] | None = None,
    side: int = 192,
    smooth: bool = True,
) -> None:
    """A PNG with a row per sample and a column per kind of picture, captions in words.

    columns: K tensors [B, 3, H, W] in 0..1, shown `side` pixels wide, smoothly or with their
    pixels to be seen; titles: K; notes: B rows of K lines under the pictures; labels: B lines at
    the left edge.
    """
    B, _, H, W = columns[0].shape
    high, line, gap, edge = round(side * H / W), 22, 6, 96 if labels else 6
    resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    step = high + gap + (line if notes else 0)
    canvas = Image.new("RGB", (edge + len(columns) * (side + gap), line + B * step), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    for k, (column, title) in enumerate(zip(columns, titles, strict=True)):
        left = edge + k * (side + gap)
        draw.text((left + side / 2, line / 2), title, "black", font, anchor="mm")
        for b in range(B):
            array = (column[b].cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            shown = Image.fromarray(array).resize((side, high), resample)
            canvas.paste(shown, (left, line + b * step))
            if notes:
                at = (left + side / 2, line + b * step + high + line / 2)
                draw.text(at, notes[b][k], "black", font, anchor="mm")
    for b, label in enumerate(labels or []):
        draw.text((8, line + b * step + high / 2), label, "black", font, anchor="lm")
    pictures.save(canvas, path)
