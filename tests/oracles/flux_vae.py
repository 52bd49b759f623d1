"""Small random FLUX autoencoders, their diffusers twins, and their formulas in fp64."""

import re

import pytest
import torch
from diffusers import AutoencoderKL

from tests.oracles.plain import random, silu
from tinybridge.flux_vae import AutoEncoder, AutoEncoderConfig

CONFIGS = {
    "two-levels": dict(ch=16, ch_mult=(1, 2), num_res_blocks=1, groups=8, z_channels=4),
    "three-levels": dict(ch=16, ch_mult=(1, 2, 2), num_res_blocks=2, groups=8),
    "four-levels": dict(ch=8, ch_mult=(1, 2, 4, 4), num_res_blocks=2, groups=4),
    "as-wide-as-groups": dict(ch=32, ch_mult=(1, 1, 2), num_res_blocks=1, groups=32),
}
SMALL = CONFIGS["four-levels"]
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def autoencoder(config, dtype=torch.float32, seed=0) -> AutoEncoder:
    """Frozen, with every weight random, norms and biases included."""
    model = AutoEncoder(AutoEncoderConfig(**config)).double().requires_grad_(False)
    for i, (name, weight) in enumerate(model.named_parameters()):
        scale = weight[0].numel() ** -0.5 if weight.ndim == 4 else 0.3
        is_norm = "norm" in name and name.endswith("weight")
        weight.copy_(is_norm + scale * random(*weight.shape, seed=1000 * seed + i))
    return model.to(dtype)


def picture(model, rows=3, columns=5, batch=2, dtype=torch.float32):
    """Random pixels, of odd multiples of the stride."""
    return random(batch, 3, rows * model.stride, columns * model.stride, dtype=dtype) / 2


def raw(model, z):
    return z / model.config.scale_factor + model.config.shift_factor


# ---- diffusers ------------------------------------------------

TO_DIFFUSERS = (
    ("norm_out", "conv_norm_out"),
    (r"down\.(\d)\.block", r"down_blocks.\1.resnets"),
    (r"down\.(\d)\.downsample", r"down_blocks.\1.downsamplers.0"),
    (r"up\.(\d)\.block", r"up_blocks.\1.resnets"),
    (r"up\.(\d)\.upsample", r"up_blocks.\1.upsamplers.0"),
    ("nin_shortcut", "conv_shortcut"),
    (r"mid\.block_1", "mid_block.resnets.0"),
    (r"mid\.block_2", "mid_block.resnets.1"),
    (r"mid\.attn_1\.norm", "mid_block.attentions.0.group_norm"),
    (r"mid\.attn_1\.proj_out", "mid_block.attentions.0.to_out.0"),
    (r"mid\.attn_1\.([qkv])", r"mid_block.attentions.0.to_\1"),
)


def diffusers_twin(model) -> AutoencoderKL:
    """diffusers' autoencoder of the same configuration and weights."""
    config, state = model.config, {}
    last = len(config.ch_mult) - 1
    for key, tensor in model.state_dict().items():
        for ours, theirs in TO_DIFFUSERS:
            key = re.sub(ours, theirs, key)
        key = re.sub(r"up_blocks\.(\d)", lambda found: f"up_blocks.{last - int(found[1])}", key)
        state[key] = tensor.flatten(1) if re.search(r"to_\w+(\.0)?\.weight", key) else tensor
    twin = AutoencoderKL(
        block_out_channels=[config.ch * m for m in config.ch_mult],
        down_block_types=["DownEncoderBlock2D"] * (last + 1),
        up_block_types=["UpDecoderBlock2D"] * (last + 1),
        layers_per_block=config.num_res_blocks,
        latent_channels=config.z_channels,
        norm_num_groups=config.groups,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    twin.load_state_dict(state, strict=True)
    return twin.requires_grad_(False).to(next(model.parameters()).dtype)


def from_diffusers(twin, pixels) -> dict[str, torch.Tensor]:
    posterior = twin.encode(pixels).latent_dist
    return {
        "mean": posterior.mean,
        "logvar": posterior.logvar,
        "decoded": twin.decode(posterior.mean).sample,
    }


def from_ours(model, pixels, mean) -> dict[str, torch.Tensor]:
    return {
        "mean": raw(model, model.encode(pixels)),
        "logvar": model.moments(pixels)[1],
        "decoded": model.decode((mean - 0.1159) * 0.3611),
    }


# ---- formulas ------------------------------------------------


def literal(model, part, x):
    """The encoder or decoder written out on the raw tensors: no torch norm, pad or attention."""
    weights = {k: v for k, v in model.state_dict().items() if k.startswith(part)}
    config = model.config
    last = len(config.ch_mult) - 1

    def conv(name, x, before=1, after=1, step=1):
        kernel, bias = weights[f"{part}.{name}.weight"], weights[f"{part}.{name}.bias"]
        size = kernel.shape[2]
        wide = x.new_zeros(*x.shape[:2], *(side + before + after for side in x.shape[2:]))
        wide[..., before : before + x.shape[2], before : before + x.shape[3]] = x
        patches = wide.unfold(2, size, step).unfold(3, size, step)  # [B, C, H, W, size, size]
        return torch.einsum("bchwij,ocij->bohw", patches, kernel) + bias[:, None, None]

    def norm(name, x):
        weight, bias = weights[f"{part}.{name}.weight"], weights[f"{part}.{name}.bias"]
        g = x.reshape(len(x), config.groups, -1)
        centred = g - g.mean(2, keepdim=True)
        g = centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt()
        return g.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]

    def block(name, x):
        h = conv(f"{name}.conv1", silu(norm(f"{name}.norm1", x)))
        h = conv(f"{name}.conv2", silu(norm(f"{name}.norm2", h)))
        short = f"{name}.nin_shortcut"
        return h + (conv(short, x, 0, 0) if f"{part}.{short}.weight" in weights else x)

    def mid(x):
        x = block("mid.block_1", x)
        n = norm("mid.attn_1.norm", x)
        q, k, v = (conv(f"mid.attn_1.{c}", n, 0, 0).flatten(2) for c in "qkv")  # [B, C, hw]
        logits = torch.einsum("bci,bcj->bij", q, k) / q.shape[1] ** 0.5
        share = logits.exp() / logits.exp().sum(2, keepdim=True)
        h = torch.einsum("bij,bcj->bci", share, v).reshape(x.shape)
        return block("mid.block_2", x + conv("mid.attn_1.proj_out", h, 0, 0))

    def level(name, x, count):
        for j in range(count):
            x = block(f"{name}.block.{j}", x)
        return x

    x = conv("conv_in", x)
    if part == "encoder":
        for i in range(last + 1):
            x = level(f"down.{i}", x, config.num_res_blocks)
            x = conv(f"down.{i}.downsample.conv", x, 0, 1, 2) if i < last else mid(x)
    else:
        x = mid(x)
        for i in reversed(range(last + 1)):
            x = level(f"up.{i}", x, config.num_res_blocks + 1)
            if i:
                x = conv(f"up.{i}.upsample.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    return conv("conv_out", silu(norm("norm_out", x)))
