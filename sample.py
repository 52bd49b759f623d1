"""Restore pictures or clips with learned prompts; the frozen model stays as it is.

    python sample.py --backbone flux --prompt runs/flux-haze/prompt.safetensors --input photos/
    python sample.py --backbone wan --prompt runs/wan-haze/prompt.safetensors --input clip.mp4
    python sample.py ... --prompt haze.safetensors snow.safetensors     # both at once, one batch
    python sample.py ... --target clean/                                # PSNR, SSIM and a CSV

Restored pictures get the names, sizes, formats, transparency and colour profiles of theirs; clips
also their frame times and sound, and are never whole in memory.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

import weights
from tinybridge import bridge
from tinybridge.backbone import Backbone
from tinybridge.data import clips, pairs, pictures
from tinybridge.data.tables import save_table
from tinybridge.files import Job, restore_clip, restore_picture
from tinybridge.prompt import Prompt, agreed
from tinybridge.restoration import pick_device
from tinybridge.stream import Windows


def jobs(flags: argparse.Namespace) -> list[Job]:
    """What is to be restored, and where to; ValueError before anything is written.

    A JSON list names its own targets. A second input of one name gets a number.
    """
    wan = flags.backbone == "wan"
    if not wan and (flags.window, flags.overlap) != (None, None):
        raise ValueError("--window and --overlap are for clips, which --backbone wan restores")
    if flags.input.suffix.lower() == ".json":
        rows = [(pair.degraded, pair.clean) for pair in pairs.pairs(flags.input)]
    else:
        files = clips.clips(flags.input) if wan else pictures.pictures(flags.input)
        rows = [(file, None) for file in files]
    if flags.target is not None and not flags.target.exists():
        raise FileNotFoundError(f"{flags.target}: no such file or folder")
    list_folder = clips.clips if wan else pictures.pictures
    goals = list_folder(flags.target) if flags.target else []
    found, taken = [], set()
    for file, target in rows:
        if goals:
            target = goals[0]
            if goals != [flags.target]:
                target = pairs.namesake(file, pairs.by_name(goals), flags.target)
        out, k = flags.out / file.name, 2
        while out in taken:
            out, k = flags.out / f"{file.stem}-{k}{file.suffix}", k + 1
        taken.add(out)
        if not wan and out.suffix.lower() not in pictures.SUFFIXES:
            raise ValueError(f"{file}: expected a name ending in {', '.join(pictures.SUFFIXES)}")
        if out.resolve() == file.resolve():
            raise ValueError(f"{file}: its restoration would replace it; choose another --out")
        found.append(Job(file, target, out))
    return found


def load_backbone(flags: argparse.Namespace, prompts: list, grid: bool) -> Backbone:
    """The backbone as the flags say. ValueError names the prompt's file that does not fit it."""
    dtype = getattr(torch, flags.dtype, None)  # "auto": None
    keep = prompts[0].space == "token"
    rows = len(next(prompts[0].parameters()))
    length = 512 if flags.backbone == "wan" and rows == 512 else None  # the vendor's, not 226
    backbone = weights.load_backbone(
        flags.backbone, flags.weights, flags.device, dtype, flags.text, keep, length
    )
    sizes = backbone.length, backbone.width, backbone.blocks, backbone.text_width
    backbone.grid, backbone.tile = grid, flags.tile
    for file, prompt in zip(flags.prompt, prompts, strict=True):
        try:
            prompt.to(flags.device).check(flags.backbone, *sizes)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    return backbone


def said(row: dict[str, float]) -> str:
    """Measures in words: before, after, and of clips also the clean clip's own."""
    words = (
        f"PSNR {row['psnr_degraded']:.2f} -> {row['psnr']:.2f} dB, "
        f"SSIM {row['ssim_degraded']:.3f} -> {row['ssim']:.3f}"
    )
    if "change" in row:
        change = (row[f"change{of}"] for of in ("_degraded", "", "_clean"))
        words += ", change {:.4f} -> {:.4f} (clean {:.4f})".format(*change)
    return words


def run(flags: argparse.Namespace) -> int:
    """Restores everything; how many items failed, each told in a line of its own."""
    prompts = [Prompt.load(file) for file in flags.prompt]
    told = agreed(prompts, flags.prompt)
    t0 = told.t0 if flags.t0 is None else flags.t0
    bridge.times(t0, steps=flags.steps)
    work = jobs(flags)
    path = flags.bridge or told.bridge
    options = {"bridge": path, "steps": flags.steps, "t0": t0, "seed": flags.seed}
    model = flags.weights or f"the bundled tiny {flags.backbone.upper()} (no --weights)"
    head = f"{model}, {path} bridge from t0 {t0} in {flags.steps} steps, {flags.device}"
    if flags.backbone == "flux":
        print(head)
    backbone = load_backbone(flags, prompts, told.grid)
    if backbone.video:
        kind, stride = "clip", backbone.vae.time_stride
        window = backbone.window if flags.window is None else flags.window
        shared = stride * Windows.of(window, flags.overlap, stride).overlap
        print(f"{head}, windows of {window} frames that share {shared}")
        one = partial(restore_clip, window=window, overlap=flags.overlap)
    else:
        kind, hide = "picture", len(work) > 1
        one = partial(
            restore_picture, progress=partial(tqdm, desc="restore", disable=hide, leave=False)
        )
    flags.out.mkdir(parents=True, exist_ok=True)
    rows, failed = [], 0
    for job in tqdm(work, "restore", disable=backbone.video or len(work) == 1):
        try:
            measures = one(job, backbone, prompts, **options)
        except (ValueError, OSError, torch.OutOfMemoryError) as error:
            unnamed = f"{job.file}: " if isinstance(error, torch.OutOfMemoryError) else ""
            tqdm.write(f"error: {unnamed}{str(error).splitlines()[0]}", file=sys.stderr)
            failed += 1
            continue
        if measures:
            rows.append({kind: job.out.name} | measures)
            tqdm.write(f"{job.out.name}: {said(measures)}")
    if rows:
        fields = list(max(rows, key=len))  # a clip of one frame has no change
        save_table(flags.out / "metrics.csv", " ".join(fields), rows)
        shared = [name for name in fields[1:] if all(name in row for row in rows)]
        mean = {name: sum(row[name] for row in rows) / len(rows) for name in shared}
        print(f"mean of {len(rows)}: {said(mean)}; {flags.out / 'metrics.csv'}")
    print(f"{len(work) - failed} of {len(work)} {kind}s restored to {flags.out}")
    return failed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--backbone", choices=("flux", "wan"), required=True, help="flux: pictures; wan: clips")
    add("--prompt", type=Path, nargs="+", required=True, help="several: their velocities' mean")
    add("--input", type=Path, required=True, help="a picture or clip, a folder, or a JSON list")
    add("--target", type=Path, help="clean picture or clip, or folder of clean ones by name")
    add("--weights", type=Path, help="folder of an official checkpoint; default: bundled tiny one")
    add("--out", type=Path, default=Path("restored"))
    add("--steps", type=int, default=20)
    add("--t0", type=float, help="flow time where restoration starts; default: the prompt's")
    add("--bridge", choices=tuple(bridge.BRIDGES), help="path to walk; default: the prompt's")
    add("--seed", type=int, default=42, help="of the noise, the same for every picture or clip")
    add("--text", default="", help="what the text encoders are told; default: nothing")
    add("--tile", type=int, default=1024, help="side of the autoencoder's tiles in pixels")
    add("--window", type=int, help="frames of a clip that the model sees at once; default: its own")
    add("--overlap", type=int, help="frames that two windows share; default: a third of a window")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    flags = parser.parse_args(argv)
    try:
        flags.device = pick_device(flags.device)
        return 2 if run(flags) else 0
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; what was restored before is in {flags.out}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
