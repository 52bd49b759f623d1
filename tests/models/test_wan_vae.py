"""The WAN autoencoder against diffusers and its formulas in fp64; traps and errors."""

import inspect

import pytest
import torch
from diffusers import AutoencoderKLWan

from tests.oracles import official
from tests.oracles.plain import both_dtypes, error, random
from tests.oracles.wan_vae import (
    CONFIGS,
    SMALL,
    autoencoder,
    clip,
    diffusers_twin,
    every_config,
    from_diffusers,
    from_ours,
    literal,
    normal,
    raw,
)
from tinybridge.parts.causal import framewise
from tinybridge.wan_vae import MEAN, STD, AutoEncoder, AutoEncoderConfig

# ---- keys --------------------------------------------------------------------------------------


def test_the_default_config_has_the_vendors_keys_and_shapes():
    with torch.device("meta"):
        state = AutoEncoder(AutoEncoderConfig()).state_dict()
    own = {key: list(tensor.shape) for key, tensor in state.items()}
    assert own == official.shapes("wanvae_vendor")


# ---- against diffusers ---


@every_config
@both_dtypes
@pytest.mark.parametrize("frames", (1, 5, 9, 17))
def test_encode_and_decode_equal_diffusers(config, dtype, frames):
    model = autoencoder(config, dtype)
    pixels = clip(model, frames, batch=2, dtype=dtype)
    expected = from_diffusers(diffusers_twin(model), pixels)
    for name, found in from_ours(model, pixels, expected["mean"]).items():
        bar = 1e-5 if dtype == torch.float32 else 1e-6
        assert found.shape == expected[name].shape
        assert error(found, expected[name]) <= bar, name


def test_moving_any_one_weight_breaks_the_equality_with_diffusers():
    model = autoencoder(SMALL)
    pixels = clip(model, 13, 2, 3)  # so much that every tap of every kernel meets a frame
    expected = from_diffusers(diffusers_twin(model), pixels)
    for name, weight in model.named_parameters():
        kept = weight.clone()
        weight.view(-1)[0] += 0.1
        if name.startswith(("decoder", "conv2")):
            found = {"decoded": model.decode(normal(model, expected["mean"]))}
        else:
            found = dict(zip(("mean", "logvar"), model.moments(pixels), strict=True))
        assert max(error(found[part], expected[part]) for part in found) > 1e-5, name
        weight.copy_(kept)


@every_config
def test_bfloat16_is_as_close_to_the_truth_as_diffusers_is(config):
    model, half = autoencoder(config), autoencoder(config, torch.bfloat16)
    twin = diffusers_twin(half)
    pixels = clip(model, 9, 6, 7).bfloat16()
    z = model.encode(pixels.float())
    truth = model.moments(pixels.float())[0], model.decode(z)
    ours = half.moments(pixels)[0], half.decode(z.bfloat16())
    theirs = twin.encode(pixels).latent_dist.mean, twin.decode(raw(model, z).bfloat16()).sample
    for mine, other, exact in zip(ours, theirs, truth, strict=True):
        assert (mine - exact).norm() <= 1.1 * (other - exact).norm()


def test_the_latent_statistics_are_those_of_diffusers():
    defaults = inspect.signature(AutoencoderKLWan.__init__).parameters
    assert list(MEAN) == defaults["latents_mean"].default
    assert list(STD) == defaults["latents_std"].default


# ---- against the formulas ---


def test_the_formulas_disagree_once_a_weight_is_moved():
    model = autoencoder(SMALL, torch.float64)
    z = random(1, 6, 3, 3, 3, dtype=torch.float64)
    expected = literal(model, "decoder", raw(model, z))
    model.decoder.upsamples[2].time_conv.bias[0] += 1e-6
    assert error(model.decode(z), expected) > 1e-10


# ---- traps -------------------------------------------------------------------------------------


def test_downsampling_pads_only_at_the_right_and_the_bottom():
    halve = autoencoder(SMALL).encoder.downsamples[1].resample
    halve[1].weight.zero_()
    halve[1].bias.zero_()
    halve[1].weight[0, 0] = torch.arange(1.0, 10.0).view(3, 3)
    corner = torch.zeros(1, 6, 6, 8)
    corner[..., -1, -1] = 1
    expected = torch.zeros(3, 4)
    expected[-1, -1] = 5  # the kernel's middle; padding on all sides would see its last entry, 9
    assert torch.equal(halve(corner)[0, 0], expected)
    assert halve(corner.flip(2, 3))[0, 0, 0, 0] == 1  # no zeros before the first pixel


def test_attention_and_framewise_layers_see_one_frame_at_a_time():
    model = autoencoder(SMALL, torch.float64)
    x, order = random(2, 12, 4, 3, 5, dtype=torch.float64), [2, 0, 3, 1]
    for layer in (lambda x: model.encoder.middle[1](x, {}), lambda x: framewise(torch.tanh, x)):
        torch.testing.assert_close(layer(x)[:, :, order], layer(x[:, :, order]))


def test_a_latent_of_zero_is_the_mean_and_of_one_a_deviation_more(monkeypatch):
    model = autoencoder(SMALL, torch.float64)
    model.conv1.weight.zero_()
    model.conv1.bias[:6] = torch.tensor(MEAN[:6], dtype=torch.float64)
    pixels = clip(model, dtype=torch.float64)
    assert model.encode(pixels).abs().max() <= 1e-15
    model.conv1.bias[:6] += torch.tensor(STD[:6], dtype=torch.float64)
    one = model.encode(pixels)
    torch.testing.assert_close(one, torch.ones_like(one), rtol=0, atol=1e-14)
    monkeypatch.setattr(model.decoder, "forward", lambda z, cache, tile: z)
    monkeypatch.setattr(model.conv2, "forward", lambda z: z)
    back = model.decode(one)
    torch.testing.assert_close(back, raw(model, one), rtol=0, atol=1e-14)


@pytest.mark.parametrize("frames", (0, 2, 4, 6, 16))
def test_frames_that_are_not_1_plus_4k_are_one_clear_error(frames):
    model = autoencoder(SMALL)
    pixels = torch.zeros(1, 3, frames, 8, 8)
    for run in (model.encode, model.moments, lambda x: list(model.encode_chunks(x.split(1, 2)))):
        with pytest.raises(ValueError, match=r"clip of \d+ frames.*1 \+ 4k") as caught:
            run(pixels)
        assert "\n" not in str(caught.value)


def test_sides_the_stride_does_not_divide_and_empty_latents_are_one_clear_error():
    model = autoencoder(CONFIGS["four-levels"])
    for height, width in ((24, 20), (28, 24)):
        pixels = torch.zeros(1, 3, 5, height, width)
        for run in (model.encode, lambda x: next(model.encode_chunks([x]))):
            with pytest.raises(ValueError, match=f"{height} x {width}.*multiples of 8") as caught:
                run(pixels)
            assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="0 frames"):
        model.decode(torch.zeros(1, 4, 0, 3, 3))
    with pytest.raises(ValueError, match="4 latent channels"):
        AutoEncoderConfig(z_channels=4)
    with pytest.raises(ValueError, match="temporal_downsample"):
        AutoEncoderConfig(dim_mult=(1, 2))


def test_gradients_reach_every_weight_and_through_frozen_ones_the_pixels():
    model = autoencoder(SMALL).requires_grad_()
    pixels = clip(model, 13, 1, 2).requires_grad_()
    mean, logvar = model.moments(pixels)
    (model.decode(normal(model, mean)).square().mean() + logvar.mean()).backward()
    for name, weight in [*model.named_parameters(), ("pixels", pixels)]:
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name
    frozen = autoencoder(SMALL)
    again = pixels.detach().requires_grad_()
    frozen.encode(again).square().sum().backward()
    assert again.grad.abs().amax((0, 1, 3, 4)).min() > 0
    blank = torch.zeros(1, 3, 5, 4, 4, requires_grad=True)  # a length of zero has a gradient too
    frozen.encode(blank).sum().backward()
    assert blank.grad.isfinite().all()
