"""FLUX.1, the image MMDiT of Black Forest Labs, with the paper's prompt built in.

Module names are those of flux1-dev.safetensors: the vendor's file is this model's state_dict.
Formulas: MMDiT (Esser et al. 2024), parallel blocks (Dehghani et al. 2023), vendor src/flux.

Letters: B batch, C H W latent, N = (H/2)(W/2) image tokens, L text tokens, S = L + N, D width,
h heads, d = D / h, M MLP width, n blocks, K prompts, P a prompt's residual with Lp <= L rows,
T told times. In every sequence the text rows come first.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tinybridge.parts.layers import (
    PromptLike,
    RMSNorm,
    Rope,
    attention,
    checkpointed,
    grid,
    mlp,
    modulate,
    modulations,
    rope_table,
    rotate,
    rows_at,
    sinusoid,
)


@dataclass(frozen=True)
class FluxConfig:
    """Sizes of the model; the defaults are FLUX.1-dev."""

    in_channels: int = 64  # 4C: a token is 2 x 2 of the latent
    hidden_size: int = 3072
    num_heads: int = 24
    depth: int = 19  # joint blocks
    depth_single: int = 38
    mlp_ratio: float = 4.0
    context_dim: int = 4096  # T5
    pooled_dim: int = 768  # CLIP
    axes_dim: tuple[int, ...] = (16, 56, 56)  # parts of d: unused, row, column
    theta: int = 10_000
    guidance: bool = True


SIZES = {"dev": {}, "schnell": {"guidance": False}}


@dataclass(frozen=True)
class Terms:
    """What `Flux.prepare` computes once per restoration; stands where a raw prompt may stand."""

    qkv: list[Tensor | None]  # n of [K, Lp, 3D], or of None: no prompt
    times: Tensor | None = None  # [T]
    modulation: list[Tensor] | None = None  # n + 1 of [T, 12 | 3 | 2, D], last: the final layer's

    @property
    def count(self) -> int:
        """K, in how many copies `forward` wants every sample; 1 without a prompt."""
        return 1 if self.qkv[0] is None else len(self.qkv[0])

    def at(self, t: Tensor) -> list[Tensor]:
        """Rows of the modulation table for t [B]: n + 1 of [B, 12 | 3 | 2, D]."""
        rows = rows_at(self.times, t)
        return [table[rows] for table in self.modulation]


def add_term(qkv: Tensor, term: Tensor | None) -> None:
    """Add [K, Lp, 3D] to the first Lp rows and 3D columns in place; sample r takes term r % K."""
    if term is None:
        return
    B, S, _ = qkv.shape
    K, rows, width = term.shape
    if rows > S or B % K:
        raise ValueError(f"{K} prompts of {rows} rows, but batch {B} with {S} text rows")
    qkv.unflatten(0, (-1, K))[:, :, :rows, :width].add_(term)


def pack(x: Tensor) -> Tensor:
    """2 x 2 patches become tokens, row by row; of a token's features the channel is slowest."""
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise ValueError(f"latent is {x.shape[2]} x {x.shape[3]}: FLUX needs even sides")
    return F.pixel_unshuffle(x, 2).flatten(2).mT  # [B, N, 4C]


def unpack(tokens: Tensor, H: int, W: int) -> Tensor:
    """The inverse of `pack`."""
    return F.pixel_shuffle(tokens.mT.unflatten(2, (H // 2, W // 2)), 2)  # [B, C, H, W]


def embedder(inputs: int, D: int) -> nn.Sequential:
    parts = {"in_layer": nn.Linear(inputs, D), "silu": nn.SiLU(), "out_layer": nn.Linear(D, D)}
    return nn.Sequential(OrderedDict(parts))


def modulation(D: int, count: int) -> nn.Sequential:
    """vec [B, D] -> shifts, scales, gates [B, count, D]."""
    parts = {"silu": nn.SiLU(), "lin": nn.Linear(D, count * D), "cut": nn.Unflatten(1, (count, D))}
    return nn.Sequential(OrderedDict(parts))


class QKNorm(nn.Module):
    """RMS norm of the queries and keys of each head."""

    def __init__(self, d: int):
        super().__init__()
        self.query_norm = RMSNorm(d)
        self.key_norm = RMSNorm(d)

    def forward(self, qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.unflatten(2, (3, heads, -1)).unbind(2)  # [B, S, h, d]
        return self.query_norm(q), self.key_norm(k), v


class Attention(nn.Module):
    """One stream's side of a joint attention: its q, k, v on the way in, `proj` on the way out."""

    def __init__(self, D: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(D, 3 * D)
        self.norm = QKNorm(D // heads)
        self.proj = nn.Linear(D, D)

    def forward(self, x: Tensor, term: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        qkv = self.qkv(x)  # [B, S, 3D]
        add_term(qkv, term)  # literally: self.qkv(x + gate * P), x being the text rows
        return self.norm(qkv, self.heads)  # 3 of [B, S, h, d]


class DoubleBlock(nn.Module):
    """Image and text have their own weights and meet in one attention."""

    def __init__(self, D: int, heads: int, M: int):
        super().__init__()
        self.img_mod = modulation(D, 6)
        self.img_attn = Attention(D, heads)
        self.img_mlp = mlp(D, M)
        self.txt_mod = modulation(D, 6)
        self.txt_attn = Attention(D, heads)
        self.txt_mlp = mlp(D, M)

    def modulation(self, vec: Tensor) -> Tensor:
        return torch.cat((self.img_mod(vec), self.txt_mod(vec)), 1)  # [B, 12, D]

    def prompt_weight(self) -> Tensor:
        """W_qkv [3D, D] of the rows that a prompt is added to."""
        return self.txt_attn.qkv.weight

    def forward(
        self, img: Tensor, txt: Tensor, mod: Tensor, rope: Rope, term: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """img [B, N, D], txt [B, L, D] -> the same; mod [B, 12, D], term [K, Lp, 3D]."""
        img1, img2, txt1, txt2 = modulations(mod)  # 1 is for attention, 2 for the MLP

        # One attention over both; the prompt enters the text's side: h + gate P for h.
        img_in = modulate(img, img1.shift, img1.scale)
        txt_in = modulate(txt, txt1.shift, txt1.scale)
        img_q, img_k, img_v = self.img_attn(img_in)  # [B, N, h, d]
        txt_q, txt_k, txt_v = self.txt_attn(txt_in, term)  # [B, L, h, d]
        q = torch.cat((txt_q, img_q), 1)  # [B, S, h, d]
        k = torch.cat((txt_k, img_k), 1)
        v = torch.cat((txt_v, img_v), 1)
        out = attention(rotate(q, rope), rotate(k, rope), v)  # [B, S, D]
        txt_out, img_out = out.split((txt.shape[1], img.shape[1]), 1)  # [B, L, D], [B, N, D]

        img = torch.addcmul(img, img1.gate, self.img_attn.proj(img_out))
        img = torch.addcmul(img, img2.gate, self.img_mlp(modulate(img, img2.shift, img2.scale)))
        txt = torch.addcmul(txt, txt1.gate, self.txt_attn.proj(txt_out))
        txt = torch.addcmul(txt, txt2.gate, self.txt_mlp(modulate(txt, txt2.shift, txt2.scale)))
        return img, txt


class SingleBlock(nn.Module):
    """One sequence; attention and MLP side by side between two fused linears."""

    def __init__(self, D: int, heads: int, M: int):
        super().__init__()
        self.heads = heads
        self.split = (3 * D, M)
        self.linear1 = nn.Linear(D, 3 * D + M)
        self.linear2 = nn.Linear(D + M, D)
        self.norm = QKNorm(D // heads)
        self.modulation = modulation(D, 3)

    def prompt_weight(self) -> Tensor:
        """W_qkv [3D, D], without the MLP's rows."""
        return self.linear1.weight[: self.split[0]]

    def forward(self, seq: Tensor, mod: Tensor, rope: Rope, term: Tensor | None = None) -> Tensor:
        """seq [B, S, D] -> the same; mod [B, 3, D], term [K, Lp, 3D]."""
        (own,) = modulations(mod)
        both = self.linear1(modulate(seq, own.shift, own.scale))  # [B, S, 3D + M]
        add_term(both, term)  # literally: h + gate P in the text rows for q, k, v, not for the MLP
        qkv, hidden = both.split(self.split, 2)  # [B, S, 3D], [B, S, M]
        q, k, v = self.norm(qkv, self.heads)  # [B, S, h, d]
        out = attention(rotate(q, rope), rotate(k, rope), v)  # [B, S, D]
        out = torch.cat((out, F.gelu(hidden, approximate="tanh")), 2)  # [B, S, D + M]
        return torch.addcmul(seq, own.gate, self.linear2(out))  # [B, S, D]


class Flux(nn.Module):
    """Velocity eps - x0 of a latent, given time and text, steered by a prompt."""

    def __init__(self, config: FluxConfig):
        super().__init__()
        D, h = config.hidden_size, config.num_heads
        M = int(D * config.mlp_ratio)
        self.config = config
        self.checkpointing = False  # True: backward recomputes each block instead of keeping it
        self.img_in = nn.Linear(config.in_channels, D)
        self.txt_in = nn.Linear(config.context_dim, D)
        self.time_in = embedder(256, D)
        self.vector_in = embedder(config.pooled_dim, D)
        if config.guidance:
            self.guidance_in = embedder(256, D)
        self.double_blocks = nn.ModuleList(DoubleBlock(D, h, M) for _ in range(config.depth))
        self.single_blocks = nn.ModuleList(SingleBlock(D, h, M) for _ in range(config.depth_single))
        head = nn.Sequential(nn.SiLU(), nn.Linear(D, 2 * D), nn.Unflatten(1, (2, D)))
        last = nn.Linear(D, config.in_channels)
        self.final_layer = nn.ModuleDict({"adaLN_modulation": head, "linear": last})

    @property
    def blocks(self) -> list[nn.Module]:
        """All n blocks in the order of a prompt's gates."""
        return [*self.double_blocks, *self.single_blocks]

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        pooled: Tensor,
        guidance: Tensor | None = None,
        prompt: PromptLike | Terms | None = None,
    ) -> Tensor:
        """Velocity [B, C, H, W] of latents x [B, C, H, W] at times t [B] in 0..1, where 1 is noise.

        context [B or 1, L, Dc] from T5, pooled [B or 1, Dp] from CLIP, guidance [B or 1]: 1.0 in
        the method, not read by schnell. prompt: anything with .residual [Lp, D] and .gates [n], or
        the Terms of `prepare`, whose table, if made, replaces pooled and guidance. Computes and
        answers in the dtype of its weights; only the sinusoid comes from the exact t in float32,
        where the vendor rounds 1000 t to bfloat16. ValueError: odd H or W, missing guidance, a
        prompt of another model or longer than the text, a time that is not in the table.
        """
        B, _, H, W = x.shape
        L, dtype = context.shape[1], self.img_in.weight.dtype
        places = F.pad(grid(1, H // 2, W // 2, device=x.device), (0, 0, L, 0))  # [S, 3], text at 0
        rope = rope_table(places, self.config.axes_dim, self.config.theta, dtype)  # 2 of [S, 1, d]
        if not isinstance(prompt, Terms):  # a raw prompt or none: gradients reach it
            prompt = Terms(self.terms([] if prompt is None else [prompt]))
        terms = prompt.qkv  # n of [K, Lp, 3D]
        mods = self.modulation(t, pooled, guidance) if prompt.times is None else prompt.at(t)
        blocks = checkpointed(self.blocks, self.checkpointing)
        joint = self.config.depth  # so many of them, then the single ones

        img = self.img_in(pack(x).to(dtype))  # [B, N, D]
        txt = self.txt_in(context.to(dtype)).expand(B, -1, -1)  # [B, L, D]
        for block, mod, term in zip(blocks[:joint], mods[:joint], terms[:joint], strict=True):
            img, txt = block(img, txt, mod, rope, term)  # [B, N, D], [B, L, D]
        seq = torch.cat((txt, img), 1)  # [B, S, D]
        for block, mod, term in zip(blocks[joint:], mods[joint:-1], terms[joint:], strict=True):
            seq = block(seq, mod, rope, term)  # [B, S, D]
        shift, scale = mods[-1].split(1, 1)  # [B, 1, D], shift first (diffusers: scale first)
        out = self.final_layer.linear(modulate(seq[:, L:], shift, scale))  # [B, N, 4C]
        return unpack(out, H, W)  # [B, C, H, W]

    def modulation(self, t: Tensor, pooled: Tensor, guidance: Tensor | None) -> list[Tensor]:
        """Shifts, scales, gates of each block and the final layer: n + 1 of [B, 12 | 3 | 2, D]."""
        dtype = self.img_in.weight.dtype
        vec = self.time_in(sinusoid(1000 * t, 256).to(dtype))  # [B, D]
        if self.config.guidance:
            if guidance is None:
                raise ValueError("this FLUX needs guidance: pass a tensor [B], 1.0 to restore")
            vec = vec + self.guidance_in(sinusoid(1000 * guidance, 256).to(dtype))  # [B, D]
        vec = vec + self.vector_in(pooled.to(dtype))  # [B, D]
        mods = [block.modulation(vec) for block in self.blocks]  # n of [B, 12 | 3, D]
        return [*mods, self.final_layer.adaLN_modulation(vec)]

    def terms(self, prompts: list[PromptLike]) -> list[Tensor | None]:
        """W_qkv (gate_i P), what K prompts add to block i's text q, k, v: n of [K, Lp, 3D].

        The method shows attention h + gate_i P in the text rows. Projection is linear, so W h plus
        this term is the same, and h itself stays clean for its other readers. No prompts: n of
        None. ValueError: a prompt of another model.
        """
        D, n = self.config.hidden_size, len(self.blocks)
        for prompt in prompts:
            width, gates = prompt.residual.shape[1], len(prompt.gates)
            if (width, gates) != (D, n):
                raise ValueError(
                    f"prompt has width {width} and {gates} gates, "
                    f"this FLUX width {D} and {n} blocks"
                )
        if not prompts:
            return [None] * n
        terms: list[Tensor | None] = []
        for i, block in enumerate(self.blocks):
            weight = block.prompt_weight()  # [3D, D]
            scaled = [(prompt.gates[i] * prompt.residual).to(weight.dtype) for prompt in prompts]
            added = [F.linear(rows, weight) for rows in scaled]  # K of [Lp, 3D]
            terms.append(pad_sequence(added, batch_first=True))  # [K, Lp, 3D]
        return terms

    @torch.no_grad()
    def prepare(
        self,
        prompts: list[PromptLike],
        times: Tensor | None = None,
        pooled: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Terms:
        """All that neither picture nor step changes, for K prompts at once.

        Pass the result to `forward` with a sample-major batch: sample 0 with each of the K prompts,
        then sample 1, ... prompts may be empty: the text alone. times [T] are the values that
        `forward` will be told; with them, pooled [1, Dp] and guidance [1] the modulation is
        tabulated too, and its weights (27 % of FLUX.1) are not read again. ValueError: a prompt of
        another model.
        """
        table = None if times is None else self.modulation(times, pooled, guidance)
        return Terms(self.terms(prompts), times, table)


def init_weights(model: Flux, seed: int) -> None:
    """Weights to train from scratch: xavier linears; modulations and the last linear zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or "mod" in name or "final" in name:
            nn.init.constant_(weight, float(name.endswith("scale")))
        else:
            nn.init.xavier_uniform_(weight, generator=generator)
