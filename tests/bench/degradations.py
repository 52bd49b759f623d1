"""README's tables and pictures: a prompt for each of the five degradations at the default budget.

    python -m tests.bench.degradations                     # about 8 minutes on 2 cores
    python -m tests.bench.degradations --backbone wan      # moving scenes
    OMP_NUM_THREADS=1 python -m tests.bench.degradations --jobs 2      # two runs side by side

Runs train.py as anyone would (seed 0, desired bridge, 300 steps) into runs/bench/, gathers what
each run reports on its held-out scenes or clips, and writes tests/bench/degradations-BACKBONE.md
and tinybridge/tiny/restored-BACKBONE.png (the first two held-out scenes for every kind; of clips
the first, in three frames).
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

import weights
from tinybridge.data import degradations, moving_scenes, scenes
from tinybridge.data.sheet import sheet
from tinybridge.prompt import Prompt
from tinybridge.restoration import restore
from train import filmstrip

ROOT = Path(__file__).parents[2]
SHOWN = [1_000_000, 1_000_001]  # the first two held-out scenes, not the best ones


def measure(backbone: str, kind: str) -> str:
    """A row of the table, by a run of train.py in runs/bench/, which replaces an earlier one."""
    began, out = time.perf_counter(), f"runs/bench/{backbone}-{kind}"
    command = [sys.executable, "train.py", "--backbone", backbone, "--degradation", kind]
    subprocess.run([*command, "--out", out], cwd=ROOT, check=True)
    found = {}
    with (ROOT / out / "results.csv").open(newline="") as file:
        for measures in csv.DictReader(file):
            name = measures.pop("picture")
            found[name] = {key: float(value) for key, value in measures.items()}
    return row(kind, found, time.perf_counter() - began)


def row(kind: str, found: dict[str, dict[str, float]], seconds: float) -> str:
    degraded, alone, restored = (found[k] for k in ("degraded", "no prompt", "restored"))
    gain = restored["psnr"] - max(degraded["psnr"], alone["psnr"])
    pairs = (f"{m['psnr']:.2f} / {m['ssim']:.3f}" for m in (degraded, alone, restored))
    cells = [kind, *pairs, f"{gain:+.2f} dB"]
    if "clean" in found:
        cells.append(" / ".join(f"{m['change']:.4f}" for m in found.values()))
    return f"| {' | '.join(cells)} | {seconds:.0f} s |"


def columns_of(name: str) -> tuple[list[torch.Tensor], list[str]]:
    """Columns of the sheet, each [rows, 3, 64, 64 or 192], and a label for every row."""
    backbone = weights.load_backbone(name)
    columns, labels = [[] for _ in range(4)], []
    for kind in degradations.KINDS:
        if backbone.video:
            degraded, clean = moving_scenes.pairs(kind, SHOWN[:1])
        else:
            degraded, clean = scenes.pairs(kind, SHOWN)
        prompt = Prompt.load(ROOT / f"runs/bench/{name}-{kind}/prompt.safetensors")
        shown = (degraded, restore(backbone, [], degraded), restore(backbone, [prompt], degraded))
        for column, part in zip(columns, (*shown, clean), strict=True):
            column.append(filmstrip(part))
        labels += [kind] * len(clean)
    return [torch.cat(column) for column in columns], labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", choices=("flux", "wan"), default="flux")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    flags = parser.parse_args()
    name = flags.backbone
    heads = ["PSNR, dB / SSIM", "degraded", "frozen model, no prompt", "restored", "gain"]
    heads += ["change: the three / clean"] * (name == "wan") + ["time"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    with ThreadPoolExecutor(flags.jobs) as pool:
        lines += pool.map(partial(measure, name), degradations.KINDS)
    (ROOT / f"tests/bench/degradations-{name}.md").write_text("\n".join(lines) + "\n")
    columns, labels = columns_of(name)
    titles = ["degraded", "frozen, no prompt", "restored", "clean"]
    file, side = ROOT / f"tinybridge/tiny/restored-{name}.png", 264 if name == "wan" else 128
    sheet(file, columns, titles, labels=labels, side=side)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
