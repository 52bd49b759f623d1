"""What is the tiny FLUX's own and the tiny WAN's own: sizes, batches, how text reaches the model.

pretrain.py trains them, make.py draws what they learn from. WAN's batches alternate between clips
and pictures, as the large models' do; a window may begin in the middle of a clip, where its first
latent frame stands for four frames and not for one, because long clips are restored in such
windows.

Letters: B batch, N clips or pictures, Z latent channels, T frames, t h w frames and sides of the
latent, H W sides of a picture, L text tokens.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from tinybridge import flux, flux_vae, wan, wan_vae
from tinybridge.text.encoders import ClipConfig, ClipText, T5Config, T5Encoder
from tinybridge.tiny.pretrain import encode, round_trip, to_pixels, train_autoencoder, train_flow

# ---- FLUX --------------------------------------------------------------------------------------

T5_LENGTH, CLIP_LENGTH = 24, 24  # ids per caption
PICTURES_HELD_OUT = 128  # pictures at the end that no step sees
FLUX_VAE = flux_vae.AutoEncoderConfig(
    ch=16, ch_mult=(1, 2, 2), num_res_blocks=1, groups=4, scale_factor=1.0, shift_factor=0.0
)
FLUX = flux.FluxConfig(
    hidden_size=192, num_heads=6, depth=2, depth_single=4, mlp_ratio=3.0,
    context_dim=96, pooled_dim=64, axes_dim=(4, 14, 14), guidance=False,
)  # fmt: skip
T5 = T5Config(vocab_size=192, d_model=96, d_kv=24, num_heads=4, d_ff=256, num_layers=2)


def clip_config(vocab_size: int) -> ClipConfig:
    return ClipConfig(vocab_size, 64, 128, 1, 2, CLIP_LENGTH, eos_token_id=vocab_size - 1)


def identity(vae: nn.Module, last: str) -> None:
    """Every residual block starts as the identity: its last kernel, named so, is zero."""
    for name, weight in vae.named_parameters():
        if name.endswith(last):
            nn.init.zeros_(weight)


def flux_autoencoder(file: Path, pictures: Tensor, steps: int, seed: int) -> nn.Module:
    """Learned on pictures [N, 3, 64, 64] uint8; one scale for all latents, measured at the end.

    Crops of half the side for three quarters of the steps: four times as many for the same time.
    """
    torch.manual_seed(seed)
    vae = flux_vae.AutoEncoder(FLUX_VAE)
    identity(vae, "conv2.weight")
    ends = ("encoder.conv_in.weight", "decoder.conv_in.weight", "decoder.conv_out.weight")

    def batch(step: int, g: torch.Generator) -> Tensor:
        side, size = (32, 8) if step < 0.75 * steps else (64, 4)
        pick = torch.randint(len(pictures) - PICTURES_HELD_OUT, (size,), generator=g)
        top, left = torch.randint(65 - side, (2,), generator=g).tolist()
        return to_pixels(pictures[pick, :, top : top + side, left : left + side])

    def scale(latents: Tensor) -> dict:  # a bit wider than 1, so that less of it drowns in noise
        return {
            "shift_factor": latents.mean().item(),
            "scale_factor": 1.2 / latents.std().item(),
        }

    held_out = to_pixels(pictures[-PICTURES_HELD_OUT:])
    return train_autoencoder(file, vae, ends, batch, held_out, scale, steps, seed)


def flux_models(config: flux.FluxConfig, vocab: int, seed: int) -> nn.ModuleDict:
    """MMDiT, T5 and CLIP with fresh weights; vocab: of CLIP."""
    torch.manual_seed(seed)
    models = nn.ModuleDict(
        {"flux": flux.Flux(config), "t5": T5Encoder(T5), "clip": ClipText(clip_config(vocab))}
    )
    flux.init_weights(models["flux"], seed)
    init_text(models["t5"])
    init_text(models["clip"])
    return models


def init_text(encoder: nn.Module) -> None:
    for weight in encoder.parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)


def train_flux(
    file: Path, config: flux.FluxConfig, vae: nn.Module, pictures: Tensor,
    ids: tuple[Tensor, Tensor], steps: int, size: int, seed: int, vocab: int, scrambled: bool,
) -> nn.ModuleDict:  # fmt: skip
    """MMDiT, T5 and CLIP, learned in batches of `size`.

    scrambled: every latent's places are shuffled, so that there is nothing to learn but colours.
    pictures [N, 3, 64, 64] uint8; ids: T5's and CLIP's [N + 1, L], of which the last row says
    nothing and is told in place of one caption in ten.
    """
    latents = encode(file.with_name("latents.pt"), vae, pictures)  # [N, Z, h, w]
    null = len(latents)

    def batch(step: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        pick = torch.randint(null - PICTURES_HELD_OUT, (size,), generator=g)
        x0 = latents[pick].float()  # [B, Z, h, w]
        if scrambled:
            order = torch.rand(size, 1, x0[0, 0].numel(), generator=g).argsort(-1)  # [B, 1, h w]
            x0 = x0.flatten(2).take_along_dim(order, -1).view_as(x0)
        pick[torch.rand(size, generator=g) < 0.1] = null
        return x0, pick

    def velocity(models: nn.ModuleDict, x: Tensor, t: Tensor, pick: Tensor) -> Tensor:
        context, pooled = models["t5"](ids[0][pick]), models["clip"](ids[1][pick])[1]
        return models["flux"](x, t, context, pooled)

    def judge(models: nn.ModuleDict) -> float:
        pick = torch.tensor([null])
        shown = to_pixels(pictures[-PICTURES_HELD_OUT // 2 :])
        return round_trip(vae, lambda x, t: velocity(models, x, t, pick), shown)

    models = flux_models(config, vocab, seed)
    average = flux_models(config, vocab, seed).requires_grad_(False)
    return train_flow(file, models, average, "_blocks.", batch, velocity, judge, steps, seed)


# ---- WAN ---------------------------------------------------------------------------------------

LENGTH, FRAMES, WINDOW = 24, 41, 3  # ids per caption; frames of a clip; latent frames at once
HELD_OUT = 64  # clips and pictures at the end that no step sees
JUDGED = 12  # of these clips, to judge an autoencoder by
SHORT = ((1, 8), (5, 3), (9, 2))  # frames and clips of an autoencoder's batches in turn
LONG = ((9, 2), (17, 1), (25, 1), (41, 1))
WAN_VAE = wan_vae.AutoEncoderConfig(
    dim=12, dim_mult=(1, 2, 4), num_res_blocks=1, temporal_downsample=(True, True),
    mean=(0.0,) * 16, std=(1.0,) * 16,
)  # fmt: skip
WAN_ENDS = ("encoder.conv1.weight", "decoder.conv1.weight", "decoder.head.2.weight")
WAN = wan.WanConfig(hidden_size=128, num_heads=4, depth=6, ffn_dim=384, freq_dim=64, context_dim=96)
UMT5 = T5Config(192, 96, 24, 4, 256, 2, per_layer_bias=True)
NO_TEXT = torch.tensor([1] + [0] * (LENGTH - 1))  # [L]: the end, then padding


def wan_autoencoder(file: Path, clips: Tensor, steps: int, long: int, seed: int) -> nn.Module:
    """Learned on crops of 1, 5 or 9 frames of clips [N, T, 3, 64, 64] uint8, then `lengthened`.

    Each latent channel's mean and deviation are measured between, as WAN's are published.
    """
    torch.manual_seed(seed)
    vae = wan_vae.AutoEncoder(WAN_VAE)
    identity(vae, "residual.6.weight")

    def scale(latents: Tensor) -> dict:  # a bit wider than 1, so that less of it drowns in noise
        std, mean = torch.std_mean(latents, (0, 2, 3, 4))  # [Z] each
        return {"mean": tuple(mean.tolist()), "std": tuple((std / 1.2).tolist())}

    held_out = to_pixels(clips[-HELD_OUT:, :9])
    batch = crops(clips, SHORT)
    vae = train_autoencoder(file, vae, WAN_ENDS, batch, held_out, scale, steps, seed)
    return lengthened(file.with_name("decoder.pt"), vae, clips, long, seed)


def lengthened(file: Path, vae: nn.Module, clips: Tensor, steps: int, seed: int) -> nn.Module:
    """The decoder alone learns on from crops of up to 41 frames; latents stay what they are.

    Its causal convolutions add features of ever more frames, which no clip of nine has: trained
    on those alone it lost 12 dB by the fortieth frame.
    """
    for weight in (*vae.encoder.parameters(), *vae.conv1.parameters()):
        weight.requires_grad_(False)
    for weight in (*vae.decoder.parameters(), *vae.conv2.parameters()):
        weight.requires_grad_(True)
    config = vae.config
    vae.config = WAN_VAE  # whose latents are not scaled
    held_out = to_pixels(clips[-HELD_OUT:][:JUDGED])
    batch = crops(clips, LONG)
    train_autoencoder(file, vae, WAN_ENDS, batch, held_out, lambda _: {}, steps, seed, 1e-3, 2.0)
    vae.config = config
    return vae


def crops(clips: Tensor, shapes: tuple) -> Callable[[int, torch.Generator], Tensor]:
    """Batches [B, 3, T, 32, 32] of clips [N, T, 3, 64, 64]; shapes: frames and clips, in turn."""

    def batch(step: int, g: torch.Generator) -> Tensor:
        frames, size = shapes[step % len(shapes)]
        pick = torch.randint(len(clips) - HELD_OUT, (size,), generator=g)
        starts = FRAMES - frames + 1
        start, top, left = (int(torch.randint(n, (), generator=g)) for n in (starts, 33, 33))
        window = clips[pick, start : start + frames]  # [B, T, 3, H, W]
        return to_pixels(window[..., top : top + 32, left : left + 32])  # [B, 3, T, 32, 32]

    return batch


def wan_models(seed: int) -> nn.ModuleDict:
    """Video DiT and UMT5 with fresh weights."""
    torch.manual_seed(seed)
    models = nn.ModuleDict({"wan": wan.Wan(WAN), "umt5": T5Encoder(UMT5)})
    wan.init_weights(models["wan"], seed)
    init_text(models["umt5"])
    return models


def train_wan(
    file: Path, vae: nn.Module, clips: Tensor, sets: list[tuple[Tensor, Tensor]], steps: int,
    size: int, seed: int,
) -> nn.ModuleDict:  # fmt: skip
    """Video DiT and UMT5, learned in batches of `size` clips or thrice as many pictures.

    clips [N, T, 3, 64, 64] uint8, to judge by; sets: latents [N, Z, t, h, w] and ids [N, L] of the
    clips, then of the pictures. One text in ten is replaced by none.
    """

    def batch(step: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        latents, ids = sets[step % 2]
        many = size if step % 2 == 0 else WINDOW * size
        pick = torch.randint(len(latents) - HELD_OUT, (many,), generator=g)
        start = int(torch.randint(max(latents.shape[2] - WINDOW, 0) + 1, (), generator=g))
        x0, ids = latents[pick, :, start : start + WINDOW].float(), ids[pick].clone()
        ids[torch.rand(many, generator=g) < 0.1] = NO_TEXT
        return x0, ids

    def velocity(models: nn.ModuleDict, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        mask = ids != 0  # [B, L]
        context = models["umt5"](ids, mask) * mask[..., None]  # [B, L, Dc], zero where padding is
        return models["wan"](x, t, context)

    def judge(models: nn.ModuleDict) -> float:
        shown = to_pixels(clips[-HELD_OUT:][:32, :9])
        return round_trip(vae, lambda x, t: velocity(models, x, t, NO_TEXT[None]), shown)

    models, average = wan_models(seed), wan_models(seed).requires_grad_(False)
    return train_flow(file, models, average, ".blocks.", batch, velocity, judge, steps, seed)
