"""The work that side_by_side.py measures: done by ours, and by the authors' formulas on diffusers.

Random weights in float32 of official proportions. FLUX: heads of 128, an MLP of 4 widths, twice as
many single blocks as joint ones, 8 rows of picture to each of text. WAN: heads of 128, an MLP of
5.8 widths, and 226 rows of text, one of them true, as the null text has. SMALL is for tests.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import weights
from tests.oracles import flux, flux_vae, plain, wan, wan_vae
from tinybridge import bridge
from tinybridge.backbone import Backbone
from tinybridge.flux import pack, unpack
from tinybridge.parts.layers import attention
from tinybridge.prompt import Prompt
from tinybridge.training.machine import compile_blocks


@dataclass(frozen=True)
class Sizes:
    """Of one backbone: its transformer and what this is given, its autoencoder and its pixels."""

    model: dict
    latent: tuple[int, ...]
    rows: int
    vae: dict
    pixels: tuple[int, ...]


MIDDLE = {
    "flux": Sizes(
        dict(
            in_channels=64, hidden_size=768, num_heads=6, depth=1, depth_single=2,
            context_dim=1024, pooled_dim=256, axes_dim=(16, 56, 56),
        ),
        latent=(1, 16, 64, 64), rows=128, vae=dict(ch=32), pixels=(1, 3, 256, 256),
    ),
    "wan": Sizes(
        dict(
            in_channels=16, hidden_size=768, num_heads=6, depth=3, ffn_dim=4480, freq_dim=256,
            context_dim=1024,
        ),
        latent=(1, 16, 3, 30, 52), rows=226, vae=wan_vae.small(16, dim=32),
        pixels=(1, 3, 5, 96, 160),
    ),
}  # fmt: skip
SMALL = {
    "flux": Sizes(
        flux.TINY | dict(in_channels=16), latent=(1, 4, 8, 8), rows=6, vae=flux_vae.SMALL,
        pixels=(1, 3, 32, 32),
    ),
    "wan": Sizes(
        wan.TINY, latent=(1, 4, 2, 6, 8), rows=7, vae=wan_vae.SMALL, pixels=(1, 3, 5, 16, 24)
    ),
}  # fmt: skip


@dataclass
class Pair:
    """One piece of work done in two ways, whose results must agree to `bound` (of the largest)."""

    name: str
    ours: Callable[[], Tensor]
    theirs: Callable[[], Tensor]
    bound: float
    long: bool = False  # so one round is enough


@dataclass
class Models:
    """The same weights in our modules and in diffusers', and what both are given."""

    name: str
    backbone: Backbone
    twin: nn.Module
    prompt: Prompt
    y: Tensor
    noise: Tensor

    @classmethod
    def random(cls, name: str, sizes: Sizes) -> "Models":
        oracle = flux if name == "flux" else wan
        model = oracle.tiny(**sizes.model)
        config, blocks = model.config, len(model.blocks)
        made = oracle.a_prompt(rows=sizes.rows, width=config.hidden_size, blocks=blocks)
        prompt = Prompt(0.1 * made.residual, made.gates)
        context = plain.random(1, sizes.rows, config.context_dim, seed=2)  # [1, L, Dc]
        if name == "flux":
            pooled = plain.random(1, config.pooled_dim, seed=3)  # [1, Dp]
            backbone = Backbone(name, model, nn.Identity(), context, pooled, 1.0)
        else:
            context[:, 1:] = 0  # the null text has one row
            backbone = Backbone(name, model, nn.Identity(), context, video=True)
        twin = oracle.inject(oracle.diffusers_twin(model), prompt)
        y, noise = (plain.random(*sizes.latent, seed=seed) for seed in (4, 5))
        return cls(name, backbone, twin, prompt, y, noise)

    def ours(self, x: Tensor, s: Tensor) -> Tensor:
        return self.backbone.velocity(x, s, self.prompt)

    def theirs(self, x: Tensor, s: Tensor) -> Tensor:
        """The authors' velocity, told the time on their grid."""
        t, given = self.backbone.model_time(s), self.backbone
        if self.name == "wan":
            return wan.run_twin(self.twin, x, t, given.context)
        rows, columns = x.shape[2] // 2, x.shape[3] // 2
        ids = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
        tokens = self.twin(
            hidden_states=pack(x),
            encoder_hidden_states=given.context,
            pooled_projections=given.pooled,
            timestep=t,
            img_ids=ids.float(),
            txt_ids=torch.zeros(given.length, 3),
            guidance=torch.ones(1),
        ).sample
        return unpack(tokens, *x.shape[2:])

    @torch.no_grad()
    def forward(self, velocity: bridge.Velocity) -> Tensor:
        return velocity(self.y, torch.full((1,), 0.3))

    def gradient(self, velocity: bridge.Velocity) -> Tensor:
        """d (mean v^2) / d P: one training step without its optimiser."""
        self.prompt.zero_grad()
        velocity(self.y, torch.full((1,), 0.3)).square().mean().backward()
        return self.prompt.residual.grad.clone()

    @torch.no_grad()
    def restored_by_ours(self, steps: int) -> Tensor:
        """What no step changes is computed once, and inside the time that is measured."""
        path = bridge.find("desired")
        levels = path.sampling(bridge.times(steps=steps), 0.4).s.float()  # [steps]
        terms = self.backbone.prepare([self.prompt], levels)
        velocity = partial(self.backbone.velocity, prompt=terms)
        return bridge.sample(path, velocity, self.y, steps, noise=self.noise)

    @torch.no_grad()
    def restored_by_theirs(self, steps: int) -> Tensor:
        path = bridge.find("desired")
        return bridge.sample(path, self.theirs, self.y, steps, noise=self.noise)


# ---- pairs ---------------------------------------------------------------------------------------


def restoration_pair(models: Models, steps: int) -> Pair:
    ours, theirs = models.restored_by_ours, models.restored_by_theirs
    name = f"restoration, {steps} steps"
    return Pair(name, partial(ours, steps), partial(theirs, steps), 1e-4, steps > 4)


def loading_pair(models: Models, folder: Path) -> Pair:
    """diffusers' folder, from the page cache, every value read.

    Of FLUX: WAN's folder diffusers reads only with the package accelerate.
    """
    models.twin.save_pretrained(folder)
    ours, theirs = weights.load_flux, type(models.twin).from_pretrained

    def total(load: Callable[[Path], nn.Module]) -> Tensor:
        return sum(weight.double().sum() for weight in load(folder).parameters())[None]

    return Pair("load", partial(total, ours), partial(total, theirs), 1e-9)


def autoencoder_pairs(name: str, sizes: Sizes) -> list[Pair]:
    """Of a picture, or of a clip of five frames, without tiles."""
    oracle = flux_vae if name == "flux" else wan_vae
    model = oracle.autoencoder(sizes.vae)
    twin, config = oracle.diffusers_twin(model), model.config
    pixels = plain.random(*sizes.pixels, seed=6).clamp(-1, 1)
    latent = torch.no_grad()(model.encode)(pixels)

    @torch.no_grad()
    def encoded() -> Tensor:
        return model.encode(pixels)

    @torch.no_grad()
    def encoded_by_theirs() -> Tensor:
        mean = twin.encode(pixels).latent_dist.mode()
        if name == "wan":
            return wan_vae.normal(model, mean)
        return (mean - config.shift_factor) * config.scale_factor

    @torch.no_grad()
    def decoded() -> Tensor:
        return model.decode(latent).clamp(-1, 1)  # diffusers clamps what WAN's decodes

    @torch.no_grad()
    def decoded_by_theirs() -> Tensor:
        return twin.decode(oracle.raw(model, latent)).sample.clamp(-1, 1)

    return [
        Pair("encode", encoded, encoded_by_theirs, 1e-4),
        Pair("decode", decoded, decoded_by_theirs, 1e-4),
    ]


def compiled_pair(models: Models) -> Pair:
    """Our blocks compiled, beside our blocks as they are; compiling is before any measure."""
    compiled = copy.deepcopy(models.backbone)
    compile_blocks(compiled.model)

    def velocity(x: Tensor, s: Tensor) -> Tensor:
        return compiled.velocity(x, s, models.prompt)

    forward = partial(models.forward, velocity)
    return Pair("forward, compiled to plain", forward, partial(models.forward, models.ours), 1e-4)


def sdpa_choice() -> str:
    """What torch's attention is computed with here, for heads of 128 in float32 without a mask."""
    q = torch.zeros(1, 6, 1024, 128)  # [B, h, S, d]
    return SDPBackend(torch._fused_sdp_choice(q, q, q)).name


def attention_pair(models: Models) -> Pair:
    """Self-attention of the backbone's size by torch's own choice, beside plain matrix products."""
    config, tokens = models.backbone.model.config, models.y[0, 0].numel() // 4
    heads, width = config.num_heads, config.hidden_size // config.num_heads
    q, k, v = (plain.random(1, tokens, heads, width, seed=seed) for seed in (7, 8, 9))

    def products() -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return attention(q, k, v)

    return Pair("attention, chosen to MATH", partial(attention, q, k, v), products, 1e-5)


def transformer_pairs(models: Models) -> list[Pair]:
    """Forward and training step with a raw prompt; restorations, which prepare it."""
    ours, theirs, gradient = models.ours, models.theirs, models.gradient
    return [
        Pair("forward", partial(models.forward, ours), partial(models.forward, theirs), 1e-4),
        Pair("training step", partial(gradient, ours), partial(gradient, theirs), 1e-3),
        restoration_pair(models, 4),
        restoration_pair(models, 20),
    ]


def pairs(name: str, sizes: Sizes, folder: Path, only: str) -> list[Pair]:
    """All of a backbone that have `only` in their names; folder: an empty one."""
    models = Models.random(name, sizes)
    found = transformer_pairs(models)
    if name == "flux":
        found.append(loading_pair(models, folder))
    found += [*autoencoder_pairs(name, sizes), attention_pair(models)]
    if sizes is MIDDLE[name] and "compiled".startswith(only):
        found.append(compiled_pair(models))
    return [pair for pair in found if only in pair.name]
