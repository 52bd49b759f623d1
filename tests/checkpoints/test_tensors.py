"""Dtypes, float8 scales and views of the mapped file; files, shards and models that are wrong."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weights
from tests.oracles import folders as make
from tests.oracles.folders import error_of
from tinybridge.checkpoints.flux import FLUX_TABLE
from tinybridge.checkpoints.tensors import open_checkpoint


def small_flux() -> dict[str, torch.Tensor]:
    return make.models()["flux"].state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_is_the_files_unless_told(tmp_path, dtype):
    state = {key: tensor.to(dtype) for key, tensor in small_flux().items()}
    save_file(state, tmp_path / "x.safetensors")
    assert next(weights.load_flux(tmp_path / "x.safetensors").parameters()).dtype == dtype
    model = weights.load_flux(tmp_path / "x.safetensors", dtype=torch.float64)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key].double()), key
    assert not any(p.requires_grad for p in model.parameters())


def test_t5_of_float16_becomes_float32(tmp_path):
    state = {key: tensor.half() for key, tensor in make.models()["t5"].state_dict().items()}
    save_file(state, tmp_path / "t5xxl_fp16.safetensors")
    loaded = weights.load_t5(tmp_path).state_dict()
    assert all(torch.equal(loaded[key], tensor.float()) for key, tensor in state.items())
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}


def test_unchanged_tensors_are_views_of_the_mapped_file(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file(small_flux(), file)
    model = weights.load_flux(file)
    ranges = [
        [int(edge, 16) for edge in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if str(file) in line
    ]
    for tensor in model.state_dict().values():
        assert any(start <= tensor.data_ptr() < end for start, end in ranges)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("leaf", [None, "scale_weight", "weight_scale"])
@pytest.mark.parametrize("rows", [False, True])
def test_float8_is_multiplied_by_its_scale(tmp_path, prefix, leaf, rows):
    state, stored, expected = small_flux(), {}, {}
    for key, tensor in state.items():
        stored[key] = tensor.bfloat16()
        if tensor.dim() == 2:
            scale = tensor.abs().amax(1, keepdim=rows) / 448 if leaf else torch.ones(1)
            scale = scale.flatten() if rows else scale.max()
            factor = scale.view(-1, 1)
            stored[key] = (tensor / factor).to(torch.float8_e4m3fn)
            if leaf:
                stored[key.replace("weight", leaf)] = scale
                stored[key.replace("weight", "scale_input")] = torch.ones(1)
            expected[key] = (stored[key].float() * factor).bfloat16()
        else:
            expected[key] = stored[key]
    if leaf:
        stored["scaled_fp8"] = torch.empty(2, dtype=torch.float8_e4m3fn)
    save_file({prefix + key: tensor for key, tensor in stored.items()}, tmp_path / "x.safetensors")
    for key, tensor in weights.load_flux(tmp_path / "x.safetensors").state_dict().items():
        assert torch.equal(tensor, expected[key]), key
        assert (tensor - state[key]).abs().max() < 0.08 * state[key].abs().max(), key


def test_float8_parts_of_a_fused_tensor_keep_their_own_scales(tmp_path):
    stored, expected = {}, {}
    for key, tensor in make.to_other(small_flux(), FLUX_TABLE, 32).items():
        stored[key] = expected[key] = tensor.bfloat16()
        if tensor.dim() == 2:
            scale = stored[key.replace("weight", "weight_scale")] = tensor.abs().max() / 448
            stored[key] = (tensor / scale).to(torch.float8_e4m3fn)
            expected[key] = (stored[key].float() * scale).bfloat16()
    save_file(stored, tmp_path / "x.safetensors")
    loaded = weights.load_flux(tmp_path / "x.safetensors").state_dict()
    for key, tensor in make.to_other(loaded, FLUX_TABLE, 32).items():
        assert torch.equal(tensor, expected[key]), key


def test_float8_scales_of_blocks_are_refused(tmp_path):
    state = {k: t.to(torch.float8_e4m3fn) if t.dim() == 2 else t for k, t in small_flux().items()}
    state["img_in.scale_weight"] = torch.ones(32, 2, 1)
    save_file(state, tmp_path / "x.safetensors")
    message = error_of(weights.load_flux, tmp_path / "x.safetensors")
    assert "img_in.scale_weight" in message and "[32, 2, 1]" in message


# ------------------------------------------------------------------------------- wrong files


def test_one_error_lists_missing_unexpected_and_misshapen_tensors(tmp_path):
    state = small_flux()
    del state["double_blocks.1.img_mlp.0.bias"]
    state["extra.weight"] = torch.ones(2)
    state["txt_in.bias"] = torch.ones(5)
    save_file(state, tmp_path / "x.safetensors")
    message = error_of(weights.load_flux, tmp_path / "x.safetensors", make.FLUX)
    assert "1 missing (double_blocks.1.img_mlp.0.bias)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "1 misshapen (txt_in.bias [32]" in message and "[5]" in message


def test_only_the_first_three_of_many_are_listed(tmp_path):
    state = small_flux()
    gone = sorted(name for name in state if name.startswith("double_blocks.1."))
    for name in gone:
        del state[name]
    save_file(state, tmp_path / "x.safetensors")
    message = error_of(weights.load_flux, tmp_path / "x.safetensors", make.FLUX)
    assert f"{len(gone)} missing (" in message and message.endswith(", ...)")
    assert sum(name in message for name in gone) == 3


def test_fused_rows_of_other_heights_are_misshapen(tmp_path):
    state = make.to_other(small_flux(), FLUX_TABLE, 32)
    for part, rows in (("to_q", 31), ("to_k", 33)):  # together the right number
        key = f"transformer_blocks.0.attn.{part}.bias"
        state[key] = torch.ones(rows)
    save_file(state, tmp_path / "x.safetensors")
    message = error_of(weights.load_flux, tmp_path / "x.safetensors")
    assert "1 misshapen (double_blocks.0.img_attn.qkv.bias [96]" in message
    state |= {f"transformer_blocks.0.attn.{part}.bias": torch.ones(()) for part in ("to_q", "to_k")}
    state["transformer_blocks.0.attn.to_v.bias"] = torch.ones(())
    save_file(state, tmp_path / "x.safetensors")
    message = error_of(weights.load_flux, tmp_path / "x.safetensors")
    assert "1 misshapen (double_blocks.0.img_attn.qkv.bias [96]" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({"a": 1}), "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"", "not a whole safetensors"),
        (b"\x10\0\0\0\0\0\0\0{}", "not a whole safetensors"),
    ],
)
def test_other_files_in_its_place_are_named(tmp_path, content, words):
    file = tmp_path / "flux1-dev.safetensors"
    file.write_bytes(content)
    message = error_of(weights.load_flux, file)
    assert words in message and str(file) in message


def test_pickle_is_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    file = tmp_path / "ae.safetensors"
    torch.save({"a": Bomb()}, file)
    assert "pickle" in error_of(weights.load_flux_vae, tmp_path)
    file.rename(tmp_path / "ae.pt")
    assert "pickle" in error_of(weights.load_flux_vae, tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_truncated_file(tmp_path):
    save_file(small_flux(), tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    for size in (len(content) - 1, 1000, 5):
        (tmp_path / "x.safetensors").write_bytes(content[:size])
        assert "not a whole safetensors" in error_of(weights.load_flux, tmp_path / "x.safetensors")


def test_file_that_shrinks_while_it_is_read(tmp_path):
    save_file({"a": torch.ones(4096)}, tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    os.truncate(tmp_path / "x.safetensors", 9000)
    assert "became shorter" in error_of(checkpoint.read, "a", torch.float64)


def test_wrong_model_in_the_right_place_is_recognised(tmp_path):
    make.write_folder(tmp_path, "diffusers")
    (tmp_path / "transformer").rename(tmp_path / "kept")
    (tmp_path / "vae").rename(tmp_path / "transformer")
    message = error_of(weights.load_flux, tmp_path)
    assert "expected a FLUX transformer, found a FLUX autoencoder" in message
    (tmp_path / "kept").rename(tmp_path / "vae")
    assert "found a FLUX transformer" in error_of(weights.load_flux_vae, tmp_path)
    save_file({"x.lora_A.weight": torch.ones(2)}, tmp_path / "lora.safetensors")
    assert "LoRA" in error_of(weights.load_flux, tmp_path / "lora.safetensors")
    save_file({"some.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    assert "some.weight" in error_of(weights.load_flux, tmp_path / "other.safetensors")


def test_fill_and_depth_variants_of_flux_are_refused(tmp_path):
    state = small_flux()
    state["img_in.weight"] = torch.ones(32, 96)
    save_file(state, tmp_path / "x.safetensors")
    assert "Fill" in error_of(weights.load_flux, tmp_path / "x.safetensors")


def test_shards_that_do_not_belong_together(tmp_path):
    folder = make.write_folder(tmp_path, "diffusers", shards=3) / "transformer"
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    told = json.loads(index.read_text())
    second = folder / "diffusion_pytorch_model-00002-of-00003.safetensors"
    weights.load_flux(tmp_path)

    leftover = folder / "diffusion_pytorch_model-00001-of-00002.safetensors"
    leftover.write_bytes(second.read_bytes())
    assert f"{leftover.name} is not in" in error_of(weights.load_flux, tmp_path)
    leftover.unlink()

    ghost = {**told["weight_map"], "ghost.weight": second.name}
    index.write_text(json.dumps({"weight_map": ghost}))
    assert "places ghost.weight here" in error_of(weights.load_flux, tmp_path)

    known = {key: file for key, file in told["weight_map"].items() if key != "proj_out.bias"}
    index.write_text(json.dumps({"weight_map": known}))
    assert "has proj_out.bias" in error_of(weights.load_flux, tmp_path)

    outside = {**told["weight_map"], "x": "../vae/diffusion_pytorch_model.safetensors"}
    index.write_text(json.dumps({"weight_map": outside}))
    assert "not a file of this folder" in error_of(weights.load_flux, tmp_path)

    index.write_text("{")
    assert "not an index" in error_of(weights.load_flux, tmp_path)
    index.write_text(json.dumps(told))
    second.unlink()
    assert f"shard {second.name} is missing" in error_of(weights.load_flux, tmp_path)
    index.unlink()
    assert "index" in error_of(weights.load_flux, tmp_path)
