"""What every experiment stands on: a frozen model, scenes and their latents, budgets, measures.

Latents are encoded once and kept in runs/experiments/, in a folder of the model's own. Three sets
of scenes that never meet: to learn from (seeds below 1,000,000), to choose by (1,000,000 on), and
to judge by (2,000,000 on), on which nothing is ever chosen.

Letters: N pairs, M held-out scenes, C h w latent, H W pixels, T frames.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import weights
from notebooks.experiments import analysis
from tinybridge import bridge
from tinybridge.data import degradations, moving_scenes, scenes
from tinybridge.metrics import psnr, ssim, temporal_difference

ROOT = Path(__file__).parents[2]
STORE = ROOT / "runs/experiments"
CHOOSING, JUDGING = 1_000_000, 2_000_000  # the first seeds of the held-out sets
BUNDLED = ("flux", "wan")
MEASURES = ("psnr", "ssim", "sharpness", "psnr_each")


@dataclass(frozen=True)
class Budget:
    """How much of everything. steps: of training a prompt; wan_...: for clips."""

    name: str
    steps: int = 100
    batch: int = 8
    pairs: int = 512
    scenes: int = 32
    wan_batch: int = 4
    wan_pairs: int = 64
    wan_scenes: int = 8
    kinds: tuple[str, ...] = degradations.KINDS
    two: tuple[str, ...] = ("haze", "rain")  # where all of them would take too long
    calls: tuple[int, ...] = (4, 20)
    curve: tuple[int, ...] = (1, 2, 4, 8, 20, 50)
    draws: int = 4  # of the noise, to part bias from variance
    rate_steps: int = 30
    many: int = 128  # scenes where distributions are compared
    classifier: int = 150  # steps of the one that tells restored from clean


FULL = Budget("full")
SMALL = Budget(
    "small", steps=2, batch=2, pairs=4, scenes=2, wan_batch=1, wan_pairs=2, wan_scenes=1,
    kinds=("haze", "rain"), two=("haze",), calls=(2, 3), curve=(1, 3), draws=2, rate_steps=1,
    many=8, classifier=2,
)  # fmt: skip


@dataclass(frozen=True)
class Scenes:
    """Held out: degraded, clean pixels [M, 3, ...] in 0..1, their latents y, x0 [M, C, ...]."""

    degraded: Tensor
    clean: Tensor
    y: Tensor
    x0: Tensor


@dataclass(frozen=True)
class Latents:
    """What is learned from: y degraded, x0 clean, [N, C, ...] both."""

    y: Tensor
    x0: Tensor


class Lab:
    """A frozen backbone, and what is drawn and encoded for it.

    name: "flux", "wan", the bundled ones, or the folder of another tiny FLUX. store: for latents
    and prompts, None: STORE; what belongs to another model lies in another folder of it.
    """

    def __init__(self, name: str = "flux", budget: Budget = FULL, store: Path | None = None):
        self.name = title(name)
        self.budget = budget
        if name in BUNDLED:
            self.backbone = weights.load_backbone(name, keep_encoder=True)
        else:
            self.backbone = weights.load_backbone("flux", ROOT / name, keep_encoder=True)
        self.model = fingerprint(name)
        self.store = (store or STORE) / f"{self.name.replace('/', '-')}-{self.model}"
        self.held_out = cache(self.held_out)  # a worker has one lab for all its jobs
        self.pairs = cache(self.pairs)

    @property
    def wan(self) -> bool:
        return self.backbone.video

    def encode(self, name: str, pixels: Tensor) -> Tensor:
        """Latents of pixels, from the store if they lie there under that name."""
        file = self.store / f"{name}.safetensors"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            latents = torch.cat([self.backbone.encode(part) for part in pixels.split(16)])
            scratch = file.with_suffix(f".{os.getpid()}")
            save_file({"latents": latents.contiguous()}, scratch)
            scratch.replace(file)
        return load_file(file)["latents"]

    def draw(
        self, kind: str, first: int, count: int, severity: tuple[float, float] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Degraded and clean pixels [count, 3, ...] of scenes from seed `first` on.

        severity: from, to; None: those that prompts are learned with.
        """
        drawn = moving_scenes if self.wan else scenes
        seeds = list(range(first, first + count))
        if severity is None:
            return drawn.pairs(kind, seeds)
        return drawn.pairs(kind, seeds, low=severity[0], high=severity[1])

    def pairs(self, kind: str, seed: int) -> Latents:
        """Pairs to learn from, others for every seed."""
        count = self.budget.wan_pairs if self.wan else self.budget.pairs
        first = seed * 5000
        degraded, clean = self.draw(kind, first, count)
        y = self.encode(f"{kind}-{first}-{count}-None", degraded)
        x0 = self.encode(f"clean-{first}-{count}", clean)
        return Latents(y, x0)

    def held_out(
        self,
        kind: str,
        first: int = JUDGING,
        count: int | None = None,
        severity: tuple[float, float] | None = None,
    ) -> Scenes:
        """Scenes to judge or, with `first` CHOOSING, to choose by; severity: as in `draw`."""
        count = count or (self.budget.wan_scenes if self.wan else self.budget.scenes)
        degraded, clean = self.draw(kind, first, count, severity)
        y = self.encode(f"{kind}-{first}-{count}-{severity}", degraded)
        x0 = self.encode(f"clean-{first}-{count}", clean)
        return Scenes(degraded, clean, y, x0)

    def noise(self, y: Tensor, seed: int, draw: int = 0) -> Tensor:
        """Unit noise for each of the latents y [M, C, ...]; the same for all that is compared."""
        generator = torch.Generator().manual_seed(42 + seed + 1000 * draw)
        return bridge.draw_noise(y, generator)

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels in 0..1 of latents [M, C, ...]."""
        return torch.cat([self.backbone.decode(part) for part in latents.split(16)])


def measured(pixels: Tensor, clean: Tensor) -> dict[str, float | str]:
    """The MEASURES of restored pixels [M, 3, ...] against clean ones, and of clips `flicker`."""
    each = psnr(pixels, clean).clamp(max=100)  # [M]
    found = {
        "psnr": round(each.mean().item(), 4),
        "ssim": round(ssim(pixels, clean).mean().item(), 4),
        "sharpness": round(analysis.sharpness(pixels, clean), 4),
        "psnr_each": " ".join(f"{value:.2f}" for value in each.tolist()),
    }
    if pixels.ndim == 5:
        change = temporal_difference(pixels).mean() / temporal_difference(clean).mean()
        found["flicker"] = round(change.item(), 3)
    return found


def title(name: str) -> str:
    """What tables call a model: flux, wan, or the last two parts of its folder."""
    return name if name in BUNDLED else "/".join(Path(name).parts[-2:])


@cache
def fingerprint(name: str) -> str:
    """8 hex digits of a model's weights and of what the scenes are degraded to."""
    digest = hashlib.sha256()
    folder = weights.TINY / name if name in BUNDLED else ROOT / name
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    for kind in degradations.KINDS:
        pixels, _ = scenes.pairs(kind, [JUDGING])
        digest.update(f"{kind} {pixels.mean().item():.3f}".encode())
    return digest.hexdigest()[:8]
