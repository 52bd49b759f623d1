"""The vendor's .pth files: mapped, tensors only, and nowhere but where they are expected."""

from pathlib import Path

import pytest
import torch

import weights
from tests.oracles.folders import error_of
from tests.oracles.wan_files import LOAD, PTH, same, small, vendor
from tinybridge.checkpoints import layout
from tinybridge.checkpoints.wan import UMT5_TABLE


def test_umt5s_table_says_what_the_vendors_names_mean():
    """Row by row from the fact sheet: q, k, v, or the gate and its factor, have equal shapes."""
    ours, theirs = "encoder.block.5.layer.", "blocks.5."
    meant = {f"{ours}0.SelfAttention.{x}.weight": f"{theirs}attn.{x}.weight" for x in "qkvo"}
    bias = f"{ours}0.SelfAttention.relative_attention_bias.weight"
    meant |= {
        "shared.weight": "token_embedding.weight",
        bias: f"{theirs}pos_embedding.embedding.weight",
        f"{ours}0.layer_norm.weight": f"{theirs}norm1.weight",
        f"{ours}1.layer_norm.weight": f"{theirs}norm2.weight",
        f"{ours}1.DenseReluDense.wi_0.weight": f"{theirs}ffn.gate.0.weight",  # is activated
        f"{ours}1.DenseReluDense.wi_1.weight": f"{theirs}ffn.fc1.weight",
        f"{ours}1.DenseReluDense.wo.weight": f"{theirs}ffn.fc2.weight",
        "encoder.final_layer_norm.weight": "norm.weight",
    }
    assert layout.plan(meant, UMT5_TABLE) == {name: ([meant[name]], "copy") for name in meant}


@pytest.mark.parametrize("kind", PTH)
def test_pth_is_mapped_from_file_or_folder_and_gives_the_same_model(tmp_path, kind):
    model, state = vendor(kind)
    file = tmp_path / PTH[kind]
    first = next(iter(state))
    state[first] = state[first].mT.contiguous().mT  # any strides
    torch.save(state, file)
    for path in (file, tmp_path):
        loaded = LOAD[kind](path, model.config)
        assert same(loaded, model.state_dict())
        assert all(weight.is_contiguous() for weight in loaded.parameters())
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        edges = [[int(e, 16) for e in m[0].split("-")] for m in maps if m[-1] == str(file)]
        names = loaded.state_dict().keys() - {first, "shared.weight"}
        places = [loaded.state_dict()[name].data_ptr() for name in names]
        assert all(any(start <= place < end for start, end in edges) for place in places)
    half = {name: tensor.bfloat16() for name, tensor in state.items()}
    torch.save(half, file)
    assert {p.dtype for p in LOAD[kind](file, model.config).parameters()} == {torch.bfloat16}
    wide = LOAD[kind](file, model.config, dtype=torch.float32).state_dict()
    assert all(torch.equal(t.bfloat16().float(), wide[k]) for k, t in model.state_dict().items())


def test_float16_umt5_becomes_float32(tmp_path):
    model, state = vendor("umt5")
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "x.pth")
    loaded = weights.load_umt5(tmp_path / "x.pth")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", PTH)
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, kind):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    file = tmp_path / PTH[kind]
    torch.save(vendor(kind)[1] | {"a": Bomb()}, file)
    for path in (file, tmp_path):
        message = error_of(LOAD[kind], path)
        assert str(file) in message and "refused, nothing of it was run" in message
        assert "weights_only" not in message and len(message) < 300
    assert weights.main(["inspect", str(file)]) == 2
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_stays_refused_where_none_belongs(tmp_path):
    for kind in PTH:
        file = tmp_path / "x.safetensors"
        torch.save(vendor(kind)[1], file)
        assert "found a pickle" in error_of(LOAD[kind], file)
        pth = file.rename(tmp_path / "x.pth")
        for load in (weights.load_wan, weights.load_flux, weights.load_t5, weights.load_clip):
            assert "found a pickle" in error_of(load, pth)
    torch.save(small("wan")[0].state_dict(), tmp_path / "x.pth")
    assert "found a pickle" in error_of(weights.load_wan, tmp_path / "x.pth")
    assert "found a WAN transformer" in error_of(weights.load_wan_vae, tmp_path / "x.pth")


def test_other_contents_of_a_pth(tmp_path):
    file = tmp_path / "x.pth"
    meta = torch.ones(2, device="meta")
    for content, words in (
        ([torch.ones(2)], "found list"),
        ({"state_dict": {"a": torch.ones(2)}}, "state_dict is dict"),
        ({"a": meta}, "expected only tensors"),
        ({"a": torch.ones(2).to_sparse()}, "expected only tensors"),
        ({"some.weight": torch.ones(2)}, "some.weight"),
    ):
        torch.save(content, file)
        assert words in error_of(weights.load_wan_vae, file)
    torch.save(vendor("wan_vae")[1], file)
    whole = file.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 1000, 5, 0):
        file.write_bytes(whole[:size])
        assert "not a whole PyTorch file" in error_of(weights.load_wan_vae, file)
    for content, words in ((b"<html>", "a web page"), (b"version https://git-lfs", "git-lfs")):
        file.write_bytes(content)
        assert words in error_of(weights.load_wan_vae, file)
    torch.save(vendor("wan_vae")[1], file, _use_new_zipfile_serialization=False)
    assert "not a whole PyTorch file" in error_of(weights.load_wan_vae, file)
