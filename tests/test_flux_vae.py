"""The FLUX autoencoder against diffusers, its formulas in fp64, and itself without tiles."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from tinybridge import tiles
from tinybridge.flux_vae import AutoEncoder, AutoEncoderConfig

KEYS = Path(__file__).parents[2] / "shared" / "keys" / "fluxae_bfl.json"
CONFIGS = {
    "two-levels": dict(ch=16, ch_mult=(1, 2), num_res_blocks=1, groups=8, z_channels=4),
    "three-levels": dict(ch=16, ch_mult=(1, 2, 2), num_res_blocks=2, groups=8),
    "four-levels": dict(ch=8, ch_mult=(1, 2, 4, 4), num_res_blocks=2, groups=4),
    "as-wide-as-groups": dict(ch=32, ch_mult=(1, 1, 2), num_res_blocks=1, groups=32),
}
SMALL = CONFIGS["four-levels"]
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
both_dtypes = pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed)).to(dtype)


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


def relative(a, b) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def raw(model, z):
    return z / model.config.scale_factor + model.config.shift_factor


# ---- keys --------------------------------------------------------------------------------------


@pytest.mark.skipif(not KEYS.exists(), reason="the key tables are not beside this checkout")
def test_the_default_config_has_the_vendors_keys_and_shapes():
    with torch.device("meta"):
        state = AutoEncoder(AutoEncoderConfig()).state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == json.loads(
        KEYS.read_text()
    )


# ---- against diffusers -------------------------------------------------------------------------

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
        "sample": posterior.sample(seeded(7)),
        "decoded": twin.decode(posterior.mean).sample,
    }


def from_ours(model, pixels, mean) -> dict[str, torch.Tensor]:
    return {
        "mean": raw(model, model.encode(pixels)),
        "logvar": model.moments(pixels)[1],
        "sample": raw(model, model.encode(pixels, seeded(7))),
        "decoded": model.decode((mean - 0.1159) * 0.3611),
    }


@every_config
@both_dtypes
def test_encode_sample_and_decode_equal_diffusers(config, dtype):
    model = autoencoder(config, dtype)
    pixels = picture(model, dtype=dtype)
    expected = from_diffusers(diffusers_twin(model), pixels)
    for name, found in from_ours(model, pixels, expected["mean"]).items():
        bar = 1e-5 if dtype == torch.float32 else 1e-6
        assert relative(found, expected[name]) <= bar, name


def test_moving_any_one_weight_breaks_the_equality_with_diffusers():
    model = autoencoder(CONFIGS["two-levels"])
    pixels = picture(model, batch=1)
    expected = from_diffusers(diffusers_twin(model), pixels)
    for name, weight in model.named_parameters():
        if name.endswith("k.bias"):
            continue  # adds the same number to all logits of a query: softmax does not see it
        kept = weight.clone()
        weight.view(-1)[0] += 0.1
        found = from_ours(model, pixels, expected["mean"])
        assert max(relative(found[part], expected[part]) for part in found) > 1e-5, name
        weight.copy_(kept)


def test_bfloat16_is_as_close_to_the_truth_as_diffusers_is():
    model = autoencoder(SMALL)
    pixels = picture(model).bfloat16()
    z = model.encode(pixels.float())
    truth = model.moments(pixels.float())[0], model.decode(z)
    half = autoencoder(SMALL, torch.bfloat16)
    twin = diffusers_twin(half)
    ours = half.moments(pixels)[0], half.decode(z.bfloat16())
    theirs = twin.encode(pixels).latent_dist.mean, twin.decode(raw(half, z.bfloat16())).sample
    for mine, other, exact in zip(ours, theirs, truth, strict=True):
        assert (mine - exact).norm() <= 1.1 * (other - exact).norm()


# ---- against the formulas ----------------------------------------------------------------------


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

    def silu(x):
        return x / (1 + (-x).exp())

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


@every_config
def test_both_halves_equal_their_formulas_in_float64(config):
    model = autoencoder(config, torch.float64)
    pixels = picture(model, dtype=torch.float64)
    mean, logvar = literal(model, "encoder", pixels).chunk(2, 1)
    found = model.moments(pixels)
    assert relative(found[0], mean) <= 1e-10
    assert relative(found[1], logvar.clamp(-30, 20)) <= 1e-10
    z = random(*mean.shape, dtype=torch.float64)
    assert relative(model.decode(z), literal(model, "decoder", z / 0.3611 + 0.1159)) <= 1e-10


def test_the_formulas_disagree_once_a_weight_is_moved():
    model = autoencoder(SMALL, torch.float64)
    z = random(1, 16, 3, 3, dtype=torch.float64)
    expected = literal(model, "decoder", z / 0.3611 + 0.1159)
    model.decoder.up[2].block[0].norm2.bias[0] += 1e-6
    assert relative(model.decode(z), expected) > 1e-10


# ---- traps -------------------------------------------------------------------------------------


def test_downsampling_pads_only_at_the_right_and_the_bottom():
    halve = autoencoder(SMALL).encoder.down[0].downsample
    halve.conv.weight.zero_()
    halve.conv.bias.zero_()
    halve.conv.weight[0, 0] = torch.arange(1.0, 10.0).view(3, 3)
    corner = torch.zeros(1, 8, 6, 8)
    corner[..., -1, -1] = 1
    expected = torch.zeros(3, 4)
    expected[-1, -1] = 5  # the kernel's middle; padding on all sides would see its last entry, 9
    assert torch.equal(halve(corner)[0, 0], expected)
    assert halve(corner.flip(2, 3))[0, 0, 0, 0] == 1  # no zeros before the first pixel


@pytest.mark.parametrize(("value", "z"), [(0.1159, 0.0), (1.1159, 0.3611)])
def test_shift_comes_before_scale_and_decode_undoes_both(value, z, monkeypatch):
    model = autoencoder(SMALL, torch.float64)
    model.encoder.conv_out.weight.zero_()
    model.encoder.conv_out.bias[:16] = value
    found = model.encode(picture(model, dtype=torch.float64))
    torch.testing.assert_close(found, torch.full_like(found, z), rtol=0, atol=1e-12)
    monkeypatch.setattr(model.decoder, "forward", lambda raw, tile: raw)
    back = model.decode(found)
    torch.testing.assert_close(back, torch.full_like(back, value), rtol=0, atol=1e-12)


def test_a_sample_is_the_mean_plus_deviation_times_seeded_noise_with_the_logvar_clamped():
    model = autoencoder(SMALL)
    model.encoder.conv_out.weight.zero_()
    model.encoder.conv_out.bias[:16] = 0.1159
    for bias, logvar in ((2.0, 2.0), (1e3, 20.0), (-1e3, -30.0)):
        model.encoder.conv_out.bias[16:] = bias
        assert (model.moments(picture(model))[1] == logvar).all()
        noise = torch.randn(2, 16, 3, 5, generator=seeded(3))
        expected = 0.3611 * torch.tensor(logvar / 2).exp() * noise
        torch.testing.assert_close(model.encode(picture(model), seeded(3)), expected)


def test_a_side_that_the_stride_does_not_divide_is_one_clear_error():
    model = autoencoder(SMALL)
    for height, width in ((24, 20), (28, 24)):
        with pytest.raises(ValueError, match=f"{height} x {width}.*multiples of 8") as caught:
            model.encode(torch.zeros(1, 3, height, width))
        assert "\n" not in str(caught.value)


def test_a_tile_below_the_stride_is_one_clear_error():
    model = autoencoder(SMALL)
    for tile in (7, 0, -8):
        with pytest.raises(ValueError, match="tile too small") as caught:
            model.decode(torch.zeros(1, 16, 3, 5), tile=tile)
        assert "\n" not in str(caught.value)


def test_gradients_reach_every_weight():
    model = autoencoder(SMALL).requires_grad_()
    mean, logvar = model.moments(picture(model))
    (model.decoder(mean).square().mean() + logvar.mean()).backward()
    for name, weight in model.named_parameters():
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


# ---- tiles -------------------------------------------------------------------------------------


def smooth(model, rows, columns, batch=1, dtype=torch.float32):
    """A random smooth picture whose parts differ: dark on the left, bright on the right."""
    coarse = random(batch, 3, rows, columns, seed=4, dtype=dtype) / 4
    coarse = coarse + torch.linspace(-0.7, 0.7, columns, dtype=dtype)
    return F.interpolate(coarse, scale_factor=model.stride, mode="bicubic")


@every_config
@both_dtypes
def test_tiled_equals_untiled(config, dtype):
    model, bar = autoencoder(config, dtype), 1e-5 if dtype == torch.float32 else 1e-12
    for rows, columns, tile in ((11, 7, 4), (5, 13, 6), (3, 9, 3)):
        pixels = smooth(model, rows, columns, 2, dtype)
        z = model.encode(pixels)
        tile = tile * model.stride
        assert relative(model.encode(pixels, tile=tile), z) <= bar
        assert (
            relative(model.encode(pixels, seeded(1), tile), model.encode(pixels, seeded(1))) <= bar
        )
        assert relative(model.decode(z, tile=tile), model.decode(z)) <= bar


def test_a_picture_no_larger_than_the_tile_is_bit_equal_to_the_untiled_one():
    model = autoencoder(SMALL)
    pixels = smooth(model, 5, 8)
    z = model.encode(pixels, tile=8 * model.stride)
    assert torch.equal(z, model.encode(pixels))
    assert torch.equal(model.decode(z, tile=8 * model.stride), model.decode(z))


@pytest.mark.parametrize("half", ("encoder", "decoder"))
def test_the_margin_is_wide_enough_and_no_wider_than_it_must_be(half):
    model = autoencoder(SMALL, torch.float64)
    part = getattr(model, half)
    x = smooth(model, 12, 12, dtype=torch.float64)
    x, tile = (x, 32) if half == "encoder" else (model.moments(x)[0], 32)
    whole = part(x)
    assert relative(part(x, tile), whole) <= 1e-12
    part.margin -= 1
    assert relative(part(x, tile), whole) > 1e-9


def seam(difference, borders) -> float:
    """Mean jump between the columns beside a tile's border, over the mean jump elsewhere."""
    jump = (difference[..., 1:] - difference[..., :-1]).abs().mean((0, 1, 2))
    beside = torch.zeros_like(jump, dtype=torch.bool)
    beside[[border - 1 for border in borders]] = True
    return (jump[beside].mean() / jump[~beside].mean()).item()


def test_no_seam_at_the_borders_of_tiles_and_a_large_one_with_each_tiles_own_statistics(
    monkeypatch,
):
    model = autoencoder(SMALL)
    pixels = smooth(model, 16, 24)
    z = model.encode(pixels)
    whole = model.decode(z)
    borders = (64, 128)
    tiled = model.decode(z, tile=64)
    assert relative(tiled, whole) <= 1e-5
    assert seam(tiled - whole, borders) < 1.5
    monkeypatch.setattr(tiles, "_shared", lambda known, layer, x: layer(x))
    naive = model.decode(z, tile=64)
    assert relative(naive, whole) > 1e-2
    assert seam(naive - whole, borders) > 3


def test_tiles_in_bfloat16_cost_no_precision():
    model, half = autoencoder(SMALL), autoencoder(SMALL, torch.bfloat16)
    z = model.encode(smooth(model, 8, 12)).bfloat16()
    truth = autoencoder(SMALL).decode(z.float())
    error = (half.decode(z) - truth).norm()
    assert (half.decode(z, tile=32) - truth).norm() <= 1.1 * error


def test_no_map_above_the_latents_resolution_is_larger_than_a_tile_with_its_margin():
    model, widest = autoencoder(SMALL), {}

    def note(name, conv, given, made):
        widest[name] = max(widest.get(name, 0), *made.shape[2:])

    levels = [("down", model.encoder.down[:-1]), ("up", model.decoder.up[:-1])]
    for side, stages in levels:
        for i, stage in enumerate(stages):
            for block in stage.block:
                block.conv1.register_forward_hook(partial(note, f"{side}.{i}"))
    pixels = smooth(model, 16, 24)
    model.decode(model.encode(pixels, tile=32), tile=32)
    for name, found in widest.items():
        side, i = name.split(".")
        margin = (model.encoder if side == "down" else model.decoder).margin
        assert found <= (32 >> int(i)) + 4 * margin, name
    assert len(widest) == 6
