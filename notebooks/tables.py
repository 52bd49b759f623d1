"""What compare.py measured, as tables and figures: mean and spread over seeds.

`write` makes summary.csv, tables.md and three PNGs of the rows in runs.csv and curves.csv; the
notebooks draw the same figures from the same rows. Spread is the standard deviation over seeds,
n - 1 in the denominator: of what training draws, since the held-out scenes are always the same.

Letters: n seeds.
"""

import csv
import math
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
from figures import COLOURS
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path[:0] = [str(Path(__file__).parents[1])]  # for compare.py, which imports this file first

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
Row = dict[str, str | float]

# ---- rows --------------------------------------------------------------------------------------


def read(file: Path) -> list[Row]:
    """A table's rows, numbers as float; empty if there is no such file."""
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        return [{k: number(v) for k, v in row.items()} for row in csv.DictReader(stream)]


def number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def append(file: Path, rows: list[dict]) -> None:
    """More rows of one of the files of COLUMNS; what a row lacks stays empty."""
    new = not file.is_file()
    with file.open("a", newline="") as stream:
        table = csv.DictWriter(stream, COLUMNS[file.name], restval="")
        if new:
            table.writeheader()
        table.writerows(rows)


def key(row: Row) -> tuple[str | float, ...]:
    """What tells one run from another."""
    return tuple(row[name] for name in (*INPUTS, "seed"))


def groups(runs: Iterable[Row], names: list[str]) -> list[list[Row]]:
    """Rows that agree in `names`, together, in the order in which they first appear."""
    found: dict[tuple, list[Row]] = {}
    for row in runs:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(found.values())


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan


def summary(runs: Iterable[Row]) -> list[Row]:
    """One row for all seeds of a run: n, mean and spread of its PSNR and SSIM."""
    found = []
    for rows in groups(runs, INPUTS):
        means = {name: statistics.mean(row[name] for row in rows) for name in MEASURES}
        spreads = {f"{k}_spread": spread([row[k] for row in rows]) for k in ("psnr", "ssim")}
        told = {name: rows[0][name] for name in INPUTS}
        found.append(told | {"n": len(rows)} | means | spreads)
    return found


def where(rows: Iterable[Row], usual: Row, *free: str, **wanted) -> list[Row]:
    """Rows with the usual inputs, but for those in `wanted`; inputs in `free` may be any."""
    asked = {name: usual[name] for name in INPUTS if name not in free} | wanted
    return [row for row in rows if all(row[name] == value for name, value in asked.items())]


def usual(runs: list[Row]) -> Row:
    """The middle of the comparison: what most of the runs in embedding space share."""
    learned = [row for row in runs if row["space"] == "embedding"]
    common = {name: statistics.mode(row[name] for row in learned) for name in INPUTS}
    return common | {"bridge": "desired"}


def differences(runs: list[Row], one: str, other: str, measure: str = "psnr") -> list[float]:
    """Bridge `one` minus bridge `other` on the same pairs, a number for each seed."""
    a, b = ({r["seed"]: r[measure] for r in runs if r["bridge"] == name} for name in (one, other))
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


# ---- tables ------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cell(rows: list[Row]) -> str:
    """PSNR and SSIM of the runs of one group, mean and spread over seeds."""
    if not rows:
        return "-"
    (one,) = summary(rows)
    return (
        f"{one['psnr']:.2f} ± {one['psnr_spread']:.2f} / "
        f"{one['ssim']:.3f} ± {one['ssim_spread']:.3f}"
    )


def bridges_table(runs: list[Row]) -> str:
    """A degradation in each row: before, frozen model alone, then with each bridge's prompt."""
    common, lines = usual(runs), []
    for rows in groups(where(runs, common, "degradation", "bridge"), ["degradation"]):
        first = next(row for row in rows if row["bridge"] == "desired")
        still = [
            f"{first[f'{k}_psnr']:.2f} / {first[f'{k}_ssim']:.3f}" for k in ("degraded", "alone")
        ]
        cells = [cell([row for row in rows if row["bridge"] == name]) for name in COLOURS]
        lines.append([str(first["degradation"]), *still, *cells])
    return table(["PSNR, dB / SSIM", "degraded", "no prompt", *COLOURS], lines)


def differences_table(runs: list[Row]) -> str:
    """Of PSNR between bridges, with the same pairs and seed: mean and spread over seeds."""
    pairs = [("desired", "naive"), ("desired", "ddbm"), ("ddbm", "naive")]
    lines = []
    for rows in groups(where(runs, usual(runs), "degradation", "bridge"), ["degradation"]):
        found = [differences(rows, *pair) for pair in pairs]
        cells = [f"{statistics.mean(d):+.2f} ± {spread(d):.2f}" for d in found]
        lines.append([str(rows[0]["degradation"]), *cells])
    return table(["PSNR, dB", *(" - ".join(pair) for pair in pairs)], lines)


def spaces_table(runs: list[Row]) -> str:
    """A degradation in each row, a space in each column."""
    rows = where(runs, usual(runs), "degradation", "space", *LEARNED)
    lines = []
    for found in groups(rows, ["degradation"]):
        if {row["space"] for row in found} == set(SPACES):
            alone = f"{found[0]['alone_psnr']:.2f} / {found[0]['alone_ssim']:.3f}"
            cells = [cell([row for row in found if row["space"] == name]) for name in SPACES]
            lines.append([str(found[0]["degradation"]), alone, *cells])
    return table(["PSNR, dB / SSIM", "no prompt", *SPACES], lines)


def sensitivity_table(runs: list[Row], name: str, bridge: str = "desired") -> str:
    """What one input changes, in a row: t0, sampler or rows."""
    rows = where(runs, usual(runs), name, bridge=bridge)
    found = sorted(groups(rows, [name]), key=lambda group: group[0][name])
    head = [f"{name}, {bridge}", *(f"{group[0][name]:g}" for group in found)]
    return table(head, [["PSNR, dB / SSIM", *(cell(group) for group in found)]])


# ---- figures -----------------------------------------------------------------------------------


def line(axis: Axes, rows: list[Row], x: str, colour: str, label: str, y: str = "psnr") -> None:
    """Mean over seeds against `x` as a line, every seed as a dot."""
    found = sorted(groups(rows, [x]), key=lambda group: group[0][x])
    means = [statistics.mean(row[y] for row in group) for group in found]
    axis.plot([group[0][x] for group in found], means, color=colour, label=label, lw=1.2)
    axis.plot([row[x] for row in rows], [row[y] for row in rows], ".", color=colour, ms=3)


def bridges_figure(runs: list[Row]) -> Figure:
    """PSNR and SSIM for every degradation: a dot for each seed, a bar at their mean."""
    rows = where(runs, usual(runs), "degradation", "bridge")
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 2.8))
    kinds = list(dict.fromkeys(row["degradation"] for row in rows))
    for axis, y, label in zip(axes, ("psnr", "ssim"), ("PSNR, dB", "SSIM"), strict=True):
        for k, (name, colour) in enumerate(COLOURS.items()):
            for at, kind in enumerate(kinds):
                found = [r[y] for r in rows if (r["degradation"], r["bridge"]) == (kind, name)]
                place, told = at + 0.22 * (k - 1), name if at == 0 else None
                axis.plot([place] * len(found), found, ".", color=colour, ms=5, label=told)
                axis.hlines(statistics.mean(found), place - 0.1, place + 0.1, colour, lw=1)
        before = [next(r for r in rows if r["degradation"] == kind) for kind in kinds]
        levels = [row[f"degraded_{y}"] for row in before]
        places = range(len(kinds))
        axis.hlines(levels, [p - 0.4 for p in places], [p + 0.4 for p in places], "grey", "dotted")
        axis.set_xticks(places, kinds)
        axis.set_ylabel(label)
    axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def spaces_figure(runs: list[Row], curves: list[Row]) -> Figure:
    """Validation loss and PSNR against iterations, two degradations below each other."""
    rows = where(curves, usual(runs), "degradation", "space", *LEARNED)
    found = groups(rows, ["degradation"])
    figure, axes = plt.subplots(
        len(found), 2, figsize=(7.5, 2.3 * len(found)), squeeze=False, sharex=True
    )
    last = max(row["step"] for row in rows)
    for (left, right), group in zip(axes, found, strict=True):
        for name, colour in SPACES.items():
            these = [row for row in group if row["space"] == name]
            if name == "text":  # nothing is learned: the same at every iteration
                these = [row | {"step": step} for row in these for step in (0, last)]
            line(left, these, "step", colour, name, "val_loss")
            line(right, these, "step", colour, name)
        left.set(ylabel=f"{group[0]['degradation']}: validation loss")
        right.set(ylabel="PSNR, dB")
    for axis in axes[-1]:
        axis.set_xlabel("iterations")
    axes[0, 1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    return figure


def sensitivity_figure(runs: list[Row]) -> Figure:
    """PSNR against t0, calls of the model, and rows of the prompt."""
    common = usual(runs)
    figure, axes = plt.subplots(1, 3, figsize=(8.5, 2.4), sharey=True)
    line(axes[0], where(runs, common, "t0"), "t0", COLOURS["desired"], "desired")
    for name, colour in COLOURS.items():
        line(axes[1], where(runs, common, "sampler", bridge=name), "sampler", colour, name)
    line(axes[2], where(runs, common, "rows"), "rows", COLOURS["desired"], "desired")
    names = {"t0": "$t_0$", "sampler": "sampler steps", "rows": "rows of the prompt"}
    for axis, (name, label) in zip(axes, names.items(), strict=True):
        axis.axhline(runs[0]["degraded_psnr"], color="grey", ls=":", label="degraded")
        axis.set_xlabel(label)
        ticks = sorted({row[name] for row in where(runs, common, name)})
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
    rows, common = summary(runs), usual(runs)
    with (out / "summary.csv").open("w", newline="") as stream:
        file = csv.DictWriter(stream, rows[0])
        file.writeheader()
        file.writerows(rounded(row) for row in rows)
    seeds = {row["seed"] for row in runs}
    budget = (
        f"{common['backbone']}; mean ± standard deviation over {len(seeds)} seeds; "
        f"{common['steps']:g} steps of {common['batch']:g} pairs out of {common['scenes']:g}, "
        f"{common['held_out']:g} held out, {common['sampler']:g} sampler steps."
    )
    parts, figures = [budget], {}
    if {row["bridge"] for row in runs} == set(COLOURS):
        parts += [bridges_table(runs), differences_table(runs)]
        figures["bridges"] = bridges_figure(runs)
    if curves and {row["space"] for row in runs} == set(SPACES):
        parts.append(spaces_table(runs))
        figures["spaces"] = spaces_figure(runs, curves)
    if len({row["t0"] for row in runs}) > 1:
        parts += [sensitivity_table(runs, name) for name in ("t0", "rows")]
        parts += [sensitivity_table(runs, "sampler", name) for name in COLOURS]
        figures["sensitivity"] = sensitivity_figure(runs)
    (out / "tables.md").write_text("\n\n".join(part.strip() for part in parts) + "\n")
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png", dpi=130, bbox_inches="tight", pad_inches=0.05)
        plt.close(figure)


def rounded(row: Row) -> Row:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
