"""The FLUX autoencoder against diffusers and its formulas in fp64."""

import pytest
import torch

from tests.oracles import official
from tests.oracles.flux_vae import (
    CONFIGS,
    SMALL,
    autoencoder,
    diffusers_twin,
    every_config,
    from_diffusers,
    from_ours,
    literal,
    picture,
    raw,
)
from tests.oracles.plain import both_dtypes, error, random
from tinybridge.flux_vae import AutoEncoder, AutoEncoderConfig

# ---- keys --------------------------------------------------------------------------------------


def test_the_default_config_has_the_vendors_keys_and_shapes():
    with torch.device("meta"):
        state = AutoEncoder(AutoEncoderConfig()).state_dict()
    own = {key: list(tensor.shape) for key, tensor in state.items()}
    assert own == official.shapes("fluxae_bfl")


# ---- against diffusers ---


@every_config
@both_dtypes
def test_encode_and_decode_equal_diffusers(config, dtype):
    model = autoencoder(config, dtype)
    pixels = picture(model, dtype=dtype)
    expected = from_diffusers(diffusers_twin(model), pixels)
    for name, found in from_ours(model, pixels, expected["mean"]).items():
        bar = 1e-5 if dtype == torch.float32 else 1e-6
        assert error(found, expected[name]) <= bar, name


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
        assert max(error(found[part], expected[part]) for part in found) > 1e-5, name
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


# ---- against the formulas ---


@every_config
def test_both_halves_equal_their_formulas_in_float64(config):
    model = autoencoder(config, torch.float64)
    pixels = picture(model, dtype=torch.float64)
    mean, logvar = literal(model, "encoder", pixels).chunk(2, 1)
    found = model.moments(pixels)
    assert error(found[0], mean) <= 1e-10
    assert error(found[1], logvar.clamp(-30, 20)) <= 1e-10
    z = random(*mean.shape, dtype=torch.float64)
    assert error(model.decode(z), literal(model, "decoder", z / 0.3611 + 0.1159)) <= 1e-10


def test_the_formulas_disagree_once_a_weight_is_moved():
    model = autoencoder(SMALL, torch.float64)
    z = random(1, 16, 3, 3, dtype=torch.float64)
    expected = literal(model, "decoder", z / 0.3611 + 0.1159)
    model.decoder.up[2].block[0].norm2.bias[0] += 1e-6
    assert error(model.decode(z), expected) > 1e-10


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


def test_the_log_variance_is_clamped():
    model = autoencoder(SMALL)
    model.encoder.conv_out.weight.zero_()
    for bias, logvar in ((2.0, 2.0), (1e3, 20.0), (-1e3, -30.0)):
        model.encoder.conv_out.bias[16:] = bias
        assert (model.moments(picture(model))[1] == logvar).all()


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
