"""Stages 3 and 4 of make.py for WAN: the causal autoencoder, then video DiT and UMT5 together.

The recipe is pretrain.py's, over clips. Batches alternate between pictures and windows of clips,
as the large models' do; a window may begin in the middle of a clip, where its first latent frame
stands for four frames and not for one, because long clips are restored in such windows.

Letters: B batch, N clips or pictures, Z latent channels, T frames, t h w frames and sides of the
latent, H W sides of a frame, L text tokens.
"""

import os
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from tinybridge import bridge
from tinybridge.metrics import psnr
from tinybridge.text.encoders import T5Config, T5Encoder
from tinybridge.tiny.pretrain import schedule, to_pixels, two_optimizers
from tinybridge.wan import Wan, WanConfig, init_weights
from tinybridge.wan_vae import AutoEncoder, AutoEncoderConfig

LENGTH, FRAMES, WINDOW = 20, 13, 3  # ids per caption; frames of a clip; latent frames at once
HELD_OUT = 64  # clips and pictures at the end that no step sees
RAW = AutoEncoderConfig(
    dim=12, dim_mult=(1, 2, 4), num_res_blocks=1, temporal_downsample=(True, True),
    mean=(0.0,) * 16, std=(1.0,) * 16,
)  # fmt: skip
WAN = WanConfig(hidden_size=128, num_heads=4, depth=6, ffn_dim=384, freq_dim=64, context_dim=96)
UMT5 = T5Config(160, 96, 24, 4, 256, 2, per_layer_bias=True)

# ---- 3. the autoencoder ------------------------------------------------------------------------


def train_autoencoder(file: Path, clips: Tensor, steps: int, seed: int) -> AutoEncoder:
    """As pretrain.train_autoencoder, on crops of 1, 5 or 9 frames of clips [N, T, 3, H, W] uint8.

    Each latent channel's mean and deviation are measured at the end, as WAN's are published.
    """
    torch.manual_seed(seed)
    vae, first = AutoEncoder(RAW), 0
    for name, weight in vae.named_parameters():
        if name.endswith("residual.6.weight"):
            nn.init.zeros_(weight)  # every residual block starts as the identity
    ends = ("encoder.conv1.weight", "decoder.conv1.weight", "decoder.head.2.weight")
    optimize, muon, adam = two_optimizers(
        vae, lambda name, p: p.ndim > 3 and name.endswith("weight") and name not in ends, 0.9
    )
    if file.exists():
        kept = torch.load(file, weights_only=True)
        if kept["step"] == steps:
            vae = AutoEncoder(AutoEncoderConfig(**kept["config"]))
        vae.load_state_dict(kept["model"])
        adam.load_state_dict(kept["adam"])
        muon.momenta, first = kept["muon"], kept["step"]
    bar = tqdm(range(first, steps), initial=first, total=steps, desc="autoencoder")
    for step in bar:
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)  # resuming needs no saved state
        frames, batch = ((1, 8), (5, 3), (9, 2))[step % 3]
        pick = torch.randint(len(clips) - HELD_OUT, (batch,), generator=g)
        start, top, left = (int(torch.randint(n, (), generator=g)) for n in (FRAMES - 8, 33, 33))
        x = clips[pick, start : start + frames, :, top : top + 32, left : left + 32]
        x = to_pixels(x).transpose(1, 2)  # [B, 3, T, 32, 32]
        mean, logvar = vae.moments(x)  # [B, Z, t, h, w] each
        z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=g)
        error = (vae.decode(z) - x).square().mean()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        optimize(error + 2e-4 * divergence, 3e-3 * schedule(step, steps))
        if step % 250 == 249 or step == steps - 1:
            quality, latents = judge(vae, clips[-HELD_OUT:])
            bar.write(f"autoencoder step {step + 1}: held-out PSNR {quality:.2f} dB")
            config = asdict(RAW)
            if step == steps - 1:  # a bit wider than 1, so that less of it drowns in noise
                std, mean = torch.std_mean(latents, (0, 2, 3, 4))  # [Z] each
                config |= {"mean": tuple(mean.tolist()), "std": tuple((std / 1.2).tolist())}
                vae.config = AutoEncoderConfig(**config)
            state = {"model": vae.state_dict(), "config": config, "step": step + 1}
            save(state | {"adam": adam.state_dict(), "muon": muon.momenta}, file)
    return vae.requires_grad_(False)


def save(state: dict, file: Path) -> None:
    torch.save(state, file.with_suffix(".tmp"))
    os.replace(file.with_suffix(".tmp"), file)


@torch.no_grad()
def judge(vae: AutoEncoder, clips: Tensor) -> tuple[float, Tensor]:
    """PSNR of clips [N, T, 3, H, W] uint8 there and back, and their latents, not normalised."""
    quality, latents = [], []
    for x in to_pixels(clips[:, :9]).transpose(1, 2).split(8):  # [B, 3, T, H, W]
        mean = vae.moments(x)[0]
        back = vae.decode(mean).clamp(-1, 1)
        latents.append(mean)
        quality.append(psnr((back + 1) / 2, (x + 1) / 2))
    return torch.cat(quality).mean().item(), torch.cat(latents)


@torch.no_grad()
def encode(file: Path, vae: AutoEncoder, clips: Tensor) -> Tensor:
    """Normalised latents [N, Z, t, h, w] in fp16 of clips [N, T, 3, H, W] uint8; kept in `file`."""
    if not file.exists():
        parts = tqdm(clips.split(32), desc="encode")
        latents = [vae.encode(to_pixels(p).transpose(1, 2)).half() for p in parts]
        torch.save(torch.cat(latents), file.with_suffix(".tmp"))
        os.replace(file.with_suffix(".tmp"), file)
    return torch.load(file, weights_only=True)


# ---- 4. video DiT and UMT5 ---------------------------------------------------------------------


def new_models(seed: int) -> nn.ModuleDict:
    """Video DiT and UMT5 with fresh weights."""
    torch.manual_seed(seed)
    models = nn.ModuleDict({"wan": Wan(WAN), "umt5": T5Encoder(UMT5)})
    init_weights(models["wan"], seed)
    for weight in models["umt5"].parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return models


def context(umt5: T5Encoder, ids: Tensor) -> Tensor:
    """UMT5's rows of the true tokens, zeros after them: ids [B, L] -> [B, L, Dc]."""
    mask = ids != 0  # [B, L]
    return umt5(ids, mask) * mask[..., None]


def batch_of(sets: list[tuple[Tensor, Tensor]], size: int, step: int, g) -> tuple[Tensor, Tensor]:
    """Latents x0 [B, Z, t, h, w] and ids [B, L]: clips on even steps, on odd ones pictures.

    sets: latents and ids of the clips, then of the pictures; of these thrice as many make a batch.
    """
    latents, ids = sets[step % 2]
    many = size if step % 2 == 0 else WINDOW * size
    pick = torch.randint(len(latents) - HELD_OUT, (many,), generator=g)
    start = int(torch.randint(max(latents.shape[2] - WINDOW, 0) + 1, (), generator=g))
    x0, ids = latents[pick, :, start : start + WINDOW].float(), ids[pick].clone()
    ids[torch.rand(many, generator=g) < 0.1] = torch.tensor([1] + [0] * (LENGTH - 1))  # no text
    return x0, ids


def train_wan(
    file: Path, vae: AutoEncoder, clips: Tensor, sets: list, steps: int, batch: int, seed: int
) -> nn.ModuleDict:
    """Rectified flow on captioned latents; returns the moving average of both models."""
    models, average = new_models(seed), new_models(seed).requires_grad_(False)
    optimize, muon, adam = two_optimizers(
        models, lambda name, p: ".blocks." in name and p.ndim == 2, momentum=0.95
    )
    first, smooth = 0, [None, None]
    if file.exists():
        kept = torch.load(file, weights_only=True)
        models.load_state_dict(kept["models"])
        average.load_state_dict(kept["average"])
        adam.load_state_dict(kept["adam"])
        muon.momenta, first = kept["muon"], kept["step"]
    bar = tqdm(range(first, steps), initial=first, total=steps, desc="wan")
    for step in bar:
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)
        x0, ids = batch_of(sets, batch, step, g)
        eps = torch.randn(x0.shape, generator=g)
        t = torch.sigmoid(1.1 * torch.randn(len(x0), generator=g) - 0.5)  # [B]
        r = t.view(-1, 1, 1, 1, 1)
        v = models["wan"]((1 - r) * x0 + r * eps, t, context(models["umt5"], ids))
        loss = (v - (eps - x0)).square().mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss.item()} at step {step}")
        optimize(loss, 2e-3 * schedule(step, steps))
        keep = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, p in zip(average.parameters(), models.parameters(), strict=True):
                a.lerp_(p, 1 - keep)
        kind, now = step % 2, loss.item()
        smooth[kind] = now if smooth[kind] is None else 0.98 * smooth[kind] + 0.02 * now
        bar.set_postfix(clips=f"{smooth[0] or 0:.4f}", pictures=f"{smooth[1] or 0:.4f}")
        if step % 250 == 249 or step == steps - 1:
            state = {"models": models.state_dict(), "average": average.state_dict()}
            save(state | {"adam": adam.state_dict(), "muon": muon.momenta, "step": step + 1}, file)
        if step % 500 == 499 or step == steps - 1:
            quality = round_trip(average, vae, clips[-HELD_OUT:][:32])
            bar.write(f"wan step {step + 1}: loss {now:.4f}, round trip {quality:.2f} dB")
    return average


@torch.no_grad()
def round_trip(models: nn.ModuleDict, vae: AutoEncoder, clips: Tensor) -> float:
    """PSNR after encode, noise to t0 = 0.4, the plain flow back, decode: the ceiling."""
    null = context(models["umt5"], torch.tensor([[1] + [0] * (LENGTH - 1)]))
    x = to_pixels(clips[:, :9]).transpose(1, 2)  # [N, 3, T, H, W]
    z = vae.encode(x)  # [N, Z, t, h, w]
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    back = bridge.sample(
        bridge.BRIDGES["naive"], lambda state, s: models["wan"](state, s, null), z, 8, noise=noise
    )
    return psnr((vae.decode(back).clamp(-1, 1) + 1) / 2, (x + 1) / 2).mean().item()
