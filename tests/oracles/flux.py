"""What FLUX is compared with: diffusers, and the formulas written out once more in plain torch.

Both take a prompt in its literal form: attention is shown h + gate P in the text rows.
"""

from functools import partial

import torch
import torch.nn.functional as F

from tests.oracles import plain
from tests.oracles.plain import attend, gelu, layer_norm, phases, random, silu, turn, waves
from tinybridge.flux import Flux, FluxConfig, pack, unpack

TINY = dict(
    in_channels=16, hidden_size=48, num_heads=3, depth=2, depth_single=3, context_dim=20,
    pooled_dim=12, axes_dim=(4, 4, 8),
)  # fmt: skip
L, N_BLOCKS, D = 7, 5, 48


UNREAD = ("mod", "time_in", "vector_in", "guidance_in")  # by a table of the modulation
ZERO = ("mod", "final", "bias")  # at the start of a training
SOME_WEIGHT = "double_blocks.0.txt_mlp.2.weight"
a_prompt = partial(plain.a_prompt, rows=L, width=D, blocks=N_BLOCKS)


def tiny(dtype=torch.float32, seed=0, **sizes) -> Flux:
    """A frozen FLUX in which every weight, modulations included, is random and not small."""
    model = Flux(FluxConfig(**{**TINY, **sizes})).double().requires_grad_(False)
    for i, (name, weight) in enumerate(model.named_parameters()):
        std = weight.shape[-1] ** -0.5 if weight.ndim == 2 else 0.3
        values = random(*weight.shape, seed=1000 * seed + i, dtype=torch.float64)
        weight.copy_(name.endswith("scale") + std * values)
    return model.to(dtype)


def inputs(dtype=torch.float32, B=3, guidance=True, C=4, context_dim=20, pooled_dim=12) -> dict:
    """An oblong latent. Times stay float32: the oracle computes the sinusoid in float32."""
    return dict(
        x=random(B, C, 6, 10, seed=1, dtype=dtype),
        t=torch.tensor([0.1, 0.399, 0.8])[:B],
        context=random(B, L, context_dim, seed=2, dtype=dtype),
        pooled=random(B, pooled_dim, seed=3, dtype=dtype),
        guidance=torch.tensor([1.0, 3.5, 1.0])[:B] if guidance else None,
    )


def conditioned(given: dict) -> dict:
    """As `prepare` may be used with: every sample may have its own text."""
    return given


def prepare(model: Flux, prompts: list, given: dict, times=None):
    return model.prepare(prompts, times, given["pooled"][:1], given["guidance"][:1])


# ------------------------------------------------------------------------- diffusers as oracle

RENAME = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
    "modulation.lin": "norm.linear",
    "linear2": "proj_out",
}
FUSED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
}


def diffusers_twin(model: Flux):
    from diffusers import FluxTransformer2DModel

    c, state = model.config, {}
    for key, value in model.state_dict().items():
        module, kind = key.rsplit(".", 1)
        prefix, kind = "", {"scale": "weight"}.get(kind, kind)
        if "blocks" in module:
            family, i, module = module.split(".", 2)
            prefix = f"{'single_' if 'single' in family else ''}transformer_blocks.{i}."
        if module in FUSED:
            rows = [c.hidden_size] * 3 + [len(value) - 3 * c.hidden_size] * (module == "linear1")
            for name, part in zip(FUSED[module], value.split(rows), strict=True):
                state[f"{prefix}{name}.{kind}"] = part
        else:
            if module == "final_layer.adaLN_modulation.1":
                value = torch.cat(value.chunk(2)[::-1])
            state[f"{prefix}{RENAME[module]}.{kind}"] = value
    twin = FluxTransformer2DModel(
        in_channels=c.in_channels,
        num_layers=c.depth,
        num_single_layers=c.depth_single,
        attention_head_dim=c.hidden_size // c.num_heads,
        num_attention_heads=c.num_heads,
        joint_attention_dim=c.context_dim,
        pooled_projection_dim=c.pooled_dim,
        guidance_embeds=c.guidance,
        axes_dims_rope=c.axes_dim,
    ).requires_grad_(False)
    twin.load_state_dict(state)
    return twin.to(model.img_in.weight.dtype)


def run_twin(twin, x, t, context, pooled, guidance):
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    ids = [(0, r, c) for r in range(rows) for c in range(columns)]
    tokens = twin(
        hidden_states=pack(x),
        encoder_hidden_states=context,
        pooled_projections=pooled,
        timestep=t,
        img_ids=torch.tensor(ids, dtype=torch.float32),
        txt_ids=torch.zeros(context.shape[1], 3),
        guidance=guidance,
    ).sample
    return unpack(tokens, *x.shape[2:])


def inject(twin, prompt):
    """The method on diffusers' own attention modules: text rows of their input + gate P."""
    if prompt is None:
        return twin
    rows = len(prompt.residual)

    def add(gate, name):
        def hook(module, args, kwargs):
            seen = kwargs[name].clone()
            seen[:, :rows] += gate * prompt.residual
            return args, {**kwargs, name: seen}

        return hook

    joint, single = twin.transformer_blocks, twin.single_transformer_blocks
    names = ["encoder_hidden_states"] * len(joint) + ["hidden_states"] * len(single)
    for block, name, gate in zip([*joint, *single], names, prompt.gates, strict=True):
        block.attn.register_forward_pre_hook(add(gate, name), with_kwargs=True)
    return twin


# ----------------------------------------------------------------- the formulas, in plain fp64


def literal(w: dict, c: FluxConfig, x, t, context, pooled, guidance, prompt=None):
    """FACTS 1.3 and 9.2 line by line: complex rope, separate q k v, explicit softmax."""
    _, C, H, W = x.shape
    heads, rows, M = c.num_heads, context.shape[1], int(c.hidden_size * c.mlp_ratio)

    def lin(name, z):
        return z @ w[name + ".weight"].T + w[name + ".bias"]

    def embed(name, z):
        return lin(name + ".out_layer", silu(lin(name + ".in_layer", z)))

    def chunks(name, count):
        return [m[:, None] for m in lin(name, silu(vec)).chunk(count, -1)]

    def m(z, shift, scale):
        return layer_norm(z, 1e-6) * (1 + scale) + shift

    def rms(name, z):
        return plain.rms(z.unflatten(-1, (heads, -1)), 1e-6) * w[name + ".scale"]

    def turned(q, k, v):
        return attend(turn(q, phase), turn(k, phase), v.unflatten(-1, (heads, -1)))

    def shown(text, i):
        if prompt is None:
            return text
        added = F.pad(prompt.residual, (0, 0, 0, text.shape[1] - len(prompt.residual)))
        return text + prompt.gates[i] * added

    corners = [(r, col) for r in range(0, H, 2) for col in range(0, W, 2)]
    features = [(ch, dy, dx) for ch in range(C) for dy in (0, 1) for dx in (0, 1)]
    tokens = [[x[:, ch, r + dy, col + dx] for ch, dy, dx in features] for r, col in corners]
    tokens = torch.stack([torch.stack(token, -1) for token in tokens], 1)
    places = [(0, 0, 0)] * rows + [(0, r, col) for r in range(H // 2) for col in range(W // 2)]
    phase = phases(places, c.axes_dim)

    vec = embed("time_in", waves(t, 256))
    if c.guidance:
        vec = vec + embed("guidance_in", waves(guidance, 256))
    vec = vec + embed("vector_in", pooled)
    img, txt = lin("img_in", tokens), lin("txt_in", context)

    for i in range(c.depth):
        at = f"double_blocks.{i}."
        shift1, scale1, gate1, shift2, scale2, gate2 = chunks(at + "img_mod.lin", 6)
        tshift1, tscale1, tgate1, tshift2, tscale2, tgate2 = chunks(at + "txt_mod.lin", 6)
        nx, nc = m(img, shift1, scale1), shown(m(txt, tshift1, tscale1), i)
        q, k, v = lin(at + "img_attn.qkv", nx).chunk(3, -1)
        tq, tk, tv = lin(at + "txt_attn.qkv", nc).chunk(3, -1)
        q, k = rms(at + "img_attn.norm.query_norm", q), rms(at + "img_attn.norm.key_norm", k)
        tq, tk = rms(at + "txt_attn.norm.query_norm", tq), rms(at + "txt_attn.norm.key_norm", tk)
        out = turned(*(torch.cat(pair, 1) for pair in ((tq, q), (tk, k), (tv, v))))
        img = img + gate1 * lin(at + "img_attn.proj", out[:, rows:])
        txt = txt + tgate1 * lin(at + "txt_attn.proj", out[:, :rows])
        hidden = gelu(lin(at + "img_mlp.0", m(img, shift2, scale2)))
        img = img + gate2 * lin(at + "img_mlp.2", hidden)
        hidden = gelu(lin(at + "txt_mlp.0", m(txt, tshift2, tscale2)))
        txt = txt + tgate2 * lin(at + "txt_mlp.2", hidden)

    s = torch.cat((txt, img), 1)
    for i in range(c.depth_single):
        at = f"single_blocks.{i}."
        shift, scale, gate = chunks(at + "modulation.lin", 3)
        n = m(s, shift, scale)
        seen = torch.cat((shown(n[:, :rows], c.depth + i), n[:, rows:]), 1)
        q, k, v = lin(at + "linear1", seen)[..., : 3 * c.hidden_size].chunk(3, -1)
        q, k = rms(at + "norm.query_norm", q), rms(at + "norm.key_norm", k)
        hidden = gelu(lin(at + "linear1", n)[..., -M:])
        s = s + gate * lin(at + "linear2", torch.cat((turned(q, k, v), hidden), -1))

    shift, scale = chunks("final_layer.adaLN_modulation.1", 2)
    out = lin("final_layer.linear", m(s[:, rows:], shift, scale))
    picture = torch.empty_like(x)
    for n, (_, r, col) in enumerate(places[rows:]):
        picture[:, :, 2 * r : 2 * r + 2, 2 * col : 2 * col + 2] = out[:, n].unflatten(1, (C, 2, 2))
    return picture
