"""The FLUX.1 autoencoder: pictures to latents of an eighth of their sides, and back.

Module names are the keys of Black Forest Labs' `ae.safetensors`; `AutoEncoderConfig()` is that
file (84 million parameters). Source: BFL flux, `modules/autoencoder.py`; the network is the one of
Rombach et al. 2022 with 16 latent channels.

Letters: B batch, C channels of a level, Z latent channels, H W sides of a picture or of the map
that enters a stage, h w sides of the latent (H / stride, W / stride).
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from tinybridge.parts.tiles import Norm, in_tiles, own


@dataclass(frozen=True)
class AutoEncoderConfig:
    """Sizes of the autoencoder, named as in the vendor's code; the defaults are FLUX.1's."""

    in_channels: int = 3
    ch: int = 128  # level i has ch * ch_mult[i] channels and 1 / 2**i of the picture's sides
    out_ch: int = 3
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2  # in a level of the encoder; the decoder's have one more
    z_channels: int = 16
    scale_factor: float = 0.3611
    shift_factor: float = 0.1159
    groups: int = 32


def conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1)


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 conv on x where channels change."""

    def __init__(self, channels: int, out: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv1 = conv(channels, out)
        self.norm2 = nn.GroupNorm(groups, out, eps=1e-6)
        self.conv2 = conv(out, out)
        same = channels == out
        self.nin_shortcut = nn.Identity() if same else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, norm: Norm = own) -> Tensor:
        h = self.conv1(F.silu(norm(self.norm1, x)))
        h = self.conv2(F.silu(norm(self.norm2, h)))
        return self.nin_shortcut(x) + h


def rows(x: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, 1, hw, C], one head. Contiguous, or SDPA holds all hw x hw weights."""
    return x.flatten(2).mT[:, None].contiguous()


class AttnBlock(nn.Module):
    """Attention of one head, as wide as the level, among all positions of a picture."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = rows(self.q(h)), rows(self.k(h)), rows(self.v(h))  # [B, 1, hw, C]
        h = F.scaled_dot_product_attention(q, k, v)  # [B, 1, hw, C]
        return x + self.proj_out(h[:, 0].mT.unflatten(2, x.shape[2:]))  # [B, C, h, w]


def middle(channels: int, groups: int) -> nn.Sequential:
    parts = OrderedDict()
    parts["block_1"] = ResnetBlock(channels, channels, groups)
    parts["attn_1"] = AttnBlock(channels, groups)
    parts["block_2"] = ResnetBlock(channels, channels, groups)
    return nn.Sequential(parts)


class Level(nn.Module):
    """Blocks of one resolution; encoder and decoder add `downsample` or `upsample`."""

    def __init__(self, channels: int, out: int, count: int, groups: int):
        super().__init__()
        widths = [channels] + [out] * (count - 1)
        self.block = nn.ModuleList(ResnetBlock(width, out, groups) for width in widths)

    def forward(self, x: Tensor, norm: Norm = own) -> Tensor:
        for block in self.block:
            x = block(x, norm)
        return x


class Encoder(nn.Module):
    def __init__(self, config: AutoEncoderConfig):
        super().__init__()
        count, groups = config.num_res_blocks, config.groups
        self.margin = count + 1  # cells that a stage's convolutions reach, see parts/tiles.py
        channels = config.ch
        self.conv_in = conv(config.in_channels, channels)
        self.down = nn.ModuleList()
        for multiple in config.ch_mult:
            self.down.append(Level(channels, config.ch * multiple, count, groups))
            channels = config.ch * multiple
        for level, multiple in zip(self.down[:-1], config.ch_mult[:-1], strict=True):
            parts = OrderedDict()
            parts["pad"] = nn.ZeroPad2d((0, 1, 0, 1))  # at the right and the bottom only
            parts["conv"] = nn.Conv2d(config.ch * multiple, config.ch * multiple, 3, stride=2)
            level.downsample = nn.Sequential(parts)
        self.mid = middle(channels, groups)
        self.norm_out = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv_out = conv(channels, 2 * config.z_channels)

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
        count, groups = config.num_res_blocks + 1, config.groups
        widths = [config.ch * m for m in config.ch_mult]
        self.margin = count + 1
        self.conv_in = conv(config.z_channels, widths[-1])
        self.mid = middle(widths[-1], groups)
        # Stored from the finest level to the coarsest, run the other way round.
        self.up = nn.ModuleList()
        for out, channels in zip(widths, [*widths[1:], widths[-1]], strict=True):
            self.up.append(Level(channels, out, count, groups))
        for level, out in zip(self.up[1:], widths[1:], strict=True):
            parts = OrderedDict()
            parts["nearest"] = nn.Upsample(scale_factor=2)
            parts["conv"] = conv(out, out)
            level.upsample = nn.Sequential(parts)
        self.norm_out = nn.GroupNorm(groups, widths[0], eps=1e-6)
        self.conv_out = conv(widths[0], config.out_ch)

    def stage(self, i: int, x: Tensor, norm: Norm = own) -> Tensor:
        h = self.up[i + 1].upsample(x) if i < len(self.up) - 1 else x  # [B, C, 2H, 2W]
        h = self.up[i](h, norm)  # [B, C, 2H, 2W]
        return self.conv_out(F.silu(norm(self.norm_out, h))) if i == 0 else h

    def forward(self, z: Tensor, tile: int | None = None) -> Tensor:
        last = len(self.up) - 1
        h = self.stage(last, self.mid(self.conv_in(z)))  # [B, C, h, w]
        for i in reversed(range(last)):
            cells = tile and tile >> (i + 1)
            h = in_tiles(partial(self.stage, i), h, 1, cells, self.margin)  # [B, C, 2H, 2W]
        return h  # [B, 3, H, W]


class AutoEncoder(nn.Module):
    """Pictures [B, 3, H, W] in -1..1 to normalised latents [B, Z, h, w] and back, any float dtype.

    tile: pictures with a side above this many pixels go in tiles of about that side: the same
    result up to rounding, in less memory and more time. Use it where gradients are off.
    """

    def __init__(self, config: AutoEncoderConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @property
    def stride(self) -> int:
        """Pixels along a side for one latent position."""
        return 2 ** (len(self.config.ch_mult) - 1)

    def moments(self, pixels: Tensor, tile: int | None = None) -> tuple[Tensor, Tensor]:
        """Posterior mean and log variance (clamped to -30..20), not normalised, each [B, Z, h, w].

        ValueError if a side of the picture is no multiple of `stride`, or the tile smaller.
        """
        height, width = pixels.shape[2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"picture of {height} x {width} pixels (height x width): the autoencoder needs "
                f"sides that are multiples of {self.stride}; pad or crop it"
            )
        mean, logvar = self.encoder(pixels, tile).chunk(2, 1)  # [B, Z, h, w] each
        return mean, logvar.clamp(-30, 20)

    def encode(self, pixels: Tensor, tile: int | None = None) -> Tensor:
        """Normalised latent [B, Z, h, w], the posterior's mean. Errors as in `moments`."""
        mean, _ = self.moments(pixels, tile)
        return (mean - self.config.shift_factor) * self.config.scale_factor

    def decode(self, z: Tensor, tile: int | None = None) -> Tensor:
        """Pixels [B, 3, H, W], about -1..1 but not clamped, of a normalised latent [B, Z, h, w]."""
        return self.decoder(z / self.config.scale_factor + self.config.shift_factor, tile)
