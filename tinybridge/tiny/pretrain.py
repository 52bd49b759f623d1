"""Stages 3 and 4 of make.py: the autoencoder, then MMDiT and both text encoders together.

Every batch is a function of (seed, step), so that a stopped run goes on where its last checkpoint
was. Letters: B batch, C channels, H W latent size, N pictures, L text tokens.
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from tinybridge import bridge
from tinybridge.flux import Flux, FluxConfig, init_weights
from tinybridge.flux_vae import AutoEncoder, AutoEncoderConfig
from tinybridge.metrics import psnr
from tinybridge.text.encoders import ClipConfig, ClipText, T5Config, T5Encoder
from tinybridge.tiny.muon import Muon

T5_LENGTH, CLIP_LENGTH = 20, 24  # ids per caption
VAE = AutoEncoderConfig(ch=16, ch_mult=(1, 2, 2), num_res_blocks=1, groups=4)
FLUX = FluxConfig(
    hidden_size=128, num_heads=4, depth=2, depth_single=4, mlp_ratio=3.0,
    context_dim=96, pooled_dim=64, axes_dim=(4, 14, 14), guidance=False,
)  # fmt: skip
T5 = T5Config(vocab_size=160, d_model=96, d_kv=24, num_heads=4, d_ff=256, num_layers=2)


def clip_config(vocab_size: int) -> ClipConfig:
    return ClipConfig(vocab_size, 64, 128, 1, 2, CLIP_LENGTH, eos_token_id=vocab_size - 1)


# ---- 3. the autoencoder ------------------------------------------------------------------------


def to_pixels(pictures: Tensor) -> Tensor:
    """uint8 to float32 in -1..1, the range of the autoencoder."""
    return pictures.float() / 127.5 - 1


def train_autoencoder(file: Path, pictures: Tensor, steps: int, seed: int) -> AutoEncoder:
    """Squared error and 2e-4 times the divergence per latent; the scale is measured at the end.

    Crops of half the side for three quarters of the steps: four times as many for the same time.
    """
    torch.manual_seed(seed)
    vae = AutoEncoder(VAE)
    if file.exists():
        kept = torch.load(file, weights_only=True)
        vae = AutoEncoder(AutoEncoderConfig(**kept["config"]))
        vae.load_state_dict(kept["model"])
        return vae
    for name, weight in vae.named_parameters():
        if name.endswith("conv2.weight"):
            nn.init.zeros_(weight)  # every residual block starts as the identity
    ends = ("encoder.conv_in.weight", "decoder.conv_in.weight", "decoder.conv_out.weight")
    optimize, _, _ = two_optimizers(
        vae, lambda name, p: p.ndim == 4 and name not in ends, momentum=0.9
    )
    generator = torch.Generator().manual_seed(seed)
    held_out, bar = to_pixels(pictures[-128:]), tqdm(range(steps), desc="autoencoder")
    for step in bar:
        side, batch = (32, 8) if step < 0.75 * steps else (64, 4)
        pick = torch.randint(len(pictures) - 128, (batch,), generator=generator)
        top, left = torch.randint(65 - side, (2,), generator=generator).tolist()
        x = to_pixels(pictures[pick, :, top : top + side, left : left + side])
        mean, logvar = vae.moments(x)
        z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
        error = (vae.decoder(z) - x).square().mean()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        optimize(error + 2e-4 * divergence, 3e-3 * schedule(step, steps))
        if step % 500 == 499 or step == steps - 1:
            with torch.no_grad():
                mean = torch.cat([vae.moments(p)[0] for p in held_out.split(32)])
                back = torch.cat([vae.decoder(m) for m in mean.split(32)])
            quality = psnr((back.clamp(-1, 1) + 1) / 2, (held_out + 1) / 2).mean()
            bar.write(f"autoencoder step {step + 1}: held-out PSNR {quality:.2f} dB")
    scale = {"shift_factor": mean.mean().item(), "scale_factor": 1.2 / mean.std().item()}
    torch.save({"model": vae.state_dict(), "config": asdict(VAE) | scale}, file)
    vae.config = AutoEncoderConfig(**asdict(VAE) | scale)
    return vae


def schedule(step: int, steps: int) -> float:
    """Warm up over 200 steps, stay, then fall linearly to zero over the last 40 %."""
    return min(1.0, (step + 1) / 200, (steps - step) / (0.4 * steps))


def two_optimizers(model: nn.Module, is_inner: Callable, momentum: float):
    """Muon for the matrices that `is_inner(name, weight)` picks, AdamW for everything else."""
    named = list(model.named_parameters())
    muon = Muon([p for name, p in named if is_inner(name, p)], momentum)
    rest = [p for name, p in named if not is_inner(name, p)]
    adam = torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0.0)

    def optimize(loss: Tensor, lr: float) -> None:
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = lr
        adam.step()
        muon.step(lr)

    return optimize, muon, adam


@torch.no_grad()
def encode(file: Path, vae: AutoEncoder, pictures: Tensor) -> Tensor:
    """Normalised latents [N, 16, 16, 16] in fp16, kept in `file`: they are read many times."""
    if not file.exists():
        parts = tqdm(pictures.split(64), desc="encode")
        latents = torch.cat([vae.encode(to_pixels(p)).half() for p in parts])
        torch.save(latents, file.with_suffix(".tmp"))
        os.replace(file.with_suffix(".tmp"), file)
    return torch.load(file, weights_only=True)


# ---- 4. MMDiT, T5 and CLIP ---------------------------------------------------------------------


def new_models(vocab: int, seed: int) -> nn.ModuleDict:
    """MMDiT, T5 and CLIP with fresh weights."""
    torch.manual_seed(seed)
    models = {"flux": Flux(FLUX), "t5": T5Encoder(T5), "clip": ClipText(clip_config(vocab))}
    init_weights(models["flux"], seed)
    for name in ("t5", "clip"):
        for weight in models[name].parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return nn.ModuleDict(models)


def train_flux(
    file: Path, vae: AutoEncoder, pictures: Tensor, ids: tuple[Tensor, Tensor], steps: int,
    batch: int, seed: int, vocab: int,
) -> nn.ModuleDict:  # fmt: skip
    """Rectified flow on captioned latents; returns the moving average of all three models."""
    models, average = new_models(vocab, seed), new_models(vocab, seed).requires_grad_(False)
    optimize, muon, adam = two_optimizers(
        models, lambda name, p: "_blocks." in name and p.ndim == 2, momentum=0.95
    )
    first = 0
    if file.exists():
        kept = torch.load(file, weights_only=True)
        models.load_state_dict(kept["models"])
        average.load_state_dict(kept["average"])
        adam.load_state_dict(kept["adam"])
        muon.momenta, first = kept["muon"], kept["step"]
    latents = encode(file.with_name("latents.pt"), vae, pictures)  # [N, C, H, W]
    smooth, bar = None, tqdm(range(first, steps), initial=first, total=steps, desc="flux")
    for step in bar:
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)  # resuming needs no saved state
        pick = torch.randint(len(latents) - 128, (batch,), generator=g)
        x0 = latents[pick].float()  # [B, C, H, W]
        eps = torch.randn(x0.shape, generator=g)
        t = torch.sigmoid(1.1 * torch.randn(batch, generator=g) - 0.5)  # [B]
        pick[torch.rand(batch, generator=g) < 0.1] = len(latents)  # the row of the empty caption
        context, pooled = models["t5"](ids[0][pick]), models["clip"](ids[1][pick])[1]
        r = t[:, None, None, None]
        v = models["flux"]((1 - r) * x0 + r * eps, t, context, pooled)
        loss = (v - (eps - x0)).square().mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss.item()} at step {step}")
        optimize(loss, 2e-3 * schedule(step, steps))
        keep = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, p in zip(average.parameters(), models.parameters(), strict=True):
                a.lerp_(p, 1 - keep)
        smooth = loss.item() if smooth is None else 0.99 * smooth + 0.01 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}")
        if step % 250 == 249 or step == steps - 1:
            state = {"models": models.state_dict(), "average": average.state_dict()}
            state |= {"adam": adam.state_dict(), "muon": muon.momenta, "step": step + 1}
            torch.save(state, file.with_suffix(".tmp"))
            os.replace(file.with_suffix(".tmp"), file)
        if step % 500 == 499 or step == steps - 1:
            quality = round_trip(average, vae, pictures[-64:], ids, len(latents))
            bar.write(f"flux step {step + 1}: loss {smooth:.4f}, round trip {quality:.2f} dB")
    return average


@torch.no_grad()
def round_trip(
    models: nn.ModuleDict, vae: AutoEncoder, pictures: Tensor, ids: tuple[Tensor, ...], null: int
) -> float:
    """PSNR after encode, noise to t0 = 0.4, the plain flow back, decode: the ceiling."""
    context, pooled = models["t5"](ids[0][null:]), models["clip"](ids[1][null:])[1]
    x = to_pixels(pictures)
    z = vae.encode(x)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    back = bridge.sample(
        bridge.BRIDGES["naive"],
        lambda state, s: models["flux"](state, s, context, pooled),
        z, steps=8, noise=noise,
    )  # fmt: skip
    return psnr((vae.decode(back).clamp(-1, 1) + 1) / 2, (x + 1) / 2).mean().item()
