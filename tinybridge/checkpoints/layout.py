"""Names of the published tensors, as tables: our name (the vendor's), the other layout's, the rule.

A row stands for a tensor family. `{}` is a number (layer, block), `{~}` the same number counted
from the other end, `(a|b)` the parts that a rule joins. What follows a row's name in a key
(`.weight`, `.bias`, `.conv1.weight`) is carried over unchanged, and the first row that fits wins.

Rules, in the direction other layout -> ours:
  copy            the tensor itself
  rows q|k|v      the parts stacked along their rows, in this order
  rows q|k|v|mlp  the same with a fourth part of another height
  swap halves     [scale ; shift] becomes [shift ; scale]
  squeeze 1x1     theirs is our 1x1 convolution's weight without the two 1s

Sources: key listings of the vendor's and the diffusers repositories' files. Tables are data; what
a row means is `plan` (names) and `join` (tensors), at the end.
"""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

Table = tuple[tuple[str, str, str], ...]

FLUX: Table = (  # vendor (black-forest-labs/flux) <- diffusers FluxTransformer2DModel
    ("img_in", "x_embedder", "copy"),
    ("txt_in", "context_embedder", "copy"),
    ("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1", "copy"),
    ("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2", "copy"),
    ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1", "copy"),
    ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2", "copy"),
    ("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1", "copy"),
    ("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2", "copy"),
    ("double_blocks.{}.img_mod.lin", "transformer_blocks.{}.norm1.linear", "copy"),
    ("double_blocks.{}.txt_mod.lin", "transformer_blocks.{}.norm1_context.linear", "copy"),
    (
        "double_blocks.{}.img_attn.qkv",
        "transformer_blocks.{}.attn.(to_q|to_k|to_v)",
        "rows q|k|v",
    ),
    (
        "double_blocks.{}.txt_attn.qkv",
        "transformer_blocks.{}.attn.(add_q_proj|add_k_proj|add_v_proj)",
        "rows q|k|v",
    ),
    (
        "double_blocks.{}.img_attn.norm.query_norm.scale",
        "transformer_blocks.{}.attn.norm_q.weight",
        "copy",
    ),
    (
        "double_blocks.{}.img_attn.norm.key_norm.scale",
        "transformer_blocks.{}.attn.norm_k.weight",
        "copy",
    ),
    (
        "double_blocks.{}.txt_attn.norm.query_norm.scale",
        "transformer_blocks.{}.attn.norm_added_q.weight",
        "copy",
    ),
    (
        "double_blocks.{}.txt_attn.norm.key_norm.scale",
        "transformer_blocks.{}.attn.norm_added_k.weight",
        "copy",
    ),
    ("double_blocks.{}.img_attn.proj", "transformer_blocks.{}.attn.to_out.0", "copy"),
    ("double_blocks.{}.txt_attn.proj", "transformer_blocks.{}.attn.to_add_out", "copy"),
    ("double_blocks.{}.img_mlp.0", "transformer_blocks.{}.ff.net.0.proj", "copy"),
    ("double_blocks.{}.img_mlp.2", "transformer_blocks.{}.ff.net.2", "copy"),
    ("double_blocks.{}.txt_mlp.0", "transformer_blocks.{}.ff_context.net.0.proj", "copy"),
    ("double_blocks.{}.txt_mlp.2", "transformer_blocks.{}.ff_context.net.2", "copy"),
    ("single_blocks.{}.modulation.lin", "single_transformer_blocks.{}.norm.linear", "copy"),
    (
        "single_blocks.{}.linear1",
        "single_transformer_blocks.{}.(attn.to_q|attn.to_k|attn.to_v|proj_mlp)",
        "rows q|k|v|mlp",
    ),
    ("single_blocks.{}.linear2", "single_transformer_blocks.{}.proj_out", "copy"),
    (
        "single_blocks.{}.norm.query_norm.scale",
        "single_transformer_blocks.{}.attn.norm_q.weight",
        "copy",
    ),
    (
        "single_blocks.{}.norm.key_norm.scale",
        "single_transformer_blocks.{}.attn.norm_k.weight",
        "copy",
    ),
    ("final_layer.linear", "proj_out", "copy"),
    ("final_layer.adaLN_modulation.1", "norm_out.linear", "swap halves"),
)

FLUX_VAE: Table = (  # vendor AutoEncoder <- diffusers AutoencoderKL
    ("encoder.norm_out", "encoder.conv_norm_out", "copy"),
    ("encoder.conv_in", "encoder.conv_in", "copy"),
    ("encoder.conv_out", "encoder.conv_out", "copy"),
    (
        "encoder.down.{}.block.{}.nin_shortcut",
        "encoder.down_blocks.{}.resnets.{}.conv_shortcut",
        "copy",
    ),
    ("encoder.down.{}.block.{}", "encoder.down_blocks.{}.resnets.{}", "copy"),
    ("encoder.down.{}.downsample.conv", "encoder.down_blocks.{}.downsamplers.0.conv", "copy"),
    ("encoder.mid.block_1", "encoder.mid_block.resnets.0", "copy"),
    ("encoder.mid.block_2", "encoder.mid_block.resnets.1", "copy"),
    ("encoder.mid.attn_1.norm", "encoder.mid_block.attentions.0.group_norm", "copy"),
    ("encoder.mid.attn_1.q", "encoder.mid_block.attentions.0.to_q", "squeeze 1x1"),
    ("encoder.mid.attn_1.k", "encoder.mid_block.attentions.0.to_k", "squeeze 1x1"),
    ("encoder.mid.attn_1.v", "encoder.mid_block.attentions.0.to_v", "squeeze 1x1"),
    ("encoder.mid.attn_1.proj_out", "encoder.mid_block.attentions.0.to_out.0", "squeeze 1x1"),
    ("decoder.norm_out", "decoder.conv_norm_out", "copy"),
    ("decoder.conv_in", "decoder.conv_in", "copy"),
    ("decoder.conv_out", "decoder.conv_out", "copy"),
    (
        "decoder.up.{}.block.{}.nin_shortcut",
        "decoder.up_blocks.{~}.resnets.{}.conv_shortcut",
        "copy",
    ),
    ("decoder.up.{}.block.{}", "decoder.up_blocks.{~}.resnets.{}", "copy"),
    ("decoder.up.{}.upsample.conv", "decoder.up_blocks.{~}.upsamplers.0.conv", "copy"),
    ("decoder.mid.block_1", "decoder.mid_block.resnets.0", "copy"),
    ("decoder.mid.block_2", "decoder.mid_block.resnets.1", "copy"),
    ("decoder.mid.attn_1.norm", "decoder.mid_block.attentions.0.group_norm", "copy"),
    ("decoder.mid.attn_1.q", "decoder.mid_block.attentions.0.to_q", "squeeze 1x1"),
    ("decoder.mid.attn_1.k", "decoder.mid_block.attentions.0.to_k", "squeeze 1x1"),
    ("decoder.mid.attn_1.v", "decoder.mid_block.attentions.0.to_v", "squeeze 1x1"),
    ("decoder.mid.attn_1.proj_out", "decoder.mid_block.attentions.0.to_out.0", "squeeze 1x1"),
)

UMT5: Table = (  # transformers UMT5EncoderModel <- vendor (models_t5_umt5-xxl-enc-bf16.pth)
    ("shared", "token_embedding", "copy"),
    ("encoder.block.{}.layer.0.layer_norm", "blocks.{}.norm1", "copy"),
    (
        "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias",
        "blocks.{}.pos_embedding.embedding",
        "copy",
    ),
    ("encoder.block.{}.layer.0.SelfAttention", "blocks.{}.attn", "copy"),
    ("encoder.block.{}.layer.1.layer_norm", "blocks.{}.norm2", "copy"),
    ("encoder.block.{}.layer.1.DenseReluDense.wi_0", "blocks.{}.ffn.gate.0", "copy"),
    ("encoder.block.{}.layer.1.DenseReluDense.wi_1", "blocks.{}.ffn.fc1", "copy"),
    ("encoder.block.{}.layer.1.DenseReluDense.wo", "blocks.{}.ffn.fc2", "copy"),
    ("encoder.final_layer_norm", "norm", "copy"),
)

CLIP: Table = (  # openai and the FLUX folder <- files written by transformers 5
    ("text_model.embeddings", "embeddings", "copy"),
    ("text_model.encoder", "encoder", "copy"),
    ("text_model.final_layer_norm", "final_layer_norm", "copy"),
)

PREFIX = "model.diffusion_model."  # ComfyUI files may put it before every vendor name

# T5's embedding has two names; a file holds one of them, or both with the same values. The first
# is ours.
TWINS = ("shared.weight", "encoder.embed_tokens.weight")

IGNORED = {  # what published files hold beside the part that is loaded
    "flux": (),
    "flux_vae": (),
    "wan": (),
    "wan_vae": (),
    "t5": ("decoder.", "lm_head."),
    "umt5": ("decoder.", "lm_head.", "spiece_model"),  # ComfyUI's file brings the tokenizer
    "clip": (
        "vision_model.",
        "visual_projection.",
        "text_projection.",
        "logit_scale",
        "text_model.embeddings.position_ids",
        "embeddings.position_ids",
    ),
}

SIGNATURES = (  # the beginning of a name that gives a file's model away; the first that fits
    ("double_blocks.0.", "flux", "a FLUX transformer, vendor layout"),
    ("transformer_blocks.0.attn.add_q_proj", "flux", "a FLUX transformer, diffusers layout"),
    ("encoder.down.0.block", "flux_vae", "a FLUX autoencoder, vendor layout"),
    ("encoder.down_blocks.0.resnets.", "flux_vae", "a FLUX autoencoder, diffusers layout"),
    ("encoder.block.1.layer.0.SelfAttention.relative_attention_bias", "umt5", "a UMT5 encoder"),
    ("encoder.block.0.layer.0.SelfAttention", "t5", "a T5 encoder"),
    ("text_model.encoder.layers.0.", "clip", "a CLIP text model"),
    ("encoder.layers.0.self_attn.", "clip", "a CLIP text model, layout of transformers 5"),
    ("blocks.0.cross_attn.", "wan", "a WAN transformer, vendor layout"),
    ("blocks.0.attn2.", "wan", "a WAN transformer, diffusers layout"),
    ("blocks.0.pos_embedding", "umt5", "a UMT5 encoder, vendor layout"),
    ("encoder.downsamples.0.", "wan_vae", "a WAN autoencoder, vendor layout"),
    ("encoder.down_blocks.0.conv", "wan_vae", "a WAN autoencoder, diffusers layout"),
    ("input_blocks.0.", "", "a Stable Diffusion UNet"),
    ("residual", "", "a tinybridge prompt"),
)


def identify(names: Iterable[str]) -> tuple[str, str]:
    """Which model tensors of these names make: its kind ("" if not ours), and words for it."""
    names = list(names)
    if any("lora_" in name for name in names):
        return "", "a LoRA, which is no model by itself"
    for start, kind, words in SIGNATURES:
        if any(name.startswith(start) for name in names):
            return kind, words
    return "", f"unknown tensors ({', '.join(sorted(names)[:3]) or 'none'})"


def plan(names: Iterable[str], table: Table | None) -> dict[str, tuple[list[str], str]]:
    """For each of our tensor names: the names it is read from in the other layout, and the rule.

    Without a table every name is read from itself. `{~}` counts from the highest number that
    `names` hold at that place: give all names of a model at once. KeyError: a name without row.
    """
    names = list(names)
    if table is None:
        return {name: ([name], "copy") for name in names}
    result: dict[str, tuple[list[str], str]] = {}
    for ours, theirs, rule in table:
        row = re.compile(re.escape(ours).replace(r"\{\}", r"(\d+)") + r"(\..+)?$")
        hits = {name: hit for name in names if name not in result and (hit := row.match(name))}
        level = re.compile(re.escape(ours.split("{}")[0]) + r"(\d+)")
        last = max((int(hit[1]) for name in names if (hit := level.match(name))), default=0)
        for name, hit in hits.items():
            *numbers, tail = hit.groups(default="")
            source = theirs
            if "{~}" in source:
                source = source.replace("{~}", str(last - int(numbers.pop(0))))
            source = source.replace("{}", "%s") % tuple(numbers)
            head, bracket, parts = source.partition("(")
            parts = parts.removesuffix(")").split("|") if bracket else [""]
            result[name] = ([head + part + tail for part in parts], rule)
    if lost := [name for name in names if name not in result]:
        raise KeyError(f"no row of the table names {lost[0]}")
    return result


def joined(shapes: list[tuple[int, ...]], rule: str) -> tuple[int, ...] | None:
    """The shape that `join` gives, None where the parts do not go together."""
    first = shapes[0]
    if rule.startswith("rows"):
        fits = all(shape[1:] == first[1:] for shape in shapes) and set(shapes[:3]) == {first}
        return (sum(shape[0] for shape in shapes), *first[1:]) if fits else None
    return (*first, 1, 1) if rule == "squeeze 1x1" and len(first) == 2 else first


def join(parts: list[Tensor], rule: str) -> Tensor:
    """The tensors of the other layout, made into ours by the rule of their row."""
    if rule.startswith("rows"):
        return torch.cat(parts)
    (tensor,) = parts
    if rule == "swap halves":
        return torch.cat(tensor.chunk(2)[::-1])
    if rule == "squeeze 1x1" and tensor.dim() == 2:
        return tensor[:, :, None, None]
    return tensor
