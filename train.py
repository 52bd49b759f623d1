"""Learn a prompt: the frozen model stays as it is, a residual and its gates learn to restore.

    python train.py --backbone flux                                # bundled tiny FLUX, drawn scenes
    python train.py --backbone wan                                 # bundled tiny WAN, moving scenes
    python train.py --backbone flux --weights DIR --data PAIRS     # official weights, own pairs
    torchrun --nproc-per-node N train.py --backbone flux ...       # N processes, the same result

--space token learns what the text encoder reads instead, --space text only picks a sentence. The
loop is in tinybridge/training/loop.py; here are the flags, pairs of files, and the report.

Letters: M held-out pairs, T frames, H W sides.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

import weights
from tinybridge import bridge
from tinybridge.backbone import Backbone
from tinybridge.data import clips, pictures, scenes
from tinybridge.data.tables import save_table
from tinybridge.metrics import psnr
from tinybridge.training import loop, run_state, sentences
from tinybridge.training.loop import RANK, WORLD, Pairs, Settings

# Steps; rates, which are guesses for official weights; size. The text encoder norms what it reads,
# so a token's size only says how fast it turns: 10 was the best of 0.003 to 100 (tiny FLUX, haze).
DEFAULTS = {  # by backbone and whether there are --weights
    ("flux", False): (300, {"embedding": 0.15, "token": 10.0}, "64"),
    ("flux", True): (300, {"embedding": 0.01, "token": 10.0}, "1024"),
    ("wan", False): (150, {"embedding": 0.4, "token": 10.0}, "64x9"),
    ("wan", True): (300, {"embedding": 0.01, "token": 10.0}, "480x33"),
}

# ---- pairs of files ----------------------------------------------------------------------------


def shape(size: str, usual: str) -> tuple[int, int]:
    """Side and number of frames, 1 of a picture, that --size names. usual: the default."""
    parts, wanted = size.split("x"), usual.split("x")
    if not all(part.isdecimal() and int(part) for part in parts) or len(parts) > len(wanted):
        form = "side x frames, as 64x9" if len(wanted) > 1 else "a side in pixels, as 64"
        raise ValueError(f"--size {size}: expected {form}")
    side, frames = (int(part) for part in (*parts, *wanted[len(parts) :], "1")[:2])
    if frames % 4 != 1:
        raise ValueError(f"--size {size}: WAN takes 1 + 4k frames, as {frames // 4 * 4 + 1}")
    return side, frames


def file_pairs(backbone: Backbone, path: Path, kind: str | None, side: int, frames: int) -> Pairs:
    """Latents of a folder's or a list's pairs, cut into squares or cubes; each tenth is held out.

    Of a held-out pair the square in the middle is judged, of a clip that of its first frames.
    """

    def cut(pair: pictures.Pair) -> Iterator[tuple[Tensor, Tensor]]:
        if backbone.video:
            return clips.cubes(pair, side, frames)
        return iter([pictures.squares(pair, side)])

    found = (clips if backbone.video else pictures).pairs(path, kind)
    if len(found) < 2:
        raise ValueError(f"{path}: only {len(found)} pair, at least 2 are needed: 1 is held out")
    held_out = found[::10][: (loop.CLIPS if backbone.video else loop.SCENES)[1]]
    learned = [pair for pair in found if pair not in held_out]
    middles = [[p[len(p) // 2] for p in next(cut(pair))] for pair in held_out]
    judged = tuple(torch.stack(pixels) for pixels in zip(*middles, strict=True))
    parts = (part for pair in learned for part in cut(pair))
    return loop.encoded(backbone, parts, judged, None if backbone.video else len(learned))


# ---- what came of it ---------------------------------------------------------------------------


def report(
    out: Path, pairs: Pairs, settings: Settings, alone: Backbone, told: Backbone, prompts: list
) -> list[dict]:
    """Held-out measures, printed and as rows; the first pictures or clips as preview.png.

    alone: the frozen model and the null prompt; told: what restores, together with `prompts`.
    """
    shown = {
        "degraded": pairs.degraded,
        "no prompt": loop.restored(alone, [], pairs.degraded, settings),
        "restored": loop.restored(told, prompts, pairs.degraded, settings),
    }
    judged = shown | ({"clean": pairs.clean} if alone.video else {})
    rows = [{"picture": n} | loop.measures(p, pairs.clean) for n, p in judged.items()]
    head = f"{len(pairs.clean):>3} held-out {'clips' if alone.video else 'pictures'}"
    print(f"\n{head:<22} PSNR, dB    SSIM{'  change' * alone.video}")
    for row in rows:
        change = f"{row['change']:8.4f}" if "change" in row else ""
        print(f"{row['picture']:<22} {row['psnr']:8.2f} {row['ssim']:7.3f}{change}")
    each = torch.stack([psnr(p[:6], pairs.clean[:6]) for p in shown.values()], 1)  # [6, 3]
    notes = [[*(f"{db:.1f} dB" for db in row), ""] for row in each]
    columns = [strips(p[:6]) for p in (*shown.values(), pairs.clean)]
    side = 384 if alone.video else 192
    pictures.sheet(out / "preview.png", columns, [*shown, "clean"], notes, side=side)
    return rows


def strips(pixels: Tensor) -> Tensor:
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
    models = weights.tell(backbone, texts, flags.weights)
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
    side, frames = shape(flags.size, DEFAULTS[flags.backbone, flags.weights is not None][2])
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
        pairs = loop.drawn_pairs(backbone, flags.degradation, side, frames, flags.seed)
    else:
        pairs = file_pairs(backbone, flags.data, flags.degradation, side, frames)
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
    prompt, out = loop.start(backbone, settings), flags.out
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
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    flags = parser.parse_args(argv)
    if flags.device == "auto":
        flags.device = "cuda" if torch.cuda.is_available() else "cpu"
    flags.degradation = flags.degradation or (None if flags.data else "haze")
    steps, rates, size = DEFAULTS[flags.backbone, flags.weights is not None]
    flags.steps = steps if flags.steps is None else flags.steps
    flags.lr = flags.lr or rates.get(flags.space, 1.0)
    flags.size = flags.size or size
    space = "" if flags.space == "embedding" else f"-{flags.space}"
    name = flags.degradation or flags.data.stem
    flags.out = flags.out or Path(f"runs/{flags.backbone}-{name}{space}")
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
