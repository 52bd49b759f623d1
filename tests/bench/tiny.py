"""How good are the bundled tiny models? What every table of the argument stands on.

    python -m tests.bench.tiny > tests/bench/tiny.md       # under a minute on one core
    python -m tests.bench.tiny --backbone flux --weights runs/tiny-flux/model

Clean scenes and clips that neither pre-training nor training nor any other table draws. There and
back by the autoencoder alone; then also through noise at t0 = 0.4 and the frozen model's own flow,
20 calls, no prompt. Energy: the squares of what neighbours differ by, over the clean pictures'.

Letters: B batch, T frames, H W picture size.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

import weights
from notebooks.experiments.analysis import sharpness
from tinybridge.backbone import Backbone
from tinybridge.data import moving_scenes, scenes
from tinybridge.metrics import psnr, temporal_difference
from tinybridge.restoration import restore

FIRST = 3_000_000  # seeds of these scenes and clips
PICTURES, CLIPS, FRAMES = 64, 8, 41


@torch.no_grad()
def back(backbone: Backbone, pixels: Tensor) -> Tensor:
    """Through the autoencoder and back, one by one: [B, 3, (T,) H, W] in 0..1."""
    one_by_one = [
        backbone.decode(backbone.encode(one), tuple(one.shape[2:])) for one in pixels.split(1)
    ]
    return torch.cat(one_by_one).float()


def flux_rows(backbone: Backbone) -> list[tuple[str, str]]:
    clean = torch.stack(
        [torch.from_numpy(scenes.scene(FIRST + k).picture) for k in range(PICTURES)]
    )
    coded = back(backbone, clean)
    walked = restore(backbone, [], clean, "naive", 20, 0.4)
    called = restore(backbone, [], clean, "naive", 1, 0.4)
    rows = [("autoencoder", coded), ("through noise at t0 0.4 and back, 20 calls", walked)]
    rows.append(("the same, one call", called))
    found = []
    for name, shown in rows:
        mean = psnr(shown, clean).mean().item()
        pooled = psnr(shown.flatten()[None, None, None], clean.flatten()[None, None, None]).item()
        kept = sharpness(shown, clean)
        found.append((name, f"{mean:.2f} dB (of the mean error: {pooled:.2f}), energy {kept:.3f}"))
    return found


def wan_rows(backbone: Backbone) -> list[tuple[str, str]]:
    clips = [torch.from_numpy(moving_scenes.clip(FIRST + k, 64, FRAMES)[0]) for k in range(CLIPS)]
    clean = torch.stack(clips).transpose(1, 2)  # [B, 3, T, H, W]
    coded = back(backbone, clean)
    found = []
    for first, last in ((0, 8), (16, 24), (32, 40)):
        part = slice(first, last + 1)
        mean = psnr(coded[:, :, part], clean[:, :, part]).mean().item()
        found.append(
            (f"autoencoder, clips of {FRAMES} frames, {first} to {last}", f"{mean:.2f} dB")
        )
    walked = restore(backbone, [], clean[:, :, :9], "naive", 20, 0.4)
    for name, shown in (("autoencoder, first 9 frames", coded[:, :, :9]), ("walk", walked)):
        mean = psnr(shown, clean[:, :, :9]).mean().item()
        kept = sharpness(shown, clean[:, :, :9])
        change = temporal_difference(shown).mean() / temporal_difference(clean[:, :, :9]).mean()
        found.append((name, f"{mean:.2f} dB, energy {kept:.3f}, change of frames {change:.2f}"))
    return found


ROWS = {"flux": flux_rows, "wan": wan_rows}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", choices=tuple(ROWS), nargs="+", default=list(ROWS))
    parser.add_argument("--weights", type=Path, help="a folder; default: the bundled one")
    flags = parser.parse_args(argv)
    print("|model|what|measured|\n|---|---|---|")
    for name in flags.backbone:
        backbone = weights.load_backbone(name, flags.weights)
        folder = flags.weights or weights.TINY / name
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"|{name}|size|{size / 1e6:.1f} MB|")
        for what, measured in ROWS[name](backbone):
            print(f"|{name}|{what}|{measured}|", flush=True)
    drawn = f"{PICTURES} scenes and {CLIPS} clips of seeds from {FIRST:,} on"
    print(f"\n`python -m tests.bench.tiny`: {drawn}.")


if __name__ == "__main__":
    main()
