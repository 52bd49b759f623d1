"""What a finished run says of its prompt: held-out measures, results.csv, preview.png.

Letters: M held-out pairs, T frames, H W sides.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from tinybridge.backbone import Backbone
from tinybridge.data.sheet import sheet
from tinybridge.data.tables import save_table
from tinybridge.metrics import measures, psnr
from tinybridge.prompt import Prompt, Tokens
from tinybridge.restoration import restore
from tinybridge.training.pairs import Pairs
from tinybridge.training.settings import Settings
from tinybridge.windows import AtOnce


def report(
    out: Path, pairs: Pairs, settings: Settings, backbone: Backbone, prompt: Prompt | Tokens
) -> None:
    """Held-out measures, printed and as results.csv; the first pictures or clips as preview.png."""
    bar = partial(tqdm, desc="evaluate", leave=False)
    at_once = AtOnce(settings.micro_batch or settings.batch_size, tqdm.write)
    options = {"bridge": settings.bridge, "t0": settings.t0, "batch_size": at_once}
    walk = partial(restore, backbone, pictures=pairs.degraded, progress=bar, **options)
    shown = {
        "degraded": pairs.degraded,
        "no prompt": walk([]),
        "restored": walk([prompt]),
    }
    judged = shown | ({"clean": pairs.clean} if backbone.video else {})
    rows = [{"picture": name} | measures(pixels, pairs.clean) for name, pixels in judged.items()]
    save_table(out / "results.csv", "picture psnr ssim" + " change" * backbone.video, rows)
    head = f"{len(pairs.clean):>3} held-out {'clips' if backbone.video else 'pictures'}"
    print(f"\n{head:<22} PSNR, dB    SSIM{'  change' * backbone.video}")
    for row in rows:
        change = f"{row['change']:8.4f}" if "change" in row else ""
        print(f"{row['picture']:<22} {row['psnr']:8.2f} {row['ssim']:7.3f}{change}")
    each = torch.stack([psnr(p[:6], pairs.clean[:6]) for p in shown.values()], 1)  # [6, 3]
    notes = [[*(f"{db:.1f} dB" for db in row), ""] for row in each]
    columns = [filmstrip(p[:6]) for p in (*shown.values(), pairs.clean)]
    side = 384 if backbone.video else 192
    sheet(out / "preview.png", columns, [*shown, "clean"], notes, side=side)


def filmstrip(pixels: Tensor) -> Tensor:
    """Pictures as they are; of clips [M, 3, T, H, W] three frames side by side, [M, 3, H, 3W]."""
    if pixels.ndim == 4:
        return pixels
    T = pixels.shape[2]
    return pixels[:, :, [0, T // 2, T - 1]].permute(0, 1, 3, 2, 4).flatten(3)
