"""What is made of the rows: means, pairs, argument (.csv, .md), hours, and two figures.

means.csv: every method of every table, averaged over seeds. pairs.csv: the difference of two
methods on the same scenes from the same noise. Seeds are averaged scene by scene first, so the
standard error is that of scenes; the spread of the mean over training seeds stands beside it. A
table of several degradations has rows `all` too, averaged scene by scene over those that are there.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from notebooks.experiments import analysis, everything, figures, table
from notebooks.experiments.seen import USUAL

MEANS = ("table", "where", "method", "psnr", "spread", "ssim", "sharpness", "seeds")
PAIRS = (
    *("table", "where", "one", "other", "psnr_one", "psnr_other"),
    *("difference", "error", "scenes", "better", "seeds", "spread"),
)
HOURS = ("table", "seeds", "hours")
ALL = "all"


@dataclass(frozen=True)
class Compared:
    """method, where: columns that name a method, and what it is compared within; others: methods.

    A method is compared with each of `others`, and with `same`, in which {column} is its own.
    """

    method: tuple[str, ...]
    others: tuple[str, ...]
    where: tuple[str, ...] = ("degradation",)
    same: str = ""


COMPARED = {
    "cross": Compared(
        ("states", "loss", "sampler", "calls"),
        (
            *("desired x0 desired 4", "naive x0 euler 4"),
            *("desired x0 desired 20", "naive x0 euler 20", "ddbm x0 ddbm 20"),
        ),
        same="{states} {loss} euler {calls}",
    ),
    "recipe": Compared(("states", "loss", "sampler", "calls"), ("desired x0 desired 4",)),
    "ladder": Compared(("rung", "steps"), ("all 100", "tokens 100", "rows 100")),
    "heads": Compared(("head", "pairs"), ("P 512",), ("degradation", "severity"), same="P {pairs}"),
    "seen": Compared(
        ("seen", "pretraining", "states", "sampler"),
        (f"named {USUAL} desired desired",),
        same="named {pretraining} {states} {sampler}",
    ),
    "mixtures": Compared(("how", "weight"), ("two 0.5", "none 0.0"), ("pair",)),
    "unseen": Compared(("prompt",), ("degraded", "none")),
    "sensitivity": Compared(("what", "value"), ("t0 0.4", "rows 1.0", "gate 1.0")),
    "video": Compared(
        ("method", "sampler", "calls", "noise"),
        ("desired desired 20 independent", "frames desired 4 independent"),
    ),
}


def write(out: Path) -> None:
    """All of them, of whatever rows there are."""
    means: list[dict] = []
    pairs: list[dict] = []
    for name, compared in COMPARED.items():
        rows = named(table.read(out / f"{name}.csv"), compared)
        means += [{"table": name} | row for row in averages(rows)]
        pairs += [{"table": name} | row for row in differences(rows, compared)]
    save(out / "means.csv", MEANS, means)
    save(out / "pairs.csv", PAIRS, pairs)
    gains = argument(pd.DataFrame(means, columns=MEANS))
    save(out / "argument.csv", tuple(gains.columns), gains.to_dict("records"))
    (out / "argument.md").write_text(markdown(gains))
    save(out / "hours.csv", HOURS, hours(out))
    figures.write(out)


def save(file: Path, names: tuple[str, ...], rows: list[dict]) -> None:
    """A table that is made anew every time."""
    pd.DataFrame(rows, columns=names).round(4).to_csv(file, index=False, lineterminator="\n")


def named(rows: pd.DataFrame, compared: Compared) -> pd.DataFrame:
    """The rows with columns `method` and `where`, in words."""
    rows = rows[rows["psnr_each"].astype(str) != ""].copy()
    for name, columns in (("method", compared.method), ("where", compared.where)):
        rows[name] = [" ".join(str(row[c]) for c in columns) for row in rows.to_dict("records")]
    return rows


def averages(rows: pd.DataFrame) -> Iterator[dict]:
    """A row for each method and place, and one for all places of a method that has every one."""
    measures = ["psnr", "ssim", "sharpness"]
    each = rows.groupby(["where", "method"], sort=False)
    for (where, method), found in each:
        facts = {"where": where, "method": method, "seeds": found["seed"].nunique()}
        yield facts | found[measures].mean().to_dict() | {"spread": spread(found)}
    places = rows["where"].nunique()
    for method, found in rows.groupby("method", sort=False):
        if places < 2 or found["where"].nunique() < places:
            continue
        facts = {"where": ALL, "method": method, "seeds": found["seed"].nunique()}
        yield facts | found[measures].mean().to_dict() | {"spread": spread(found)}


def spread(found: pd.DataFrame) -> float:
    """Standard deviation over seeds of the mean PSNR; NaN of one seed."""
    return found.groupby("seed")["psnr"].mean().std()


def differences(rows: pd.DataFrame, compared: Compared) -> Iterator[dict]:
    """A row for each method and what it is compared with, at every place and at all of them."""
    places = list(dict.fromkeys(rows["where"]))
    scenes = {key: found for key, found in rows.groupby(["where", "method"], sort=False)}
    facts = rows.drop_duplicates("method").set_index("method").to_dict("index")
    for method, own in facts.items():
        others = [*compared.others]
        if compared.same:
            others.append(compared.same.format(**own))
        for other in dict.fromkeys(others):
            if other == method:
                continue
            found = {}
            for place in places:
                if (place, method) in scenes and (place, other) in scenes:
                    found[place] = joined(scenes[place, method], scenes[place, other])
            for place, both in found.items():
                yield {"where": place, "one": method, "other": other} | compare(both)
            if len(found) > 1 and len(found) == len(places):
                whole = pd.concat(found.values())
                yield {"where": ALL, "one": method, "other": other} | compare(whole)


def joined(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """PSNR of both for every seed and scene that both have: seed, scene, one, other."""
    sides = []
    for name, rows in (("one", one), ("other", other)):
        values = [
            {"seed": row["seed"], "scene": scene, name: value}
            for row in rows.to_dict("records")
            for scene, value in enumerate(analysis.numbers(row["psnr_each"]))
        ]
        side = pd.DataFrame(values).groupby(["seed", "scene"])[name].mean()
        sides.append(side)
    return pd.concat(sides, axis=1, join="inner").reset_index()


def compare(both: pd.DataFrame) -> dict[str, float]:
    """What pairs.csv says of them."""
    scenes = both.groupby("scene")[["one", "other"]].mean()
    mean, error = analysis.paired(list(scenes["one"]), list(scenes["other"]))
    seeds = both.groupby("seed")[["one", "other"]].mean()
    return {
        "psnr_one": scenes["one"].mean(),
        "psnr_other": scenes["other"].mean(),
        "difference": mean,
        "error": error,
        "scenes": len(scenes),
        "better": int((scenes["one"] > scenes["other"]).sum()),
        "seeds": len(seeds),
        "spread": (seeds["one"] - seeds["other"]).std(),
    }


# ---- what it cost ------------------------------------------------------------------------------


def hours(out: Path) -> list[dict]:
    """CPU hours by table, then of all. The rows of a job follow each other and share its time.

    Two jobs of one tenth of a second the same, one after the other, count as one.
    """
    found = []
    for experiment in [everything.module("rates"), *everything.ALL]:
        name = everything.table_of(experiment)
        rows = table.read(out / name)
        about = rows[["model", "seed", "seconds"]]
        first = (about != about.shift()).any(axis=1)  # rows that begin a job
        spent = about["seconds"][first].sum() / 3600
        found.append({"table": name, "seeds": rows["seed"].nunique(), "hours": spent})
    total = sum(row["hours"] for row in found)
    return [*found, {"table": ALL, "seeds": max(row["seeds"] for row in found), "hours": total}]


# ---- README's table ----------------------------------------------------------------------------

SHOWN = {  # column of argument.csv: as README calls it, table, method
    "naive": ("P, naive", "cross", "naive x0 euler 20"),
    "ddbm": ("P, ddbm", "cross", "ddbm x0 ddbm 20"),
    "desired": ("P, desired", "cross", "desired x0 desired 20"),
    "token": ("input tokens, desired", "ladder", "tokens 100"),
    "convolution": ("linear convolution", "heads", "convolution 512"),
    "lora": ("LoRA, rank 1", "heads", "lora 512"),
}
BEFORE = ("degraded - - 4", "none - desired 4")
CAPTION = (
    "Gain in dB over the better of the degraded scenes and the frozen model alone: tiny FLUX, 100 "
    "steps of 8 of 512 pairs, means over seeds and 32 scenes that nothing was chosen on; 20 calls, "
    "LoRA and tokens 4. The convolution is of the latent, 3x3, in closed form; LoRA changes the "
    "weights that P enters, by as many numbers as P has."
)


def argument(means: pd.DataFrame) -> pd.DataFrame:
    """Gains, dB: a row for each degradation, one for their mean, `all`; a column for each of SHOWN.

    NaN: not there.
    """
    psnr = means.set_index(["table", "where", "method"])["psnr"].to_dict()
    cross = means[(means["table"] == "cross") & (means["where"] != ALL)]
    rows = []
    for kind in dict.fromkeys(cross["where"]):
        before = max(psnr.get(("cross", kind, method), math.nan) for method in BEFORE)
        row = {"degradation": kind}
        for name, (_, source, method) in SHOWN.items():
            where = f"{kind} inside" if source == "heads" else kind
            row[name] = psnr.get((source, where, method), math.nan) - before
        rows.append(row)
    gains = pd.DataFrame(rows, columns=["degradation", *SHOWN])
    whole = {"degradation": ALL} | gains[list(SHOWN)].mean(skipna=False).to_dict()
    return pd.concat([gains, pd.DataFrame([whole])], ignore_index=True)


def markdown(gains: pd.DataFrame) -> str:
    """The same turned, one decimal: recipes down, degradations across; then a caption."""
    gains = gains[gains["degradation"] != ALL]
    kinds = list(gains["degradation"])
    lines = [["gain in PSNR, dB", *kinds], ["---"] * (len(kinds) + 1)]
    for name, (words, _, _) in SHOWN.items():
        cells = ["-" if math.isnan(value) else f"{value:+.1f}" for value in gains[name]]
        lines.append([words, *cells])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\n{CAPTION}\n"
