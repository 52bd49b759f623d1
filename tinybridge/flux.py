"""FLUX.1, the MMDiT image model (Black Forest Labs), with the prompt of the paper built in.

Module names are those of flux1-dev.safetensors, so the vendor's file is this model's state_dict.

Letters: B batch, C H W latent, N = (H/2)(W/2) image tokens, L text tokens, S = L + N, D width,
h heads, d = D / h, M MLP width, n blocks, K prompts, P a prompt's residual with Lp <= L rows,
T told times. Text rows come first in every sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tinybridge.layers import RMSNorm, attention, modulate, rope_table, rotate, sinusoid


@dataclass(frozen=True)
class FluxConfig:
    """Sizes of the model; the defaults are FLUX.1-dev."""

    in_channels: int = 64  # packed: 16 latent channels x 2 x 2
    hidden_size: int = 3072
    num_heads: int = 24
    depth: int = 19  # joint blocks
    depth_single: int = 38
    mlp_ratio: float = 4.0
    context_dim: int = 4096  # T5
    pooled_dim: int = 768  # CLIP
    axes_dim: tuple[int, ...] = (16, 56, 56)  # of a head: (unused, row, column)
    theta: int = 10_000
    guidance: bool = True  # schnell has no guidance embedder


SIZES = {"dev": {}, "schnell": {"guidance": False}}


@dataclass(frozen=True)
class Terms:
    """What `Flux.prepare` computes once per restoration; stands where a raw prompt may stand."""

    qkv: list[Tensor]  # n of [K, Lp, 3D]: gate_i W_i P
    times: Tensor | None  # [T] float32
    modulation: list[Tensor] | None  # n + 1 of [T, 12 | 3 | 2, D], the last for the final layer

    def rows(self, t: Tensor) -> list[Tensor]:
        """The modulation of told times t [B]: n + 1 of [B, 12 | 3 | 2, D]."""
        hit = t.float()[:, None] == self.times  # [B, T]
        if not hit.any(1).all():
            raise ValueError(f"time {t.tolist()} was not among the {hit.shape[1]} prepared times")
        return [table[hit.int().argmax(1)] for table in self.modulation]


# ---------------------------------------------------------------------------- packing, prompt


def pack(x: Tensor) -> Tensor:
    """2x2 patches to tokens, row by row; the channel is the slowest of a token's features."""
    x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [B, C, H/2, 2, W/2, 2]
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [B, N, 4C]


def unpack(tokens: Tensor, H: int, W: int) -> Tensor:
    """The inverse of `pack`."""
    x = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (H // 2, W // 2))  # [B, H/2, W/2, C, 2, 2]
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)  # [B, C, H, W]


def positions(L: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """(0, 0, 0) for every text token, (0, row, column) for image tokens: [S, 3]."""
    r = torch.arange(rows, device=device).repeat_interleave(columns)  # [N]
    c = torch.arange(columns, device=device).repeat(rows)  # [N]
    return F.pad(torch.stack((torch.zeros_like(r), r, c), 1), (0, 0, L, 0))  # [S, 3]


def prompt_term(prompt, i: int, weight: Tensor) -> Tensor | None:
    """W_qkv (gate_i P), the prompt's share of block i's text q, k, v: [K, Lp, 3D].

    Attention should see h + gate_i P in its text rows; W is linear, so W h + W (gate_i P) is the
    same and h stays untouched for whoever else reads it.
    """
    if prompt is None:
        return None
    if isinstance(prompt, Terms):
        return prompt.qkv[i]
    return F.linear((prompt.gates[i] * prompt.residual).to(weight.dtype), weight)[None]


def add_term(qkv: Tensor, term: Tensor | None) -> None:
    """qkv [B, >= L, >= 3D] += term [K, Lp, 3D] in place; sample r takes prompt r % K."""
    if term is not None:
        K, rows, width = term.shape
        qkv.unflatten(0, (-1, K))[:, :, :rows, :width] += term


# --------------------------------------------------------------------------------- small parts


class Embedder(nn.Module):
    def __init__(self, in_dim: int, width: int):
        super().__init__()
        self.in_layer = nn.Linear(in_dim, width)
        self.out_layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


class Modulation(nn.Module):
    def __init__(self, width: int, count: int):
        super().__init__()
        self.lin = nn.Linear(width, count * width)
        self.count = count

    def forward(self, vec: Tensor) -> Tensor:
        return self.lin(F.silu(vec)).unflatten(1, (self.count, -1))  # [B, count, D]


class QKNorm(nn.Module):
    def __init__(self, head_dim: int):
        super().__init__()
        self.query_norm = RMSNorm(head_dim)
        self.key_norm = RMSNorm(head_dim)

    def forward(self, qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.unflatten(2, (3, heads, -1)).unbind(2)  # [B, S, h, d]
        return self.query_norm(q), self.key_norm(k), v


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = QKNorm(width // heads)
        self.proj = nn.Linear(width, width)

    def heads_of(self, x: Tensor, term: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        qkv = self.qkv(x)  # [B, S, 3D]
        add_term(qkv, term)
        return self.norm(qkv, self.heads)  # [B, S, h, d]


def mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width)
    )


class FinalLayer(nn.Module):
    def __init__(self, width: int, out_channels: int):
        super().__init__()
        self.linear = nn.Linear(width, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def modulation(self, vec: Tensor) -> Tensor:
        return self.adaLN_modulation(vec).unflatten(1, (2, -1))  # [B, 2, D]

    def forward(self, x: Tensor, mod: Tensor) -> Tensor:
        shift, scale = mod.split(1, 1)  # [B, 1, D]
        return self.linear(modulate(x, shift, scale))  # [B, N, 4C]


# -------------------------------------------------------------------------------------- blocks


class DoubleBlock(nn.Module):
    """Image and text keep their own weights and meet in one attention."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.img_mod = Modulation(width, 6)
        self.img_attn = Attention(width, heads)
        self.img_mlp = mlp(width, hidden)
        self.txt_mod = Modulation(width, 6)
        self.txt_attn = Attention(width, heads)
        self.txt_mlp = mlp(width, hidden)

    def modulation(self, vec: Tensor) -> Tensor:
        return torch.cat((self.img_mod(vec), self.txt_mod(vec)), 1)  # [B, 12, D]

    def prompt_weight(self) -> Tensor:
        return self.txt_attn.qkv.weight  # [3D, D]

    def forward(self, img, txt, mod, rope, term=None) -> tuple[Tensor, Tensor]:
        img1, img2 = mod[:, :3].split(1, 1), mod[:, 3:6].split(1, 1)  # shift, scale, gate [B, 1, D]
        txt1, txt2 = mod[:, 6:9].split(1, 1), mod[:, 9:].split(1, 1)  # shift, scale, gate [B, 1, D]

        of_img = self.img_attn.heads_of(modulate(img, *img1[:2]))  # q, k, v [B, N, h, d]
        of_txt = self.txt_attn.heads_of(modulate(txt, *txt1[:2]), term)  # q, k, v [B, L, h, d]
        q, k, v = (torch.cat(pair, 1) for pair in zip(of_txt, of_img, strict=True))  # [B, S, h, d]
        out = attention(rotate(q, rope), rotate(k, rope), v)  # [B, S, D]
        out_txt, out_img = out.split((txt.shape[1], img.shape[1]), 1)  # [B, L, D], [B, N, D]

        img = torch.addcmul(img, img1[2], self.img_attn.proj(out_img))
        img = torch.addcmul(img, img2[2], self.img_mlp(modulate(img, *img2[:2])))
        txt = torch.addcmul(txt, txt1[2], self.txt_attn.proj(out_txt))
        txt = torch.addcmul(txt, txt2[2], self.txt_mlp(modulate(txt, *txt2[:2])))
        return img, txt


class SingleBlock(nn.Module):
    """One sequence; attention and MLP side by side between two fused linears."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.width, self.hidden = width, hidden
        self.linear1 = nn.Linear(width, 3 * width + hidden)
        self.linear2 = nn.Linear(width + hidden, width)
        self.norm = QKNorm(width // heads)
        self.modulation = Modulation(width, 3)

    def prompt_weight(self) -> Tensor:
        return self.linear1.weight[: 3 * self.width]  # [3D, D]

    def forward(self, x, mod, rope, term=None) -> Tensor:
        shift, scale, gate = mod.split(1, 1)  # [B, 1, D]
        both = self.linear1(modulate(x, shift, scale))  # [B, S, 3D + M]
        add_term(both, term)  # P enters q, k, v, never the MLP
        qkv, hidden = both.split((3 * self.width, self.hidden), -1)  # [B, S, 3D], [B, S, M]
        q, k, v = self.norm(qkv, self.heads)  # [B, S, h, d]
        out = attention(rotate(q, rope), rotate(k, rope), v)  # [B, S, D]
        out = torch.cat((out, F.gelu(hidden, approximate="tanh")), -1)  # [B, S, D + M]
        return torch.addcmul(x, gate, self.linear2(out))  # [B, S, D]


# --------------------------------------------------------------------------------------- model


class Flux(nn.Module):
    """Velocity eps - x0 of a packed latent, conditioned on time and text, steered by a prompt."""

    def __init__(self, config: FluxConfig):
        super().__init__()
        D, hidden = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
        sizes = D, config.num_heads, hidden
        self.config = config
        self.checkpointing = False  # recompute each block in backward instead of keeping it
        self.img_in = nn.Linear(config.in_channels, D)
        self.txt_in = nn.Linear(config.context_dim, D)
        self.time_in = Embedder(256, D)
        self.vector_in = Embedder(config.pooled_dim, D)
        if config.guidance:
            self.guidance_in = Embedder(256, D)
        self.double_blocks = nn.ModuleList(DoubleBlock(*sizes) for _ in range(config.depth))
        self.single_blocks = nn.ModuleList(SingleBlock(*sizes) for _ in range(config.depth_single))
        self.final_layer = FinalLayer(D, config.in_channels)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        pooled: Tensor,
        guidance: Tensor | None = None,
        prompt=None,
    ) -> Tensor:
        """The velocity [B, C, H, W] of latents x [B, C, H, W] at times t [B] in 0..1, 1 = noise.

        context [B or 1, L, Dc] from T5, pooled [B or 1, Dp] from CLIP, guidance [B or 1] (dev
        only; the method uses 1.0), prompt: anything with .residual [Lp, D] and .gates [n], or the
        Terms of `prepare`, whose table, if it has one, replaces pooled and guidance. Inputs are
        cast to the model's dtype, which the velocity has too; the sinusoid is computed from the
        exact t in float32, where the vendor rounds 1000 t to bfloat16. ValueError for odd H or W
        and for a prompt of another model.
        """
        self.check(x, context, prompt)
        (B, _, H, W), L, dtype = x.shape, context.shape[1], self.img_in.weight.dtype
        grid = positions(L, H // 2, W // 2, x.device)  # [S, 3]
        rope = rope_table(grid, self.config.axes_dim, self.config.theta, dtype)  # 2 of [S, 1, d]
        tabled = isinstance(prompt, Terms) and prompt.times is not None
        mods = prompt.rows(t) if tabled else self.modulation(t, pooled, guidance)  # n+1, [B, *, D]

        img = self.img_in(pack(x).to(dtype))  # [B, N, D]
        txt = self.txt_in(context.to(dtype)).expand(B, -1, -1)  # [B, L, D]
        for i, block in enumerate(self.double_blocks):
            img, txt = self.run(block, i, prompt, img, txt, mods[i], rope)
        seq = torch.cat((txt, img), 1)  # [B, S, D]
        for i, block in enumerate(self.single_blocks, self.config.depth):
            seq = self.run(block, i, prompt, seq, mods[i], rope)
        out = self.final_layer(seq[:, L:], mods[-1])  # [B, N, 4C]
        return unpack(out, H, W)  # [B, C, H, W]

    def modulation(self, t: Tensor, pooled: Tensor, guidance: Tensor | None) -> list[Tensor]:
        """shift, scale, gate of every block at times t [B]: n + 1 of [B, 12 | 3 | 2, D]."""
        dtype = self.img_in.weight.dtype
        vec = self.time_in(sinusoid(1000 * t, 256).to(dtype))  # [B, D]
        if self.config.guidance:
            if guidance is None:
                raise ValueError(
                    "this FLUX has a guidance embedder: pass guidance [B], usually 1.0"
                )
            vec = vec + self.guidance_in(sinusoid(1000 * guidance, 256).to(dtype))  # [B, D]
        vec = vec + self.vector_in(pooled.to(dtype))  # [B, D]
        parts = *self.double_blocks, *self.single_blocks, self.final_layer
        return [part.modulation(vec) for part in parts]

    def run(self, block: nn.Module, i: int, prompt, *args) -> Tensor | tuple[Tensor, Tensor]:
        """Block i, recomputed in backward when checkpointing (the prompt's term included)."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(apply, block, i, prompt, *args, use_reentrant=False)
        return apply(block, i, prompt, *args)

    @torch.no_grad()
    def prepare(
        self,
        prompts: Sequence,
        times: Tensor | None = None,
        pooled: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Terms:
        """Everything of K prompts that neither picture nor step changes; `forward` takes it.

        times [T], the values that `forward` will be told, pooled [1, Dp] and guidance [1] or None:
        also tabulate the modulation, after which its weights (27 % of the model) are not read.
        With K prompts a batch is sample-major: sample 0 with each prompt, then sample 1, ...
        """
        blocks = *self.double_blocks, *self.single_blocks
        for prompt in prompts:
            self.check_prompt(*prompt.residual.shape, len(prompt.gates))
        qkv = []
        for i, block in enumerate(blocks):
            of = [prompt_term(prompt, i, block.prompt_weight())[0] for prompt in prompts]
            qkv.append(nn.utils.rnn.pad_sequence(of, batch_first=True))  # [K, Lp, 3D]
        if times is None:
            return Terms(qkv, None, None)
        return Terms(qkv, times.float(), self.modulation(times, pooled, guidance))

    def check(self, x: Tensor, context: Tensor, prompt) -> None:
        B, C, H, W = x.shape
        if H % 2 or W % 2:
            raise ValueError(f"latent is {H} x {W}: FLUX packs 2 x 2, both sides must be even")
        if self.config.in_channels != 4 * C:
            raise ValueError(
                f"latent has {C} channels, this FLUX takes {self.config.in_channels // 4}"
            )
        if isinstance(prompt, Terms):
            K, rows, width = prompt.qkv[0].shape
            self.check_prompt(rows, width // 3, len(prompt.qkv), context.shape[1])
            if B % K:
                raise ValueError(f"batch of {B} cannot be shared by {K} prompts: repeat x for each")
        elif prompt is not None:
            self.check_prompt(*prompt.residual.shape, len(prompt.gates), context.shape[1])

    def check_prompt(self, rows: int, width: int, gates: int, L: int | None = None) -> None:
        D, n = self.config.hidden_size, self.config.depth + self.config.depth_single
        if (width, gates) != (D, n):
            raise ValueError(
                f"prompt has width {width} and {gates} gates, this FLUX has {D} and {n}"
            )
        if L is not None and rows > L:
            raise ValueError(
                f"prompt has {rows} rows, but the text only {L}: take a shorter prompt"
            )


def apply(block: nn.Module, i: int, prompt, *args) -> Tensor | tuple[Tensor, Tensor]:
    return block(*args, prompt_term(prompt, i, block.prompt_weight()))


def init_weights(model: Flux, seed: int) -> None:
    """Weights to train from scratch: xavier linears; modulations and the last linear zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith("scale"):
            nn.init.ones_(weight)
        elif weight.ndim < 2 or any(word in name for word in ("mod", "adaLN", "final_layer")):
            nn.init.zeros_(weight)
        else:
            nn.init.xavier_uniform_(weight, generator=generator)
