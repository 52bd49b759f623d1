"""Learn a prompt: the frozen model stays as it is, a residual and its gates learn to restore.

    python train.py --backbone flux                                # bundled tiny FLUX, drawn scenes
    python train.py --backbone wan                                 # bundled tiny WAN, moving scenes
    python train.py --backbone flux --weights DIR --data PAIRS     # official weights, own pairs
    torchrun --nproc-per-node N train.py --backbone flux ...       # N processes, the same result

--space token learns what the text encoder reads instead, --space text only picks a sentence. The
loop is in tinybridge/training/loop.py; here are the flags and the report.

Letters: M held-out pairs, T frames, H W sides.
"""

import argparse
import os
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

import weights
from tinybridge import bridge
from tinybridge.backbone import Backbone
from tinybridge.data import scenes
from tinybridge.data.sheet import sheet
from tinybridge.data.tables import save_table
from tinybridge.metrics import measures, psnr
from tinybridge.restoration import pick_device, restore
from tinybridge.training import loop, run_state, sentences
from tinybridge.training.loop import RANK, WORLD, Settings
from tinybridge.training.pairs import Pairs, drawn_pairs, file_pairs, parse_size

# Steps; rates, which are guesses for official weights; size. The text encoder norms what it reads,
# so a token's size only says how fast it turns: 10 was the best of 0.003 to 100 (tiny FLUX, haze).
DEFAULTS = {  # by backbone and whether there are --weights
    ("flux", False): (300, {"embedding": 0.15, "token": 10.0}, "64"),
    ("flux", True): (300, {"embedding": 0.01, "token": 10.0}, "1024"),
    ("wan", False): (150, {"embedding": 0.4, "token": 10.0}, "64x9"),
    ("wan", True): (300, {"embedding": 0.01, "token": 10.0}, "480x33"),
}

# ---- what came of it ---------------------------------------------------------------------------


def report(
    out: Path, pairs: Pairs, settings: Settings, baseline: Backbone, model: Backbone, prompts: list
) -> list[dict]:
    """Held-out measures, printed and as rows; the first pictures or clips as preview.png.

    baseline: the frozen model and the null prompt; model: what restores, together with `prompts`.
    """
    walk = {"bridge": settings.bridge, "t0": settings.t0, "batch_size": settings.batch_size}
    walk["progress"] = partial(tqdm, desc="evaluate", leave=False)
    shown = {
        "degraded": pairs.degraded,
        "no prompt": restore(baseline, [], pairs.degraded, **walk),
        "restored": restore(model, prompts, pairs.degraded, **walk),
    }
    judged = shown | ({"clean": pairs.clean} if baseline.video else {})
    rows = [{"picture": n} | measures(p, pairs.clean) for n, p in judged.items()]
    head = f"{len(pairs.clean):>3} held-out {'clips' if baseline.video else 'pictures'}"
    print(f"\n{head:<22} PSNR, dB    SSIM{'  change' * baseline.video}")
    for row in rows:
        change = f"{row['change']:8.4f}" if "change" in row else ""
        print(f"{row['picture']:<22} {row['psnr']:8.2f} {row['ssim']:7.3f}{change}")
    each = torch.stack([psnr(p[:6], pairs.clean[:6]) for p in shown.values()], 1)  # [6, 3]
    notes = [[*(f"{db:.1f} dB" for db in row), ""] for row in each]
    columns = [filmstrip(p[:6]) for p in (*shown.values(), pairs.clean)]
    side = 384 if baseline.video else 192
    sheet(out / "preview.png", columns, [*shown, "clean"], notes, side=side)
    return rows


def filmstrip(pixels: Tensor) -> Tensor:
    """Pictures as they are; of clips [M, 3, T, H, W] three frames side by side, [M, 3, H, 3W]."""
    if pixels.ndim == 4:
        return pixels
    T = pixels.shape[2]
    return pixels[:, :, [0, T // 2, T - 1]].permute(0, 1, 3, 2, 4).flatten(3)


def best_sentence(
    flags: argparse.Namespace, backbone: Backbone, pairs: Pairs, settings: Settings
) -> tuple[Backbone, list[dict]]:
    """The model told the best of a few sentences, which sentence.txt gets, and a row for each."""
    texts = sentences.sentences(flags.degradation, backbone.video)
    models = weights.with_texts(backbone, texts, flags.weights)
    told = dict(zip(texts, models, strict=True))
    rows = sentences.compare(told, pairs, settings)
    print(f"\n{len(pairs.seen[0]):>3} training pairs     PSNR, dB    SSIM")
    for row in rows:
        print(f"{'':<22} {row['psnr']:8.2f} {row['ssim']:7.3f}  {row['sentence']!r}")
    best = rows[0]["sentence"]
    (flags.out / "sentence.txt").write_text(best + "\n")
    print(f"the best is {best!r}")
    return told[best], [{"picture": "restored", "pairs": "training"} | row for row in rows]


# ---- the run -----------------------------------------------------------------------------------


def run(flags: argparse.Namespace) -> None:
    """Everything from the flags to the files; ValueError and OSError say what is wrong."""
    bridge.times(flags.t0)
    side, frames = parse_size(flags.size, DEFAULTS[flags.backbone, flags.weights is not None][2])
    if flags.batch_size % WORLD or min(flags.steps, flags.batch_size, flags.lr) <= 0:
        raise ValueError(
            f"--steps {flags.steps}, --batch-size {flags.batch_size} and --lr {flags.lr} must be "
            f"positive, and the batch a multiple of the {WORLD} processes"
        )
    if flags.resume and flags.space == "text":
        raise ValueError("--space text learns nothing, so there is nothing to resume")
    if not flags.resume and RANK == 0:
        run_state.begin(flags.out)
    device, gpu = flags.device, int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda":
        device = f"cuda:{gpu}"
        torch.cuda.set_device(gpu)  # nccl talks over the current one
    if WORLD > 1:
        backend = "nccl" if flags.device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=2))  # rank 0 evaluates alone
    if RANK == 0:
        model = flags.weights or f"the bundled tiny {flags.backbone.upper()} (no --weights)"
        drawn = "drawn scenes" if flags.backbone == "flux" else "drawn moving scenes"
        source, kind = flags.data or f"{drawn} (no --data)", flags.degradation or "all rows"
        print(f"{model}, {source}, {kind}, {flags.bridge} bridge, {flags.space} space, {device}")
    dtype, tokens = getattr(torch, flags.dtype, None), flags.space == "token"
    backbone = weights.load_backbone(
        flags.backbone, flags.weights, device, dtype, keep_encoder=tokens
    )
    if flags.data is None:
        pairs = drawn_pairs(backbone, flags.degradation, side, frames, flags.seed, quiet=RANK > 0)
    else:
        pairs = file_pairs(backbone, flags.data, flags.degradation, side, frames, RANK > 0)
    names = ("bridge", "space", "steps", "batch_size", "lr", "t0", "seed")
    settings = Settings(**{name: getattr(flags, name) for name in names})
    if flags.space == "text":
        if RANK == 0:
            told, tried = best_sentence(flags, backbone, pairs, settings)
            rows = report(flags.out, pairs, settings, backbone, told, [])
            rows = [{"pairs": "held out"} | row for row in rows]
            columns = "picture pairs psnr ssim change sentence"
            save_table(flags.out / "results.csv", columns, rows + tried)
            print(f"wrote sentence.txt, preview.png and results.csv to {flags.out}")
    else:
        learn(flags, backbone, pairs, settings)
    if WORLD > 1:
        dist.destroy_process_group()


def learn(flags: argparse.Namespace, backbone: Backbone, pairs: Pairs, settings: Settings) -> None:
    """The loop, and what it leaves in --out."""
    prompt, out = loop.init_prompt(backbone, settings), flags.out
    if flags.degradation:
        prompt.meta["degradation"] = flags.degradation
    facts = {"data": flags.data, "degradation": flags.degradation, "size": flags.size}
    try:
        rows = loop.learn(backbone, prompt, pairs, settings, out, flags.resume, facts)
    except FloatingPointError as error:
        raise FloatingPointError(
            f"{out}: {error}; what was saved before is kept; begin again in another --out with an "
            f"--lr below {flags.lr:g}"
        ) from None
    done = int(rows[-1]["step"])
    if RANK == 0 and done < flags.steps:
        print(f"stopped after step {done} of {flags.steps}; the same command with --resume goes on")
    elif RANK == 0:
        rows = report(out, pairs, settings, backbone, backbone, [prompt])
        columns = "picture psnr ssim" + " change" * backbone.video
        save_table(out / "results.csv", columns, rows)
        print(f"wrote prompt.safetensors, preview.png, results.csv and log.csv to {out}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--backbone", choices=("flux", "wan"), required=True)
    add("--weights", type=Path, help="folder of an official checkpoint; default: bundled tiny one")
    add("--data", type=Path, help="folder with degraded/ and clean/, or a JSON list of pairs")
    add("--degradation", help=f"{', '.join(scenes.KINDS)} (default haze); with --data: which rows")
    add("--bridge", choices=tuple(bridge.BRIDGES), default="desired")
    add("--space", choices=("embedding", "token", "text"), default="embedding")
    add("--steps", type=int, help="default 300; 150 for the tiny WAN")
    add("--batch-size", type=int, default=16, help="over all processes")
    add("--lr", type=float, help="of the residual or the tokens; default: see DEFAULTS")
    add("--t0", type=float, default=0.4, help="flow time where restoration starts")
    add("--seed", type=int, default=0)
    add("--size", help="side, of clips side x frames; default 64 or 64x9, official 1024 or 480x33")
    add("--out", type=Path, help="default runs/BACKBONE-DEGRADATION, -token or -text")
    add("--resume", action="store_true", help="go on with the run in --out")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    flags = parser.parse_args(argv)
    flags.degradation = flags.degradation or (None if flags.data else "haze")
    steps, rates, size = DEFAULTS[flags.backbone, flags.weights is not None]
    flags.steps = steps if flags.steps is None else flags.steps
    flags.lr = flags.lr or rates.get(flags.space, 1.0)
    flags.size = flags.size or size
    space = "" if flags.space == "embedding" else f"-{flags.space}"
    name = flags.degradation or flags.data.stem
    flags.out = flags.out or Path(f"runs/{flags.backbone}-{name}{space}")
    try:
        flags.device = pick_device(flags.device)
        run(flags)
    except (ValueError, OSError, FloatingPointError, torch.OutOfMemoryError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # outside the loop, where nothing is half-written
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
