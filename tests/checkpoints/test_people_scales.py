"""Scales of float8 weights as people have them, and headers of odd contents."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import weights
from tests.oracles import folders as make
from tests.oracles.folders import error_of, write_shards
from tests.oracles.people import CLIP, FLUX, OTHER, T5, VAE, saved
from tests.oracles.wan import tiny
from tests.oracles.wan_files import same, small, vendor
from tinybridge.checkpoints.identify import identify

# -------------------------------------------------------------------------------------- scales


def squeezed(state: dict[str, Tensor], shape, leaf="weight_scale", dtype=torch.float8_e4m3fn):
    """Linear weights as float8 with scales of a shape, and what they stand for in bfloat16."""
    stored, meant = {}, {}
    for name, tensor in state.items():
        stored[name] = meant[name] = tensor.bfloat16()
        if tensor.dim() == 2 and name.endswith(".weight"):
            by_row = shape in ("rows", "column")
            scale = tensor.abs().amax(1) / 448 if by_row else tensor.abs().max() / 448
            stored[name] = (tensor / scale.view(-1, 1)).to(dtype)
            meant[name] = (stored[name].float() * scale.view(-1, 1)).bfloat16()
            scale = scale.reshape({"rows": (-1,), "column": (-1, 1), "one": (1,), "": ()}[shape])
            stored[name.removesuffix("weight") + leaf] = scale
    return stored, meant


@pytest.mark.parametrize("shape", ["", "one", "rows", "column"])
def test_scales_are_told_by_their_shape_in_every_container(tmp_path, shape, capsys):
    model, state = vendor("umt5")
    for leaf in ("weight_scale", "scale_weight"):
        stored, meant = squeezed(state, shape, leaf)
        torch.save(stored, tmp_path / "x.pth")
        save_file(stored, tmp_path / "x.safetensors")
        loaded = [
            weights.load_umt5(tmp_path / f"x.{end}", model.config).state_dict()
            for end in ("pth", "safetensors")
        ]
        names = model.state_dict().keys() - {"shared.weight"}
        assert all(torch.equal(loaded[0][name], loaded[1][name]) for name in names)
        wo = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
        assert torch.equal(loaded[0][wo], meant["blocks.0.ffn.fc2.weight"])
        assert weights.main(["inspect", str(tmp_path / "x.pth"), "--check-values"]) == 0
        assert " scale" in capsys.readouterr().out


def test_a_factor_of_one_beside_full_precision_changes_nothing(tmp_path):
    dummy = {f"{name}.scale_weight": torch.ones(()) for name in ("img_in", "txt_in")}
    dummy |= {"img_in.scale_input": torch.ones(1), "txt_in.comfy_quant": torch.ones(3)}
    assert same(weights.load_flux(saved(tmp_path, FLUX | dummy), make.FLUX), FLUX)
    model = tiny()
    dummy = {
        "head.head.weight_scale": torch.ones(1),
        "text_embedding.0.weight_scale": torch.ones(1),
    }
    file = saved(tmp_path, model.state_dict() | dummy)
    assert same(weights.load_wan(file, model.config), model.state_dict())
    for value in (0.5, torch.nan):
        file = saved(tmp_path, FLUX | {"img_in.scale_weight": torch.tensor(value)})
        assert "img_in.scale_weight is not 1" in error_of(weights.load_flux, file)


@pytest.mark.parametrize("shape", [(1, 32), (2,), (32, 2), (2, 16), (1, 1, 32)])
def test_factors_of_columns_or_blocks_are_refused(tmp_path, shape):
    name = "time_in.out_layer.weight"  # square, so that a number of values tells nothing
    assert FLUX[name].shape == (32, 32)
    state = FLUX | {name: FLUX[name].to(torch.float8_e4m3fn)}
    file = saved(tmp_path, state | {"time_in.out_layer.weight_scale": torch.ones(shape)})
    message = error_of(weights.load_flux, file)
    assert "time_in.out_layer.weight_scale" in message and str(list(shape)) in message


def test_two_scales_of_one_weight_are_refused(tmp_path):
    state = FLUX | {"img_in.weight": FLUX["img_in.weight"].to(torch.float8_e4m3fn)}
    state |= {"img_in.weight_scale": torch.ones(()), "img_in.scale_weight": torch.ones(())}
    assert "img_in.weight has two scales" in error_of(weights.load_flux, saved(tmp_path, state))


# ------------------------------------------------------------------------ headers of odd contents


@pytest.mark.parametrize("told", [None, {"format": "pt"}, {"data_offsets": "x", "shape": "y"}])
def test_metadata_of_any_content_is_no_tensor(tmp_path, told):
    raw = saved(tmp_path, FLUX).read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length]) | {"__metadata__": told}
    text = json.dumps(header).encode()
    (tmp_path / "y.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + raw[8 + length :]
    )
    assert same(weights.load_flux(tmp_path / "y.safetensors", make.FLUX), FLUX)


@pytest.mark.parametrize("shape", [(), (4,), (0, 32), (32, 0), (1, 1, 1)])
@pytest.mark.parametrize(
    "name", ["img_in.weight", "txt_in.weight", "double_blocks.0.img_mlp.0.weight"]
)
def test_a_deciding_tensor_of_odd_axes_is_named(tmp_path, name, shape):
    message = error_of(weights.load_flux, saved(tmp_path, FLUX | {name: torch.ones(shape)}))
    assert name in message and str(list(shape)) in message and "expected" in message


@pytest.mark.parametrize("shape", [(), (0,), (2, 2, 2)])
def test_deciding_tensors_of_every_model_are_looked_at(tmp_path, shape):
    for load, state, names in (
        (weights.load_flux_vae, VAE, ("encoder.conv_in.weight", "decoder.conv_in.weight")),
        (weights.load_clip, CLIP, ("text_model.embeddings.token_embedding.weight",)),
        (weights.load_t5, T5, ("shared.weight",)),
        (weights.load_wan, tiny().state_dict(), ("patch_embedding.weight", "head.head.weight")),
        (weights.load_wan_vae, small("wan_vae")[0].state_dict(), ("conv2.weight",)),
    ):
        for name in names:
            message = error_of(load, saved(tmp_path, state | {name: torch.ones(shape)}))
            assert name in message and str(list(shape)) in message


@pytest.mark.parametrize("value", [10**9, 10**18, 1000])
def test_counts_are_held_against_the_header(tmp_path, value):
    for name, state, load, told in (
        ("FluxTransformer2DModel", OTHER, weights.load_flux, "num_layers num_single_layers"),
        ("AutoencoderKL", VAE, weights.load_flux_vae, "layers_per_block"),
        ("t5", T5, weights.load_t5, "num_layers"),
        ("clip_text_model", CLIP, weights.load_clip, "num_hidden_layers"),
        ("WanTransformer3DModel", tiny().state_dict(), weights.load_wan, "num_layers"),
    ):
        for field in told.split():
            text = {"_class_name": name, "num_attention_heads": 3, field: value}
            if name == "FluxTransformer2DModel":
                text["num_attention_heads"] = 2
            (tmp_path / "config.json").write_text(json.dumps(text))
            message = error_of(load, saved(tmp_path, state))
            assert f"is said to be {value}" in message and "x.safetensors" in message


@pytest.mark.parametrize("odd", ["a\nb", "a\x1b[2J", "\0"])
def test_names_that_no_terminal_should_see_are_one_printable_line(tmp_path, odd):
    save_file(T5 | {odd: torch.ones(2)}, tmp_path / "x.safetensors")
    write_shards(tmp_path, "model", T5, 2)
    index = tmp_path / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    torch.save(dict(vendor("umt5")[1]) | {odd: torch.ones(2)}, tmp_path / "x.pth")
    save_file(FLUX, tmp_path / "y.safetensors", {"modelspec.architecture": f"kontext{odd}"})
    for load, file, part in (
        (weights.load_t5, tmp_path / "x.safetensors", {}),
        (weights.load_umt5, tmp_path / "x.pth", {}),
        (weights.load_flux, tmp_path / "y.safetensors", {}),
        (weights.load_t5, index, {odd: "model-00001-of-00002.safetensors"}),
        (weights.load_t5, index, {"shared.weight": f"model{odd}.safetensors"}),
    ):
        index.write_text(json.dumps({"weight_map": told["weight_map"] | part}))
        message = error_of(load, file)
        assert message.isprintable() and file.name in message


def test_identify_asks_what_holds_our_names_first():
    assert identify(["controlnet_x_embedder.weight", *OTHER]) == ("", "a ControlNet")
    assert identify(FLUX)[0] == identify(OTHER)[0] == "flux"
    assert identify(["some.weight"])[1].startswith("unknown tensors (some.weight")


def test_so_are_numbers_of_levels(tmp_path):
    for name, field, state, load in (
        ("AutoencoderKL", "block_out_channels", VAE, weights.load_flux_vae),
        ("AutoencoderKLWan", "dim_mult", small("wan_vae")[0].state_dict(), weights.load_wan_vae),
    ):
        text = {"_class_name": name, field: [8] * 10_000}
        text |= {"latents_mean": [0.0] * 6, "latents_std": [1.0] * 6}
        text |= {"temperal_downsample": [False] * 9_999}
        (tmp_path / "config.json").write_text(json.dumps(text))
        assert "is said to be (" in error_of(load, saved(tmp_path, state))
