"""WAN 2.1 T2V, 1.3B and 14B, as published: a row for the transformer, autoencoder and UMT5.

Left column of a table: our names, which are the vendor's (UMT5: transformers'); right: the other
layout's. All are pure renamings. Sources: key listings of both repositories' files.
"""

import itertools
from dataclasses import replace
from typing import Any

from tinybridge.checkpoints.flux import T5, t5_sizes
from tinybridge.checkpoints.layout import (
    Family,
    Fit,
    Has,
    Kind,
    Shape,
    Signature,
    Table,
    count,
    table,
)
from tinybridge.wan import FLOAT32, Wan, WanConfig
from tinybridge.wan_vae import AutoEncoder, AutoEncoderConfig

# ----------------------------------------------------------------------------- the transformer

# Wan-Video/Wan2.1 <- diffusers WanTransformer3DModel. Two names mislead: the affine norm in front
# of the cross-attention is the third here and the second there, and what is head.modulation here
# has there the name of the blocks' modulations, without a prefix.
WAN_TABLE = table("""
patch_embedding              patch_embedding
text_embedding.0             condition_embedder.text_embedder.linear_1
text_embedding.2             condition_embedder.text_embedder.linear_2
time_embedding.0             condition_embedder.time_embedder.linear_1
time_embedding.2             condition_embedder.time_embedder.linear_2
time_projection.1            condition_embedder.time_proj
blocks.{}.modulation         blocks.{}.scale_shift_table
blocks.{}.self_attn.q        blocks.{}.attn1.to_q
blocks.{}.self_attn.k        blocks.{}.attn1.to_k
blocks.{}.self_attn.v        blocks.{}.attn1.to_v
blocks.{}.self_attn.o        blocks.{}.attn1.to_out.0
blocks.{}.self_attn.norm_q   blocks.{}.attn1.norm_q
blocks.{}.self_attn.norm_k   blocks.{}.attn1.norm_k
blocks.{}.norm3              blocks.{}.norm2
blocks.{}.cross_attn.q       blocks.{}.attn2.to_q
blocks.{}.cross_attn.k       blocks.{}.attn2.to_k
blocks.{}.cross_attn.v       blocks.{}.attn2.to_v
blocks.{}.cross_attn.o       blocks.{}.attn2.to_out.0
blocks.{}.cross_attn.norm_q  blocks.{}.attn2.norm_q
blocks.{}.cross_attn.norm_k  blocks.{}.attn2.norm_k
blocks.{}.ffn.0              blocks.{}.ffn.net.0.proj
blocks.{}.ffn.2              blocks.{}.ffn.net.2
head.modulation              scale_shift_table
head.head                    proj_out
""")


def wan_sizes(shape: Shape, has: Has) -> dict[str, Any]:
    """Fields of WanConfig; heads of 128, as published. ValueError for another kind of WAN."""
    width, channels = shape("patch_embedding.weight", 5)[:2]
    out = shape("head.head.weight", 2)[0] // 4
    if out != channels:
        like = {36: "WAN 2.1 I2V does", 48: "WAN Fun-Control does"}
        variant = like.get(channels, "WAN for other tasks does")
        raise ValueError(
            f"takes {channels} channels and gives {out}, as {variant}; expected WAN 2.1 T2V"
        )
    if channels == 48:
        raise ValueError(
            "takes and gives 48 channels, as WAN 2.2 TI2V 5B does; expected WAN 2.1 T2V, with 16"
        )
    return {
        "in_channels": channels,
        "hidden_size": width,
        "num_heads": None if width % 128 else width // 128,
        "depth": count(has, "blocks.{}.self_attn.q.weight"),
        "ffn_dim": shape("blocks.0.ffn.0.weight", 2)[0],
        "freq_dim": shape("time_embedding.0.weight", 2)[1],
        "context_dim": shape("text_embedding.0.weight", 2)[1],
    }


WAN = Kind(
    name="wan",
    words="WAN transformer",
    model=Wan,
    config=WanConfig,
    places=(
        "transformer",
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors",
        "wan2.1_t2v_*.safetensors",
    ),
    own=Signature("blocks.0.cross_attn.", "a WAN transformer, vendor layout"),
    other=Signature("blocks.0.attn2.", "a WAN transformer, diffusers layout"),
    table=WAN_TABLE,
    sizes=wan_sizes,
    classes=("WanTransformer3DModel", "WanModel", "t2v"),
    fields={
        "in_channels": "in_dim",  # the vendor's
        "hidden_size": "dim",  # the vendor's
        "num_heads": "num_attention_heads",
        "depth": "num_layers",
        "context_dim": "text_dim",
    },
    float32=FLOAT32,
    expected={
        "qk_norm": ("rms_norm_across_heads", True),
        "cross_attn_norm": (True,),
        "patch_size": ([1, 2, 2],),
        "added_kv_proj_dim": (None,),
        "image_dim": (None,),
        "model_type": ("t2v",),  # the vendor's
    },
    counts=("depth",),
    blocks="blocks",
    ahead=("cross_attn.k", "cross_attn.v"),
    relatives={
        r"wan[-_ .]?2[-_.]?2|(high|low)[-_]noise": "an expert of WAN 2.2",
        r"causvid|self[-_]?forcing|lightx2v|fusionx|turbo": "a distilled WAN",
    },
)

# ----------------------------------------------------------------------------- the autoencoder

BLOCK = (  # inside a residual block
    ("residual.0", "norm1"),
    ("residual.2", "conv1"),
    ("residual.3", "norm2"),
    ("residual.6", "conv2"),
    ("shortcut", "conv_shortcut"),
)


def vae_table(num_res_blocks: int = 2, levels: int = 4) -> Table:
    """Wan2.1_VAE.pth <- diffusers AutoencoderKLWan, with these blocks per encoder level.

    The encoder's layers carry one running number in both layouts; the decoder's do so in the
    vendor's only, while diffusers counts levels and blocks: each layer needs rows of its own.
    """
    blocks = [("encoder.downsamples.{}", "encoder.down_blocks.{}")]
    others = []
    for half in ("encoder", "decoder"):
        blocks.append((f"{half}.middle.0", f"{half}.mid_block.resnets.0"))
        blocks.append((f"{half}.middle.2", f"{half}.mid_block.resnets.1"))
        others.append((f"{half}.middle.1", f"{half}.mid_block.attentions.0"))
        others.append((f"{half}.conv1", f"{half}.conv_in"))
        others.append((f"{half}.head.0", f"{half}.norm_out"))
        others.append((f"{half}.head.2", f"{half}.conv_out"))
    step = num_res_blocks + 2  # a decoder level: one block more than the encoder's, and upsampling
    for level in range(levels):
        theirs, first = f"decoder.up_blocks.{level}", step * level
        for j in range(step - 1):
            blocks.append((f"decoder.upsamples.{first + j}", f"{theirs}.resnets.{j}"))
        if level < levels - 1:
            others.append((f"decoder.upsamples.{first + step - 1}", f"{theirs}.upsamplers.0"))
    others.append(("encoder.downsamples.{}", "encoder.down_blocks.{}"))  # resample, time_conv
    others.append(("conv1", "quant_conv"))
    others.append(("conv2", "post_quant_conv"))
    inner = [(f"{a}.{x}", f"{b}.{y}") for a, b in blocks for x, y in BLOCK]
    return tuple((ours, theirs, "copy") for ours, theirs in inner + others)


def vae_rows(config: AutoEncoderConfig) -> Table:
    return vae_table(config.num_res_blocks, len(config.dim_mult))


def wan_vae_sizes(shape: Shape, has: Has) -> dict[str, Any]:
    """Fields of its AutoEncoderConfig; the encoder counts blocks and resamplings as one list."""
    layer = "encoder.downsamples.{}."
    widths: list[int] = []  # of each level
    times: list[bool] = []  # whether each resampling is in time too
    blocks = 0  # of the first level
    for n in itertools.count():
        if has(layer.format(n) + "residual.2.weight"):
            if len(widths) == len(times):
                widths.append(shape(layer.format(n) + "residual.2.weight", 5)[0])
            blocks += not times
        elif has(layer.format(n) + "resample.1.weight"):
            times.append(has(layer.format(n) + "time_conv.weight"))
        else:
            break
    dim = shape("encoder.conv1.weight", 5)[0]
    return {
        "dim": dim,
        "dim_mult": tuple(width // dim for width in widths),
        "num_res_blocks": blocks,
        "temporal_downsample": tuple(times),
        "z_channels": shape("conv2.weight", 5)[0],
    }


WAN_VAE = Kind(
    name="wan_vae",
    words="WAN autoencoder",
    model=AutoEncoder,
    config=AutoEncoderConfig,
    places=("vae", "Wan2.1_VAE.pth", "wan_2.1_vae.safetensors"),
    own=Signature("encoder.downsamples.0.", "a WAN autoencoder, vendor layout"),
    other=Signature("encoder.down_blocks.0.conv", "a WAN autoencoder, diffusers layout"),
    table=vae_table(),
    rows=vae_rows,
    sizes=wan_vae_sizes,
    classes=("AutoencoderKLWan",),
    fields={
        "dim": "base_dim",
        "temporal_downsample": "temperal_downsample",
        "z_channels": "z_dim",
        "mean": "latents_mean",
        "std": "latents_std",
    },
    expected={"is_residual": (False,), "patch_size": (None,), "attn_scales": ([],)},
    pickled=True,
    counts=("num_res_blocks", "dim_mult"),
)

# ----------------------------------------------------------------------------- the text encoder

# transformers UMT5EncoderModel <- the vendor's models_t5_umt5-xxl-enc-bf16.pth
UMT5_TABLE = table("""
shared                                                          token_embedding
encoder.block.{}.layer.0.layer_norm                             blocks.{}.norm1
encoder.block.{}.layer.0.SelfAttention.relative_attention_bias  blocks.{}.pos_embedding.embedding
encoder.block.{}.layer.0.SelfAttention                          blocks.{}.attn
encoder.block.{}.layer.1.layer_norm                             blocks.{}.norm2
encoder.block.{}.layer.1.DenseReluDense.wi_0                    blocks.{}.ffn.gate.0
encoder.block.{}.layer.1.DenseReluDense.wi_1                    blocks.{}.ffn.fc1
encoder.block.{}.layer.1.DenseReluDense.wo                      blocks.{}.ffn.fc2
encoder.final_layer_norm                                        norm
""")


def umt5_sizes(shape: Shape, has: Has) -> dict[str, Any]:
    """Fields of T5Config where every block has a bias of its own."""
    return t5_sizes(shape, has) | {"per_layer_bias": True}


UMT5 = replace(
    T5,
    name="umt5",
    words="UMT5 encoder",
    places=("text_encoder", "models_t5_umt5-xxl-enc-*.pth", "*umt5*.safetensors"),
    own=Signature(
        "encoder.block.1.layer.0.SelfAttention.relative_attention_bias", "a UMT5 encoder"
    ),
    other=Signature("blocks.0.pos_embedding", "a UMT5 encoder, vendor layout"),
    table=UMT5_TABLE,
    sizes=umt5_sizes,
    classes=("umt5",),
    ignored=(*T5.ignored, "spiece_model"),  # ComfyUI's file brings the tokenizer
    pickled=True,
)

# -------------------------------------------------------------------------------- the backbone


def variant(config: WanConfig | None) -> str:
    return "14B" if config and config.hidden_size == 5120 else "1.3B"


FAMILY = Family(
    name="wan",
    kinds=(WAN, WAN_VAE, UMT5),
    tokenizers={
        "umt5 tokens": (
            "UMT5 tokenizer",
            "tokenizer/spiece.model",
            "google/umt5-xxl/spiece.model",
        ),
    },
    repository="Wan-AI/Wan2.1-T2V-{}-Diffusers",
    variant=variant,
    fits=(
        Fit("umt5", "rows of width {}", "d_model", "context_dim"),
        Fit("wan_vae", "{} latent channels", "z_channels", "in_channels"),
    ),
    pipelines=("WanPipeline", "WanVideoToVideoPipeline"),
)
