"""The FLUX.1 autoencoder: pictures to latents of an eighth the side, and back.

Module names are the keys of Black Forest Labs' `ae.safetensors`; `AutoEncoderConfig()` is that
file (84 million parameters). Source: BFL flux, `modules/autoencoder.py`; the form is Rombach et
al. 2022, appendix G.

Letters: B batch, H W side of the input, h w side of the latent (H / stride), C channels of the
level, Z latent channels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class AutoEncoderConfig:
    in_channels: int = 3
    ch: int = 128  # channels of the first level; level i has ch * ch_mult[i]
    out_ch: int = 3
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2  # per level; the decoder has one more
    z_channels: int = 16
    scale_factor: float = 0.3611
    shift_factor: float = 0.1159
    groups: int = 32


class ResnetBlock(nn.Module):
    """x' + conv(silu(norm(conv(silu(norm(x)))))); x' is x, or its 1x1 conv if channels change."""

    def __init__(self, channels: int, out: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out, eps=1e-6)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.nin_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """One head as wide as the level, over all positions of one picture."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        # Contiguous, or SDPA falls back to its form that holds all hw x hw weights.
        q, k, v = (
            proj(normed).flatten(2).mT[:, None].contiguous()  # [B, 1, hw, C]
            for proj in (self.q, self.k, self.v)
        )
        h = F.scaled_dot_product_attention(q, k, v)  # [B, 1, hw, C]
        return x + self.proj_out(h[:, 0].mT.unflatten(2, x.shape[2:]))  # [B, C, h, w]


class Middle(nn.Module):
    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # zeros at the right and the bottom only


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """`count` resnet blocks at one resolution; `downsample` or `upsample` is set by the owner."""

    def __init__(self, channels: int, out: int, count: int, groups: int):
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(out if j else channels, out, groups) for j in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x


class Encoder(nn.Module):
    def __init__(self, config: AutoEncoderConfig):
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = nn.Conv2d(config.in_channels, config.ch, 3, padding=1)
        self.down = nn.ModuleList(
            Level(channels, out, config.num_res_blocks, config.groups)
            for channels, out in zip([config.ch, *widths], widths, strict=False)
        )
        for level, out in zip(self.down[:-1], widths, strict=False):
            level.downsample = Downsample(out)
        self.mid = Middle(widths[-1], config.groups)
        self.norm_out = nn.GroupNorm(config.groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)  # [B, C, H, W]
        for level in self.down[:-1]:
            h = level.downsample(level(h))  # [B, C, H/2, W/2] each time
        h = self.mid(self.down[-1](h))  # [B, C, h, w]
        return self.conv_out(F.silu(self.norm_out(h)))  # [B, 2Z, h, w]


class Decoder(nn.Module):
    def __init__(self, config: AutoEncoderConfig):
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config.groups)
        # Stored from the finest level to the coarsest, run the other way round.
        self.up = nn.ModuleList(
            Level(channels, out, config.num_res_blocks + 1, config.groups)
            for channels, out in zip([*widths[1:], widths[-1]], widths, strict=True)
        )
        for level, out in zip(self.up[1:], widths[1:], strict=True):
            level.upsample = Upsample(out)
        self.norm_out = nn.GroupNorm(config.groups, widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], config.out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))  # [B, C, h, w]
        for level in reversed(self.up[1:]):
            h = level.upsample(level(h))  # [B, C, 2h, 2w] each time
        h = self.up[0](h)  # [B, C, H, W]
        return self.conv_out(F.silu(self.norm_out(h)))  # [B, 3, H, W]


class AutoEncoder(nn.Module):
    """Pixels [B, 3, H, W] in -1..1 to normalised latents [B, Z, h, w], and back."""

    def __init__(self, config: AutoEncoderConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @property
    def stride(self) -> int:
        """Pixels per latent position along a side."""
        return 2 ** (len(self.config.ch_mult) - 1)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior, not normalised, each [B, Z, h, w].

        The log variance is clamped to -30..20. ValueError if a side is no multiple of `stride`.
        """
        height, width = pixels.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"picture of {height} x {width} pixels (height x width): the autoencoder needs "
                f"sides that are multiples of {self.stride}; pad or crop it"
            )
        mean, logvar = self.encoder(pixels).chunk(2, 1)  # [B, Z, h, w] each
        return mean, logvar.clamp(-30, 20)

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Normalised latent [B, Z, h, w]: the posterior's mean, or a sample given a generator."""
        z, logvar = self.moments(pixels)
        if generator is not None:
            kind = dict(device=generator.device, dtype=z.dtype)
            noise = torch.randn(z.shape, generator=generator, **kind)  # [B, Z, h, w]
            z = z + (0.5 * logvar).exp() * noise.to(z.device)
        return (z - self.config.shift_factor) * self.config.scale_factor

    def decode(self, z: Tensor) -> Tensor:
        """Pixels [B, 3, H, W], about -1..1 and not clamped, of a normalised latent [B, Z, h, w]."""
        return self.decoder(z / self.config.scale_factor + self.config.shift_factor)
