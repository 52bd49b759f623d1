"""How a tiny model learns: one trainer for autoencoders, one for flow models, which know neither.

Stages 3 and 4 of make.py; what is FLUX's or WAN's own stands in recipes.py. Every batch is a
function of (seed, step), so that a stopped run goes on from its last checkpoint and ends with the
same bits as one that was not stopped.

Letters: B batch, C channels, T frames, H W sides of a picture, h w of a latent; Z latent channels.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from tinybridge import bridge
from tinybridge.metrics import psnr
from tinybridge.tiny.muon import Muon

EVERY = 250  # steps from one checkpoint to the next; every second one is judged


def to_pixels(pictures: Tensor) -> Tensor:
    """uint8 to float32 in -1..1; pictures stay [N, 3, H, W], clips get [N, 3, T, H, W]."""
    pictures = pictures.float() / 127.5 - 1
    return pictures if pictures.ndim == 4 else pictures.transpose(1, 2)


def schedule(step: int, steps: int) -> float:
    """Warm up over 200 steps, stay, then fall linearly to zero over the last 40 %."""
    return min(1.0, (step + 1) / 200, (steps - step) / (0.4 * steps))


def numbers(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step: to go on, nothing of them need be saved."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


class Optimizer:
    """Muon for the weights that `is_inner(name, weight)` picks, AdamW for everything else."""

    def __init__(
        self, model: nn.Module, is_inner: Callable[[str, nn.Parameter], bool], momentum: float
    ):
        inner, others = [], []
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue
            (inner if is_inner(name, weight) else others).append(weight)
        self.model = model
        self.muon = Muon(inner, momentum)
        self.adam = torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.0)

    def step(self, loss: Tensor, lr: float) -> None:
        self.model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self.muon.step(lr)

    def state(self) -> dict:
        return {"adam": self.adam.state_dict(), "muon": self.muon.momenta}

    def go_on(self, state: dict) -> None:
        self.adam.load_state_dict(state["adam"])
        self.muon.momenta = state["muon"]


def save(state: dict | Tensor, file: Path) -> None:
    """Whole or not at all: a run that is stopped here keeps its checkpoint before."""
    torch.save(state, file.with_suffix(".tmp"))
    os.replace(file.with_suffix(".tmp"), file)


def moment(step: int, steps: int, every: int) -> bool:
    """Every so many steps, and after the last one."""
    return (step + 1) % every == 0 or step + 1 == steps


# ---- 3. an autoencoder -------------------------------------------------------------------------


def train_autoencoder(
    file: Path, vae: nn.Module, ends: tuple[str, ...],
    batch: Callable[[int, torch.Generator], Tensor], held_out: Tensor,
    scale: Callable[[Tensor], dict], steps: int, seed: int, lr: float = 3e-3,
    flicker: float = 0.5,
) -> nn.Module:  # fmt: skip
    """Squared error and 2e-4 times the divergence per latent; checkpoints go to `file`.

    Of clips also `flicker` times the squared error of how a frame differs from the one before.

    vae: its config must not scale latents yet; `ends`: its first and last kernels, not Muon's.
    batch(step, generator): pixels in -1..1. held_out: such pixels, to judge by.
    scale(latents): fields of vae.config that normalise latents, measured on held_out at the end.
    """
    optimizer = Optimizer(
        vae, lambda name, p: p.ndim > 3 and name.endswith("weight") and name not in ends, 0.9
    )
    first = 0
    if file.exists():
        kept = torch.load(file, weights_only=True)
        vae.load_state_dict(kept["model"])
        optimizer.go_on(kept)
        first = kept["step"]
        if first >= steps:
            vae.config = replace(vae.config, **kept["scale"])
    bar = tqdm(range(first, steps), initial=first, total=steps, desc="autoencoder")
    for step in bar:
        g = numbers(seed, step)
        x = batch(step, g)  # [B, 3, H, W] or [B, 3, T, H, W]
        mean, logvar = vae.moments(x)
        z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=g)
        wrong = vae.decode(z) - x
        error = wrong.square().mean()
        if x.ndim == 5 and x.shape[2] > 1:
            error = error + flicker * wrong.diff(dim=2).square().mean()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        optimizer.step(error + 2e-4 * divergence, lr * schedule(step, steps))
        if moment(step, steps, EVERY):
            quality, latents = judge(vae, held_out)
            bar.write(f"autoencoder step {step + 1}: held-out PSNR {quality:.2f} dB")
            found = scale(latents) if step + 1 == steps else {}
            vae.config = replace(vae.config, **found)
            state = {"model": vae.state_dict(), "scale": found, "step": step + 1}
            save(state | optimizer.state(), file)
    return vae.requires_grad_(False)


@torch.no_grad()
def judge(vae: nn.Module, pixels: Tensor) -> tuple[float, Tensor]:
    """PSNR of pixels there and back, and their latents as the encoder gives them."""
    qualities, latents = [], []
    for x in pixels.split(4):
        mean = vae.moments(x)[0]
        back = vae.decode(mean).clamp(-1, 1)
        latents.append(mean)
        qualities.append(psnr((back + 1) / 2, (x + 1) / 2))
    return torch.cat(qualities).mean().item(), torch.cat(latents)


@torch.no_grad()
def encode(file: Path, vae: nn.Module, pictures: Tensor) -> Tensor:
    """Normalised latents [N, Z, h, w] or [N, Z, t, h, w] in fp16, kept in `file` for many reads."""
    if not file.exists():
        parts = tqdm(pictures.split(32), desc="encode")
        save(torch.cat([vae.encode(to_pixels(part)).half() for part in parts]), file)
    return torch.load(file, weights_only=True)


# ---- 4. a flow model and its text encoders -----------------------------------------------------


def train_flow(
    file: Path, models: nn.ModuleDict, average: nn.ModuleDict, inner: str,
    batch: Callable[[int, torch.Generator], tuple[Tensor, Tensor]],
    velocity: Callable[[nn.ModuleDict, Tensor, Tensor, Tensor], Tensor],
    judge: Callable[[nn.ModuleDict], float], steps: int, seed: int,
) -> nn.ModuleDict:  # fmt: skip
    """Rectified flow on captioned latents; returns `average`, the moving average of all models.

    inner: what the names of Muon's matrices contain. batch(step, generator): latents x0 [B, ...]
    and what tells their text; velocity(models, x_t, t [B], text): what the models say it is;
    judge(average): a quality in dB to print. FloatingPointError: the loss is not a number.
    """
    optimizer = Optimizer(models, lambda name, p: inner in name and p.ndim == 2, 0.95)
    first, smooth = 0, None
    if file.exists():
        kept = torch.load(file, weights_only=True)
        models.load_state_dict(kept["models"])
        average.load_state_dict(kept["average"])
        optimizer.go_on(kept)
        first = kept["step"]
    bar = tqdm(range(first, steps), initial=first, total=steps, desc=file.stem)
    for step in bar:
        g = numbers(seed, step)
        x0, text = batch(step, g)
        eps = torch.randn(x0.shape, generator=g)
        t = torch.sigmoid(1.1 * torch.randn(len(x0), generator=g) - 0.5)  # [B]
        r = t.view(-1, *[1] * (x0.ndim - 1))
        v = velocity(models, (1 - r) * x0 + r * eps, t, text)
        loss = (v - (eps - x0)).square().mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss.item()} at step {step}")
        optimizer.step(loss, 2e-3 * schedule(step, steps))
        keep = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, p in zip(average.parameters(), models.parameters(), strict=True):
                a.lerp_(p, 1 - keep)
        smooth = loss.item() if smooth is None else 0.99 * smooth + 0.01 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}")
        if moment(step, steps, EVERY):
            state = {"models": models.state_dict(), "average": average.state_dict()}
            save(state | optimizer.state() | {"step": step + 1}, file)
        if moment(step, steps, 2 * EVERY):
            quality = judge(average)
            bar.write(f"{file.stem} step {step + 1}: loss {smooth:.4f}, {quality:.2f} dB")
    return average


@torch.no_grad()
def round_trip(
    vae: nn.Module, velocity: Callable[[Tensor, Tensor], Tensor], pixels: Tensor
) -> float:
    """PSNR after encode, noise to t0 = 0.4, the plain flow back, decode: the ceiling."""
    z = vae.encode(pixels)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    back = bridge.sample(bridge.BRIDGES["naive"], velocity, z, steps=8, noise=noise)
    return psnr((vae.decode(back).clamp(-1, 1) + 1) / 2, (pixels + 1) / 2).mean().item()
