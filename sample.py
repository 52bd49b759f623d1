"""Restore pictures or clips with learned prompts; the frozen model stays as it is.

    python sample.py --backbone flux --prompt runs/flux-haze/prompt.safetensors --input photos/
    python sample.py --backbone wan --prompt runs/wan-haze/prompt.safetensors --input clip.mp4
    python sample.py ... --prompt haze.safetensors snow.safetensors     # both at once, one batch
    python sample.py ... --target clean/                                # PSNR, SSIM and a CSV

Restored pictures get the names, sizes, formats, transparency and colour profiles of theirs; clips
also frame times and sound. What is read stays, what is lost is said: tinybridge/data/README.md.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import weights
from tinybridge import bridge
from tinybridge.backbone import Backbone
from tinybridge.data.clip import LARGEST
from tinybridge.data.jobs import Job, find_jobs, shown
from tinybridge.data.outputs import check_table, is_whole, keep_apart, with_tail
from tinybridge.data.tables import add_row, save_table
from tinybridge.metrics import format_measures, mean_row
from tinybridge.prompt import Prompt, agreed
from tinybridge.sampling.files import measure, restore_clip, restore_picture
from tinybridge.sampling.plan import Plan, together
from tinybridge.training import machine
from tinybridge.windows import AtOnce, Windows

MEASURES = "psnr_degraded ssim_degraded psnr ssim"  # columns of metrics.csv
CHANGES = " change_degraded change change_clean"  # of clips as well
LEARNED = (64, 64)  # (H, W) of all that the bundled tiny models have seen


def tell(line: str) -> None:
    tqdm.write(f"error: {line}", file=sys.stderr)


def chosen_dtype(flags: argparse.Namespace) -> torch.dtype:
    """The transformer's dtype: "auto" is float32 on a CPU, else bfloat16."""
    usual = torch.float32 if flags.device == "cpu" else torch.bfloat16
    return getattr(torch, flags.dtype, usual)


def encoders_at(flags: argparse.Namespace, prompts: list) -> dict[str, Any]:
    """What the loader is told of files and text."""
    rows = len(next(prompts[0].parameters()))
    return {
        "name": flags.backbone,
        "path": flags.weights,
        "length": 512 if flags.backbone == "wan" and rows == 512 else None,  # the vendor's, not 226
        "parts": weights.named_parts(flags.part),
        "text": flags.text,
        "conditioning": flags.conditioning,
    }


def load_backbone(
    flags: argparse.Namespace,
    prompts: list,
    device: str,
    dtype: torch.dtype,
    weights_dtype: str | None = None,
    offload: bool = False,
) -> Backbone:
    """The backbone as the flags say; on the device "meta" from headers alone."""
    where = encoders_at(flags, prompts)
    where |= {"weights_dtype": weights_dtype or flags.weights_dtype, "offload": offload}
    keep = prompts[0].space == "token"
    backbone = weights.load_backbone(**where, device=device, dtype=dtype, keep_encoder=keep)
    backbone.grid = agreed(prompts).grid
    backbone.tile = flags.tile
    if flags.size is not None:
        backbone.size = flags.size
    if flags.compile and device != "meta":
        machine.compile_blocks(backbone.model)
    return backbone


def what_it_needs(flags: argparse.Namespace, prompts: list, jobs: list[Job], frames: int) -> str:
    """Memory for the largest of the inputs, in one line; ValueError in one if it cannot be had."""

    def load(**changes: Any) -> Backbone:
        told = {"dtype": chosen_dtype(flags)} | changes
        return load_backbone(flags, prompts, "meta", **told)

    def encoders(offload: bool) -> list[nn.Module]:
        return weights.text_encoders(**encoders_at(flags, prompts), offload=offload)

    offload = flags.offload and flags.device != "cpu"  # where there is a host beside it
    plan = Plan(load, prompts, encoders, flags.device, frames, flags.batch_size, offload)
    return plan.told([job.file for job in jobs])


def windows_of(backbone: Backbone, size: tuple[int, int]) -> int:
    """How many windows a picture or frame (H, W) is restored in."""
    windows = Windows.of_side(backbone.size, backbone.stride)
    rows, columns = (-(-side // backbone.stride) for side in size)
    return len(windows.starts(rows)) * len(windows.starts(columns))


# ---- the run -----------------------------------------------------------------------------------


def run(flags: argparse.Namespace) -> int:
    """Restores everything; how many items failed, each told in a line of its own."""
    video = flags.backbone == "wan"
    if not video and (flags.window, flags.overlap) != (None, None):
        raise ValueError("--window and --overlap are for clips, which --backbone wan restores")
    if flags.batch_size is not None and flags.batch_size < 1:
        raise ValueError(f"--batch-size {flags.batch_size}: at least 1 is needed")
    prompts = [Prompt.load(file) for file in flags.prompt]
    trained = agreed(prompts, flags.prompt)
    t0 = trained.t0 if flags.t0 is None else flags.t0
    bridge.times(t0, steps=flags.steps)
    path = flags.bridge or trained.bridge
    if path not in bridge.BRIDGES:
        known = ", ".join(bridge.BRIDGES)
        raise ValueError(f"{flags.prompt[0]}: its bridge is {path!r}, one of {known} is expected")
    jobs, left_out = find_jobs(flags.input, flags.target, flags.out, video, flags.recursive)
    good = [job for job in jobs if not job.fault]
    if not good:
        for job in jobs[1:]:
            tell(job.fault)
        raise ValueError(jobs[0].fault)
    table = check_outputs(flags, good)
    model = flags.weights or f"the bundled tiny {flags.backbone.upper()} (no --weights)"
    head = f"{model}, {path} bridge from t0 {t0} in {flags.steps} steps, {flags.device}"
    headers = load_backbone(flags, prompts, "meta", chosen_dtype(flags))
    weights.check_prompts(headers, prompts, flags.prompt, flags.weights or "no --weights")
    Windows.of_side(headers.size, headers.stride)
    frames = 1
    one = partial(restore_picture, most=flags.max_pixels or LARGEST)
    if video:
        stride = headers.vae.time_stride
        frames = headers.window if flags.window is None else flags.window
        shared = stride * Windows.of(frames, flags.overlap, stride).overlap
        head = f"{head}, windows of {frames} frames that share {shared}"
        one = partial(restore_clip, window=frames, overlap=flags.overlap)
    print(head)
    print(what_it_needs(flags, prompts, good, frames))
    placed = flags.device, chosen_dtype(flags)
    backbone = load_backbone(flags, prompts, *placed, offload=flags.offload)
    table.parent.mkdir(parents=True, exist_ok=True)
    if left_out:
        print(left_out)
    strange: list[Path] = []  # the first file of a size that the tiny model has not seen

    def look(file: Path, size: tuple[int, int]) -> None:
        if flags.weights is None and size != LEARNED and not strange:
            strange.append(file)
            tqdm.write(
                f"{shown(file)} is {size[1]}x{size[0]}: the bundled tiny model has seen nothing "
                "but drawn scenes of 64x64 pixels, it is no tool for photos; see --weights"
            )
        if (count := windows_of(backbone, size)) > 1:
            tqdm.write(
                f"{shown(file)} is {size[1]}x{size[0]}: restored in {count} windows of up to "
                f"{backbone.size}x{backbone.size} pixels (--size), averaged at every step"
            )

    options = {"bridge": path, "steps": flags.steps, "t0": t0, "seed": flags.seed, "look": look}
    options["batch_size"] = AtOnce(flags.batch_size or together(backbone, frames), tqdm.write)
    one = partial(one, backbone=backbone, prompts=prompts, **options)
    failed, there = restore_all(flags, jobs, one, table)
    done = f"{len(jobs) - failed} of {len(jobs)} {'clips' if video else 'pictures'} restored"
    was_there = f", {there} of them were there already" if there else ""
    print(f"{done} to {flags.out}{was_there}")
    return failed


def check_outputs(flags: argparse.Namespace, jobs: list[Job]) -> Path:
    """Where the table goes. ValueError if it or a result would replace something of the user's."""
    table = flags.out / "metrics.csv"
    if jobs[0].out == flags.out:  # one result under a name of its own
        table = with_tail(flags.out, "-metrics.csv")
    read = [*flags.prompt, flags.weights or weights.TINY, *weights.named_parts(flags.part).values()]
    read += [path for path in (*flags.input, flags.conditioning) if path and path.is_file()]
    for job in jobs:
        read += [job.file, job.target or job.file]
    keep_apart([table, *(job.out for job in jobs)], read)
    if any(job.target for job in jobs):
        check_table(table, MEASURES.split()[0])
    return table


def restore_all(
    flags: argparse.Namespace, jobs: list[Job], one: Callable[[Job], None], table: Path
) -> tuple[int, int]:
    """Restores and measures file by file; how many failed, and how many were there already."""
    video, failed, there = flags.backbone == "wan", 0, 0
    rows: list[dict[str, float]] = []
    fields = ("clip " if video else "picture ") + MEASURES + CHANGES * video
    for job in tqdm(jobs, "restore", disable=video or len(jobs) == 1):
        try:
            if job.fault:
                raise ValueError(job.fault)
            if flags.skip_existing and is_whole(job.out, job.file, video):
                there += 1
            else:
                one(job)
        except Exception as error:  # whatever it is, the other files are restored
            small = machine.out_of_memory(error)
            tell(job.describe(error) + ("; it needs more memory than there is" if small else ""))
            failed += 1
            continue
        if job.unmatched:
            tqdm.write(f"{job.unmatched}: restored without numbers", file=sys.stderr)
        if job.target is None:
            continue
        try:
            row = measure(job, video)
            if not rows:
                save_table(table, fields, [])  # an older one goes
            name = job.out.relative_to(table.parent)
            add_row(table, fields, {fields.split()[0]: name} | row)
        except Exception as error:
            tqdm.write(f"{job.describe(error)}: restored without numbers", file=sys.stderr)
            continue
        rows.append(row)
        tqdm.write(f"{shown(name)}: {format_measures(row)}")
    if rows:
        print(f"mean of {len(rows)}: {format_measures(mean_row(rows))}; {table}")
    return failed, there


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--backbone", choices=("flux", "wan"), required=True, help="flux: pictures; wan: clips")
    add("--prompt", type=Path, nargs="+", required=True, help="several: their velocities' mean")
    add("--input", type=Path, nargs="+", required=True, help="files, folders or JSON lists")
    add("--recursive", action="store_true", help="folders below --input too, structure kept")
    add("--target", type=Path, help="clean picture or clip, or folder of clean ones by name")
    add("--weights", type=Path, help="folder of an official checkpoint; default: bundled tiny one")
    add("--part", action="append", default=[], help=weights.PART)
    add("--conditioning", type=Path, help=weights.CONDITIONING)
    add("--out", type=Path, default=Path("restored"), help="folder, or file name of one result")
    add("--skip-existing", action="store_true", help="leave what is in --out already and is whole")
    add("--max-pixels", type=int, help="refuse larger pictures; default 64 million")
    add("--size", type=int, help="side that the model sees at once; default flux 1536, wan 832")
    add("--batch-size", type=int, help="windows of a large picture at once; default: 1 megapixel")
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
    add("--weights-dtype", choices=("float8",), help=weights.FLOAT8)
    add("--offload", action="store_true", help=weights.OFFLOAD)
    add("--compile", action="store_true", help=machine.COMPILE)
    flags = parser.parse_args(argv)
    machine.show_any_name()
    try:
        with machine.sigterm_interrupts():
            flags.device = machine.pick_device(flags.device)
            return 2 if run(flags) else 0
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        print(f"error: {machine.one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"stopped; what was restored before is in {flags.out}", file=sys.stderr)
        return 143 if isinstance(stop, machine.Terminated) else 130


if __name__ == "__main__":
    sys.exit(main())
