"""The WAN 2.1 autoencoder: clips of 1 + 4k frames to latents of 1 + k frames, and back.

Module names are the keys of the vendor's `Wan2.1_VAE.pth`; `AutoEncoderConfig()` is that file
(127 million parameters). Source: Wan-Video/Wan2.1, `wan/modules/vae.py`; arXiv 2503.20314, 4.1.

Clips go through in chunks of one latent frame; what later frames need of earlier ones is in a
`Cache` that belongs to one pass over one clip, see parts/causal.py.

Letters: B batch, C channels of a level, Z latent channels, T frames of the map that enters,
H W sides of a frame or of that map, t h w frames and sides of the latent.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinybridge.parts.causal import (
    Cache,
    causal,
    double,
    framewise,
    halve,
    in_groups,
    in_turn,
    over_clip,
    part_of,
)
from tinybridge.parts.tiles import in_tiles

MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508)
MEAN += (0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743)
STD += (3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)


@dataclass(frozen=True)
class AutoEncoderConfig:
    """Sizes, named as in the vendor's code, and the latents' statistics; those of WAN 2.1."""

    dim: int = 96  # level i has dim * dim_mult[i] channels and 1 / 2**i of the frame's sides
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2  # in a level of the encoder; the decoder's have one more
    temporal_downsample: tuple[bool, ...] = (False, True, True)  # leaving level i: frames too?
    z_channels: int = 16
    mean: tuple[float, ...] = MEAN  # of each latent channel; no file of the vendor holds them
    std: tuple[float, ...] = STD

    def __post_init__(self):
        if not len(self.mean) == len(self.std) == self.z_channels:
            raise ValueError(f"{self.z_channels} latent channels need as many means and deviations")
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise ValueError("temporal_downsample has one entry for each level but the last")


def conv(channels: int, out: int) -> nn.Conv3d:
    return nn.Conv3d(channels, out, 3, padding=(0, 1, 1))


class ChannelNorm(nn.Module):
    """x / max(|x|, 1e-12) * sqrt(C) * gamma, |x| over channels; `axes` follow them, 3 or 2."""

    def __init__(self, channels: int, axes: int = 3):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=exact)  # [B, 1, T, H, W]
        factor = x.shape[1] ** 0.5 / length.clamp(min=1e-12)
        return (x * factor * self.gamma).to(x.dtype)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1x1 conv on x where channels change."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        # The vendor's indices; 1 and 4 are the activations, 5 a dropout of nothing.
        parts = OrderedDict()
        parts["0"] = ChannelNorm(channels)
        parts["2"] = conv(channels, out)
        parts["3"] = ChannelNorm(out)
        parts["6"] = conv(out, out)
        self.residual = nn.Sequential(parts)
        self.shortcut = nn.Identity() if channels == out else nn.Conv3d(channels, out, 1)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        norm1, conv1, norm2, conv2 = self.residual
        h = causal(conv1, F.silu(norm1(x)), cache)  # [B, out, T, H, W]
        h = causal(conv2, F.silu(norm2(h)), cache)
        return self.shortcut(x) + h


class AttentionBlock(nn.Module):
    """Attention of one head, as wide as the level, among all positions of a frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels, axes=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def picture(self, x: Tensor) -> Tensor:
        parts = self.to_qkv(self.norm(x)).flatten(2).chunk(3, 1)  # [BT, C, hw] each
        # Contiguous, or SDPA takes its slow form, which holds all hw x hw weights at once.
        q, k, v = (part.mT[:, None].contiguous() for part in parts)  # [BT, 1, hw, C]
        h = F.scaled_dot_product_attention(q, k, v)  # [BT, 1, hw, C]
        return x + self.proj(h[:, 0].mT.unflatten(2, x.shape[2:]))  # [BT, C, h, w]

    def forward(self, x: Tensor, _: Cache) -> Tensor:
        return framewise(self.picture, x)  # frames do not meet: nothing to remember


class Downsample(nn.Module):
    """Half the sides; with `time` also half the frames after the clip's first."""

    def __init__(self, channels: int, time: bool):
        super().__init__()
        pad = nn.ZeroPad2d((0, 1, 0, 1))  # at the right and the bottom only
        self.resample = nn.Sequential(pad, nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), (2, 1, 1)) if time else None

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        x = framewise(self.resample, x)  # [B, C, T, H/2, W/2]
        if self.time_conv is None:
            return x
        return halve(self.time_conv, x, cache)  # [B, C, T/2, H/2, W/2]


class Upsample(nn.Module):
    """Twice the sides, half the channels; with `time` also twice the frames after the first."""

    def __init__(self, channels: int, time: bool):
        super().__init__()
        nearest = nn.Upsample(scale_factor=2)
        self.resample = nn.Sequential(nearest, nn.Conv2d(channels, channels // 2, 3, padding=1))
        self.time_conv = nn.Conv3d(channels, 2 * channels, (3, 1, 1)) if time else None

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        if self.time_conv is not None:
            x = double(self.time_conv, x, cache)  # [B, C, 2T, H, W]
        return framewise(self.resample, x)  # [B, C/2, 2T, 2H, 2W]


def middle(channels: int) -> nn.ModuleList:
    first = ResidualBlock(channels, channels)
    last = ResidualBlock(channels, channels)
    return nn.ModuleList((first, AttentionBlock(channels), last))


def head(channels: int, out: int) -> nn.Sequential:
    parts = {"0": ChannelNorm(channels), "2": conv(channels, out)}  # 1 is the activation
    return nn.Sequential(OrderedDict(parts))


class Encoder(nn.Module):
    def __init__(self, config: AutoEncoderConfig):
        super().__init__()
        # Layers of a level with its resampling; as many cells do their convolutions reach in space.
        self.step = config.num_res_blocks + 1
        self.last = len(config.temporal_downsample)
        channels = config.dim
        self.conv1 = conv(3, channels)
        self.downsamples = nn.ModuleList()  # of all levels, one after another
        for level, multiple in enumerate(config.dim_mult):
            for _ in range(config.num_res_blocks):
                self.downsamples.append(ResidualBlock(channels, config.dim * multiple))
                channels = config.dim * multiple
            if level < self.last:
                time = config.temporal_downsample[level]
                self.downsamples.append(Downsample(channels, time))
        self.middle = middle(channels)
        self.head = head(channels, 2 * config.z_channels)

    def stage(self, i: int, x: Tensor, cache: Cache) -> Tensor:
        if i == 0:
            x = causal(self.conv1, x, cache)  # [B, C, T, H, W]
        for layer in self.downsamples[self.step * i : self.step * (i + 1)]:
            x = layer(x, cache)
        return x  # [B, C, T/2, H/2, W/2] after all stages but the last

    def forward(self, x: Tensor, cache: Cache, tile: int | None = None) -> Tensor:
        for i in range(self.last):
            run = in_turn(partial(self.stage, i), part_of(cache, i))
            x = in_tiles(run, x, 2, tile and tile >> (i + 1), self.step)
        x = self.stage(self.last, x, cache)
        for layer in self.middle:
            x = layer(x, cache)  # [B, C, t, h, w]
        norm, out = self.head
        return causal(out, F.silu(norm(x)), cache)  # [B, 2Z, t, h, w]


class Decoder(nn.Module):
    def __init__(self, config: AutoEncoderConfig):
        super().__init__()
        self.step = config.num_res_blocks + 2  # as in the encoder, with one block more
        self.last = len(config.temporal_downsample)
        channels = config.dim * config.dim_mult[-1]
        self.conv1 = conv(config.z_channels, channels)
        self.middle = middle(channels)
        self.upsamples = nn.ModuleList()  # of all levels, from the coarsest to the finest
        for level in reversed(range(self.last + 1)):
            width = config.dim * config.dim_mult[level]
            for _ in range(config.num_res_blocks + 1):
                self.upsamples.append(ResidualBlock(channels, width))
                channels = width
            if level > 0:
                time = config.temporal_downsample[level - 1]
                self.upsamples.append(Upsample(channels, time))
                channels = channels // 2  # an upsampling halves them
        self.head = head(channels, 3)

    def stage(self, i: int, x: Tensor, cache: Cache) -> Tensor:
        # A stage begins with the upsampling that ends the level before: it computes at one size.
        for layer in self.upsamples[max(self.step * i - 1, 0) : self.step * (i + 1) - 1]:
            x = layer(x, cache)  # [B, C, 2T, 2H, 2W] in all stages but the first
        if i < self.last:
            return x
        norm, out = self.head
        return causal(out, F.silu(norm(x)), cache)  # [B, 3, T, H, W]

    def forward(self, z: Tensor, cache: Cache, tile: int | None = None) -> Tensor:
        x = causal(self.conv1, z, cache)  # [B, C, t, h, w]
        for layer in self.middle:
            x = layer(x, cache)
        x = self.stage(0, x, cache)
        for i in range(1, self.last + 1):
            run = in_turn(partial(self.stage, i), part_of(cache, i))
            x = in_tiles(run, x, 1, tile and tile >> (self.last - i + 1), self.step)
        return x  # [B, 3, T, H, W]


class AutoEncoder(nn.Module):
    """Clips [B, 3, T, H, W] in -1..1 to normalised latents [B, Z, t, h, w] and back, any float.

    T = 1 + 4k, t = 1 + k. Both ways take one latent frame at a time, and the methods in `_chunks`
    work from iterator to iterator: where gradients are off they hold as much for any length.
    tile: frames with a side above this many pixels go in tiles of about that side, as in
    parts/tiles.py.
    """

    def __init__(self, config: AutoEncoderConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.conv1 = nn.Conv3d(2 * config.z_channels, 2 * config.z_channels, 1)
        self.conv2 = nn.Conv3d(config.z_channels, config.z_channels, 1)
        self.decoder = Decoder(config)

    @property
    def stride(self) -> int:
        """Pixels along a side for one latent position."""
        return 2 ** len(self.config.temporal_downsample)

    @property
    def time_stride(self) -> int:
        """Frames for one latent frame, but one for the first."""
        return 2 ** sum(self.config.temporal_downsample)

    def check(self, frames: int, height: int, width: int) -> None:
        """ValueError unless frames are 1 + 4k and the sides multiples of `stride`."""
        if frames < 1 or (frames - 1) % self.time_stride:
            needs = f"1 + {self.time_stride}k; cut it or repeat its last frame"
            raise ValueError(f"clip of {frames} frames: the autoencoder needs {needs}")
        if height % self.stride or width % self.stride:
            needs = f"(height x width): both must be multiples of {self.stride}; pad or crop them"
            raise ValueError(f"frames of {height} x {width} pixels {needs}")

    def statistics(self, z: Tensor) -> Tensor:
        """Means and deviations of the latent channels [2, Z, 1, 1, 1], float32 at least."""
        exact = torch.promote_types(z.dtype, torch.float32)
        table = torch.tensor((self.config.mean, self.config.std), dtype=exact, device=z.device)
        return table[..., None, None, None]

    def moment_chunks(self, chunks: Iterable[Tensor], tile: int | None = None) -> Iterator[Tensor]:
        """Mean and log variance, not normalised, [B, 2Z, 1, h, w]; else as `encode_chunks`."""
        encoder = over_clip(partial(self.encoder, tile=tile))
        frames = 0
        for x in in_groups(chunks, self.time_stride):
            frames += x.shape[2]
            self.check(frames, *x.shape[3:])
            yield self.conv1(encoder(x))  # [B, 2Z, 1, h, w]
        self.check(frames, 0, 0)

    def encode_chunks(self, chunks: Iterable[Tensor], tile: int | None = None) -> Iterator[Tensor]:
        """Normalised means [B, Z, 1, h, w], each as soon as its frames are there.

        chunks [B, 3, any, H, W] of one clip. ValueError as in `encode`, but for the number of
        frames only when the chunks have ended.
        """
        for moments in self.moment_chunks(chunks, tile):
            z = moments.chunk(2, 1)[0]  # [B, Z, 1, h, w]
            mean, std = self.statistics(z)
            yield ((z - mean) / std).to(z.dtype)

    def decode_chunks(self, chunks: Iterable[Tensor], tile: int | None = None) -> Iterator[Tensor]:
        """Pixels [B, 3, 1, H, W], then [B, 3, 4, H, W] each, from latents [B, Z, any, h, w]."""
        decoder = over_clip(partial(self.decoder, tile=tile))
        for z in in_groups(chunks, 1):
            mean, std = self.statistics(z)
            raw = (z * std + mean).to(z.dtype)  # [B, Z, 1, h, w]
            yield decoder(self.conv2(raw))

    def moments(self, pixels: Tensor, tile: int | None = None) -> tuple[Tensor, Tensor]:
        """Posterior mean and log variance (clamped to -30..20), not normalised, as in `encode`."""
        self.check(*pixels.shape[2:])
        moments = torch.cat(list(self.moment_chunks([pixels], tile)), 2)  # [B, 2Z, t, h, w]
        mean, logvar = moments.chunk(2, 1)
        return mean, logvar.clamp(-30, 20)  # [B, Z, t, h, w] each

    def encode(self, pixels: Tensor, tile: int | None = None) -> Tensor:
        """Normalised latent [B, Z, t, h, w], the posterior's mean, of a clip [B, 3, T, H, W].

        ValueError if T is not 1 + 4k or a side no multiple of `stride`.
        """
        self.check(*pixels.shape[2:])
        return torch.cat(list(self.encode_chunks([pixels], tile)), 2)

    def decode(self, z: Tensor, tile: int | None = None) -> Tensor:
        """Pixels [B, 3, T, H, W], about -1..1 but not clamped, of a latent [B, Z, t > 0, h, w]."""
        if not z.shape[2]:
            raise ValueError("latent of 0 frames: nothing to decode")
        return torch.cat(list(self.decode_chunks([z], tile)), 2)
