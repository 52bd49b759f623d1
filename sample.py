"""Restore pictures with learned prompts; the frozen model and its weights stay as they are.

    python sample.py --backbone flux --prompt runs/flux-haze/prompt.safetensors --input photos/
    python sample.py ... --prompt haze.safetensors snow.safetensors     # both at once, one batch
    python sample.py ... --target clean/                                # PSNR, SSIM and a CSV

Restored pictures get the names, sizes, formats, transparency and colour profiles of theirs.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import weights
from tinybridge import bridge, data, resume
from tinybridge.metrics import psnr, ssim
from tinybridge.prompt import Prompt
from tinybridge.restore import restore

USUAL = {"bridge": "desired", "t0": "0.4", "grid": "true"}  # what mixed prompts must agree on


def load_prompts(files: list[Path]) -> tuple[list[Prompt], dict[str, str]]:
    """The prompts and what they agree on; ValueError naming two files that do not."""
    prompts, first = [Prompt.load(file) for file in files], None
    for file, prompt in zip(files, prompts, strict=True):
        told = {key: prompt.meta.get(key, value) for key, value in USUAL.items()}
        first = first or told
        for key in USUAL:
            if told[key] != first[key]:
                raise ValueError(
                    f"{file} was trained with {key} {told[key]}, {files[0]} with {first[key]}: "
                    "only prompts that share it can be mixed"
                )
    return prompts, first


def jobs(flags: argparse.Namespace) -> list[tuple[Path, Path | None, Path]]:
    """Input, target or None, and output of every picture; ValueError before anything is written.

    A JSON list names its own targets. A second input of one name gets a number.
    """
    if flags.input.suffix.lower() == ".json":
        rows = [(pair.degraded, pair.clean) for pair in data.pairs(flags.input)]
    else:
        rows = [(file, None) for file in data.pictures(flags.input)]
    if flags.target is not None and not flags.target.exists():
        raise FileNotFoundError(f"{flags.target}: no such file or folder")
    found, taken = [], set()
    for file, target in rows:
        if flags.target is not None:
            target = data.partner(file, flags.target) if flags.target.is_dir() else flags.target
        out, k = flags.out / file.name, 2
        while out in taken:
            out, k = flags.out / f"{file.stem}-{k}{file.suffix}", k + 1
        taken.add(out)
        if out.suffix.lower() not in data.SUFFIXES:
            raise ValueError(f"{file}: expected a name ending in {', '.join(data.SUFFIXES)}")
        if out.resolve() == file.resolve():
            raise ValueError(f"{file}: its restoration would replace it; choose another --out")
        found.append((file, target, out))
    return found


def compare(restored: Tensor, picture: data.Picture, target: data.Picture) -> dict[str, float]:
    """PSNR and SSIM before and after, the restored pixels as the file holds them: in 8 bit."""
    clean, written = target.pixels[None], (restored[None] * 255).round() / 255
    before = picture.pixels[None]
    return {
        "psnr_degraded": psnr(before, clean).item(),
        "ssim_degraded": ssim(before, clean).item(),
        "psnr": psnr(written, clean).item(),
        "ssim": ssim(written, clean).item(),
    }


def run(flags: argparse.Namespace) -> int:
    """Restores everything; how many pictures failed, each told in a line of its own."""
    prompts, told = load_prompts(flags.prompt)
    t0 = float(told["t0"]) if flags.t0 is None else flags.t0
    bridge.times(t0, steps=flags.steps)
    work = jobs(flags)
    dtype = getattr(torch, flags.dtype, None)  # "auto": None
    model = flags.weights or "the bundled tiny FLUX (no --weights)"
    path = flags.bridge or told["bridge"]
    print(f"{model}, {path} bridge from t0 {t0} in {flags.steps} steps, {flags.device}")
    backbone = weights.load_backbone(flags.backbone, flags.weights, flags.device, dtype, flags.text)
    backbone.grid, backbone.tile = told["grid"] == "true", flags.tile
    for file, prompt in zip(flags.prompt, prompts, strict=True):
        try:
            prompt.to(flags.device).check(
                flags.backbone, backbone.length, backbone.width, backbone.blocks
            )
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    flags.out.mkdir(parents=True, exist_ok=True)
    rows, failed = [], 0
    bar = tqdm(work, "restore", disable=len(work) == 1)
    steps = partial(tqdm, desc="restore", disable=len(work) > 1, leave=False)
    for file, goal, out in bar:
        try:
            picture, target = data.read(file), data.read(goal) if goal else None
            if target and target.size != picture.size:
                raise ValueError(
                    f"{file} is {picture.size[1]}x{picture.size[0]} but its target {goal} is "
                    f"{target.size[1]}x{target.size[0]}: both must have one size"
                )
            restored = restore(
                backbone, prompts, picture.pixels[None], path, flags.steps, t0,
                flags.seed, progress=steps,
            )[0]  # fmt: skip
            if not restored.isfinite().all():
                raise ValueError(f"{file}: the restored picture is not finite; try --dtype float32")
            data.write(out, restored, picture)
        except (ValueError, OSError) as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        if target:
            rows.append({"picture": out.name} | compare(restored, picture, target))
            row = rows[-1]
            tqdm.write(
                f"{out.name}: PSNR {row['psnr_degraded']:.2f} -> {row['psnr']:.2f} dB, "
                f"SSIM {row['ssim_degraded']:.3f} -> {row['ssim']:.3f}"
            )
    if rows:
        names = list(rows[0])[1:]
        mean = {name: sum(row[name] for row in rows) / len(rows) for name in names}
        resume.save_table(flags.out / "metrics.csv", " ".join(["picture", *names]), rows)
        print(
            f"mean of {len(rows)}: PSNR {mean['psnr_degraded']:.2f} -> {mean['psnr']:.2f} dB, SSIM "
            f"{mean['ssim_degraded']:.3f} -> {mean['ssim']:.3f}; {flags.out / 'metrics.csv'}"
        )
    print(f"{len(work) - failed} of {len(work)} pictures restored to {flags.out}")
    return failed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--backbone", choices=("flux",), required=True)
    add("--prompt", type=Path, nargs="+", required=True, help="several: their velocities' mean")
    add("--input", type=Path, required=True, help="a picture, a folder, or a JSON list")
    add("--target", type=Path, help="clean picture, or folder of clean pictures by name")
    add("--weights", type=Path, help="folder of an official checkpoint; default: bundled tiny one")
    add("--out", type=Path, default=Path("restored"))
    add("--steps", type=int, default=20)
    add("--t0", type=float, help="flow time where restoration starts; default: the prompt's")
    add("--bridge", choices=tuple(bridge.BRIDGES), help="path to walk; default: the prompt's")
    add("--seed", type=int, default=42, help="of the noise, the same for every picture")
    add("--text", default="", help="what the text encoders are told; default: nothing")
    add("--tile", type=int, default=1024, help="side of the autoencoder's tiles in pixels")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    flags = parser.parse_args(argv)
    if flags.device == "auto":
        flags.device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return 2 if run(flags) else 0
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
