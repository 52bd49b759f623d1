"""Learn a prompt: the frozen model stays as it is, a residual and its gates learn to restore.

    python train.py --backbone flux                                # bundled tiny FLUX, drawn scenes
    python train.py --backbone flux --weights DIR --data PAIRS     # official weights, own pairs
    torchrun --nproc-per-node N train.py --backbone flux ...       # N processes, the same result

One step: latents (x0, y) -> a state x_t of the bridge -> one frozen forward -> the error of its
x0_hat -> AdamW on the prompt. Every random number is a function of (seed, step), so that a stopped
run goes on bit for bit, and N processes see what one would.

Letters: B global batch, N training pairs, M held-out pairs, C h w latent, H W pixels.
"""

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

import weights
from tinybridge import __version__, bridge, data, resume, scenes
from tinybridge.backbone import Backbone
from tinybridge.metrics import psnr, ssim
from tinybridge.prompt import Prompt
from tinybridge.restore import restore

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # of torchrun
SCENES, HELD_OUT = 2048, 64  # drawn scenes to learn from; pairs to judge by
EVALUATION_SEED = 1_000_000  # scene seeds: training below, evaluation here, tiny/make.py far above
SETTINGS = ("data", "degradation", "bridge", "steps", "batch_size", "lr", "t0", "seed", "size")

# ---- pairs -------------------------------------------------------------------------------------


@dataclass
class Pairs:
    """y, x0 [N, C, h, w]: latents to learn from; degraded, clean [M, 3, H, W]: held out."""

    y: Tensor
    x0: Tensor
    degraded: Tensor
    clean: Tensor


def scene_pairs(backbone: Backbone, kind: str, size: int, seed: int) -> Pairs:
    """Latents of drawn scenes; the held-out scenes are the same for every seed."""
    first = seed % 100 * 5000
    chunks = (range(k, k + 16) for k in range(first, first + SCENES, 16))
    latents = encode(backbone, (scenes.pairs(kind, list(c), size) for c in chunks), SCENES // 16)
    held_out = list(range(EVALUATION_SEED, EVALUATION_SEED + HELD_OUT))
    return Pairs(*latents, *scenes.pairs(kind, held_out, size))


def file_pairs(backbone: Backbone, path: Path, kind: str | None, size: int) -> Pairs:
    """Latents of a folder's or a list's pairs, cut into squares; each tenth pair is held out."""
    found = data.pairs(path, kind)
    if len(found) < 2:
        raise ValueError(f"{path}: only {len(found)} pair, at least 2 are needed: 1 is held out")
    held_out = found[::10][:HELD_OUT]
    learned = [pair for pair in found if pair not in held_out]
    middles = [[p[len(p) // 2] for p in data.squares(pair, size)] for pair in held_out]
    degraded, clean = (torch.stack(pictures) for pictures in zip(*middles, strict=True))
    latents = encode(backbone, (data.squares(pair, size) for pair in learned), len(learned))
    return Pairs(*latents, degraded, clean)


def encode(
    backbone: Backbone, parts: Iterable[tuple[Tensor, Tensor]], count: int
) -> tuple[Tensor, Tensor]:
    """Latents of degraded and clean pictures, [N, C, h, w] each; done once and kept in memory."""
    y, x0 = [], []
    for degraded, clean in tqdm(parts, "encode", count, disable=RANK > 0, leave=False):
        y.append(backbone.encode(degraded).cpu())
        x0.append(backbone.encode(clean).cpu())
    return torch.cat(y), torch.cat(x0)


# ---- learning ----------------------------------------------------------------------------------


def gradients(
    backbone: Backbone, prompt: Prompt, pairs: Pairs, flags: argparse.Namespace, step: int
) -> float:
    """Leaves the gradients of one step, averaged over the processes, in the prompt; the loss.

    The whole batch is drawn everywhere from (seed, step); each process takes its share of it.
    """
    g = torch.Generator().manual_seed(flags.seed * 1_000_003 + step)
    pick = torch.randint(len(pairs.x0), (flags.batch_size,), generator=g)  # [B]
    t = bridge.draw_times(flags.batch_size, flags.t0, generator=g)  # [B]
    eps = torch.randn(flags.batch_size, *pairs.x0.shape[1:], generator=g)  # [B, C, h, w]
    share = slice(RANK * flags.batch_size // WORLD, (RANK + 1) * flags.batch_size // WORLD)
    batch = (pairs.x0[pick], pairs.y[pick], t, eps)
    x0, y, t, eps = (k[share].to(backbone.device) for k in batch)  # [B / WORLD, ...] each
    x_t, s = bridge.corrupt(bridge.BRIDGES[flags.bridge], x0, y, t, eps, flags.t0)
    v = backbone.velocity(x_t, s, prompt)  # [B / WORLD, C, h, w]
    loss = bridge.loss(v, x_t, x0, s).mean()
    prompt.zero_grad()
    loss.backward()
    if WORLD == 1:
        return loss.item()
    learned = list(prompt.parameters())
    flat = torch.cat([p.grad.flatten() for p in learned] + [loss.detach().float()[None]])
    dist.all_reduce(flat)
    *parts, total = (flat / WORLD).split([p.numel() for p in learned] + [1])
    for p, part in zip(learned, parts, strict=True):
        p.grad.copy_(part.view_as(p))
    return total.item()


def train(backbone: Backbone, prompt: Prompt, pairs: Pairs, flags: argparse.Namespace) -> int:
    """The loop; how many steps are done when it ends, fewer than --steps after a signal.

    FloatingPointError if a loss or a restored picture is not finite: what was saved last is kept.
    """
    groups = [{"params": [p]} for p in (prompt.residual, prompt.gates)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    settings = {key: getattr(flags, key) for key in SETTINGS}
    done = resume.load_state(flags.out, prompt, optimizer, settings) if flags.resume else 0
    rows, every, signals = resume.load_table(flags.out / "log.csv", done), flags.steps // 6 or 1, []
    stops = (signal.SIGINT, signal.SIGTERM)
    usual = [signal.signal(number, lambda number, _: signals.append(number)) for number in stops]

    def check(value: float, what: str) -> None:
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{flags.out}: the {what} became {value} at step {step + 1}; what was saved before "
                f"is kept; begin again in another --out with an --lr below {flags.lr:g}"
            )

    def save() -> None:
        prompt.meta["steps"] = str(done)
        if RANK == 0:
            prompt.save(flags.out / "prompt.safetensors")
            resume.save_state(flags.out, prompt, optimizer, done, settings)
            resume.save_table(flags.out / "log.csv", "step loss lr seconds psnr ssim", rows)

    bar = tqdm(range(done, flags.steps), "train", flags.steps, initial=done, disable=RANK > 0)
    for step in bar:
        began = time.perf_counter()
        loss = gradients(backbone, prompt, pairs, flags, step)
        norm = torch.nn.utils.clip_grad_norm_(prompt.parameters(), 1.0)
        check(loss, "loss")
        check(norm.item(), "gradient")
        rate = flags.lr * 0.5 * (1 + math.cos(math.pi * step / flags.steps))
        residual, gates = optimizer.param_groups
        residual["lr"], gates["lr"] = rate, rate / 5  # a gate moves a whole block
        optimizer.step()
        done, seconds = step + 1, round(time.perf_counter() - began, 4)
        rows.append({"step": done, "loss": loss, "lr": rate, "seconds": seconds})
        bar.set_postfix(loss=f"{loss:.4f}")
        asked = torch.tensor([len(signals)], device=backbone.device)
        if WORLD > 1:
            dist.all_reduce(asked)  # a signal to one process ends all of them after one step
        if asked.item():
            break
        if done % every == 0 or done == flags.steps:
            if RANK == 0:
                seen = judged(backbone, [prompt], pairs.degraded[:16], flags, 8)
                rows[-1]["psnr"] = psnr(seen, pairs.clean[:16]).mean().item()
                check(rows[-1]["psnr"], "PSNR of restored pictures")
                rows[-1]["ssim"] = ssim(seen, pairs.clean[:16]).mean().item()
                bar.write(f"step {done}: PSNR {rows[-1]['psnr']:.2f} dB on 16 held-out pictures")
            save()
    bar.close()
    save()
    for number, handler in zip(stops, usual, strict=True):
        signal.signal(number, handler)
    return done


def judged(
    backbone: Backbone, prompts: list, pictures: Tensor, flags: argparse.Namespace, steps: int
) -> Tensor:
    """Held-out pictures [M, 3, H, W] restored as sample.py would."""
    bar = partial(tqdm, desc="evaluate", leave=False)
    bridge, t0, B = flags.bridge, flags.t0, flags.batch_size
    return restore(backbone, prompts, pictures, bridge, steps, t0, batch_size=B, progress=bar)


def report(backbone: Backbone, prompt: Prompt, pairs: Pairs, flags: argparse.Namespace) -> None:
    """Held-out PSNR and SSIM as a table and results.csv, the first pictures as preview.png."""
    shown = {
        "degraded": pairs.degraded,
        "no prompt": judged(backbone, [], pairs.degraded, flags, 20),
        "restored": judged(backbone, [prompt], pairs.degraded, flags, 20),
    }
    rows, notes = [], []
    print(f"\n{len(pairs.clean):>3} held-out pictures  PSNR, dB    SSIM")
    for name, pictures in shown.items():
        quality, likeness = psnr(pictures, pairs.clean), ssim(pictures, pairs.clean).mean().item()
        rows.append({"picture": name, "psnr": quality.mean().item(), "ssim": likeness})
        notes.append([f"{value:.1f} dB" for value in quality[:6]])
        print(f"{name:<22} {quality.mean():8.2f} {likeness:7.3f}")
    resume.save_table(flags.out / "results.csv", "picture psnr ssim", rows)
    columns = [pictures[:6] for pictures in (*shown.values(), pairs.clean)]
    notes = [[*row, ""] for row in zip(*notes, strict=True)]
    data.sheet(flags.out / "preview.png", columns, [*shown, "clean"], notes)
    print(f"wrote prompt.safetensors, preview.png, results.csv and log.csv to {flags.out}")


# ---- the run -----------------------------------------------------------------------------------


def run(flags: argparse.Namespace) -> None:
    """Everything from the flags to the files; ValueError and OSError say what is wrong."""
    bridge.times(flags.t0)
    if flags.batch_size % WORLD or min(flags.steps, flags.batch_size, flags.size, flags.lr) <= 0:
        raise ValueError(
            f"--steps {flags.steps}, --batch-size {flags.batch_size}, --size {flags.size} and --lr "
            f"{flags.lr} must be positive, and the batch a multiple of the {WORLD} processes"
        )
    if not flags.resume and RANK == 0:
        resume.begin(flags.out)
    device, gpu = flags.device, int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda":
        device = f"cuda:{gpu}"
        torch.cuda.set_device(gpu)  # nccl talks over the current one
    if WORLD > 1:
        backend = "nccl" if flags.device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=2))  # rank 0 evaluates alone
    if RANK == 0:
        model = flags.weights or "the bundled tiny FLUX (no --weights)"
        source = flags.data or "drawn scenes (no --data)"
        print(
            f"{model}, {source}, {flags.degradation or 'all rows'}, {flags.bridge} bridge, {device}"
        )
    dtype = getattr(torch, flags.dtype, None)
    backbone = weights.load_backbone(flags.backbone, flags.weights, device, dtype)
    backbone.model.checkpointing = flags.checkpointing
    if flags.data is None:
        pairs = scene_pairs(backbone, flags.degradation, flags.size, flags.seed)
    else:
        pairs = file_pairs(backbone, flags.data, flags.degradation, flags.size)
    prompt = Prompt.init(backbone.length, backbone.width, backbone.blocks, flags.seed).to(device)
    told = ("backbone", "degradation", "bridge", "t0", "seed")
    prompt.meta = {key: str(vars(flags)[key]) for key in told if vars(flags)[key] is not None}
    prompt.meta |= {"grid": str(backbone.grid).lower(), "version": __version__}
    done = train(backbone, prompt, pairs, flags)
    if RANK == 0 and done < flags.steps:
        print(f"stopped after step {done} of {flags.steps}; the same command with --resume goes on")
    elif RANK == 0:
        report(backbone, prompt, pairs, flags)
    if WORLD > 1:
        dist.destroy_process_group()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--backbone", choices=("flux",), required=True)
    add("--weights", type=Path, help="folder of an official checkpoint; default: bundled tiny one")
    add("--data", type=Path, help="folder with degraded/ and clean/, or a JSON list of pairs")
    add("--degradation", help=f"{', '.join(scenes.KINDS)} (default haze); with --data: which rows")
    add("--bridge", choices=tuple(bridge.BRIDGES), default="desired")
    add("--steps", type=int, default=300)
    add("--batch-size", type=int, default=16, help="over all processes")
    add(
        "--lr",
        type=float,
        help="of the residual; default 0.15 for the tiny one, 0.01 with --weights",
    )
    add("--t0", type=float, default=0.4, help="flow time where restoration starts")
    add("--seed", type=int, default=0)
    add("--size", type=int, help="side of training pictures; default 64, 1024 with --weights")
    add("--out", type=Path, help="default runs/BACKBONE-DEGRADATION")
    add("--resume", action="store_true", help="go on with the run in --out")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    add("--checkpointing", action="store_true", help="less memory: recompute blocks in backward")
    flags = parser.parse_args(argv)
    if flags.device == "auto":
        flags.device = "cuda" if torch.cuda.is_available() else "cpu"
    flags.degradation = flags.degradation or (None if flags.data else "haze")
    flags.out = flags.out or Path(f"runs/{flags.backbone}-{flags.degradation or flags.data.stem}")
    flags.lr = flags.lr or (0.15 if flags.weights is None else 0.01)
    flags.size = flags.size or (64 if flags.weights is None else 1024)
    try:
        run(flags)
    except (ValueError, OSError, FloatingPointError, torch.OutOfMemoryError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # outside the loop, where nothing is half-written
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
