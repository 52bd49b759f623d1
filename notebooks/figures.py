"""What the notebooks draw with: rows of small pictures with titles, and figures as small PNGs.

Letters: H W picture size.
"""

import io
import os
import sys
from itertools import count, cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures are shown by `show` alone, never by themselves

import matplotlib.pyplot as plt
from IPython.display import Image, display
from matplotlib.figure import Figure
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root, for the package

from tinybridge.bridge import BRIDGES

plt.rcParams |= {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 110,
    "svg.hashsalt": "tinybridge",  # the same file for the same figure
}
HUES = ("tab:red", "tab:blue", "tab:green", "tab:orange", "tab:brown", "tab:pink")
COLOURS = dict(zip(BRIDGES, cycle(HUES), strict=False))  # a bridge's, always


SHOWN = count(1)  # figures of this notebook


def show(figure: Figure) -> None:
    """Puts the figure under the cell that calls it, as a PNG without a margin, and closes it.

    With TINYBRIDGE_FIGURES=out/08 it is out/08-1.svg too, the next one out/08-2.svg, for slides.
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.05)
    if start := os.environ.get("TINYBRIDGE_FIGURES"):
        name = f"{start}-{next(SHOWN)}.svg"
        figure.savefig(name, bbox_inches="tight", pad_inches=0.05, metadata={"Date": None})
    plt.close(figure)
    display(Image(data=file.getvalue()))


def sheet(rows: list, titles: list[str] = (), labels: list[str] = (), tile: float = 0.9) -> Figure:
    """Pictures in rows: each row a list of tensors [3, H, W] in 0..1, or [H, W] drawn in grey.

    titles: one over each column; labels: one before each row; tile: side in inches.
    """
    columns = max(len(row) for row in rows)
    size = (tile * columns, tile * len(rows))
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.04, hspace=0.04)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, line in zip(rows, axes, strict=True):
        for picture, axis in zip(row, line, strict=False):
            axis.imshow(pixels(picture), cmap="gray", interpolation="nearest")
    for title, axis in zip(titles, axes[0], strict=False):
        axis.set_title(title, pad=3)
    for label, axis in zip(labels, axes[:, 0], strict=False):
        place = {"transform": axis.transAxes, "ha": "right", "va": "center"}
        axis.text(-0.05, 0.5, label, **place)
    return figure


def pixels(picture: Tensor):
    """[3, H, W] as the [H, W, 3] array in 0..1 that matplotlib wants; [H, W] as it is."""
    picture = picture.detach().float().cpu()
    return (picture.clamp(0, 1).permute(1, 2, 0) if picture.ndim == 3 else picture).numpy()
