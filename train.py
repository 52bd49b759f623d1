"""Learn a prompt: the frozen model stays as it is, a residual and its gates learn to restore.

    python train.py --backbone flux                                # bundled tiny FLUX, drawn scenes
    python train.py --backbone wan                                 # bundled tiny WAN, moving scenes
    python train.py --backbone flux --weights DIR --data PAIRS     # official weights, own pairs
    torchrun --nproc-per-node N train.py --backbone flux ...       # N processes, the same result

--space token learns what the text encoder reads instead. Here are the flags and the report, the
loop is in tinybridge/training/loop.py; the README.md beside it tells what a run leaves and how it
goes on.
"""

import argparse
import io
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import weights
from tinybridge import bridge
from tinybridge.backbone import Backbone
from tinybridge.data import degradations
from tinybridge.data.outputs import check_folder, keep_apart, keep_out
from tinybridge.data.pairs import left_out
from tinybridge.training import loop, run_state
from tinybridge.training.machine import (
    COMPILE,
    Terminated,
    compile_blocks,
    one_line,
    pick_device,
    processes,
    show_any_name,
    sigterm_interrupts,
)
from tinybridge.training.pairs import (
    Pairs,
    drawn_pairs,
    file_pairs,
    find_files,
    parse_size,
)
from tinybridge.training.plan import Plan
from tinybridge.training.report import report
from tinybridge.training.settings import LOSSES, SPACES, Settings
from tinybridge.windows import out_of_memory

# By backbone and whether there are --weights: steps; rates, guesses for official weights; size.
# The text encoder norms what it reads, so a token's size only says how fast it turns: 10 was the
# best of 0.003 to 100 (tiny FLUX, haze).
DEFAULTS = {
    ("flux", False): (300, {"embedding": 0.15, "token": 10.0}, "64"),
    ("flux", True): (300, {"embedding": 0.01, "token": 10.0}, "1024"),
    ("wan", False): (150, {"embedding": 0.4, "token": 10.0}, "64x9"),
    ("wan", True): (300, {"embedding": 0.01, "token": 10.0}, "480x33"),
}

# Of prompts that were learned on what has FLUX.1-dev's guidance; schnell's licence is Apache 2.0.
DERIVATIVE = "learned on FLUX.1-dev, or on a model of its kind: its Non-Commercial License applies"

WRITTEN = ("prompt.safetensors", run_state.STATE, run_state.LOG, *run_state.RESULTS)


def run(flags: argparse.Namespace) -> None:
    """Everything from the flags to the files; ValueError and OSError say what is wrong."""
    side, frames = parse_size(flags.size, DEFAULTS[flags.backbone, flags.weights is not None][2])
    names = ["bridge", "space", "steps", "batch_size", "micro_batch", "lr", "t0", "t_low", "seed"]
    settings = Settings(**{name: getattr(flags, name) for name in [*names, "loss"]})
    device = join_processes(pick_device(flags.device))
    rank, world = processes()
    loop.check(settings, world)
    found, wan = [], flags.backbone == "wan"
    check_folder(flags.out)
    if flags.data is not None:
        found = find_files(flags.data, flags.degradation, side, frames, wan)
        read = [pair.degraded for pair in found]
        read += [pair.clean for pair in found if pair.clean is not None]
        if flags.data.is_file():
            read.append(flags.data)
        keep_apart([flags.out / name for name in WRITTEN], read)
        keep_out(flags.out, flags.data, read)
        passed_over = left_out(flags.data, found, wan)
        if passed_over and rank == 0:
            print(passed_over)
    elif flags.degradation not in degradations.KINDS:
        raise ValueError(
            f"--degradation {flags.degradation}: choose one of {', '.join(degradations.KINDS)}"
        )
    if flags.conditioning:
        keep_apart([flags.out / name for name in WRITTEN], [flags.conditioning])
    if flags.resume:
        run_state.find_state(flags.out)
    elif rank == 0 and (note := run_state.begin(flags.out, flags.named)):
        print(note)
    if rank == 0:
        model = flags.weights or f"the bundled tiny {flags.backbone.upper()} (no --weights)"
        drawn = "drawn scenes" if flags.backbone == "flux" else "drawn moving scenes"
        source, kind = flags.data or f"{drawn} (no --data)", flags.degradation or "all rows"
        print(f"{model}, {source}, {kind}, {flags.bridge} bridge, {flags.space} space, {device}")
    headers = load_backbone(flags, "meta", chosen_dtype(flags, device))
    if flags.resume:
        run_state.check_settings(flags.out, run_state.shared(settings, headers, facts_of(flags)))
    shape = (frames, side, side) if wan else (side, side)
    told = what_it_needs(flags, settings, shape, device)
    if rank == 0:
        print(told)
    placed = device, chosen_dtype(flags, device)
    backbone = load_backbone(flags, *placed, offload=flags.offload)
    if flags.compile:
        compile_blocks(backbone.model)
    quiet = rank > 0
    if flags.data is None:
        drawn = flags.degradation, side, frames, flags.seed
        pairs = drawn_pairs(backbone, *drawn, quiet=quiet, folder=flags.out)
    else:
        pairs = file_pairs(backbone, found, side, frames, quiet, flags.out)
    learn(flags, backbone, pairs, settings)


def chosen_dtype(flags: argparse.Namespace, device: str) -> torch.dtype:
    """The transformer's dtype: "auto" is float32 on a CPU, else bfloat16."""
    return getattr(torch, flags.dtype, torch.float32 if device == "cpu" else torch.bfloat16)


def load_backbone(
    flags: argparse.Namespace,
    device: str,
    dtype: torch.dtype,
    weights_dtype: str | None = None,
    offload: bool = False,
) -> Backbone:
    """The backbone as the flags say; on the device "meta" from headers alone."""
    backbone = weights.load_backbone(
        flags.backbone,
        flags.weights,
        device,
        dtype,
        keep_encoder=flags.space == "token",
        parts=weights.named_parts(flags.part),
        conditioning=flags.conditioning,
        weights_dtype=weights_dtype or flags.weights_dtype,
        offload=offload,
    )
    backbone.grid = not flags.no_grid
    return backbone


def what_it_needs(
    flags: argparse.Namespace, settings: Settings, shape: tuple[int, ...], device: str
) -> str:
    """Memory for a step in one line; ValueError in one if it cannot be had."""

    def load(**changes: Any) -> Backbone:
        return load_backbone(flags, "meta", **{"dtype": chosen_dtype(flags, device)} | changes)

    place, parts = (flags.backbone, flags.weights), weights.named_parts(flags.part)
    told = {"parts": parts, "conditioning": flags.conditioning}

    def encoders(offload: bool) -> list[nn.Module]:
        return weights.text_encoders(*place, **told, offload=offload)

    offload = flags.offload and device != "cpu"  # where there is a host beside it
    share = settings.batch_size // processes()[1]
    at_once = min(share, settings.micro_batch or share)
    return Plan(load, encoders, device, shape, share, at_once, offload).told()


def join_processes(device: str) -> str:
    """The device of this process; meets the others if torchrun, or what sets as much, began it."""
    begun = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    backend = "nccl" if device == "cuda" else "gloo"
    if device == "cuda":
        gpu = int(os.environ.get("LOCAL_RANK", 0)) if begun else 0
        device = f"cuda:{gpu}"
        torch.cuda.set_device(gpu)  # nccl talks over the current one
    if begun:
        dist.init_process_group(backend, timeout=timedelta(hours=2))  # rank 0 evaluates alone
    return device


def facts_of(flags: argparse.Namespace) -> dict[str, object]:
    """What a run must share with the one that it goes on with, beside its settings."""
    facts = {name: getattr(flags, name) for name in ("weights", "data", "degradation", "size")}
    facts |= {"conditioning": flags.conditioning, "weights_dtype": flags.weights_dtype}
    return facts | {"compile": flags.compile or None}  # None: as in the states of older runs


def learn(flags: argparse.Namespace, backbone: Backbone, pairs: Pairs, settings: Settings) -> None:
    """The loop, and what it leaves in --out."""
    prompt, out = loop.init_prompt(backbone, settings), flags.out
    if flags.degradation:
        prompt.meta["degradation"] = flags.degradation
    if flags.weights and backbone.name == "flux" and backbone.guidance is not None:
        prompt.meta["licence"] = DERIVATIVE
    try:
        loop.learn(backbone, prompt, pairs, settings, out, flags.resume, facts_of(flags))
    except FloatingPointError as error:
        raise FloatingPointError(
            f"{out}: {error}; what was saved before is kept; begin again in another --out with an "
            f"--lr below {flags.lr:g}"
        ) from None
    done = int(prompt.meta["steps"])
    if processes()[0] == 0 and done < flags.steps:
        print(f"stopped after step {done} of {flags.steps}; the same command with --resume goes on")
    elif processes()[0] == 0:
        report(out, pairs, settings, backbone, prompt)
        print(f"wrote prompt.safetensors, preview.png, results.csv and log.csv to {out}")


def parse_flags(argv: list[str] | None) -> argparse.Namespace:
    """The flags with their defaults; `named`: whether the user chose the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--backbone", choices=("flux", "wan"), required=True)
    add("--weights", type=Path, help="folder of an official checkpoint; default: bundled tiny one")
    add("--part", action="append", default=[], help=weights.PART)
    add("--conditioning", type=Path, help=weights.CONDITIONING)
    add("--data", type=Path, help="folder with degraded/ and clean/, or a JSON list of pairs")
    drawn = ", ".join(degradations.KINDS)
    add("--degradation", help=f"{drawn} (default haze); with --data: which rows")
    add("--bridge", choices=tuple(bridge.BRIDGES), default="desired")
    add("--space", choices=SPACES, default="embedding")
    add("--steps", type=int, help="default 300; 150 for the tiny WAN")
    add("--batch-size", type=int, default=16, help="over all processes")
    add("--micro-batch", type=int, help="samples of a process at once; default: what fits")
    add("--lr", type=float, help="of the residual or the tokens; default: see DEFAULTS")
    add("--loss", choices=LOSSES, default="x0", help="error of x0_hat, or of v")
    add("--t0", type=float, default=0.4, help="flow time where restoration starts")
    add("--t-low", type=float, default=1e-4, help="lowest time learned from; t0: t0 alone")
    add("--no-grid", action="store_true", help="tell the model exact times, off the authors' grid")
    add("--seed", type=int, default=0)
    add("--size", help="side, of clips side x frames; default 64 or 64x9, official 1024 or 480x33")
    add("--out", type=Path, help="default runs/BACKBONE-DEGRADATION, or -DATA; -token")
    add("--resume", action="store_true", help="go on with the run in --out")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    add("--weights-dtype", choices=("float8",), help=weights.FLOAT8)
    add("--offload", action="store_true", help=weights.OFFLOAD)
    add("--compile", action="store_true", help=COMPILE)
    flags = parser.parse_args(argv)
    show_any_name()
    flags.degradation = flags.degradation or (None if flags.data else "haze")
    steps, rates, size = DEFAULTS[flags.backbone, flags.weights is not None]
    flags.steps = steps if flags.steps is None else flags.steps
    flags.lr = rates[flags.space] if flags.lr is None else flags.lr
    flags.size = size if flags.size is None else flags.size
    flags.named = flags.out is not None
    if not flags.named:
        space = "-token" if flags.space == "token" else ""
        name = flags.degradation or flags.data.resolve().name
        flags.out = Path(f"runs/{flags.backbone}-{name}{space}")
    return flags


def main(argv: list[str] | None = None) -> int:
    flags = parse_flags(argv)
    try:
        with sigterm_interrupts():
            run(flags)
    except KeyboardInterrupt as stop:  # outside the loop, where nothing is half-written
        print(f"stopped; what was saved before is in {flags.out}", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    except ExceptionGroup as group:  # of what is wrong with --data
        for error in group.exceptions:
            print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        advice = "a smaller --size needs less"
        print(f"error: memory is too small, {advice} ({one_line(error)})", file=sys.stderr)
        return 2
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that it cannot show must not end the run
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
