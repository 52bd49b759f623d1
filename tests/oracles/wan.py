"""What WAN is compared with: diffusers, and the formulas written out once more in plain torch.

Both take a prompt in its literal form: a second cross-attention to the text rows + P, gated.
"""

from functools import partial

import torch

from tests.oracles import plain
from tests.oracles.plain import attend, gelu, layer_norm, phases, random, silu, turn, waves
from tinybridge.wan import Wan, WanConfig

TINY = dict(
    in_channels=4, hidden_size=48, num_heads=3, depth=4, ffn_dim=72, freq_dim=32, context_dim=20,
)  # fmt: skip
L, N_BLOCKS, D = 7, 4, 48


UNREAD = ("text_", "time_", "cross_attn.k", "cross_attn.v")  # by prepared terms with a table
ZERO = ("modulation", "projection", "head", "bias")  # at the start of a training
SOME_WEIGHT = "blocks.0.ffn.2.weight"
a_prompt = partial(plain.a_prompt, rows=L, width=D, blocks=N_BLOCKS)


def tiny(dtype=torch.float32, seed=0, **sizes) -> Wan:
    """A frozen WAN in which every weight, modulations included, is random and not small."""
    model = Wan(WanConfig(**{**TINY, **sizes})).double().requires_grad_(False)
    for i, (name, weight) in enumerate(model.named_parameters()):
        std = weight[0].numel() ** -0.5 if weight.ndim in (2, 5) else 0.3
        values = random(*weight.shape, seed=1000 * seed + i, dtype=torch.float64)
        weight.copy_(("norm" in name and name.endswith("weight")) + std * values)
    return model.to(dtype)


def inputs(dtype=torch.float32, B=3, C=4, rows=L, context_dim=20, size=(3, 6, 10)) -> dict:
    """An oblong latent, text padded with zeros. Times stay float32, for diffusers' sinusoid is."""
    context = random(B, rows, context_dim, seed=2, dtype=dtype)
    context[:, 3:] = 0
    return dict(
        x=random(B, C, *size, seed=1, dtype=dtype),
        t=torch.tensor([0.1, 0.399, 0.8])[:B],
        context=context,
    )


def conditioned(given: dict) -> dict:
    """As `prepare` may be used with: all samples share one text."""
    return plain.one_text(given)


def prepare(model: Wan, prompts: list, given: dict, times=None):
    return model.prepare(prompts, given["context"][:1], times)


# ------------------------------------------------------------------------- diffusers as oracle

RENAME = (  # the first that fits
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("head.modulation", "scale_shift_table"),
    ("head.head", "proj_out"),
    ("modulation", "scale_shift_table"),
    ("self_attn.norm", "attn1.norm"),
    ("cross_attn.norm", "attn2.norm"),
    ("self_attn.o", "attn1.to_out.0"),
    ("cross_attn.o", "attn2.to_out.0"),
    ("self_attn.", "attn1.to_"),
    ("cross_attn.", "attn2.to_"),
    ("norm3", "norm2"),
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
    ("patch_embedding", "patch_embedding"),
)


def diffusers_twin(model: Wan):
    from diffusers import WanTransformer3DModel

    c, state = model.config, {}
    for key, value in model.state_dict().items():
        old, new = next(row for row in RENAME if row[0] in key)
        state[key.replace(old, new)] = value.clone()
    twin = WanTransformer3DModel(
        num_attention_heads=c.num_heads,
        attention_head_dim=c.hidden_size // c.num_heads,
        in_channels=c.in_channels,
        out_channels=c.in_channels,
        text_dim=c.context_dim,
        freq_dim=c.freq_dim,
        ffn_dim=c.ffn_dim,
        num_layers=c.depth,
        eps=c.eps,
    ).requires_grad_(False)
    twin.load_state_dict(state, assign=True)  # every weight keeps its dtype
    return twin


def run_twin(twin, x, t, context):
    return twin(hidden_states=x, timestep=1000 * t, encoder_hidden_states=context).sample


def inject(twin, prompt):
    """The method on diffusers' own cross-attention: called twice, the outputs summed in fp32."""
    if prompt is None:
        return twin

    def twice(attn, gate):
        once = attn.forward

        def forward(x, context, *rest):
            shown = (context + prompt.residual).to(context.dtype)
            wide = torch.promote_types(context.dtype, torch.float32)
            out = once(x, context, *rest).to(wide) + gate * once(x, shown, *rest).to(wide)
            return out.to(context.dtype)

        attn.forward = forward

    for block, gate in zip(twin.blocks, prompt.gates, strict=True):
        twice(block.attn2, gate)
    return twin


# ----------------------------------------------------------------- the formulas, in plain fp64


def literal(w: dict, c: WanConfig, x, t, context, prompt=None):
    """FACTS 5.3 and 9.2 line by line: complex rope, loops over patches, two cross-attentions."""
    _, C, T, H, W = x.shape
    heads, d = c.num_heads, c.hidden_size // c.num_heads

    def lin(name, z):
        return z @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(z):
        return layer_norm(z, c.eps)

    def rms(name, z):
        return (plain.rms(z, c.eps) * w[name + ".weight"]).unflatten(-1, (heads, d))

    def cross(at, z, memory, turned):
        q, k = rms(at + "norm_q", lin(at + "q", z)), rms(at + "norm_k", lin(at + "k", memory))
        v = lin(at + "v", memory).unflatten(-1, (heads, d))
        q, k = (turn(q, phase), turn(k, phase)) if turned else (q, k)
        return lin(at + "o", attend(q, k, v))

    cells = [(f, r, s) for f in range(T) for r in range(H // 2) for s in range(W // 2)]
    corner = [x[:, :, f, 2 * r : 2 * r + 2, 2 * s : 2 * s + 2].flatten(1) for f, r, s in cells]
    seq = torch.stack(corner, 1) @ w["patch_embedding.weight"].flatten(1).T
    seq = seq + w["patch_embedding.bias"]
    phase = phases(cells, (d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6)))

    time = waves(t, c.freq_dim)
    e = lin("time_embedding.2", silu(lin("time_embedding.0", time)))
    e0 = lin("time_projection.1", silu(e)).unflatten(1, (6, -1))
    text = lin("text_embedding.2", gelu(lin("text_embedding.0", context)))

    for i in range(c.depth):
        at = f"blocks.{i}."
        sh1, sc1, g1, sh2, sc2, g2 = (w[at + "modulation"] + e0).split(1, 1)
        seen = norm(seq) * (1 + sc1) + sh1
        seq = seq + g1 * cross(at + "self_attn.", seen, seen, True)
        seen = norm(seq) * w[at + "norm3.weight"] + w[at + "norm3.bias"]
        out = cross(at + "cross_attn.", seen, text, False)
        if prompt is not None:
            shown = text + prompt.residual
            out = out + prompt.gates[i] * cross(at + "cross_attn.", seen, shown, False)
        seq = seq + out
        seen = norm(seq) * (1 + sc2) + sh2
        seq = seq + g2 * lin(at + "ffn.2", gelu(lin(at + "ffn.0", seen)))

    shift, scale = (w["head.modulation"] + e[:, None]).split(1, 1)
    out = lin("head.head", norm(seq) * (1 + scale) + shift)
    video = torch.empty_like(x)
    for n, (f, r, s) in enumerate(cells):
        for dy in (0, 1):
            for dx in (0, 1):
                first = (2 * dy + dx) * C
                video[:, :, f, 2 * r + dy, 2 * s + dx] = out[:, n, first : first + C]
    return video
