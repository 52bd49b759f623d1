"""A rehearsal for official weights: a folder of full size with random values, and both scripts.

    python -m tests.bench.rehearsal wan-1.3B FOLDER --out tests/bench/rehearsal.md  # 6 GB, minutes
    python -m tests.bench.rehearsal flux-dev FOLDER            # 24 GB on the disk, and in memory
    python -m tests.bench.rehearsal small FOLDER               # that it runs, with a toy of WAN

Names, shapes and dtypes are those of the published files (tests/oracles/official.py). There is no
text encoder: a conditioning file of random rows stands for it and says so. A photo of noise is
restored by sample.py, then train.py learns one step from two pairs of such photos. Seconds are of
the clock, which other work on the machine prolongs, and of processors; a stage's memory is the peak
of the resident set while it lasts, pages of mapped files included. FOLDER must be new.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.bench.loading import machine
from tests.oracles import official
from tests.oracles.folders import write_header
from tinybridge.checkpoints.conditioning_files import write_conditioning
from tinybridge.prompt import Prompt
from tinybridge.wan import Wan, WanConfig
from tinybridge.wan_vae import AutoEncoder, AutoEncoderConfig

Shapes = dict[str, list[int]]
BLOCK = 2**22  # random numbers that are repeated
TOY = WanConfig(hidden_size=128, num_heads=1, depth=2, ffn_dim=256, context_dim=16)


@dataclass(frozen=True)
class Model:
    """What is written for a backbone, and what is asked of it."""

    backbone: str
    files: dict[str, str]  # name: list in official.py, or "", a toy
    rows: tuple[int, int]  # L, Dc of the text
    pooled: int | None
    prompt: tuple[int, int, int]  # L, D, n
    photo: tuple[int, int]  # width, height
    size: str  # that train.py learns from


MODELS = {
    "wan-1.3B": Model(
        "wan",
        {"diffusion_pytorch_model.safetensors": "wan13_vendor", "Wan2.1_VAE.pth": "wanvae_vendor"},
        (226, 4096), None, (226, 1536, 30), (832, 480), "480x1",
    ),
    "flux-dev": Model(
        "flux", {"flux1-dev.safetensors": "flux_dev_bfl", "ae.safetensors": "fluxae_bfl"},
        (512, 4096), 768, (512, 3072, 57), (1024, 1024), "1024",
    ),
    "small": Model(
        "wan", {"diffusion_pytorch_model.safetensors": "", "Wan2.1_VAE.pth": ""},
        (9, TOY.context_dim), None, (9, TOY.hidden_size, TOY.depth), (48, 32), "32x1",
    ),
}  # fmt: skip

# ---- the folder --------------------------------------------------------------------------------


def shapes_of(model: Model, file: str) -> Shapes:
    """The published list, or that of a toy with the vendor's names."""
    if model.files[file]:
        return official.shapes(model.files[file])
    toy = AutoEncoder(AutoEncoderConfig(dim=4)) if file.endswith(".pth") else Wan(TOY)
    return {name: list(weight.shape) for name, weight in toy.state_dict().items()}


def values(name: str, shape: list[int], block: Tensor) -> Tensor:
    """Small random numbers, [n]; norms are 1, biases 0."""
    count = torch.Size(shape).numel()
    leaf = name.rsplit(".", 1)[-1]
    if len(shape) <= 1 or leaf in ("gamma", "scale"):
        is_norm = leaf in ("gamma", "scale") or ("norm" in name and leaf == "weight")
        return torch.full((count,), float(is_norm), dtype=block.dtype)
    return block.repeat(-(-count // len(block)))[:count].clone()


def write_checkpoint(path: Path, shapes: Shapes) -> None:
    """A file in the published form: bfloat16 for FLUX.1's transformer, else float32."""
    half = path.name.startswith("flux1")
    block = 0.02 * torch.randn(BLOCK, generator=torch.Generator().manual_seed(0))
    block = block.to(torch.bfloat16 if half else torch.float32)
    if path.suffix == ".pth":
        torch.save({n: values(n, shape, block).view(shape) for n, shape in shapes.items()}, path)
        return
    write_header(path, shapes, "BF16" if half else "F32")
    with path.open("r+b") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        file.seek(start)
        for name, shape in shapes.items():
            file.write(values(name, shape, block).view(torch.uint8).numpy().data)


def write_inputs(folder: Path, model: Model) -> None:
    """Conditioning, a prompt, a photo, and two pairs of photos to learn from."""
    L, width = model.rows
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(1, L, width, generator=generator).bfloat16().float()  # [1, L, Dc]
    if model.backbone == "wan":
        context[:, 1:] = 0
    pooled = None if model.pooled is None else torch.randn(1, model.pooled, generator=generator)
    note = folder / "random rows, of no encoder"
    note.write_text("The rows in null.safetensors are random: no text encoder has made them.\n")
    write_conditioning(folder / "null.safetensors", model.backbone, "", context, pooled, [note])
    prompt = Prompt.init(*model.prompt, seed=0)
    prompt.meta = {"backbone": model.backbone, "bridge": "desired", "t0": "0.4", "grid": "true"}
    prompt.save(folder / "prompt.safetensors")
    numbers = np.random.default_rng(0)
    width, height = model.photo
    coarse = numbers.integers(0, 256, (9, 16, 3), np.uint8)
    photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    photo.save(folder / "photo.jpg")
    for side in ("degraded", "clean"):
        for name in ("a", "b"):
            file = folder / "pairs" / side / f"{name}.jpg"
            if model.backbone == "wan":  # a clip is a folder of frames
                file = file.with_suffix("") / "0.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            photo.save(file)


def write_folder(folder: Path, model: Model) -> list[list[object]]:
    """Everything; a row of the table: seconds and GB on the disk."""
    folder.mkdir(parents=True)
    began, size = time.perf_counter(), 0
    for file in model.files:
        write_checkpoint(folder / file, shapes_of(model, file))
        size += (folder / file).stat().st_size
    write_inputs(folder, model)
    seconds = time.perf_counter() - began
    return [["", f"written: {size / 1e9:.2f} GB on the disk", 1, f"{seconds:.0f}", "", ""]]


# ---- the runs ----------------------------------------------------------------------------------


def flags_of(script: str, folder: Path, model: Model, more: list[str]) -> list[str]:
    flags = ["--backbone", model.backbone, "--weights", str(folder), *more]
    flags += ["--conditioning", str(folder / "null.safetensors"), "--out", str(folder / script)]
    if script == "sample":
        prompt, photo = str(folder / "prompt.safetensors"), str(folder / "photo.jpg")
        return [*flags, "--prompt", prompt, "--input", photo]
    one = ["--batch-size", "1", "--steps", "2", "--size", model.size]  # the second is not begun
    return [*flags, "--data", str(folder / "pairs"), *one]


def follow(command: list[str]) -> tuple[int, list[tuple[float, str]]]:
    """Runs it; exit status, and what it printed: seconds since the start, line."""
    began, line, said = time.perf_counter(), b"", []
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, bufsize=0
    ) as process:
        while letter := process.stdout.read(1):
            if letter not in b"\r\n":
                line += letter
                continue
            text, line = line.decode().strip(), b""
            if text and (not said or said[-1][1] != text):
                said.append((time.perf_counter() - began, text))
    return process.returncode, said


def rehearse(script: str, folder: Path, model: Model, more: list[str]) -> tuple[list, list[str]]:
    """Rows of the table, and the lines that were printed, with their times."""
    found = folder / f"{script}.json"
    flags = flags_of(script, folder, model, more)
    command = [sys.executable, "-m", "tests.bench.stages", script, str(found), *flags]
    began = time.perf_counter()
    status, said = follow(command)
    seconds = time.perf_counter() - began
    lines = [f"{at:6.1f} s  {line}".replace(str(folder), "FOLDER") for at, line in said]
    rows = json.loads(found.read_text()) if found.exists() else []
    peak = max((row["peak"] for row in rows), default=0.0)
    table = []
    for row in rows:
        numbers = [f"{row['seconds']:.1f}", f"{row['cpu']:.1f}", f"{row['peak']:.2f}"]
        table.append([script, row["name"], row["count"], *numbers])
    worked = sum(row["cpu"] for row in rows)
    numbers = [f"{seconds:.1f}", f"{worked:.1f}", f"{peak:.2f}"]
    table.append([script, f"**all of it, exit status {status}**", 1, *numbers])
    return table, lines


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=4, help="of the restoration")
    parser.add_argument("--flags", default="--dtype bfloat16", help="more, for both scripts")
    parser.add_argument("--keep", action="store_true", help="do not delete the folder afterwards")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    folder, model, more = args.folder.absolute(), MODELS[args.model], args.flags.split()
    if folder.exists():
        raise SystemExit(f"error: {folder} is there already; name a new folder")
    head = f"# {args.model} at full size, random values\n\n"
    head += f"`python -m tests.bench.rehearsal {args.model} FOLDER`: {machine()}"
    head += f" Threads: {torch.get_num_threads()}. Flags of both scripts: `{args.flags}`; "
    head += f"a photo of {model.photo[0]}x{model.photo[1]} in {args.steps} steps.\n"
    try:
        rows = write_folder(folder, model)
        sampled, said = rehearse("sample", folder, model, [*more, "--steps", str(args.steps)])
        trained, learned = rehearse("train", folder, model, more)
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    lines = [head, "| script | stage | times | s | s of processors | peak GB |"]
    lines.append("|---|---|---|---|---|---|")
    lines += [f"| {' | '.join(map(str, row))} |" for row in [*rows, *sampled, *trained]]
    for script, printed in (("sample.py", said), ("train.py", learned)):
        lines += ["", f"What {script} printed meanwhile:", "", "```", *printed, "```"]
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
