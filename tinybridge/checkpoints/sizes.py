"""A model's config from a checkpoint: what the tensors' shapes tell, what its config.json says.

Both give a dictionary with the field names of our config classes. Shapes do not tell everything
(a norm's groups, the rope's axes), and a config.json may leave fields out: weights.py lays the
second over the first, so that a missing last block is noticed where a config.json counts it.
"""

import itertools
from collections.abc import Callable
from typing import Any

Shape = Callable[[str], tuple[int, ...]]  # of our tensor name; ValueError when it is not there
Has = Callable[[str], bool]


def count(has: Has, pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1), ... are there before the first gap."""
    return next(n for n in itertools.count() if not has(pattern.format(n)))


def flux(shape: Shape, has: Has) -> dict[str, Any]:
    """Fields of FluxConfig. ValueError for a variant whose input is not its output."""
    width, channels = shape("img_in.weight")
    out = shape("final_layer.linear.weight")[0]
    if out != channels:
        raise ValueError(
            f"takes {channels} channels and gives {out}, as FLUX.1 Fill, Canny and Depth do; "
            "expected FLUX.1-dev or FLUX.1-schnell"
        )
    head = shape("double_blocks.0.img_attn.norm.query_norm.scale")[0]
    side = head * 7 // 32 * 2  # 56 of 128; even, for pairs are turned
    return {
        "in_channels": channels,
        "hidden_size": width,
        "num_heads": width // head,
        "depth": count(has, "double_blocks.{}.img_attn.qkv.weight"),
        "depth_single": count(has, "single_blocks.{}.linear1.weight"),
        "mlp_ratio": shape("double_blocks.0.img_mlp.0.weight")[0] / width,
        "context_dim": shape("txt_in.weight")[1],
        "pooled_dim": shape("vector_in.in_layer.weight")[1],
        "axes_dim": (head - 2 * side, side, side),
        "guidance": has("guidance_in.in_layer.weight"),
    }


def flux_vae(shape: Shape, has: Has) -> dict[str, Any]:
    """Fields of AutoEncoderConfig."""
    ch, channels = shape("encoder.conv_in.weight")[:2]
    levels = count(has, "encoder.down.{}.block.0.conv1.weight")
    widths = [shape(f"encoder.down.{i}.block.0.conv1.weight")[0] for i in range(levels)]
    return {
        "in_channels": channels,
        "ch": ch,
        "out_ch": shape("decoder.conv_out.weight")[0],
        "ch_mult": tuple(width // ch for width in widths),
        "num_res_blocks": count(has, "encoder.down.0.block.{}.conv1.weight"),
        "z_channels": shape("decoder.conv_in.weight")[1],
    }


def t5(shape: Shape, has: Has) -> dict[str, Any]:
    """Fields of T5Config."""
    block = "encoder.block.{}.layer."
    buckets, heads = shape(block.format(0) + "0.SelfAttention.relative_attention_bias.weight")
    vocabulary, width = shape("shared.weight")
    bias = "0.SelfAttention.relative_attention_bias.weight"
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": shape(block.format(0) + "0.SelfAttention.q.weight")[0] // heads,
        "num_heads": heads,
        "d_ff": shape(block.format(0) + "1.DenseReluDense.wi_0.weight")[0],
        "num_layers": count(has, block + "0.SelfAttention.q.weight"),
        "num_buckets": buckets,
        "per_layer_bias": count(has, block + bias) > 1,
    }


def umt5(shape: Shape, has: Has) -> dict[str, Any]:
    """Fields of T5Config where every block has a bias of its own."""
    return t5(shape, has) | {"per_layer_bias": True}


def clip(shape: Shape, has: Has) -> dict[str, Any]:
    """Fields of ClipConfig; heads of 64, as in every published CLIP text model."""
    vocabulary, width = shape("text_model.embeddings.token_embedding.weight")
    layer = "text_model.encoder.layers.{}."
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shape(layer.format(0) + "mlp.fc1.weight")[0],
        "num_layers": count(has, layer + "mlp.fc1.weight"),
        "num_heads": width // 64,
        "max_position_embeddings": shape("text_model.embeddings.position_embedding.weight")[0],
    }


def wan(shape: Shape, has: Has) -> dict[str, Any]:
    """Fields of WanConfig; heads of 128, as published. ValueError for another kind of WAN."""
    width, channels = shape("patch_embedding.weight")[:2]
    out = shape("head.head.weight")[0] // 4
    if out != channels:
        raise ValueError(
            f"takes {channels} channels and gives {out}, as WAN 2.1 I2V does; expected WAN 2.1 T2V"
        )
    return {
        "in_channels": channels,
        "hidden_size": width,
        "num_heads": None if width % 128 else width // 128,
        "depth": count(has, "blocks.{}.self_attn.q.weight"),
        "ffn_dim": shape("blocks.0.ffn.0.weight")[0],
        "freq_dim": shape("time_embedding.0.weight")[1],
        "context_dim": shape("text_embedding.0.weight")[1],
    }


def wan_vae(shape: Shape, has: Has) -> dict[str, Any]:
    """Fields of its AutoEncoderConfig; the encoder counts blocks and resamplings as one list."""
    layer = "encoder.downsamples.{}."
    widths, blocks, times = [], 0, []  # width and number of blocks of each level
    for n in itertools.count():
        if has(layer.format(n) + "residual.2.weight"):
            if len(widths) == len(times):
                widths.append(shape(layer.format(n) + "residual.2.weight")[0])
            blocks += not times
        elif has(layer.format(n) + "resample.1.weight"):
            times.append(has(layer.format(n) + "time_conv.weight"))
        else:
            break
    dim = shape("encoder.conv1.weight")[0]
    return {
        "dim": dim,
        "dim_mult": tuple(width // dim for width in widths),
        "num_res_blocks": blocks,
        "temporal_downsample": tuple(times),
        "z_channels": shape("conv2.weight")[0],
    }


# ------------------------------------------------------------------------------ config.json

CLASSES = {  # _class_name (diffusers) or model_type (transformers) of the models
    "flux": ("FluxTransformer2DModel",),
    "flux_vae": ("AutoencoderKL",),
    "t5": ("t5", "umt5"),
    "umt5": ("umt5",),
    "clip": ("clip", "clip_text_model"),
    "wan": ("WanTransformer3DModel", "WanModel"),
    "wan_vae": ("AutoencoderKLWan",),
}

T5_FIELDS = {
    "num_buckets": "relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "eps": "layer_norm_epsilon",
}

FIELDS = {  # our field <- theirs; fields that have the same name are not listed
    "flux": {
        "depth": "num_layers",
        "depth_single": "num_single_layers",
        "num_heads": "num_attention_heads",
        "context_dim": "joint_attention_dim",
        "pooled_dim": "pooled_projection_dim",
        "axes_dim": "axes_dims_rope",
        "guidance": "guidance_embeds",
    },
    "flux_vae": {
        "out_ch": "out_channels",
        "num_res_blocks": "layers_per_block",
        "z_channels": "latent_channels",
        "groups": "norm_num_groups",
        "scale_factor": "scaling_factor",
    },
    "t5": T5_FIELDS,
    "umt5": T5_FIELDS,
    "clip": {
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "eps": "layer_norm_eps",
    },
    "wan": {
        "in_channels": "in_dim",  # the vendor's
        "hidden_size": "dim",  # the vendor's
        "num_heads": "num_attention_heads",
        "depth": "num_layers",
        "context_dim": "text_dim",
    },
    "wan_vae": {
        "dim": "base_dim",
        "temporal_downsample": "temperal_downsample",
        "z_channels": "z_dim",
        "mean": "latents_mean",
        "std": "latents_std",
    },
}


def published(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """A config.json, or the config in a file's metadata, with our field names.

    Empty for the config.json of another model, which may lie beside a vendor's file.
    """
    name = config.get("_class_name") or config.get("model_type")
    if name is not None and name not in CLASSES[kind]:
        return {}
    config = config | config.get("text_config", {})  # openai's CLIP holds two models
    result = config | {
        ours: config[theirs] for ours, theirs in FIELDS[kind].items() if theirs in config
    }
    if "attention_head_dim" in config:
        result["hidden_size"] = config["num_attention_heads"] * config["attention_head_dim"]
    if "block_out_channels" in config:
        widths = config["block_out_channels"]
        result |= {"ch": widths[0], "ch_mult": [width // widths[0] for width in widths]}
    return {key: tuple(v) if isinstance(v, list) else v for key, v in result.items()}
