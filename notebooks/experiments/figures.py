"""Two figures of the rows: the cross as one heat map, and what a model must have seen."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from notebooks.experiments import table


def write(out: Path) -> None:
    """cross.png and seen.png, of whatever rows there are."""
    drawn = {
        "cross": cross(table.read(out / "cross.csv")),
        "seen": seen(table.read(out / "seen.csv")),
    }
    for name, figure in drawn.items():
        if figure is not None:
            figure.savefig(out / f"{name}.png", dpi=130, bbox_inches="tight", pad_inches=0.05)
            plt.close(figure)


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of restored scenes with a column `gain`, dB over the degraded ones."""
    still = rows[rows["states"] == "degraded"].groupby("degradation")["psnr"].mean()
    rows = rows[rows["states"] != "degraded"].copy()
    rows["gain"] = rows["psnr"] - rows["degradation"].map(still)
    return rows.dropna(subset=["gain"])


def cross(rows: pd.DataFrame) -> Figure | None:
    """Training states and loss down, sampler and calls across: mean gain over degradations."""
    rows = gains(rows)
    if rows.empty:
        return None
    down = ["states", "loss"]
    wide = rows.pivot_table(index=down, columns=["calls", "sampler"], values="gain", sort=False)
    wide = wide.sort_index(axis=1)
    figure, axis = plt.subplots(figsize=(0.75 * len(wide.columns) + 1, 0.3 * len(wide) + 1))
    values = wide.to_numpy()
    image = axis.imshow(values, cmap="viridis", aspect="auto")
    for place in np.argwhere(np.isfinite(values)):
        value = values[tuple(place)]
        dark = value < np.nanmin(values) + 0.6 * np.ptp(values[np.isfinite(values)])
        look = {"ha": "center", "va": "center", "fontsize": 7}
        axis.text(*place[::-1], f"{value:.2f}", color="white" if dark else "black", **look)
    axis.set_xticks(range(len(wide.columns)), [f"{s}\n{c} calls" for c, s in wide.columns])
    axis.set_yticks(range(len(wide)), [f"{states}, {loss}" for states, loss in wide.index])
    axis.tick_params(labelsize=7, length=0)
    axis.set_xlabel("sampler", fontsize=8)
    axis.set_ylabel("trained on, loss", fontsize=8)
    figure.colorbar(image, label="gain over degraded, dB")
    return figure


def seen(rows: pd.DataFrame) -> Figure | None:
    """Gain of learned prompts by what the model has seen, against the length of pre-training."""
    rows = gains(rows)
    rows = rows[(rows["states"] == "desired") & (rows["sampler"] == "desired")]
    if rows.empty:
        return None
    kinds = list(dict.fromkeys(rows["degradation"]))
    size = (2.2 * len(kinds), 2.2)
    figure, axes = plt.subplots(1, len(kinds), figsize=size, squeeze=False, sharey=True)
    for axis, kind in zip(axes[0], kinds, strict=True):
        these = rows[rows["degradation"] == kind]
        for name, found in these.groupby("seen", sort=False):
            means = found.groupby("pretraining")["gain"].mean()
            axis.plot(means.index, means, "o-", ms=3, lw=1, label=name)
        lengths = sorted(these["pretraining"].unique())
        axis.set_xscale("log")
        axis.set_xticks(lengths, lengths)
        axis.minorticks_off()
        axis.set_title(kind, fontsize=8)
        axis.set_xlabel("steps of pre-training", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0, 0].set_ylabel("gain over degraded, dB", fontsize=8)
    axes[0, -1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure
