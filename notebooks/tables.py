"""What compare.py measured, as tables and figures: mean and spread over seeds.

`write` makes summary.csv, tables.md, argument.csv and argument.md (README's table) and three PNGs
of the rows in runs.csv and curves.csv; the notebooks draw the same figures from the same rows.
Spread is the standard deviation over seeds, n - 1 in the denominator: of what training draws, since
the held-out scenes are always the same.

Letters: n seeds.
"""

import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from figures import COLOURS
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INPUTS = [
    *("backbone", "degradation", "space", "bridge", "t0", "rows"),
    *("sampler", "steps", "batch", "lr", "scenes", "held_out"),
]
MEASURES = ["psnr", "ssim", "degraded_psnr", "degraded_ssim", "alone_psnr", "alone_ssim"]
COLUMNS = {  # of the files that compare.py writes
    "runs.csv": [*INPUTS, "seed", "sentence", *MEASURES, "cpu_seconds", "seconds"],
    "curves.csv": [*INPUTS, "seed", "step", "val_loss", "psnr", "ssim"],
    "sentences.csv": [*INPUTS, "seed", "sentence", "psnr", "ssim"],
    "machine.csv": [
        *("date", "commit", "backbone", "processor", "cores", "threads", "device"),
        *("torch", "python", "runs", "cpu_seconds", "seconds"),
    ],
}
SPACES = {"text": "tab:grey", "token": "tab:purple", "embedding": "tab:green"}
LEARNED = ["steps", "lr"]  # inputs that a space has its own values of

# ---- rows --------------------------------------------------------------------------------------


def read(file: Path) -> pd.DataFrame:
    """One of the files of COLUMNS; without rows if there is no such file."""
    if not file.is_file():
        return pd.DataFrame(columns=COLUMNS[file.name])
    # The empty sentence is a sentence, and a number is the one that was written.
    return pd.read_csv(file, keep_default_na=False)


def append(file: Path, rows: list[dict]) -> None:
    """More rows of one of the files of COLUMNS; what a row lacks stays empty."""
    more = pd.DataFrame(rows, columns=COLUMNS[file.name])
    more.to_csv(file, mode="a", header=not file.is_file(), index=False, lineterminator="\r\n")


def key(row: dict) -> tuple:
    """What tells one run from another."""
    return tuple(row[name] for name in (*INPUTS, "seed"))


def keys(runs: pd.DataFrame) -> set[tuple]:
    """Those of all runs."""
    return {key(row) for row in runs.to_dict("records")}


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for all seeds of a run: n, mean and spread of its PSNR and SSIM."""
    groups = runs.groupby(INPUTS, sort=False)
    spreads = groups[["psnr", "ssim"]].std().add_suffix("_spread")  # NaN of a single seed
    spreads = spreads.round(12)  # of values with four digits: 0.0015 is half of a digit, not less
    return pd.concat([groups.size().rename("n"), groups[MEASURES].mean(), spreads], axis=1)


def where(rows: pd.DataFrame, usual: dict, *free: str, **wanted) -> pd.DataFrame:
    """Rows with the usual inputs, but for those in `wanted`; inputs in `free` may be any."""
    asked = {name: usual[name] for name in INPUTS if name not in free} | wanted
    for name, value in asked.items():
        rows = rows[rows[name] == value]
    return rows


def usual(runs: pd.DataFrame) -> dict:
    """The middle of the comparison: what most of the runs in embedding space share."""
    learned = runs[runs["space"] == "embedding"]
    common = {name: statistics.mode(learned[name]) for name in INPUTS}
    return common | {"bridge": "desired"}


def by(rows: pd.DataFrame, name: str) -> list[tuple[str | float, pd.DataFrame]]:
    """Each value of a column with its rows, in the order in which values first appear."""
    return list(rows.groupby(name, sort=False))


def bridges(rows: pd.DataFrame) -> list[str]:
    """Those that have rows, in the order of bridge.BRIDGES."""
    return [name for name in COLOURS if name in set(rows["bridge"])]


def differences(runs: pd.DataFrame, one: str, other: str, measure: str = "psnr") -> pd.Series:
    """Bridge `one` minus bridge `other` on the same pairs, a number for each seed."""
    found = runs.pivot(index="seed", columns="bridge", values=measure)
    return (found[one] - found[other]).dropna()


# ---- tables ------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cell(rows: pd.DataFrame) -> str:
    """PSNR and SSIM of the runs of one group, mean and spread over seeds."""
    if rows.empty:
        return "-"
    (one,) = summary(rows).to_dict("records")
    return (
        f"{one['psnr']:.2f} ± {one['psnr_spread']:.2f} / "
        f"{one['ssim']:.3f} ± {one['ssim_spread']:.3f}"
    )


def still(rows: pd.DataFrame, name: str) -> str:
    """PSNR and SSIM of what does not depend on the prompt: `degraded`, or `alone`, no prompt."""
    first = rows.iloc[0]
    return f"{first[f'{name}_psnr']:.2f} / {first[f'{name}_ssim']:.3f}"


def bridges_table(runs: pd.DataFrame) -> str:
    """A degradation in each row: before, frozen model alone, then with each bridge's prompt."""
    rows, lines = where(runs, usual(runs), "degradation", "bridge"), []
    for kind, found in by(rows, "degradation"):
        desired = found[found["bridge"] == "desired"]
        cells = [cell(found[found["bridge"] == name]) for name in bridges(rows)]
        lines.append([kind, still(desired, "degraded"), still(desired, "alone"), *cells])
    return table(["PSNR, dB / SSIM", "degraded", "no prompt", *bridges(rows)], lines)


def differences_table(runs: pd.DataFrame) -> str:
    """Of PSNR between bridges, with the same pairs and seed: mean and spread over seeds."""
    rows, lines = where(runs, usual(runs), "degradation", "bridge"), []
    pairs = [("desired", name) for name in bridges(rows) if name != "desired"] + [("ddbm", "naive")]
    for kind, found in by(rows, "degradation"):
        each = [differences(found, *pair) for pair in pairs]
        lines.append([kind, *(f"{d.mean():+.2f} ± {d.std():.2f}" for d in each)])
    return table(["PSNR, dB", *(" - ".join(pair) for pair in pairs)], lines)


def spaces_table(runs: pd.DataFrame) -> str:
    """A degradation in each row, a space in each column."""
    rows, lines = where(runs, usual(runs), "degradation", "space", *LEARNED), []
    for kind, found in by(rows, "degradation"):
        if set(found["space"]) == set(SPACES):
            cells = [cell(found[found["space"] == name]) for name in SPACES]
            lines.append([kind, still(found, "alone"), *cells])
    return table(["PSNR, dB / SSIM", "no prompt", *SPACES], lines)


def gains(runs: pd.DataFrame) -> pd.DataFrame:
    """README's table: a degradation in each row, a bridge or space in each column, both as usual.

    Mean over seeds of the dB over the better of the degraded pictures and the frozen model's own.
    """
    common = usual(runs)
    own = runs["psnr"] - runs[["degraded_psnr", "alone_psnr"]].max(axis=1)
    runs = runs.assign(gain=own)
    learned = where(runs, common, "degradation", "bridge")
    found = learned.pivot_table("gain", "degradation", "bridge", sort=False)
    found = found[bridges(learned)]
    tokens = where(runs, common, "degradation", *LEARNED, space="token")
    found["token"] = tokens.groupby("degradation")["gain"].mean()  # NaN where none was learned
    return found.round(4)


def gains_table(found: pd.DataFrame) -> str:
    """The same with the degradations across, for README."""
    lines = []
    for name, row in found.items():
        said = f"P, {name}" if name in COLOURS else "input tokens, desired"
        lines.append([said, *("-" if pd.isna(db) else f"{db:+.1f}" for db in row)])
    return table(["gain in PSNR, dB", *found.index], lines)


def sensitivity_table(runs: pd.DataFrame, name: str, bridge: str = "desired") -> str:
    """What one input changes, in a row: t0, sampler or rows."""
    found = by(where(runs, usual(runs), name, bridge=bridge).sort_values(name), name)
    head = [f"{name}, {bridge}", *(f"{value:g}" for value, _ in found)]
    return table(head, [["PSNR, dB / SSIM", *(cell(rows) for _, rows in found)]])


# ---- figures -----------------------------------------------------------------------------------


def line(axis: Axes, rows: pd.DataFrame, x: str, colour: str, label: str, y: str = "psnr") -> None:
    """Mean over seeds against `x` as a line, every seed as a dot."""
    means = rows.groupby(x)[y].mean()
    axis.plot(means.index, means, color=colour, label=label, lw=1.2)
    axis.plot(rows[x], rows[y], ".", color=colour, ms=3)


def bridges_figure(runs: pd.DataFrame) -> Figure:
    """PSNR and SSIM for every degradation: a dot for each seed, a bar at their mean."""
    rows = where(runs, usual(runs), "degradation", "bridge")
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 2.8))
    names, kinds = bridges(rows), list(rows["degradation"].unique())
    for axis, y, label in zip(axes, ("psnr", "ssim"), ("PSNR, dB", "SSIM"), strict=True):
        for at, kind in enumerate(kinds):
            these = rows[rows["degradation"] == kind]
            for k, name in enumerate(names):
                found = these.loc[these["bridge"] == name, y]
                place = at + 0.66 / len(names) * (k - (len(names) - 1) / 2)
                legend, colour = name if at == 0 else None, COLOURS[name]
                axis.plot([place] * len(found), found, ".", color=colour, ms=5, label=legend)
                axis.hlines(found.mean(), place - 0.1, place + 0.1, colour, lw=1)
            level = these[f"degraded_{y}"].iloc[0]
            axis.hlines(level, at - 0.4, at + 0.4, "grey", "dotted")
        axis.set_xticks(range(len(kinds)), kinds)
        axis.set_ylabel(label)
    axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def spaces_figure(runs: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Validation loss and PSNR against iterations, two degradations below each other."""
    rows = where(curves, usual(runs), "degradation", "space", *LEARNED)
    found = by(rows, "degradation")
    figure, axes = plt.subplots(
        len(found), 2, figsize=(7.5, 2.3 * len(found)), squeeze=False, sharex=True
    )
    last = rows["step"].max()
    for (left, right), (kind, group) in zip(axes, found, strict=True):
        for name, colour in SPACES.items():
            these = group[group["space"] == name]
            if name == "text":  # nothing is learned: the same at every iteration
                these = pd.concat([these.assign(step=step) for step in (0, last)])
            line(left, these, "step", colour, name, "val_loss")
            line(right, these, "step", colour, name)
        left.set(ylabel=f"{kind}: validation loss")
        right.set(ylabel="PSNR, dB")
    for axis in axes[-1]:
        axis.set_xlabel("iterations")
    axes[0, 1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    return figure


def sensitivity_figure(runs: pd.DataFrame) -> Figure:
    """PSNR against t0, calls of the model, and rows of the prompt."""
    common = usual(runs)
    figure, axes = plt.subplots(1, 3, figsize=(8.5, 2.4), sharey=True)
    line(axes[0], where(runs, common, "t0"), "t0", COLOURS["desired"], "desired")
    for name in bridges(runs):
        line(axes[1], where(runs, common, "sampler", bridge=name), "sampler", COLOURS[name], name)
    line(axes[2], where(runs, common, "rows"), "rows", COLOURS["desired"], "desired")
    names = {"t0": "$t_0$", "sampler": "sampler steps", "rows": "rows of the prompt"}
    for axis, (name, label) in zip(axes, names.items(), strict=True):
        axis.axhline(runs["degraded_psnr"].iloc[0], color="grey", ls=":", label="degraded")
        axis.set_xlabel(label)
        ticks = sorted(where(runs, common, name)[name].unique())
        if name != "t0":
            axis.set_xscale("log")
            axis.minorticks_off()
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[0].set_ylabel("PSNR, dB")
    axes[2].legend(*axes[1].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(1, 1))
    return figure


# ---- all of it ---------------------------------------------------------------------------------


def write(out: Path) -> None:
    """summary.csv, tables.md and the figures, of whatever runs.csv and curves.csv hold."""
    runs, curves = read(out / "runs.csv"), read(out / "curves.csv")
    common = usual(runs)
    summary(runs).round(4).to_csv(out / "summary.csv")
    budget = (
        f"{common['backbone']}; mean ± standard deviation over {runs['seed'].nunique()} seeds; "
        f"{common['steps']} steps of {common['batch']} pairs out of {common['scenes']}, "
        f"{common['held_out']} held out, {common['sampler']} sampler steps."
    )
    parts, figures = [budget], {}
    if len(bridges(runs)) > 1:
        parts += [bridges_table(runs), differences_table(runs)]
        figures["bridges"] = bridges_figure(runs)
        found = gains(runs)
        found.to_csv(out / "argument.csv")
        (out / "argument.md").write_text(gains_table(found))
    if len(curves) and set(runs["space"]) == set(SPACES):
        parts.append(spaces_table(runs))
        figures["spaces"] = spaces_figure(runs, curves)
    if runs["t0"].nunique() > 1:
        parts += [sensitivity_table(runs, name) for name in ("t0", "rows")]
        parts += [sensitivity_table(runs, "sampler", name) for name in bridges(runs)]
        figures["sensitivity"] = sensitivity_figure(runs)
    (out / "tables.md").write_text("\n\n".join(part.strip() for part in parts) + "\n")
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png", dpi=130, bbox_inches="tight", pad_inches=0.05)
        plt.close(figure)
