"""One face over a frozen flow model, its autoencoder and its null conditioning, all given.

What train.py and sample.py see of FLUX: pictures to latents and back, and the velocity. The
method (bridge.py) drives `velocity`; loading is weights.py's job, so that a test may pass a fake.

Letters: B batch, K prompts, C h w latent, H W pixels, L text tokens, Dc Dp text widths, T times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinybridge.bridge import grid_flux


@dataclass
class Backbone:
    """A frozen image model with the text conditioning it always gets.

    name: "flux"; model: tinybridge.flux.Flux; vae: tinybridge.flux_vae.AutoEncoder; context
    [1, L, Dc] and pooled [1, Dp] from the text encoders; guidance: 1.0, or None where the model
    has no guidance embedder (schnell); grid: tell the model the time on the authors' 1000-step
    grid; tile: side in pixels of the autoencoder's tiles for large pictures, None: no tiles.
    """

    name: str
    model: nn.Module
    vae: nn.Module
    context: Tensor
    pooled: Tensor
    guidance: float | None = None
    grid: bool = True
    tile: int | None = None

    @property
    def length(self) -> int:
        """Rows of the text conditioning, which a prompt must have too."""
        return self.context.shape[1]

    @property
    def width(self) -> int:
        """Width of the model, and so of a prompt's rows."""
        return self.model.config.hidden_size

    @property
    def blocks(self) -> int:
        """Number of blocks, and so of a prompt's gates: joint ones first, then single ones."""
        return self.model.config.depth + self.model.config.depth_single

    @property
    def stride(self) -> int:
        """Pixels along one side of an image token: the autoencoder's stride times the 2 of 2x2."""
        return 2 * self.vae.stride

    @property
    def device(self) -> torch.device:
        return self.context.device

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the model; latents, velocities and pictures are float32 in any case."""
        return self.context.dtype

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures in 0..1: the posterior mean, normalised, in the autoencoder's dtype.

        pictures [B, 3, H, W], any size: right and bottom are extended by their edge to a multiple
        of `stride`; -> [B, C, h, w], float32 unless the autoencoder was loaded in float64.
        """
        bottom, right = (-side % self.stride for side in pictures.shape[2:])
        pixels = pictures.to(next(self.vae.parameters()))
        pixels = F.pad(pixels, (0, right, 0, bottom), mode="replicate")  # [B, 3, 8h, 8w]
        return self.vae.encode(pixels * 2 - 1, tile=self.tile)  # [B, C, h, w]

    @torch.no_grad()
    def decode(self, latent: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Pictures [B, 3, H, W] in 0..1 from latents [B, C, h, w]; cut to size (H, W) if given."""
        latent = latent.to(next(self.vae.parameters()))
        pixels = self.vae.decode(latent, tile=self.tile)  # [B, 3, 8h, 8w]
        H, W = size or pixels.shape[2:]
        return (pixels[:, :, :H, :W] / 2 + 0.5).clamp(0, 1)  # [B, 3, H, W]

    def prepare(self, prompts: Sequence[Any], s_values: Tensor | None = None) -> Any:
        """What K prompts contribute at any picture and step, computed once: pass it as `prompt`.

        s_values [T]: the noise levels that `velocity` will be called with, whose modulation is
        then computed once too; None leaves it to every call.
        """
        times = None if s_values is None else self.told(s_values.to(self.device))
        return self.model.prepare(prompts, times, self.pooled, self.vector(1))

    def velocity(self, x: Tensor, s: Tensor, prompt: Any = None) -> Tensor:
        """The frozen model's eps - x0 at states x [B, C, h, w] of noise level s [B] in 0..1.

        prompt: None, one Prompt, or the result of `prepare`; the velocities of several prompts
        are averaged (the paper's mixed degradations) and run as one batch. -> x's shape and dtype.
        """
        K = len(prompt.qkv[0]) if hasattr(prompt, "qkv") else 1
        states = x.repeat_interleave(K, 0)  # [BK, C, h, w]
        times = self.told(s).repeat_interleave(K)  # [BK]
        v = self.model(states, times, self.context, self.pooled, self.vector(len(times)), prompt)
        return v.to(x.dtype).unflatten(0, (-1, K)).mean(1)  # [B, C, h, w]

    def told(self, s: Tensor) -> Tensor:
        return grid_flux(s) if self.grid else s

    def vector(self, B: int) -> Tensor | None:
        """The guidance as the model takes it, float32: bfloat16 would round 1000 g."""
        if self.guidance is None:
            return None
        return torch.full((B,), self.guidance, device=self.device)  # [B]
