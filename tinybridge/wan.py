"""WAN 2.1 text-to-video, the video DiT of Alibaba's Wan team, with the paper's prompt built in.

Module names are those of the vendor's diffusion_pytorch_model.safetensors: that file is this
model's state_dict. Formulas: DiT (Peebles & Xie 2023) with cross-attention, vendor wan/modules.

Letters: B batch, C T H W latent, N = T (H/2)(W/2) video tokens, L text rows, D width, h heads,
d = D / h, n blocks, K prompts, P a prompt's residual [L, D], E the text as the blocks read it,
S told times.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinybridge.parts.layers import (
    PromptLike,
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
class WanConfig:
    """Sizes of the model; the defaults are WAN 2.1 T2V 1.3B."""

    in_channels: int = 16  # C; a token is 1 x 2 x 2 of the latent
    hidden_size: int = 1536
    num_heads: int = 12
    depth: int = 30
    ffn_dim: int = 8960
    freq_dim: int = 256  # of the time's sinusoid
    context_dim: int = 4096  # UMT5
    eps: float = 1e-6


SIZES = {
    "1.3B": {},
    "14B": {"hidden_size": 5120, "num_heads": 40, "depth": 40, "ffn_dim": 13824},
}

# Modules that the vendor computes in float32 whatever the rest does, 1 % of the weights: give them
# float32 weights beside bfloat16 ones. So is the residual stream, in which 30 blocks add up.
FLOAT32 = ("time_embedding", "time_projection", "modulation", "norm3", "head")


@dataclass(frozen=True)
class Term:
    """What the cross-attention of one block reads: E, and where there is a prompt, E + P.

    Its K is that of `prepare`; for a raw prompt, 1 or as many as there are texts.
    """

    text: tuple[Tensor, Tensor]  # keys, values: 2 of [B or 1, L', h, d]
    bias: Tensor | None = None  # [L'], added to the logits of the text
    prompt: tuple[Tensor, Tensor] | None = None  # keys, values: 2 of [K, L, h, d]
    gate: Tensor | None = None  # [K, 1, 1]


@dataclass(frozen=True)
class Terms:
    """What `Wan.prepare` computes once per restoration; stands where a raw prompt may stand."""

    blocks: list[Term]  # n
    times: Tensor | None = None  # [S]
    modulation: Tensor | None = None  # [S, 7, D]

    @property
    def count(self) -> int:
        """K, in how many copies `forward` wants every sample; 1 without a prompt."""
        return 1 if self.blocks[0].gate is None else len(self.blocks[0].gate)

    def at(self, t: Tensor) -> Tensor:
        """Rows of the modulation table for t [B]: [B, 7, D]."""
        return self.modulation[rows_at(self.times, t)]


def spread(rows: Tensor, B: int) -> Tensor:
    """Row r of the result is row r % K: [K, ...] -> [B, ...]."""
    K = len(rows)
    if B % K:
        raise ValueError(f"{K} texts or prompts cannot be shared by a batch of {B}")
    return rows.expand(B // K, *rows.shape).flatten(0, 1)


def attend(q: Tensor, memory: tuple[Tensor, Tensor], bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt d + bias) v: q [B, N, h, d], memory 2 of [K, L, h, d] -> [B, N, D]."""
    k, v = memory
    B = len(q)
    return attention(q, spread(k, B), spread(v, B), bias)  # [B, N, D]


def padding(context: Tensor) -> int:
    """How many rows at the end of context [B, L, Dc] are equal to the last one: 1 .. L.

    1 for rows that gradients must reach, each by itself, and for rows without values.
    """
    if context.requires_grad or context.is_meta:
        return 1
    alike = (context == context[:, -1:]).all(2).all(0)  # [L]
    return int(alike.flip(0).cumprod(0).sum())


def unpack(tokens: Tensor, T: int, H: int, W: int) -> Tensor:
    """[B, N, 4C] -> [B, C, T, H, W]; of a token's features the channel is fastest."""
    patches = tokens.unflatten(1, (T, H // 2, W // 2)).unflatten(4, (2, 2, -1))
    patches = patches.permute(0, 6, 1, 2, 4, 3, 5)  # [B, C, T, H/2, 2, W/2, 2]
    return patches.flatten(5).flatten(3, 4)  # [B, C, T, H, W]


class Attention(nn.Module):
    """The weights of a self- or cross-attention. Queries and keys are normed before the heads."""

    def __init__(self, D: int, heads: int, eps: float):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(D, D)
        self.k = nn.Linear(D, D)
        self.v = nn.Linear(D, D)
        self.o = nn.Linear(D, D)
        self.norm_q = nn.RMSNorm(D, eps)
        self.norm_k = nn.RMSNorm(D, eps)

    def queries(self, x: Tensor) -> Tensor:
        """Of N rows [B, N, D]: [B, N, h, d]."""
        return self.norm_q(self.q(x)).unflatten(2, (self.heads, -1))

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of L rows [B, L, D], of text or of video: 2 of [B, L, h, d]."""
        k = self.norm_k(self.k(x))  # [B, L, D]
        v = self.v(x)
        return k.unflatten(2, (self.heads, -1)), v.unflatten(2, (self.heads, -1))


class Block(nn.Module):
    """Self-attention over the video, cross-attention to the text, MLP."""

    def __init__(self, config: WanConfig):
        super().__init__()
        D, h = config.hidden_size, config.num_heads
        self.eps = config.eps
        self.self_attn = Attention(D, h, self.eps)
        self.cross_attn = Attention(D, h, self.eps)
        self.norm3 = nn.LayerNorm(D, self.eps)  # in front of the cross-attention
        self.ffn = mlp(D, config.ffn_dim)
        self.modulation = nn.Parameter(torch.zeros(1, 6, D))

    def forward(self, x: Tensor, mod: Tensor, rope: Rope, term: Term) -> Tensor:
        """Video x [B, N, D] -> the same; mod [B, 6, D] of the time, term: what the text says."""
        dtype = self.ffn[0].weight.dtype  # of the linears; x and mod are at least float32
        time1, time2 = modulations(self.modulation + mod)  # of self-attention, of the MLP

        seen = modulate(x, time1.shift, time1.scale, self.eps).to(dtype)
        q = self.self_attn.queries(seen)  # [B, N, h, d]
        k, v = self.self_attn.keys(seen)
        out = attention(rotate(q, rope), rotate(k, rope), v)  # [B, N, D]
        x = torch.addcmul(x, time1.gate, self.self_attn.o(out))

        weight, bias = self.norm3.weight.to(x.dtype), self.norm3.bias.to(x.dtype)
        seen = F.layer_norm(x, weight.shape, weight, bias, self.eps).to(dtype)
        x = x + self.cross(seen, term)  # no gate, no time

        seen = modulate(x, time2.shift, time2.scale, self.eps).to(dtype)
        return torch.addcmul(x, time2.gate, self.ffn(seen))  # [B, N, D]

    def cross(self, x: Tensor, term: Term) -> Tensor:
        """attn(x, E) + gate attn(x, E + P), each with its output projection W and bias b.

        The queries are the same and W is linear: W (a + gate p) + (1 + gate) b.
        """
        q = self.cross_attn.queries(x)  # [B, N, h, d]
        out = attend(q, term.text, term.bias)  # [B, N, D]
        if term.prompt is None:
            return self.cross_attn.o(out)
        # literally: o(attend(q, keys(E))) + gate * o(attend(q, keys(E + P)))
        gate = spread(term.gate, len(x))  # [B, 1, 1]
        out = (out + gate * attend(q, term.prompt)).to(x.dtype)
        return self.cross_attn.o(out) + gate * self.cross_attn.o.bias


class Head(nn.Module):
    def __init__(self, config: WanConfig):
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.hidden_size, 4 * config.in_channels)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.hidden_size))

    def forward(self, x: Tensor, mod: Tensor) -> Tensor:
        """Tokens x [B, N, D] -> [B, N, 4C]; mod [B, 1, D], to both rows of its own."""
        shift, scale = (self.modulation + mod).split(1, 1)  # [B, 1, D]
        return self.head(modulate(x, shift, scale, self.eps).to(self.head.weight.dtype))


class Wan(nn.Module):
    """Velocity eps - x0 of a latent video, given time and text, steered by a prompt."""

    def __init__(self, config: WanConfig):
        super().__init__()
        D = config.hidden_size
        self.config = config
        self.checkpointing = False  # True: backward recomputes each block instead of keeping it
        self.patch_embedding = nn.Conv3d(config.in_channels, D, (1, 2, 2), (1, 2, 2))
        gelu = nn.GELU(approximate="tanh")
        self.text_embedding = nn.Sequential(nn.Linear(config.context_dim, D), gelu, nn.Linear(D, D))
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, D), nn.SiLU(), nn.Linear(D, D)
        )
        self.time_projection = nn.Sequential(
            nn.SiLU(), nn.Linear(D, 6 * D), nn.Unflatten(1, (6, D))
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = Head(config)

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor, prompt: PromptLike | Terms | None = None
    ) -> Tensor:
        """Velocity [B, C, T, H, W] of latents x [B, C, T, H, W] at times t [B] in 0..1 (1: noise).

        context [B or 1, L, Dc] from UMT5, zero rows as padding. prompt: anything with .residual
        [L, D] and .gates [n], or the Terms of `prepare`, which replace context. Computes in the
        dtype of its weights, the parts named in FLOAT32 and the answer at least in float32, as the
        vendor does. ValueError: odd H or W, a prompt of another model or another number of text
        rows, a time that is not in the table, a batch that K does not divide.
        """
        _, _, T, H, W = x.shape
        dtype = self.patch_embedding.weight.dtype
        if H % 2 or W % 2:
            raise ValueError(f"latent is {H} x {W}: WAN needs even sides")
        d = self.config.hidden_size // self.config.num_heads
        axes = (d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6))  # frame, row, column
        rope = rope_table(grid(T, H // 2, W // 2, device=x.device), axes, 10_000, dtype)
        if not isinstance(prompt, Terms):  # a raw prompt or none: gradients reach it
            text = self.text_embedding(context.to(dtype))  # [B or 1, L, D]
            prompts = [] if prompt is None else [prompt]
            prompt = Terms(self.terms(text, prompts, padding(context)))
        mod = self.modulation(t) if prompt.times is None else prompt.at(t)  # [B, 7, D]
        blocks = checkpointed(self.blocks, self.checkpointing)

        seq = self.patch_embedding(x.to(dtype)).flatten(2).mT  # [B, N, D]
        seq = seq.to(mod.dtype).contiguous()  # or all that is added to it stays transposed too
        for block, term in zip(blocks, prompt.blocks, strict=True):
            seq = block(seq, mod[:, :6], rope, term)  # [B, N, D]
        out = self.head(seq, mod[:, 6:])  # [B, N, 4C]
        return unpack(out, T, H, W).to(mod.dtype)  # [B, C, T, H, W]

    def modulation(self, t: Tensor) -> Tensor:
        """What the blocks (six) and the head (one) add to their own modulation: [B, 7, D]."""
        first, last = self.time_embedding[0].weight, self.time_projection[1].weight
        waves = sinusoid(1000 * t, self.config.freq_dim)  # [B, freq_dim]
        e = self.time_embedding(waves.to(first.dtype))  # [B, D]
        six = self.time_projection(e.to(last.dtype))  # [B, 6, D]
        both = torch.cat((six, e[:, None]), 1)  # [B, 7, D]
        return both.to(torch.promote_types(both.dtype, torch.float32))

    def terms(self, text: Tensor, prompts: list[PromptLike], n: int = 1) -> list[Term]:
        """Keys and values of E = text [B or 1, L, D], and of E + P for K prompts: one for a block.

        n: so many equal rows end the text. They become one key with + log n, which weighs the same
        in a softmax. ValueError: a prompt of another model or another number of text rows.
        """
        L, width = text.shape[1:]
        want = (L, width, len(self.blocks))
        for prompt in prompts:
            found = (*prompt.residual.shape, len(prompt.gates))
            if found != want:
                raise ValueError(
                    "prompt has {} rows of width {} and {} gates, "
                    "this WAN with its text {} rows of width {} and {} blocks".format(*found, *want)
                )
        folded, bias = text[:, : L - n + 1], None  # [B or 1, L', D]
        if n > 1:
            bias = text.new_zeros(folded.shape[1])  # [L']
            bias[-1] = math.log(n)
        if not prompts:
            return [Term(block.cross_attn.keys(folded), bias) for block in self.blocks]
        terms = []
        for i, block in enumerate(self.blocks):
            attn = block.cross_attn
            gate = torch.stack([prompt.gates[i] for prompt in prompts]).view(-1, 1, 1)  # [K, 1, 1]
            shown = torch.cat([text + prompt.residual for prompt in prompts])  # [K, L, D]
            terms.append(Term(attn.keys(folded), bias, attn.keys(shown.to(text.dtype)), gate))
        return terms

    @torch.no_grad()
    def prepare(
        self, prompts: list[PromptLike], context: Tensor, times: Tensor | None = None
    ) -> Terms:
        """All that neither video nor step changes, for K prompts at once.

        Pass the result to `forward` with a sample-major batch: sample 0 with each of the K prompts,
        then sample 1, ... prompts may be empty: the text alone. context [1, L, Dc]; times [S] are
        the values that `forward` will be told: with them the modulation is tabulated too.
        ValueError: a prompt of another model or another number of rows, several contexts.
        """
        if len(context) != 1:
            raise ValueError(f"{len(context)} contexts: prepare one, all samples share it")
        text = self.text_embedding(context.to(self.patch_embedding.weight.dtype))  # [1, L, D]
        terms = self.terms(text, prompts, padding(context))
        return Terms(terms, times, None if times is None else self.modulation(times))


def init_weights(model: Wan, seed: int) -> None:
    """Weights to train from scratch: xavier linears; modulations and the head zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or "modulation" in name or "projection" in name or "head" in name:
            nn.init.constant_(weight, float("norm" in name and name.endswith("weight")))
        else:
            nn.init.xavier_uniform_(weight.detach().flatten(1), generator=generator)
