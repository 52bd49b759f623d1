"""What the text encoders are compared with: transformers, and the formulas in plain torch."""

import math

import torch

from tests.oracles.plain import gelu, seeded, softmax
from tinybridge.text.encoders import ClipConfig, ClipText, T5Config, T5Encoder

# Heads times their width is not the model's width, so that neither can stand for the other.
T5_TINY = dict(vocab_size=60, d_model=24, d_kv=8, num_heads=4, d_ff=40, num_layers=3)
CLIP_TINY = dict(
    vocab_size=50, hidden_size=24, intermediate_size=40, num_layers=3, num_heads=3,
    max_position_embeddings=20,
)  # fmt: skip


def fill(model, dtype=torch.float64, seed=0):
    """Every weight random and not small, norms around 1; frozen."""
    model = model.double().requires_grad_(False)
    for i, (name, weight) in enumerate(model.named_parameters()):
        values = torch.randn(*weight.shape, dtype=weight.dtype, generator=seeded(100 * seed + i))
        if weight.ndim == 2 and "embedding" not in name and "bias" not in name:
            std = weight.shape[-1] ** -0.5 if "shared" not in name else 1
        else:
            std = 1 if weight.ndim == 2 else 0.3
        weight.copy_(("norm" in name and name.endswith("weight")) + std * values)
    return model.to(dtype)


def t5(dtype=torch.float64, seed=0, **sizes) -> T5Encoder:
    return fill(T5Encoder(T5Config(**{**T5_TINY, **sizes})), dtype, seed)


def clip(dtype=torch.float64, seed=0, **sizes) -> ClipText:
    return fill(ClipText(ClipConfig(**{**CLIP_TINY, **sizes})), dtype, seed)


# --------------------------------------------------------------------- transformers as oracle


def t5_twin(model: T5Encoder):
    from transformers import T5Config as TheirT5
    from transformers import T5EncoderModel, UMT5EncoderModel
    from transformers import UMT5Config as TheirUMT5

    c = model.config
    family = (TheirUMT5, UMT5EncoderModel) if c.per_layer_bias else (TheirT5, T5EncoderModel)
    config = family[0](
        vocab_size=c.vocab_size,
        d_model=c.d_model,
        d_kv=c.d_kv,
        num_heads=c.num_heads,
        d_ff=c.d_ff,
        num_layers=c.num_layers,
        relative_attention_num_buckets=c.num_buckets,
        relative_attention_max_distance=c.max_distance,
        layer_norm_epsilon=c.eps,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    twin = family[1](config).eval().requires_grad_(False).to(model.shared.weight.dtype)
    state = model.state_dict()
    twin.load_state_dict({**state, "encoder.embed_tokens.weight": state["shared.weight"]})
    return lambda ids, mask=None: twin(ids, attention_mask=mask).last_hidden_state


def clip_twin(model: ClipText):
    from transformers import CLIPTextConfig, CLIPTextModel

    c = model.config
    config = CLIPTextConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        max_position_embeddings=c.max_position_embeddings,
        layer_norm_eps=c.eps,
        hidden_act="quick_gelu",
        bos_token_id=0,
        eos_token_id=c.eos_token_id,
    )
    twin = CLIPTextModel(config).eval().requires_grad_(False)
    twin = twin.to(model.text_model.final_layer_norm.weight.dtype)
    state = {key.removeprefix("text_model."): value for key, value in model.state_dict().items()}
    prefix = "text_model." * any(key.startswith("text_model.") for key in twin.state_dict())
    twin.load_state_dict({prefix + key: value for key, value in state.items()})

    def run(ids):
        out = twin(ids)
        return out.last_hidden_state, out.pooler_output

    return run


# ----------------------------------------------------------------- the formulas, in plain fp64


def bucket(r: int) -> int:
    """FACTS 4; the nudge is for logarithms that ought to come out whole."""
    base, n = 16 * (r > 0), abs(r)
    if n < 8:
        return base + n
    return base + min(15, 8 + math.floor(math.log(n / 8) / math.log(16) * 8 + 1e-9))


def literal_t5(w: dict, c: T5Config, ids, mask=None):
    """FACTS 4 and 7 line by line; a hidden key is left out of the softmax by -inf."""
    L = ids.shape[1]
    buckets = torch.tensor([[bucket(j - i) for j in range(L)] for i in range(L)])

    def rms(name, z):
        return w[name + ".weight"] * z / torch.sqrt((z**2).mean(-1, keepdim=True) + 1e-6)

    def heads(name, z):
        return (z @ w[name + ".weight"].T).unflatten(-1, (c.num_heads, c.d_kv))

    x = w["shared.weight"][ids]
    for i in range(c.num_layers):
        at = f"encoder.block.{i}.layer.0."
        n = rms(at + "layer_norm", x)
        q, k, v = (heads(f"{at}SelfAttention.{name}", n) for name in "qkv")
        scores = torch.einsum("bihd,bjhd->bhij", q, k)
        owner = i if c.per_layer_bias else 0
        name = f"encoder.block.{owner}.layer.0.SelfAttention.relative_attention_bias.weight"
        scores = scores + w[name][buckets].permute(2, 0, 1)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -math.inf)
        out = torch.einsum("bhij,bjhd->bihd", softmax(scores), v).flatten(2)
        x = x + out @ w[at + "SelfAttention.o.weight"].T
        at = f"encoder.block.{i}.layer.1."
        n, at_ff = rms(at + "layer_norm", x), at + "DenseReluDense."
        inner = gelu(n @ w[at_ff + "wi_0.weight"].T) * (n @ w[at_ff + "wi_1.weight"].T)
        x = x + inner @ w[at_ff + "wo.weight"].T
    return rms("encoder.final_layer_norm", x)


def literal_clip(w: dict, c: ClipConfig, ids):
    """FACTS 3 line by line."""
    B, L = ids.shape

    def lin(name, z):
        return z @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(name, z):
        z = z - z.mean(-1, keepdim=True)
        z = z / torch.sqrt((z**2).mean(-1, keepdim=True) + 1e-5)
        return z * w[name + ".weight"] + w[name + ".bias"]

    x = torch.stack([w["text_model.embeddings.token_embedding.weight"][row] for row in ids])
    x = x + w["text_model.embeddings.position_embedding.weight"][:L]
    ahead = torch.tensor([[j > i for j in range(L)] for i in range(L)])
    for i in range(c.num_layers):
        at = f"text_model.encoder.layers.{i}."
        n = norm(at + "layer_norm1", x)
        q, k, v = (
            lin(f"{at}self_attn.{name}_proj", n).unflatten(-1, (c.num_heads, -1)) for name in "qkv"
        )
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
        weights = softmax(scores.masked_fill(ahead, -math.inf))
        out = torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2)
        x = x + lin(at + "self_attn.out_proj", out)
        u = lin(at + "mlp.fc1", norm(at + "layer_norm2", x))
        x = x + lin(at + "mlp.fc2", u / (1 + torch.exp(-1.702 * u)))
    x = norm("text_model.final_layer_norm", x)
    rows = [row.tolist() for row in ids]
    end = [row.index(max(row) if c.eos_token_id == 2 else c.eos_token_id) for row in rows]
    return x, torch.stack([x[b, end[b]] for b in range(B)])
