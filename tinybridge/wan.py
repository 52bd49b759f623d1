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
from torch.utils.checkpoint import checkpoint

from tinybridge.parts.layers import attention, grid, mlp, modulate, rope_table, rotate, sinusoid


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
    times: Tensor | None  # [S]
    modulation: Tensor | None  # [S, 7, D]

    @property
    def count(self) -> int:
        """K, in how many copies `forward` wants every sample; 1 without a prompt."""
        return 1 if self.blocks[0].gate is None else len(self.blocks[0].gate)

    def at(self, t: Tensor) -> Tensor:
        """Rows of the modulation table for t [B]: [B, 7, D]."""
        hit = t.float()[:, None] == self.times.float()  # [B, S]
        if not hit.any(1).all():
            raise ValueError(f"time {t.tolist()} is not among the {len(self.times)} prepared times")
        return self.modulation[hit.int().argmax(1)]


def spread(rows: Tensor, B: int) -> Tensor:
    """Row r of the result is row r % K: [K, ...] -> [B, ...]."""
    K = len(rows)
    if B % K:
        raise ValueError(f"{K} texts or prompts cannot be shared by a batch of {B}")
    return rows.expand(B // K, *rows.shape).flatten(0, 1)


def attend(q: Tensor, memory: tuple[Tensor, Tensor], bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt d + bias) v: q [B, N, h, d], memory 2 of [K, L, h, d] -> [B, N, D]."""
    k, v = (spread(rows, len(q)) for rows in memory)  # [B, L, h, d]
    if bias is None:
        return attention(q, k, v)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [B, h, N or L, d]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.view(1, 1, 1, -1))
    return out.transpose(1, 2).flatten(2)  # [B, N, D]


def padding(context: Tensor) -> int:
    """How many rows at the end of context [1, L, Dc] are equal to the last one: 1 .. L."""
    alike = (context[0] == context[0, -1]).all(1)  # [L]
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
        self.q, self.k, self.v, self.o = (nn.Linear(D, D) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(D, eps), nn.RMSNorm(D, eps)

    def queries(self, x: Tensor) -> Tensor:
        return self.norm_q(self.q(x)).unflatten(2, (self.heads, -1))  # [B, N, h, d]

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of L rows, of text or of video."""
        k, v = self.norm_k(self.k(x)), self.v(x)  # [B, L, D]
        return k.unflatten(2, (self.heads, -1)), v.unflatten(2, (self.heads, -1))  # [B, L, h, d]


class Block(nn.Module):
    """Self-attention over the video, cross-attention to the text, MLP."""

    def __init__(self, config: WanConfig):
        super().__init__()
        D, h, self.eps = config.hidden_size, config.num_heads, config.eps
        self.self_attn, self.cross_attn = Attention(D, h, self.eps), Attention(D, h, self.eps)
        self.norm3 = nn.LayerNorm(D, self.eps)  # in front of the cross-attention
        self.ffn = mlp(D, config.ffn_dim)
        self.modulation = nn.Parameter(torch.zeros(1, 6, D))

    def forward(self, x, mod, rope, term: Term) -> Tensor:
        dtype = self.ffn[0].weight.dtype  # of the linears; x and mod are at least float32
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + mod).split(1, 1)

        seen = modulate(x, shift1, scale1, self.eps).to(dtype)
        q, (k, v) = self.self_attn.queries(seen), self.self_attn.keys(seen)  # [B, N, h, d]
        out = attention(rotate(q, rope), rotate(k, rope), v)  # [B, N, D]
        x = torch.addcmul(x, gate1, self.self_attn.o(out))

        weight, bias = self.norm3.weight.to(x.dtype), self.norm3.bias.to(x.dtype)
        seen = F.layer_norm(x, weight.shape, weight, bias, self.eps).to(dtype)
        x = x + self.cross(seen, term)  # no gate, no time

        seen = modulate(x, shift2, scale2, self.eps).to(dtype)
        return torch.addcmul(x, gate2, self.ffn(seen))  # [B, N, D]

    def cross(self, x: Tensor, term: Term) -> Tensor:
        """attn(x, E) + gate attn(x, E + P), each with its output projection W and bias b.

        The queries are the same and W is linear: W (a + gate p) + (1 + gate) b.
        """
        q = self.cross_attn.queries(x)  # [B, N, h, d]
        out = attend(q, term.text, term.bias)  # [B, N, D]
        if term.prompt is None:
            return self.cross_attn.o(out)
        gate = spread(term.gate, len(x))  # [B, 1, 1]
        out = (out + gate * attend(q, term.prompt)).to(x.dtype)
        return self.cross_attn.o(out) + gate * self.cross_attn.o.bias


class Head(nn.Module):
    def __init__(self, config: WanConfig):
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.hidden_size, 4 * config.in_channels)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.hidden_size))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift, scale = (self.modulation + e).split(1, 1)  # [B, 1, D]
        return self.head(modulate(x, shift, scale, self.eps).to(self.head.weight.dtype))


class Wan(nn.Module):
    """Velocity eps - x0 of a latent video, given time and text, steered by a prompt."""

    def __init__(self, config: WanConfig):
        super().__init__()
        D, self.config = config.hidden_size, config
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

    def forward(self, x: Tensor, t: Tensor, context: Tensor, prompt=None) -> Tensor:
        """Velocity [B, C, T, H, W] of latents x [B, C, T, H, W] at times t [B] in 0..1 (1: noise).

        context [B or 1, L, Dc] from UMT5, zero rows as padding. prompt: anything with .residual
        [L, D] and .gates [n], or the Terms of `prepare`, which replace context. Computes in the
        dtype of its weights, the parts named in FLOAT32 and the answer at least in float32, as the
        vendor does. ValueError: odd H or W, a prompt of another model or another number of text
        rows, a time that is not in the table, a batch that K does not divide.
        """
        (_, _, T, H, W), dtype = x.shape, self.patch_embedding.weight.dtype
        if H % 2 or W % 2:
            raise ValueError(f"latent is {H} x {W}: WAN needs even sides")
        d = self.config.hidden_size // self.config.num_heads
        axes = (d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6))  # frame, row, column
        rope = rope_table(grid(T, H // 2, W // 2, device=x.device), axes, 10_000, dtype)
        ready = isinstance(prompt, Terms)
        mod = prompt.at(t) if ready and prompt.times is not None else self.modulation(t)
        text = None if ready else self.text_embedding(context.to(dtype))  # [B or 1, L, D]

        seq = self.patch_embedding(x.to(dtype)).flatten(2).mT  # [B, N, D]
        seq = seq.to(mod.dtype).contiguous()  # or all that is added to it stays transposed too
        for i in range(self.config.depth):
            seq = self.run(i, prompt, text, seq, mod[:, :6], rope)  # [B, N, D]
        return unpack(self.head(seq, mod[:, 6:]), T, H, W).to(mod.dtype)  # [B, C, T, H, W]

    def modulation(self, t: Tensor) -> Tensor:
        """What the blocks (six) and the head (one) add to their own modulation: [B, 7, D]."""
        first, project = self.time_embedding[0].weight, self.time_projection[1].weight
        e = self.time_embedding(sinusoid(1000 * t, self.config.freq_dim).to(first.dtype))  # [B, D]
        both = torch.cat((self.time_projection(e.to(project.dtype)), e[:, None]), 1)  # [B, 7, D]
        return both.to(torch.promote_types(both.dtype, torch.float32))

    def run(self, i: int, prompt, text: Tensor | None, *args) -> Tensor:
        """Block i with what it reads; checkpointing recomputes both in backward."""

        def step(*args):
            if isinstance(prompt, Terms):
                return self.blocks[i](*args, prompt.blocks[i])
            return self.blocks[i](*args, self.term(i, text, [] if prompt is None else [prompt]))

        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(step, *args, use_reentrant=False)
        return step(*args)

    def term(self, i: int, text: Tensor, prompts: list) -> Term:
        """Keys and values of E = text [B or 1, L, D], and of E + P for every prompt, in block i.

        ValueError: a prompt of another model or another number of text rows.
        """
        attn, want = self.blocks[i].cross_attn, (*text.shape[1:], len(self.blocks))
        for prompt in prompts:
            if (found := (*prompt.residual.shape, len(prompt.gates))) != want:
                form = "{} rows of width {} and {} {}"
                found, want = form.format(*found, "gates"), form.format(*want, "blocks")
                raise ValueError(f"prompt has {found}, this WAN with its text {want}")
        if not prompts:
            return Term(attn.keys(text))
        shown = torch.cat([text + prompt.residual for prompt in prompts])  # [K, L, D]
        gate = torch.stack([prompt.gates[i] for prompt in prompts]).view(-1, 1, 1)
        return Term(attn.keys(text), None, attn.keys(shown.to(text.dtype)), gate)

    @torch.no_grad()
    def prepare(self, prompts: list, context: Tensor, times: Tensor | None = None) -> Terms:
        """All that neither video nor step changes, for K prompts at once.

        Pass the result to `forward` with a sample-major batch: sample 0 with each of the K prompts,
        then sample 1, ... prompts may be empty: the text alone. context [1, L, Dc]: the n equal
        rows that pad it become one key with + log n, which weighs the same in a softmax. times
        [S] are the values that `forward` will be told; with them the modulation is tabulated too.
        ValueError: a prompt of another model or another number of rows, several contexts.
        """
        if len(context) != 1:
            raise ValueError(f"{len(context)} contexts: prepare one, all samples share it")
        text = self.text_embedding(context.to(self.patch_embedding.weight.dtype))  # [1, L, D]
        n, terms = padding(context), []
        rows, bias = text.shape[1] - n + 1, None
        if n > 1:
            bias = text.new_zeros(rows)  # [L']
            bias[-1] = math.log(n)
        for i in range(len(self.blocks)):
            term = self.term(i, text, prompts)
            folded = tuple(part[:, :rows].contiguous() for part in term.text)  # [1, L', h, d]
            terms.append(Term(folded, bias, term.prompt, term.gate))
        return Terms(terms, times, None if times is None else self.modulation(times))


def init_weights(model: Wan, seed: int) -> None:
    """Weights to train from scratch: xavier linears; modulations and the head zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or "modulation" in name or "projection" in name or "head" in name:
            nn.init.constant_(weight, float("norm" in name and name.endswith("weight")))
        else:
            nn.init.xavier_uniform_(weight.detach().flatten(1), generator=generator)
