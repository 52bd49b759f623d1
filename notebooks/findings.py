"""What lectures 3 to 5 make of the tables in notebooks/results: means, paired differences, figures.

`python -m notebooks.experiments` writes the tables. One that is not there yet has no rows here; its
figures stay empty, and `said` says so.

Letters: M scenes, `psnr_each` of a row: their M values of PSNR, separated by blanks.
"""

from math import nan
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from pandas import DataFrame, Series

RESULTS = Path(__file__).parent / "results"
MISSING = "no rows yet"  # what is said of a table that lacks them
ALWAYS = "backbone model seed "
RESTORED = " psnr ssim sharpness psnr_each"
COLUMNS = {  # of tables without rows
    "cross.csv": "degradation states loss sampler calls rate" + RESTORED,
    "steps.csv": "degradation states loss sampler noise calls error bias variance psnr sharpness",
    "walk.csv": "degradation states loss sampler noise calls step t share latent_error",
    "perception.csv": "degradation states loss sampler calls psnr ssim gmsd sharpness frechet "
    "accuracy",
    "ladder.csv": "degradation rung steps rate numbers row_norm train_loss" + RESTORED,
    "words.csv": "degradation sentence against weight set" + RESTORED,
    "steering.csv": "said pictures warmth drawn_warmth",
    "figure1.csv": "source space degradation step loss relative",
    "sensitivity.csv": "what value degradation rate" + RESTORED,
}
ORDER = (  # of names in tables and figures; others follow
    *("haze", "rain", "snow", "blur", "lowlight"),
    *("euler", "naive", "late", "t0", "ddbm", "desired", "ebridge", "times", "visited"),
    *("words", "guided", "tokens", "sphere", "rows", "pooled", "first", "all"),
)

# ---- rows --------------------------------------------------------------------------------------


def read(name: str, **wanted: object) -> DataFrame:
    """Rows of a table, those with the wanted values; KeyError for a column it does not have."""
    if not (file := RESULTS / name).is_file():
        return DataFrame(columns=[*ALWAYS.split(), *COLUMNS[name].split()])
    texts = dict.fromkeys(("model", "commit", "psnr_each", "sentence", "against"), str)
    return among(pd.read_csv(file, keep_default_na=False, dtype=texts), **wanted)


def among(rows: DataFrame, **wanted: object) -> DataFrame:
    """Rows whose columns have the wanted values: one, or one of a list."""
    for name, value in wanted.items():
        values = value if isinstance(value, list | tuple) else [value]
        rows = rows[rows[name].isin(values)]
    return rows


def place(name: object) -> tuple:
    """Where a name or number stands among others."""
    known = ORDER.index(name) if name in ORDER else len(ORDER)
    return (known, name if known == len(ORDER) else "")


def names(rows: DataFrame, column: str) -> list:
    """The values of a column, each once, in the order of ORDER, numbers by size."""
    return sorted(rows[column].unique(), key=place)


def grid(rows: DataFrame, down: str, across: str, measure: str = "psnr") -> DataFrame:
    """Means of a measure over all that the two columns do not tell apart: a line per `down`."""
    if rows.empty:
        return DataFrame()
    means = rows.groupby([down, across])[measure].mean().unstack()
    return means.loc[names(rows, down), names(rows, across)]


def printed(table: DataFrame, digits: int = 2) -> str:
    """A grid as text."""
    if table.empty:
        return f"{MISSING}: python -m notebooks.experiments writes them"
    shown = table.rename_axis(index=None)
    return shown.to_string(float_format=lambda value: f"{value:.{digits}f}", na_rep="-")


# ---- differences -------------------------------------------------------------------------------


def each(rows: DataFrame) -> DataFrame:
    """PSNR of every scene, a line for every (degradation, seed): the mean of its rows."""
    values = rows["psnr_each"].str.split(expand=True).astype(float)  # [rows, M]
    return values.groupby([rows["degradation"], rows["seed"]]).mean()


def difference(one: DataFrame, other: DataFrame) -> DataFrame:
    """PSNR of `one` minus that of `other` on the same scenes: mean and standard error.

    A line for every degradation that both have, and "all" for the mean of those. Seeds, and in
    "all" degradations, are averaged within a scene first: what is left varies from scene to scene.
    """
    if one.empty or other.empty:
        return DataFrame({"mean": [nan], "error": [nan]}, index=["all"])
    scenes = (each(one) - each(other)).dropna().groupby("degradation").mean()  # [kinds, M]
    scenes = scenes.loc[sorted(scenes.index, key=place)]
    scenes.loc["all"] = scenes.mean()
    error = scenes.std(axis=1) / scenes.shape[1] ** 0.5
    return DataFrame({"mean": scenes.mean(axis=1), "error": error})


def said(found: DataFrame, line: str = "all") -> str:
    """A difference in words: its size, and whether it is more than twice its standard error."""
    if found.loc[line].isna().any():
        return MISSING
    mean, error = found.loc[line]
    clear = "clear" if abs(mean) > 2 * error else "a tie: less than two standard errors"
    return f"{mean:+.2f} ± {error:.2f} dB, {clear}"


# ---- figures -----------------------------------------------------------------------------------


def heat(axis: Axes, table: DataFrame, title: str, low: float, high: float) -> None:
    """A grid as colours from low to high, each field with its number."""
    axis.set_title(title)
    axis.set_axis_off()
    if table.empty:
        return
    axis.set_axis_on()
    axis.imshow(table.to_numpy(float), cmap="RdYlGn", vmin=low, vmax=high, aspect="auto")
    axis.set_xticks(range(table.shape[1]), table.columns)
    axis.set_yticks(range(table.shape[0]), table.index)
    for i, row in enumerate(table.to_numpy(float)):
        for k, value in enumerate(row):
            axis.text(
                k, i, f"{value:.1f}" if value == value else "", ha="center", va="center", fontsize=6
            )


def dots(axis: Axes, found: dict[str, DataFrame], title: str) -> None:
    """Differences with two standard errors to both sides: a line per degradation, a colour each."""
    lines = sorted({name for table in found.values() for name in table.index}, key=place)
    for k, (label, table) in enumerate(found.items()):
        shift = 0.15 * (k - (len(found) - 1) / 2)
        heights = [lines.index(name) + shift for name in table.index]
        spread = 2 * table["error"]
        axis.errorbar(table["mean"], heights, xerr=spread, fmt="o", ms=3, lw=1, label=label)
    axis.set_yticks(range(len(lines)), lines)
    axis.set_ylim(max(len(lines), 1) - 0.5, -0.5)  # the first on top
    axis.axvline(0, color="grey", lw=0.8)
    axis.set(title=title, xlabel="PSNR, dB")
    if len(found) > 1:
        legend(axis, loc="best", fontsize=7)


def curve(axis: Axes, rows: DataFrame, x: str, y: str, label: str = "", **look: object) -> Series:
    """The mean over all rows of each x as a line, given back."""
    means = rows.astype({y: float}).groupby(x)[y].mean()
    axis.plot(means.index, means, **{"marker": "o", "ms": 3, "lw": 1.2, "label": label, **look})
    return means


def legend(axis: Axes, **look: object) -> None:
    """A legend, if there is something to explain: matplotlib warns of an empty one."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(**look)


def counted(axis: Axes, calls: list) -> None:
    """Calls of the model, on a logarithmic axis that names each."""
    axis.set(xlabel="calls (log)", xscale="log")
    axis.set_xticks(calls, [f"{count:g}" for count in calls])
    axis.minorticks_off()
