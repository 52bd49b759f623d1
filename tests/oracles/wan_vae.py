"""Small random WAN autoencoders, their diffusers twins, and their whole-clip formulas in fp64."""

import pytest
import torch
from diffusers import AutoencoderKLWan

from tests.oracles.plain import random, silu
from tinybridge.checkpoints import layout
from tinybridge.checkpoints.wan import vae_table
from tinybridge.wan_vae import MEAN, STD, AutoEncoder, AutoEncoderConfig


def small(z=4, **fields):
    return dict(z_channels=z, mean=MEAN[:z], std=STD[:z], **fields)


CONFIGS = {
    "four-levels": small(dim=4),
    "three-levels": small(
        6, dim=6, dim_mult=(1, 2, 2), num_res_blocks=1, temporal_downsample=(True, True)
    ),
    "time-first": small(
        dim=4, dim_mult=(1, 1, 2, 2), num_res_blocks=1, temporal_downsample=(True, False, True)
    ),
}
SMALL = CONFIGS["three-levels"]
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def autoencoder(config, dtype=torch.float32, seed=0) -> AutoEncoder:
    """Frozen, with every weight random, norms and biases included; decodes to within -1..1."""
    model = AutoEncoder(AutoEncoderConfig(**config)).double().requires_grad_(False)
    for i, (name, weight) in enumerate(model.named_parameters()):
        is_norm = name.endswith("gamma")
        scale = 0.3 if is_norm or weight.ndim == 1 else weight[0].numel() ** -0.5
        weight.copy_(is_norm + scale * random(*weight.shape, seed=1000 * seed + i))
    for weight in model.decoder.head[1].parameters():
        weight /= 6  # diffusers clamps what it decodes
    return model.to(dtype)


def clip(model, frames=5, rows=3, columns=5, batch=1, dtype=torch.float32, seed=1):
    """Random pixels [B, 3, T, H, W], the sides odd multiples of the stride."""
    sides = rows * model.stride, columns * model.stride
    return random(batch, 3, frames, *sides, seed=seed, dtype=dtype) / 2


def channels(values, like):
    return torch.tensor(values, dtype=like.dtype)[:, None, None, None]


def raw(model, z):
    return z * channels(model.config.std, z) + channels(model.config.mean, z)


def normal(model, raw):
    return (raw - channels(model.config.mean, raw)) / channels(model.config.std, raw)


# ---- diffusers ------------------------------------------------


def diffusers_twin(model) -> AutoencoderKLWan:
    """diffusers' autoencoder of the same configuration and weights."""
    config, state = model.config, model.state_dict()
    table = vae_table(config.num_res_blocks, len(config.dim_mult))
    plan = layout.plan(state, table)
    twin = AutoencoderKLWan(
        base_dim=config.dim,
        z_dim=config.z_channels,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
        latents_mean=list(config.mean),
        latents_std=list(config.std),
    )
    twin.load_state_dict({theirs: state[ours] for ours, ([theirs], _) in plan.items()}, strict=True)
    return twin.requires_grad_(False).to(next(model.parameters()).dtype)


def from_diffusers(twin, pixels) -> dict[str, torch.Tensor]:
    posterior = twin.encode(pixels).latent_dist
    decoded = twin.decode(posterior.mean).sample
    assert decoded.abs().max() < 1  # or its clamp would hide differences
    return {"mean": posterior.mean, "logvar": posterior.logvar, "decoded": decoded}


def from_ours(model, pixels, mean) -> dict[str, torch.Tensor]:
    return {
        "mean": raw(model, model.encode(pixels)),
        "logvar": model.moments(pixels)[1],
        "decoded": model.decode(normal(model, mean)),
    }


# ---- formulas ------------------------------------------------


def literal(model, part, x):
    """The encoder (with conv1) or decoder (with conv2) over a whole clip, on the raw tensors."""
    state, config = model.state_dict(), model.config

    def conv(name, x, before=(2, 1, 1), after=(0, 1, 1), step=(1, 1, 1)):
        kernel, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        if kernel.ndim == 4:  # of pictures: one frame long
            kernel = kernel[:, :, None]
        if kernel.shape[2:] == (1, 1, 1):
            before = after = (0, 0, 0)
        sides = zip(x.shape[2:], before, after, strict=True)
        wide = x.new_zeros(*x.shape[:2], *(a + side + b for side, a, b in sides))
        inside = (slice(a, a + side) for side, a in zip(x.shape[2:], before, strict=True))
        wide[(..., *inside)] = x
        for axis in range(3):
            wide = wide.unfold(2 + axis, kernel.shape[2 + axis], step[axis])
        return torch.einsum("bcthwijk,ocijk->bothw", wide, kernel) + bias[:, None, None, None]

    def norm(name, x):
        length = x.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)
        return x / length * x.shape[1] ** 0.5 * state[f"{name}.gamma"].reshape(-1, 1, 1, 1)

    def block(name, x):
        h = conv(f"{name}.residual.2", silu(norm(f"{name}.residual.0", x)))
        h = conv(f"{name}.residual.6", silu(norm(f"{name}.residual.3", h)))
        short = f"{name}.shortcut"
        return h + (conv(short, x) if f"{short}.weight" in state else x)

    def middle(x):
        x = block(f"{part}.middle.0", x)
        name = f"{part}.middle.1"
        q, k, v = conv(f"{name}.to_qkv", norm(f"{name}.norm", x)).flatten(3).chunk(3, 1)
        logits = torch.einsum("bcti,bctj->btij", q, k) / q.shape[1] ** 0.5
        share = logits.exp() / logits.exp().sum(3, keepdim=True)
        h = torch.einsum("btij,bctj->bcti", share, v).reshape(x.shape)
        return block(f"{part}.middle.2", x + conv(f"{name}.proj", h))

    def down(name, x, time):
        x = conv(f"{name}.resample.1", x, (0, 0, 0), (0, 1, 1), (1, 2, 2))
        if time and x.shape[2] > 1:
            later = conv(f"{name}.time_conv", x, (0, 0, 0), (0, 0, 0), (2, 1, 1))
            return torch.cat((x[:, :, :1], later), 2)
        return x

    def up(name, x, time):
        if time:
            pairs = conv(f"{name}.time_conv", x[:, :, 1:], (2, 0, 0), (0, 0, 0))
            frames = [x[:, :, 0]]
            for i in range(x.shape[2] - 1):
                frames += [pairs[:, : x.shape[1], i], pairs[:, x.shape[1] :, i]]
            x = torch.stack(frames, 2)
        x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
        return conv(f"{name}.resample.1", x, (0, 1, 1), (0, 1, 1))

    count, last, n = config.num_res_blocks, len(config.dim_mult) - 1, 0
    if part == "decoder":
        x, count = middle(conv("decoder.conv1", conv("conv2", x))), count + 1
    else:
        x = conv("encoder.conv1", x)
    flags = config.temporal_downsample[:: 1 if part == "encoder" else -1]
    for level in range(last + 1):
        for _ in range(count):
            x, n = block(f"{part}.{'down' if part == 'encoder' else 'up'}samples.{n}", x), n + 1
        if level < last and part == "encoder":
            x, n = down(f"encoder.downsamples.{n}", x, flags[level]), n + 1
        elif level < last:
            x, n = up(f"decoder.upsamples.{n}", x, flags[level]), n + 1
    if part == "encoder":
        x = middle(x)
    x = conv(f"{part}.head.2", silu(norm(f"{part}.head.0", x)))
    return conv("conv1", x) if part == "encoder" else x
