"""The FLUX.1 autoencoder: pictures to latents of an eighth the side, and back.

Module names are the keys of Black Forest Labs' `ae.safetensors`; `AutoEncoderConfig()` is that
file (84 million parameters). Source: BFL flux, `modules/autoencoder.py`; the form is Rombach et
al. 2022, appendix G.

Letters: B batch, H W side of the input, h w side of the latent (H / stride), C channels of the
level, Z latent channels.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinybridge.tiles import Norm, in_tiles, own


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

    def forward(self, x: Tensor, norm: Norm = own) -> Tensor:
        h = self.conv1(F.silu(norm(self.norm1, x)))
        h = self.conv2(F.silu(norm(self.norm2, h)))
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

    def forward(self, x: Tensor, norm: Norm = own) -> Tensor:
        for block in self.block:
            x = block(x, norm)
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
        self.margin = config.num_res_blocks + 1  # half of a stage's convolutions, in cells

    def stage(self, i: int, x: Tensor, norm: Norm = own) -> Tensor:
        h = self.down[i](self.conv_in(x) if i == 0 else x, norm)  # [B, C, H, W]
        return self.down[i].downsample(h) if i < len(self.down) - 1 else h  # [B, C, H/2, W/2]

    def forward(self, x: Tensor, tile: int | None = None) -> Tensor:
        last = len(self.down) - 1
        for i in range(last):
            cells = tile and tile >> (i + 1)
            x = in_tiles(partial(self.stage, i), x, 2, cells, self.margin)  # [B, C, H/2, W/2]
        h = self.mid(self.stage(last, x))  # [B, C, h, w]
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
        self.margin = config.num_res_blocks + 2

    def stage(self, i: int, x: Tensor, norm: Norm = own) -> Tensor:
        h = self.up[i + 1].upsample(x) if i < len(self.up) - 1 else x  # [B, C, 2H, 2W]
        h = self.up[i](h, norm)
        return self.conv_out(F.silu(norm(self.norm_out, h))) if i == 0 else h

    def forward(self, z: Tensor, tile: int | None = None) -> Tensor:
        last = len(self.up) - 1
        h = self.stage(last, self.mid(self.conv_in(z)))  # [B, C, h, w]
        for i in reversed(range(last)):
            cells = tile and tile >> (i + 1)
            h = in_tiles(partial(self.stage, i), h, 1, cells, self.margin)  # [B, C, 2h, 2w]
        return h  # [B, 3, H, W]


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

    def moments(self, pixels: Tensor, tile: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance (clamped to -30..20) of the posterior, raw, each [B, Z, h, w].

        ValueError if a side of the picture or of the tile is no multiple of `stride`.
        """
        height, width = pixels.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"picture of {height} x {width} pixels (height x width): the autoencoder needs "
                f"sides that are multiples of {self.stride}; pad or crop it"
            )
        mean, logvar = self.encoder(pixels, self.check(tile)).chunk(2, 1)  # [B, Z, h, w] each
        return mean, logvar.clamp(-30, 20)

    def encode(
        self, pixels: Tensor, generator: torch.Generator | None = None, tile: int | None = None
    ) -> Tensor:
        """Normalised latent [B, Z, h, w]: the posterior's mean, or a sample given a generator.

        tile: larger pictures than this, in pixels a side, are encoded tile by tile with the same
        result in less memory and more time; a multiple of `stride`. Errors as in `moments`.
        """
        z, logvar = self.moments(pixels, tile)
        if generator is not None:
            noise = torch.empty_like(z, device=generator.device).normal_(generator=generator)
            z = z + (0.5 * logvar).exp() * noise.to(z.device)
        return (z - self.config.shift_factor) * self.config.scale_factor

    def decode(self, z: Tensor, tile: int | None = None) -> Tensor:
        """Pixels [B, 3, H, W], about -1..1 and not clamped, of a normalised latent [B, Z, h, w].

        tile: as in `encode`, in pixels too.
        """
        raw = z / self.config.scale_factor + self.config.shift_factor
        return self.decoder(raw, self.check(tile))

    def check(self, tile: int | None) -> int | None:
        if tile is not None and (tile <= 0 or tile % self.stride):
            raise ValueError(
                f"tile of {tile} pixels: expected a positive multiple of {self.stride}, as 512"
            )
        return tile
