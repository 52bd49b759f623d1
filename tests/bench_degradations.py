"""README's table and picture: a prompt for each of the five degradations at the default budget.

    python -m tests.bench_degradations        # about 8 minutes on 2 cores

Runs train.py as anyone would (seed 0, desired bridge, 300 steps) into runs/, gathers what each run
reports on its 64 held-out scenes, and writes tests/degradations.md and tinybridge/tiny/restored.png
(the first two held-out scenes, for every kind).
"""

import csv
import subprocess
import sys
import time
from pathlib import Path

import torch

import weights
from tinybridge import data, scenes
from tinybridge.prompt import Prompt
from tinybridge.restore import restore

ROOT = Path(__file__).parents[1]
SHOWN = [1_000_000, 1_000_001]  # the first two held-out scenes, not the best ones


def measure(kind: str) -> dict[str, tuple[float, float]]:
    """PSNR and SSIM of degraded, no prompt and restored; leaves the prompt in runs/."""
    command = [sys.executable, "train.py", "--backbone", "flux", "--degradation", kind]
    subprocess.run(command, cwd=ROOT, check=True)
    with (ROOT / f"runs/flux-{kind}/results.csv").open(newline="") as file:
        return {r["picture"]: (float(r["psnr"]), float(r["ssim"])) for r in csv.DictReader(file)}


def row(kind: str, found: dict[str, tuple[float, float]], seconds: float) -> str:
    degraded, alone, restored = (found[k] for k in ("degraded", "no prompt", "restored"))
    gain = restored[0] - max(degraded[0], alone[0])
    cells = " | ".join(f"{psnr:.2f} / {ssim:.3f}" for psnr, ssim in (degraded, alone, restored))
    return f"| {kind} | {cells} | {gain:+.2f} dB | {seconds:.0f} s |"


def pictures(backbone) -> tuple[list[torch.Tensor], list[str]]:
    """Columns of the sheet, each [10, 3, 64, 64], and a label for every row."""
    columns, labels = [[] for _ in range(4)], []
    for kind in scenes.KINDS:
        degraded, clean = scenes.pairs(kind, SHOWN)
        prompt = Prompt.load(ROOT / f"runs/flux-{kind}/prompt.safetensors")
        shown = (degraded, restore(backbone, [], degraded), restore(backbone, [prompt], degraded))
        for column, part in zip(columns, (*shown, clean), strict=True):
            column.append(part)
        labels += [kind] * len(SHOWN)
    return [torch.cat(column) for column in columns], labels


def main() -> None:
    lines = [
        "| PSNR, dB / SSIM | degraded | frozen model, no prompt | restored | gain | time |",
        "|---|---|---|---|---|---|",
    ]
    for kind in scenes.KINDS:
        began = time.perf_counter()
        found = measure(kind)
        lines.append(row(kind, found, time.perf_counter() - began))
    (ROOT / "tests/degradations.md").write_text("\n".join(lines) + "\n")
    columns, labels = pictures(weights.load_backbone("flux"))
    titles = ["degraded", "frozen, no prompt", "restored", "clean"]
    data.sheet(ROOT / "tinybridge/tiny/restored.png", columns, titles, labels=labels, side=128)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
