"""The text encoders: T5 v1.1 (FLUX; UMT5 of WAN by a flag) and CLIP's text model (FLUX).

Module names are those of the published files (google/t5-v1_1-xxl, google/umt5-xxl and
openai/clip-vit-large-patch14 as the FLUX folder holds them), so that a listing of a checkpoint
can be read beside the classes. Ids come from text/tokenizers.py.

Letters: B batch, L tokens, D width, h heads, d width of one head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ---- T5 ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class T5Config:
    """Sizes of a T5 encoder; the defaults are T5 v1.1 XXL as FLUX.1 uses it."""

    vocab_size: int = 32128
    d_model: int = 4096
    d_kv: int = 64  # width of one head; num_heads * d_kv need not be d_model
    num_heads: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    num_buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6
    per_layer_bias: bool = False  # True: UMT5, whose every layer has its own table of distances


def distance_buckets(L: int, config: T5Config, device: torch.device) -> Tensor:
    """Bucket of the distance j - i between query i and key j: [L, L] int64 (Raffel et al. 2020).

    Half of the buckets are for keys behind the query, half for those ahead. In each half the
    smaller distances have one bucket each, the larger ones share buckets of geometric width.
    """
    half = config.num_buckets // 2
    exact = half // 2
    ratio = config.max_distance / exact
    # Rounded, so that a distance which is a start itself lies in the bucket it opens.
    starts = [round(exact * ratio ** (k / (half - exact)), 6) for k in range(1, half - exact)]
    position = torch.arange(L, device=device)
    r = position[None] - position[:, None]  # [L, L]
    n = r.abs()
    far = exact + torch.bucketize(n, torch.tensor(starts, device=device), right=True)
    return half * (r > 0) + torch.where(n < exact, n, far)


class T5Attention(nn.Module):
    """Self attention whose logits are not divided by sqrt(d); a learned bias tells distances."""

    def __init__(self, config: T5Config, has_bias: bool):
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.config = config
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        if has_bias:
            self.relative_attention_bias = nn.Embedding(config.num_buckets, config.num_heads)

    def bias(self, L: int) -> Tensor:
        """The table read at every pair of positions: [1, h, L, L]."""
        table = self.relative_attention_bias
        return table(distance_buckets(L, self.config, table.weight.device)).permute(2, 0, 1)[None]

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [B, L, D], bias [B or 1, h, L, L] -> [B, L, D]."""
        q, k, v = (
            linear(x).unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)  # [B, h, L, d]
            for linear in (self.q, self.k, self.v)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)  # [B, h, L, d]
        return self.o(out.transpose(1, 2).flatten(2))  # [B, L, D]


class T5FeedForward(nn.Module):
    """Gated GELU in its tanh form; wi_0 is the half that is activated."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class T5Block(nn.Module):
    """Pre-norm attention and feed-forward: `layer.0` and `layer.1` of the checkpoint."""

    def __init__(self, config: T5Config, has_bias: bool):
        super().__init__()
        self.layer = nn.ModuleList([nn.Module(), nn.Module()])
        self.layer[0].SelfAttention = T5Attention(config, has_bias)
        self.layer[0].layer_norm = nn.RMSNorm(config.d_model, config.eps)
        self.layer[1].DenseReluDense = T5FeedForward(config)
        self.layer[1].layer_norm = nn.RMSNorm(config.d_model, config.eps)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        attention, feed_forward = self.layer
        x = x + attention.SelfAttention(attention.layer_norm(x), bias)
        return x + feed_forward.DenseReluDense(feed_forward.layer_norm(x))


class T5Encoder(nn.Module):
    """Ids to embeddings. Not for float16, whose range the residual stream leaves."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = nn.Module()
        self.encoder.block = nn.ModuleList(
            T5Block(config, i == 0 or config.per_layer_bias) for i in range(config.num_layers)
        )
        self.encoder.final_layer_norm = nn.RMSNorm(config.d_model, config.eps)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """ids [B, L] int64 -> [B, L, D] in the weights' dtype.

        mask [B, L] bool: tokens that may be attended to. FLUX gives none, so that padding counts;
        WAN gives the true tokens.
        """
        return self.encode(self.shared(ids), mask)

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `forward`, of input embeddings x [B, L, D]: what a prompt in token space learns."""
        hidden = None
        if mask is not None:  # the lowest number, not -inf: a row without any token stays finite
            hidden = (~mask[:, None, None]).to(x) * torch.finfo(x.dtype).min  # [B, 1, 1, L]
        for block in self.encoder.block:
            attention = block.layer[0].SelfAttention
            if hasattr(attention, "relative_attention_bias"):
                bias = attention.bias(x.shape[1])  # [1, h, L, L]
                bias = bias if hidden is None else bias + hidden  # [B, h, L, L]
            x = block(x, bias)
        return self.encoder.final_layer_norm(x)


# ---- CLIP --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of CLIP's text model; the defaults are ViT-L/14's, as FLUX.1 uses it."""

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    max_position_embeddings: int = 77
    eps: float = 1e-5
    eos_token_id: int = 2  # published files say 2, which is not the tokenizer's: see `forward`


class ClipAttention(nn.Module):
    """Causal self attention with biases."""

    def __init__(self, config: ClipConfig):
        super().__init__()
        self.heads = config.num_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, h, L, d]
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [B, h, L, d]
        return self.out_proj(out.transpose(1, 2).flatten(2))  # [B, L, D]


class ClipBlock(nn.Module):
    """Pre-norm attention and an MLP with CLIP's quick GELU, u sigmoid(1.702 u)."""

    def __init__(self, config: ClipConfig):
        super().__init__()
        self.self_attn = ClipAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.eps)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.mlp.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        u = self.mlp.fc1(self.layer_norm2(x))  # [B, L, 4D]
        return x + self.mlp.fc2(u * torch.sigmoid(1.702 * u))


class ClipText(nn.Module):
    """Ids to hidden states and to the one row that FLUX takes as the picture's summary."""

    def __init__(self, config: ClipConfig):
        super().__init__()
        self.config = config
        self.text_model = model = nn.Module()
        model.embeddings = nn.Module()
        model.embeddings.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        model.embeddings.position_embedding = nn.Embedding(
            config.max_position_embeddings, config.hidden_size
        )
        model.encoder = nn.Module()
        model.encoder.layers = nn.ModuleList(ClipBlock(config) for _ in range(config.num_layers))
        model.final_layer_norm = nn.LayerNorm(config.hidden_size, config.eps)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids [B, L] int64 -> hidden states [B, L, D] and pooled [B, D], without any projection.

        pooled is the row of the first end-of-text token. Published configs give that token's id
        wrongly as 2; there it is the largest id, as in openai's own code.
        """
        model = self.text_model
        x = model.embeddings.token_embedding(ids)  # [B, L, D]
        x = x + model.embeddings.position_embedding.weight[: ids.shape[1]]
        for layer in model.encoder.layers:
            x = layer(x)
        x = model.final_layer_norm(x)  # [B, L, D]
        eos = self.config.eos_token_id
        is_end = ids == (ids.amax(1, keepdim=True) if eos == 2 else eos)  # [B, L]
        return x, x[torch.arange(len(ids), device=ids.device), is_end.int().argmax(1)]
