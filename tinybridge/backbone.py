"""One face over a frozen flow model, its autoencoder and its null conditioning, all given.

What train.py and sample.py see of FLUX and of WAN: pictures or clips to latents and back, and the
velocity. The method (bridge.py) drives `velocity`; loading is weights.py's job, so that a test may
pass a fake. Pictures are [B, 3, H, W], clips [B, 3, T, H, W]; a latent has as many axes.

Letters: B batch, K prompts, n blocks, C t h w latent, T H W pixels, L text tokens, D width of the
model, Dc Dp Dt widths of the text conditioning, of its summary and of the encoder's input.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinybridge.bridge import grid_flux, grid_wan


class RawPrompt(Protocol):
    """prompt.Prompt, with residual [L, D] and gates [n], or prompt.Tokens, with tokens [L, Dt]."""

    space: str  # "embedding" or "token"


class Prepared(Protocol):
    """What `Backbone.prepare` makes of K prompts: the model's Terms, or Contexts."""

    @property
    def count(self) -> int: ...  # K, at least 1: in how many copies the model wants every sample


@dataclass(frozen=True)
class Contexts:
    """What K prompts in token space become, computed once: text conditionings [K, L, Dc]."""

    rows: Tensor

    @property
    def count(self) -> int:
        return len(self.rows)


@dataclass
class Backbone:
    """A frozen model of pictures or clips with the text conditioning it always gets.

    name: "flux" or "wan"; model: flux.Flux or wan.Wan; vae: the AutoEncoder of flux_vae or
    wan_vae; context [1, L, Dc] from T5 or UMT5; pooled [1, Dp] from CLIP, None in a video model;
    guidance: 1.0, or None where the model has no guidance embedder (schnell, WAN); grid: tell the
    model the time on the authors' 1000-step grid; tile: side in pixels of the autoencoder's tiles
    for large pictures, None: no tiles; video: it restores clips, not pictures; size, window: pixels
    along a side, None: any, and frames of a clip that it sees at once; encoder and ids [1, L]: T5
    or UMT5 and the text it is told, where prompts in token space are in use.
    """

    name: str
    model: nn.Module
    vae: nn.Module
    context: Tensor
    pooled: Tensor | None = None
    guidance: float | None = None
    grid: bool = True
    tile: int | None = None
    video: bool = False
    size: int | None = None
    window: int = 33
    encoder: nn.Module | None = None
    ids: Tensor | None = None

    @property
    def length(self) -> int:
        """Rows of the text conditioning, which a prompt must have too."""
        return self.context.shape[1]

    @property
    def width(self) -> int:
        """Width of the model, and so of the rows of a prompt in embedding space."""
        return self.model.config.hidden_size

    @property
    def text_width(self) -> int:
        """Width of the text encoder, and so of the rows of a prompt in token space."""
        return self.context.shape[2]

    @property
    def blocks(self) -> int:
        """Number of blocks, and so of a prompt's gates; FLUX: joint ones first, then single."""
        return len(self.model.blocks)

    @property
    def stride(self) -> int:
        """Pixels along one side of a token: the autoencoder's stride times the 2 of 2x2."""
        return 2 * self.vae.stride

    @property
    def device(self) -> torch.device:
        return self.context.device

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the model; latents, velocities and pixels are float32 in any case."""
        return self.context.dtype

    # ---- pixels and latents --------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Latents of pixels in 0..1: the posterior mean, normalised, in the autoencoder's dtype.

        Pictures or clips of any size: right and bottom are extended by their edge to a multiple
        of `stride`, a clip by its last frame to 1 + 4k frames. -> [B, C, h, w] or
        [B, C, t, h, w], float32 unless the autoencoder was loaded in float64.
        """
        if self.video:
            return torch.cat(list(self.encode_stream([pixels])), 2)
        return self.vae.encode(self.padded(pixels), tile=self.tile)

    @torch.no_grad()
    def decode(self, latent: Tensor, size: tuple[int, ...] | None = None) -> Tensor:
        """Pixels in 0..1 of a latent; cut to size (H, W), or (T, H, W) of a clip, if given."""
        if self.video:
            T, *sides = size or (None, None, None)
            return torch.cat(list(self.decode_stream([latent], sides)), 2)[:, :, :T]
        latent = latent.to(next(self.vae.parameters()))
        return shown(self.vae.decode(latent, tile=self.tile), size)

    @torch.no_grad()
    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """`encode` of a clip that comes in chunks [B, 3, any, H, W]: [B, C, 1, h, w] at a time."""

        def filled() -> Iterator[Tensor]:
            frames = 0
            for chunk in chunks:
                pixels = self.padded(chunk)  # [B, 3, any, 8h, 8w]
                last = pixels[:, :, -1:].clone()
                frames += pixels.shape[2]
                yield pixels
            missing = (1 - frames) % self.vae.time_stride
            if frames and missing:
                yield last.expand(-1, -1, missing, -1, -1)

        yield from self.vae.encode_chunks(filled(), self.tile)

    @torch.no_grad()
    def decode_stream(
        self, latents: Iterable[Tensor], size: tuple[int, int] | None = None
    ) -> Iterator[Tensor]:
        """`decode` of a latent in chunks [B, C, any, h, w]: one frame, then four at a time.

        -> [B, 3, 1 or 4, H, W] with size (H, W) if given; frames that `encode_stream` added stay.
        """
        like = next(self.vae.parameters())
        for pixels in self.vae.decode_chunks((z.to(like) for z in latents), self.tile):
            yield shown(pixels, size)

    def padded(self, pixels: Tensor) -> Tensor:
        """Pixels in -1..1 for the autoencoder, whose sides are multiples of `stride`."""
        check_pixels(pixels, self.video)
        bottom, right = (-side % self.stride for side in pixels.shape[-2:])
        margins = (0, right, 0, bottom, 0, 0)[: 2 * pixels.ndim - 4]
        pixels = F.pad(pixels.to(next(self.vae.parameters())), margins, mode="replicate")
        return pixels * 2 - 1  # [B, 3, 8h, 8w] or [B, 3, T, 8h, 8w]

    def check(self, prompt: RawPrompt) -> None:
        """ValueError naming both sides unless a prompt is for this backbone's name and sizes."""
        if is_tokens(prompt):
            form = "{} with {} tokens of width {}"
            found = prompt.tokens.shape
            wanted = (self.length, self.text_width)
        else:
            form = "{} with {} rows of width {} and {} gates"
            found = (*prompt.residual.shape, len(prompt.gates))
            wanted = (self.length, self.width, self.blocks)
        name = getattr(prompt, "meta", {}).get("backbone", self.name)
        if (name, *found) != (self.name, *wanted):
            raise ValueError(
                f"prompt is for {form.format(name, *found)}, but this backbone is "
                f"{form.format(self.name, *wanted)}; load the weights it was trained on"
            )

    # ---- the frozen model ----------------------------------------------------------------------

    def prepare(self, prompts: Sequence[RawPrompt], s_values: Tensor | None = None) -> Prepared:
        """What K prompts contribute at any picture and step, computed once: pass it as `prompt`.

        prompts: on any device. s_values: the noise levels that `velocity` will be called with,
        whose modulation is then computed once too; None leaves it to every call. ValueError for
        prompts of two spaces, of another model, or of token space where no encoder was kept.
        """
        spaces = {"token" if is_tokens(prompt) else "embedding" for prompt in prompts}
        if len(spaces) > 1:
            raise ValueError("prompts of embedding and token space cannot be mixed")
        prompts = [moved(prompt, self.device) for prompt in prompts]
        if spaces == {"token"}:
            with torch.no_grad():
                return Contexts(torch.cat([self.encode_tokens(p.tokens) for p in prompts]))
        times = None if s_values is None else self.model_time(s_values.to(self.device))
        if self.video:
            return self.model.prepare(prompts, self.context, times)
        return self.model.prepare(prompts, times, self.pooled, self.guidance_vector(1))

    def velocity(self, x: Tensor, s: Tensor, prompt: RawPrompt | Prepared | None = None) -> Tensor:
        """The frozen model's eps - x0 at states x [B, C, ...] of noise level s [B] in 0..1.

        prompt: None, one Prompt or Tokens, or the result of `prepare`; the velocities of several
        prompts are averaged (the paper's mixed degradations) and run as one batch. -> x's shape
        and dtype. ValueError for a list of prompts, and as `prepare`.
        """
        if isinstance(prompt, list | tuple):
            raise ValueError(f"velocity of {len(prompt)} prompts: pass backbone.prepare(prompts)")
        if is_tokens(prompt):
            prompt = Contexts(self.encode_tokens(prompt.tokens))  # [1, L, Dc]
        K = getattr(prompt, "count", 1)  # only what is prepared has a count
        states = x.repeat_interleave(K, 0)  # [BK, C, ...]
        times = self.model_time(s).repeat_interleave(K)  # [BK]
        context, inside = self.context, prompt  # what the model is told; what enters its blocks
        if isinstance(prompt, Contexts):
            # One context serves any batch; of several, sample r takes row r % K.
            context, inside = prompt.rows.repeat(1 if K == 1 else len(x), 1, 1), None
        if self.video:
            v = self.model(states, times, context, inside)
        else:
            guidance = self.guidance_vector(len(times))
            v = self.model(states, times, context, self.pooled, guidance, inside)
        return v.to(x.dtype).unflatten(0, (-1, K)).mean(1)  # [B, C, ...]

    def model_time(self, s: Tensor) -> Tensor:
        """The time that the model is told for noise levels s in 0..1; s's shape."""
        if not self.grid:
            return s
        return grid_wan(s) if self.video else grid_flux(s)

    def guidance_vector(self, B: int) -> Tensor | None:
        """The guidance as the model takes it, [B] float32: bfloat16 would round 1000 g."""
        if self.guidance is None:
            return None
        return torch.full((B,), self.guidance, device=self.device)  # [B]

    # ---- token space ---------------------------------------------------------------------------

    def null_embeddings(self) -> Tensor:
        """What the text encoder reads of the null prompt, or the text told instead: [L, Dt].

        ValueError where the encoder was not kept.
        """
        self.check_encoder()
        return self.encoder.shared(self.ids)[0].float()

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """The text conditioning [1, L, Dc] of input embeddings [L, Dt], with gradients to them.

        All L rows are true tokens: no mask, and in WAN no zero rows after them. So the null
        prompt's own embeddings give FLUX what "" gives it, and WAN something else. ValueError for
        other sizes, and where the encoder was not kept.
        """
        self.check_encoder()
        x = tokens[None].to(self.encoder.shared.weight)  # [1, L, Dt]
        want = (self.length, self.text_width)
        if x.shape[1:] != want:
            raise ValueError(f"prompt of {list(x.shape[1:])} tokens, this backbone's {list(want)}")
        return self.encoder.encode(x).to(self.dtype)

    def check_encoder(self) -> None:
        """ValueError where the text encoder was not kept."""
        if self.encoder is None:
            raise ValueError(
                "prompts in token space need the text encoder: load_backbone(keep_encoder=True)"
            )


def check_pixels(pixels: Tensor, video: bool) -> None:
    """ValueError unless they are floats in 0..1, pictures or clips."""
    axes = "[B, 3, T, H, W]" if video else "[B, 3, H, W]"
    if pixels.ndim != 4 + video or pixels.shape[1] != 3:
        raise ValueError(f"pixels are {list(pixels.shape)}: {axes} is expected")
    if not pixels.is_floating_point():
        raise ValueError(f"pixels are {pixels.dtype}: floats in 0..1 are expected; divide by 255")
    low, high = (0, 1) if pixels.is_meta or not pixels.numel() else pixels.aminmax()
    if not (low >= -0.001 and high <= 1.001):  # NaN is neither
        raise ValueError(f"pixels are {low:.3g} to {high:.3g}: 0..1 is expected")


def is_tokens(prompt: object) -> bool:
    return hasattr(prompt, "tokens")


def moved(prompt: RawPrompt, device: torch.device) -> RawPrompt:
    """The prompt on that device: a copy, unless it is there already."""
    held = prompt.tokens if is_tokens(prompt) else prompt.residual
    return prompt if held.device == device else copy.deepcopy(prompt).to(device)


def shown(pixels: Tensor, size: Sequence[int | None] | None) -> Tensor:
    """The autoencoder's -1..1 as 0..1, cut to size (H, W)."""
    H, W = size or (None, None)
    return (pixels[..., :H, :W] / 2 + 0.5).clamp(0, 1)
