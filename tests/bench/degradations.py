"""README's gains and picture: a prompt for each of the five degradations at the default budget.

    python -m tests.bench.degradations                     # FLUX, drawn scenes
    python -m tests.bench.degradations --backbone wan      # WAN, moving scenes
    OMP_NUM_THREADS=1 python -m tests.bench.degradations --jobs 2      # two runs side by side
    python -m tests.bench.degradations --again             # tables and picture of the last runs

Runs train.py as anyone would (seed 0, desired bridge) into runs/bench/ and writes, in tests/bench/,
degradations-BACKBONE.csv (what each run reports on its held-out scenes or clips), the same as
degradations-BACKBONE.md, gains.md of both backbones, run.txt (what the run of haze printed), and
tinybridge/tiny/restored-BACKBONE.png: the first held-out scenes, whatever came of them.
Then `python -m tests.bench.front` puts them into README.
"""

import argparse
import csv
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import weights
from tinybridge.backbone import Backbone
from tinybridge.data import degradations, moving_scenes, scenes
from tinybridge.data.sheet import sheet
from tinybridge.data.tables import load_table, save_table
from tinybridge.metrics import psnr
from tinybridge.prompt import Prompt
from tinybridge.restoration import restore
from tinybridge.training.report import filmstrip

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "tests/bench"
PICTURES = ROOT / "tinybridge/tiny"
KINDS = tuple(degradations.KINDS)
FIRST = 1_000_000  # of the held-out scenes; the first five are shown, not the best ones
COLUMNS = "degradation picture psnr ssim change flicker gain seconds"

# ---- the runs ----------------------------------------------------------------------------------


def folder(backbone: str, kind: str) -> str:
    """Of the run, from the repository's root."""
    return f"runs/bench/{backbone}-{kind}"


def learn(backbone: str, kind: str) -> tuple[str, float]:
    """What a run of train.py prints, and its seconds; it replaces an earlier one in its folder."""
    began, out = time.perf_counter(), folder(backbone, kind)
    command = [sys.executable, "train.py", "--backbone", backbone, "--degradation", kind]
    done = subprocess.run(
        [*command, "--out", out], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout, time.perf_counter() - began


def rows_of(backbone: str, kind: str, seconds: float) -> list[dict]:
    """A row for each of degraded, no prompt, restored, and of clips clean, as the run reports.

    gain: of no prompt over degraded, of restored over the better of the two, in dB. flicker:
    change from frame to frame over that of the clean clips.
    """
    rows = []
    with (ROOT / folder(backbone, kind) / "results.csv").open(newline="") as file:
        for found in csv.DictReader(file):
            row = {"degradation": kind, "picture": found["picture"]}
            for name in ("psnr", "ssim", "change"):
                row[name] = round(float(found[name]), 4) if found.get(name) else ""
            rows.append(row | {"seconds": round(seconds)})
    degraded, alone, restored = rows[:3]
    for row in rows:
        row["flicker"] = round(row["change"] / rows[-1]["change"], 4) if row["change"] else ""
    alone["gain"] = round(alone["psnr"] - degraded["psnr"], 4)
    restored["gain"] = round(restored["psnr"] - max(degraded["psnr"], alone["psnr"]), 4)
    return rows


# ---- tables ------------------------------------------------------------------------------------


def by_kind(rows: list[dict]) -> dict[str, dict[str, dict]]:
    """Rows of degradations-BACKBONE.csv by degradation and picture."""
    found: dict[str, dict[str, dict]] = {}
    for row in rows:
        found.setdefault(row["degradation"], {})[row["picture"]] = row
    return found


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown, with a blank line at its end."""
    lines = [f"| {' | '.join(cells)} |" for cells in [head, *rows]]
    lines.insert(1, "|---" * len(head) + "|")
    return "\n".join(lines) + "\n"


def whole_table(rows: list[dict]) -> str:
    """All measures of one backbone, a degradation in each row."""
    heads = ["PSNR, dB / SSIM", "degraded", "frozen model, no prompt", "restored", "gain"]
    lines = []
    for kind, found in by_kind(rows).items():
        shown = [found[name] for name in ("degraded", "no prompt", "restored")]
        cells = [kind, *(f"{m['psnr']:.2f} / {m['ssim']:.3f}" for m in shown)]
        cells.append(f"{found['restored']['gain']:+.2f} dB")
        if "clean" in found:
            cells.append(" / ".join(f"{m['flicker']:.1f}" for m in shown))
        lines.append([*cells, f"{shown[0]['seconds']:.0f} s"])
    if "clean" in next(iter(by_kind(rows).values())):
        heads.append("flicker of the three")
    return table([*heads, "time"], lines)


def gains_table(tables: dict[str, list[dict]]) -> str:
    """README's first table: what the prompt wins, by backbone."""
    lines = []
    for name, rows in tables.items():
        found = by_kind(rows)
        said = {"flux": "pictures, tiny FLUX", "wan": "clips, tiny WAN"}[name]
        lines.append([said, *(f"{found[kind]['restored']['gain']:+.1f}" for kind in KINDS)])
    return table(["gain in PSNR, dB", *KINDS], lines)


def write_tables() -> None:
    """Every .md of the .csv that are there."""
    tables = {}
    for name in ("flux", "wan"):
        file = BENCH / f"degradations-{name}.csv"
        if file.is_file():
            tables[name] = load_table(file)
            file.with_suffix(".md").write_text(whole_table(tables[name]))
    (BENCH / "gains.md").write_text(gains_table(tables))


# ---- pictures ----------------------------------------------------------------------------------


def shown_pictures(backbone: Backbone, name: str, kind: str) -> dict[str, Tensor]:
    """A held-out scene or clip, another one for each degradation, in all states, [1, 3, ...]."""
    draw = moving_scenes.pairs if backbone.video else scenes.pairs
    degraded, clean = draw(kind, [FIRST + KINDS.index(kind)])
    prompt = Prompt.load(ROOT / folder(name, kind) / "prompt.safetensors")
    alone, restored = restore(backbone, [], degraded), restore(backbone, [prompt], degraded)
    return {"degraded": degraded, "no prompt": alone, "restored": restored, "clean": clean}


def picture_sheet(file: Path, shown: list[dict[str, Tensor]]) -> None:
    """A degradation in each column: degraded, restored, clean, pixels doubled, dB below."""
    rows = ["degraded", "restored", "clean"]
    columns = [torch.cat([found[row] for row in rows]) for found in shown]  # [3, 3, H, W] each
    notes = []
    for row in rows[:2]:
        notes.append([f"{psnr(f[row], f['clean']).item():.1f} dB" for f in shown])
    notes.append([""] * len(shown))
    side = 2 * columns[0].shape[-1]
    sheet(file, columns, KINDS, notes, rows, side, smooth=False)


def clip_sheet(file: Path, shown: list[dict[str, Tensor]]) -> None:
    """A degradation in each row, three frames of each clip side by side."""
    titles = ["degraded", "frozen, no prompt", "restored", "clean"]
    columns = []
    for row in ("degraded", "no prompt", "restored", "clean"):
        columns.append(torch.cat([filmstrip(found[row]) for found in shown]))  # [5, 3, H, 3W]
    sheet(file, columns, titles, labels=KINDS, side=264)


def write_picture(name: str) -> None:
    """restored-BACKBONE.png, with the prompts of the runs in runs/bench/."""
    backbone = weights.load_backbone(name)
    shown = [shown_pictures(backbone, name, kind) for kind in KINDS]
    draw = clip_sheet if backbone.video else picture_sheet
    draw(PICTURES / f"restored-{name}.png", shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", choices=("flux", "wan"), default="flux")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--again", action="store_true", help="of the runs that are there")
    flags = parser.parse_args()
    name = flags.backbone
    if not flags.again:
        with ThreadPoolExecutor(flags.jobs) as pool:
            done = list(pool.map(partial(learn, name), KINDS))
        rows = []
        for kind, (said, seconds) in zip(KINDS, done, strict=True):
            rows += rows_of(name, kind, seconds)
            if (name, kind) == ("flux", "haze"):  # as it reads without --out
                usual = said.replace(folder(name, kind), f"runs/{name}-{kind}")
                (BENCH / "run.txt").write_text(usual)
        save_table(BENCH / f"degradations-{name}.csv", COLUMNS, rows)
    write_tables()
    write_picture(name)
    print((BENCH / f"degradations-{name}.md").read_text())


if __name__ == "__main__":
    main()
