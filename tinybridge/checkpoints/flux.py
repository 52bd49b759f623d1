"""FLUX.1-dev and -schnell as published: a row for the transformer, autoencoder, CLIP and T5.

Left column of a table: our names, which are the vendor's (T5 and CLIP: transformers'); right: the
other layout's. Sources: key listings of the vendor's and the diffusers repositories' files.
"""

from typing import Any

from tinybridge.checkpoints.layout import Family, Fit, Has, Kind, Shape, Signature, count, table
from tinybridge.flux import Flux, FluxConfig
from tinybridge.flux_vae import AutoEncoder, AutoEncoderConfig
from tinybridge.text.encoders import ClipConfig, ClipText, T5Config, T5Encoder

# ----------------------------------------------------------------------------- the transformer

# black-forest-labs/flux <- diffusers FluxTransformer2DModel
FLUX_TABLE = table("""
img_in                                           x_embedder
txt_in                                           context_embedder
time_in.in_layer                                 time_text_embed.timestep_embedder.linear_1
time_in.out_layer                                time_text_embed.timestep_embedder.linear_2
vector_in.in_layer                               time_text_embed.text_embedder.linear_1
vector_in.out_layer                              time_text_embed.text_embedder.linear_2
guidance_in.in_layer                             time_text_embed.guidance_embedder.linear_1
guidance_in.out_layer                            time_text_embed.guidance_embedder.linear_2
double_blocks.{}.img_mod.lin                     transformer_blocks.{}.norm1.linear
double_blocks.{}.txt_mod.lin                     transformer_blocks.{}.norm1_context.linear
double_blocks.{}.img_attn.qkv                    transformer_blocks.{}.attn.(to_q|to_k|to_v)  rows q|k|v
double_blocks.{}.txt_attn.qkv                    transformer_blocks.{}.attn.(add_q_proj|add_k_proj|add_v_proj)  rows q|k|v
double_blocks.{}.img_attn.norm.query_norm.scale  transformer_blocks.{}.attn.norm_q.weight
double_blocks.{}.img_attn.norm.key_norm.scale    transformer_blocks.{}.attn.norm_k.weight
double_blocks.{}.txt_attn.norm.query_norm.scale  transformer_blocks.{}.attn.norm_added_q.weight
double_blocks.{}.txt_attn.norm.key_norm.scale    transformer_blocks.{}.attn.norm_added_k.weight
double_blocks.{}.img_attn.proj                   transformer_blocks.{}.attn.to_out.0
double_blocks.{}.txt_attn.proj                   transformer_blocks.{}.attn.to_add_out
double_blocks.{}.img_mlp.0                       transformer_blocks.{}.ff.net.0.proj
double_blocks.{}.img_mlp.2                       transformer_blocks.{}.ff.net.2
double_blocks.{}.txt_mlp.0                       transformer_blocks.{}.ff_context.net.0.proj
double_blocks.{}.txt_mlp.2                       transformer_blocks.{}.ff_context.net.2
single_blocks.{}.modulation.lin                  single_transformer_blocks.{}.norm.linear
single_blocks.{}.linear1                         single_transformer_blocks.{}.(attn.to_q|attn.to_k|attn.to_v|proj_mlp)  rows q|k|v|mlp
single_blocks.{}.linear2                         single_transformer_blocks.{}.proj_out
single_blocks.{}.norm.query_norm.scale           single_transformer_blocks.{}.attn.norm_q.weight
single_blocks.{}.norm.key_norm.scale             single_transformer_blocks.{}.attn.norm_k.weight
final_layer.linear                               proj_out
final_layer.adaLN_modulation.1                   norm_out.linear  swap halves
""")  # noqa: E501


def flux_sizes(shape: Shape, has: Has) -> dict[str, Any]:
    """Fields of FluxConfig. ValueError for a variant whose input is not its output."""
    width, channels = shape("img_in.weight", 2)
    out = shape("final_layer.linear.weight", 2)[0]
    if out != channels:
        raise ValueError(
            f"takes {channels} channels and gives {out}, as FLUX.1 Fill, Canny and Depth do; "
            "expected FLUX.1-dev or FLUX.1-schnell"
        )
    head = shape("double_blocks.0.img_attn.norm.query_norm.scale", 1)[0]
    side = head * 7 // 32 * 2  # 56 of 128; even, for pairs are turned
    return {
        "in_channels": channels,
        "hidden_size": width,
        "num_heads": width // head,
        "depth": count(has, "double_blocks.{}.img_attn.qkv.weight"),
        "depth_single": count(has, "single_blocks.{}.linear1.weight"),
        "mlp_ratio": shape("double_blocks.0.img_mlp.0.weight", 2)[0] / width,
        "context_dim": shape("txt_in.weight", 2)[1],
        "pooled_dim": shape("vector_in.in_layer.weight", 2)[1],
        "axes_dim": (head - 2 * side, side, side),
        "guidance": has("guidance_in.in_layer.weight"),
    }


FLUX = Kind(
    name="flux",
    words="FLUX transformer",
    model=Flux,
    config=FluxConfig,
    places=("flux1-*.safetensors", "transformer"),
    own=Signature("double_blocks.0.", "a FLUX transformer, vendor layout"),
    other=Signature("transformer_blocks.0.attn.add_q_proj", "a FLUX transformer, diffusers layout"),
    table=FLUX_TABLE,
    sizes=flux_sizes,
    classes=("FluxTransformer2DModel",),
    fields={
        "depth": "num_layers",
        "depth_single": "num_single_layers",
        "num_heads": "num_attention_heads",
        "context_dim": "joint_attention_dim",
        "pooled_dim": "pooled_projection_dim",
        "axes_dim": "axes_dims_rope",
        "guidance": "guidance_embeds",
    },
    expected={"patch_size": (1,)},
    endings={  # as ComfyUI saves them since 2026
        "query_norm.weight": "query_norm.scale",
        "key_norm.weight": "key_norm.scale",
    },
    counts=("depth", "depth_single"),
    relatives={"kontext": "FLUX.1 Kontext", "krea": "FLUX.1 Krea"},
    blocks="blocks",
    ahead=("img_mod", "txt_mod", "modulation"),
)

# ----------------------------------------------------------------------------- the autoencoder

# black-forest-labs/flux AutoEncoder <- diffusers AutoencoderKL
FLUX_VAE_TABLE = table("""
encoder.norm_out                       encoder.conv_norm_out
encoder.conv_in                        encoder.conv_in
encoder.conv_out                       encoder.conv_out
encoder.down.{}.block.{}.nin_shortcut  encoder.down_blocks.{}.resnets.{}.conv_shortcut
encoder.down.{}.block.{}               encoder.down_blocks.{}.resnets.{}
encoder.down.{}.downsample.conv        encoder.down_blocks.{}.downsamplers.0.conv
encoder.mid.block_1                    encoder.mid_block.resnets.0
encoder.mid.block_2                    encoder.mid_block.resnets.1
encoder.mid.attn_1.norm                encoder.mid_block.attentions.0.group_norm
encoder.mid.attn_1.q                   encoder.mid_block.attentions.0.to_q  squeeze 1x1
encoder.mid.attn_1.k                   encoder.mid_block.attentions.0.to_k  squeeze 1x1
encoder.mid.attn_1.v                   encoder.mid_block.attentions.0.to_v  squeeze 1x1
encoder.mid.attn_1.proj_out            encoder.mid_block.attentions.0.to_out.0  squeeze 1x1
decoder.norm_out                       decoder.conv_norm_out
decoder.conv_in                        decoder.conv_in
decoder.conv_out                       decoder.conv_out
decoder.up.{}.block.{}.nin_shortcut    decoder.up_blocks.{~}.resnets.{}.conv_shortcut
decoder.up.{}.block.{}                 decoder.up_blocks.{~}.resnets.{}
decoder.up.{}.upsample.conv            decoder.up_blocks.{~}.upsamplers.0.conv
decoder.mid.block_1                    decoder.mid_block.resnets.0
decoder.mid.block_2                    decoder.mid_block.resnets.1
decoder.mid.attn_1.norm                decoder.mid_block.attentions.0.group_norm
decoder.mid.attn_1.q                   decoder.mid_block.attentions.0.to_q  squeeze 1x1
decoder.mid.attn_1.k                   decoder.mid_block.attentions.0.to_k  squeeze 1x1
decoder.mid.attn_1.v                   decoder.mid_block.attentions.0.to_v  squeeze 1x1
decoder.mid.attn_1.proj_out            decoder.mid_block.attentions.0.to_out.0  squeeze 1x1
""")


def flux_vae_sizes(shape: Shape, has: Has) -> dict[str, Any]:
    """Fields of AutoEncoderConfig."""
    ch, channels = shape("encoder.conv_in.weight", 4)[:2]
    levels = count(has, "encoder.down.{}.block.0.conv1.weight")
    widths = [shape(f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels)]
    return {
        "in_channels": channels,
        "ch": ch,
        "out_ch": shape("decoder.conv_out.weight", 4)[0],
        "ch_mult": tuple(width // ch for width in widths),
        "num_res_blocks": count(has, "encoder.down.0.block.{}.conv1.weight"),
        "z_channels": shape("decoder.conv_in.weight", 4)[1],
    }


FLUX_VAE = Kind(
    name="flux_vae",
    words="FLUX autoencoder",
    model=AutoEncoder,
    config=AutoEncoderConfig,
    places=("ae.safetensors", "vae"),
    own=Signature("encoder.down.0.block", "a FLUX autoencoder, vendor layout"),
    other=Signature("encoder.down_blocks.0.resnets.", "a FLUX autoencoder, diffusers layout"),
    table=FLUX_VAE_TABLE,
    sizes=flux_vae_sizes,
    classes=("AutoencoderKL",),
    fields={
        "out_ch": "out_channels",
        "num_res_blocks": "layers_per_block",
        "z_channels": "latent_channels",
        "groups": "norm_num_groups",
        "scale_factor": "scaling_factor",
    },
    expected={"act_fn": ("silu",), "use_quant_conv": (False,), "use_post_quant_conv": (False,)},
    others={"scaling_factor": {1.5305: "Stable Diffusion 3", 0.13025: "SDXL", 0.18215: "SD 1"}},
    counts=("num_res_blocks", "ch_mult"),
)

# ---------------------------------------------------------------------------- the text encoders

# openai and the FLUX folder <- files written by transformers 5
CLIP_TABLE = table("""
text_model.embeddings        embeddings
text_model.encoder           encoder
text_model.final_layer_norm  final_layer_norm
""")


def clip_sizes(shape: Shape, has: Has) -> dict[str, Any]:
    """Fields of ClipConfig; heads of 64, as in every published CLIP text model."""
    vocabulary, width = shape("text_model.embeddings.token_embedding.weight", 2)
    layer = "text_model.encoder.layers.{}."
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shape(layer.format(0) + "mlp.fc1.weight", 2)[0],
        "num_layers": count(has, layer + "mlp.fc1.weight"),
        "num_heads": width // 64,
        "max_position_embeddings": shape("text_model.embeddings.position_embedding.weight", 2)[0],
    }


CLIP = Kind(
    name="clip",
    words="CLIP text model",
    model=ClipText,
    config=ClipConfig,
    places=("text_encoder", "clip_l.safetensors"),
    own=Signature("text_model.encoder.layers.0.", "a CLIP text model"),
    other=Signature("encoder.layers.0.self_attn.", "a CLIP text model, layout of transformers 5"),
    table=CLIP_TABLE,
    sizes=clip_sizes,
    classes=("clip", "clip_text_model"),
    fields={
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "eps": "layer_norm_eps",
    },
    expected={"hidden_act": ("quick_gelu",)},
    ignored=(
        "vision_model.",
        "visual_projection.",
        "text_projection.",
        "logit_scale",
        "text_model.embeddings.position_ids",
        "embeddings.position_ids",
    ),
    counts=("num_layers",),
)


def t5_sizes(shape: Shape, has: Has) -> dict[str, Any]:
    """Fields of T5Config."""
    block = "encoder.block.{}.layer."
    bias = "0.SelfAttention.relative_attention_bias.weight"
    buckets, heads = shape(block.format(0) + bias, 2)
    vocabulary, width = shape("shared.weight", 2)
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": shape(block.format(0) + "0.SelfAttention.q.weight", 2)[0] // heads,
        "num_heads": heads,
        "d_ff": shape(block.format(0) + "1.DenseReluDense.wi_0.weight", 2)[0],
        "num_layers": count(has, block + "0.SelfAttention.q.weight"),
        "num_buckets": buckets,
        "per_layer_bias": count(has, block + bias) > 1,
    }


T5 = Kind(
    name="t5",
    words="T5 encoder",
    model=T5Encoder,
    config=T5Config,
    places=("text_encoder_2", "t5xxl*.safetensors"),
    own=Signature("encoder.block.0.layer.0.SelfAttention", "a T5 encoder"),
    other=None,
    sizes=t5_sizes,
    classes=("t5", "umt5"),
    fields={
        "num_buckets": "relative_attention_num_buckets",
        "max_distance": "relative_attention_max_distance",
        "eps": "layer_norm_epsilon",
    },
    ignored=("decoder.", "lm_head.", "logit_scale"),
    twins=("shared.weight", "encoder.embed_tokens.weight"),
    half=False,  # the residual stream leaves the range of float16
    expected={
        "feed_forward_proj": ("gated-gelu",),
        "dense_act_fn": ("gelu_new",),
        "is_gated_act": (True,),
    },
    counts=("num_layers",),
    blocks="encoder.block",
)

# -------------------------------------------------------------------------------- the backbone


def variant(config: FluxConfig | None) -> str:
    return "dev" if config is None or config.guidance else "schnell"


FAMILY = Family(
    name="flux",
    kinds=(FLUX, FLUX_VAE, CLIP, T5),
    tokenizers={
        "clip tokens": ("CLIP tokenizer", "tokenizer/vocab.json", "tokenizer/tokenizer.json"),
        "t5 tokens": ("T5 tokenizer", "tokenizer_2/spiece.model"),
    },
    repository="black-forest-labs/FLUX.1-{}",
    variant=variant,
    fits=(
        Fit("t5", "rows of width {}", "d_model", "context_dim"),
        Fit("clip", "a summary of width {}", "hidden_size", "pooled_dim"),
        Fit("flux_vae", "{} channels in a token", "z_channels", "in_channels", times=4),  # 2 x 2
    ),
    pipelines=("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"),
)
