"""WAN 2.1 through the loader: official names, the other packages' folders, pickles, wrong files."""

import json
import shutil
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

import weights
from tests.oracles import official
from tests.oracles.folders import error_of, to_other, write_header, write_shards
from tests.oracles.plain import error
from tests.oracles.text import t5
from tests.oracles.wan import diffusers_twin, inputs, run_twin, tiny
from tests.oracles.wan_files import LOAD, PTH, same, small, vendor, write_tokenizer
from tests.oracles.wan_vae import CONFIGS, autoencoder, clip, from_diffusers, from_ours
from tests.oracles.wan_vae import diffusers_twin as vae_twin
from tinybridge.checkpoints import layout as keys
from tinybridge.checkpoints.load import open_model
from tinybridge.checkpoints.wan import UMT5 as UMT5_KIND
from tinybridge.checkpoints.wan import UMT5_TABLE, WAN_TABLE, vae_table
from tinybridge.text.encoders import T5Config
from tinybridge.wan import FLOAT32, SIZES, Wan, WanConfig
from tinybridge.wan_vae import MEAN, STD, AutoEncoderConfig

SMALL, LARGE = WanConfig(), WanConfig(**SIZES["14B"])
UMT5 = T5Config(vocab_size=256384, per_layer_bias=True)
OFFICIAL = (  # key list, model, its config, its parameters, the table of that layout
    ("wan13_vendor", "wan", SMALL, 1_418_996_800, None),
    ("wan13_diff", "wan", SMALL, 1_418_996_800, WAN_TABLE),
    ("wan14_vendor", "wan", LARGE, 14_288_491_584, None),
    ("wan14_diff", "wan", LARGE, 14_288_491_584, WAN_TABLE),
    ("wanvae_vendor", "wan_vae", AutoEncoderConfig(), 126_892_531, None),
    ("wanvae_diff", "wan_vae", AutoEncoderConfig(), 126_892_531, vae_table()),
    ("umt5xxl_vendor", "umt5", UMT5, 5_680_910_336, UMT5_TABLE),
    ("umt5xxl", "umt5", UMT5, 5_680_910_336, None),
)

# ----------------------------------------------------------------------------- official tables


@pytest.mark.parametrize(
    ("name", "kind", "config", "parameters", "table"), OFFICIAL, ids=[row[0] for row in OFFICIAL]
)
def test_official_keys_are_used_once_and_fill_every_parameter(
    tmp_path, name, kind, config, parameters, table
):
    shapes = official.shapes(name)
    # One byte a value: a smaller hole can be mapped where one of 57 GB cannot.
    file = write_header(tmp_path / "x.safetensors", shapes, "F8_E4M3")
    model = LOAD[kind](file, device="meta")
    assert model.config == config
    assert sum(p.numel() for p in model.parameters()) == parameters
    for tensor, weight in model.state_dict().items():
        wide = kind == "wan" and any(part in FLOAT32 for part in tensor.split("."))
        assert weight.dtype == (torch.float32 if wide else torch.bfloat16), tensor

    assert open_model(kind, file).table == table
    used = [part for parts, _ in keys.plan(model.state_dict(), table).values() for part in parts]
    assert sorted(used) == sorted(set(shapes) - {UMT5_KIND.twins[1]})

    for lost in (list(shapes)[-1], next(key for key in shapes if key not in UMT5_KIND.twins)):
        without = {key: shape for key, shape in shapes.items() if key != lost}
        other = write_header(tmp_path / "y.safetensors", without, "F8_E4M3")
        assert lost in error_of(LOAD[kind], other, config, "meta")


# ----------------------------------------------------------------------- both layouts, exactly


@pytest.mark.parametrize("kind", LOAD)
@pytest.mark.parametrize("shards", (1, 3))
def test_there_and_back_is_the_identity(tmp_path, kind, shards):
    model, table = small(kind)
    state = model.state_dict()
    write_shards(tmp_path / "own", "model", state, shards)
    write_shards(tmp_path / "other", "model", to_other(state, table), shards)
    for layout in ("own", "other"):
        assert same(LOAD[kind](tmp_path / layout, model.config), state)
        assert same(LOAD[kind](tmp_path / layout, model.config, dtype=torch.float64), state)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_autoencoders_sizes_are_told_by_its_shapes(tmp_path, name):
    model = autoencoder(CONFIGS[name])
    config, state = model.config, model.state_dict()
    told = {"config": json.dumps({"mean": config.mean, "std": config.std})}
    save_file(state, tmp_path / "own.safetensors", told)
    other = to_other(state, vae_table(config.num_res_blocks, len(config.dim_mult)))
    save_file(other, tmp_path / "other.safetensors", told)
    for layout in ("own", "other"):
        loaded = weights.load_wan_vae(tmp_path / f"{layout}.safetensors")
        assert loaded.config == config and same(loaded, state)


def test_bfloat16_keeps_what_the_vendor_computes_in_float32(tmp_path):
    model = tiny()
    save_file(model.state_dict(), tmp_path / "x.safetensors")
    loaded = weights.load_wan(tmp_path / "x.safetensors", model.config, dtype=torch.bfloat16)
    for name, tensor in model.state_dict().items():
        wide = any(part in FLOAT32 for part in name.split("."))
        want = tensor if wide else tensor.bfloat16()
        assert torch.equal(loaded.state_dict()[name], want), name
        assert loaded.state_dict()[name].dtype == want.dtype
    assert error(loaded(**inputs()), model(**inputs())) < 0.05


# ------------------------------------------------------- folders that the other packages write


def test_diffusers_transformer_folder_gives_its_velocity(tmp_path):
    model = tiny()
    theirs = diffusers_twin(model)
    theirs.save_pretrained(tmp_path / "transformer", max_shard_size="60KB")
    assert len(list((tmp_path / "transformer").glob("*-of-*"))) > 2
    want = run_twin(theirs, **inputs())
    for path in (tmp_path, tmp_path / "transformer"):
        ours = weights.load_wan(path)
        assert ours.config == model.config and not any(p.requires_grad for p in ours.parameters())
        assert error(ours(**inputs()), want) < 1e-5
    ours.blocks[0].norm3.weight[:] += 0.1
    assert error(ours(**inputs()), want) > 1e-5


def test_vendor_folder_of_the_transformer(tmp_path):
    model = tiny(depth=2)
    config = {"_class_name": "WanModel", "dim": 48, "ffn_dim": 72, "freq_dim": 32, "in_dim": 4}
    config |= {"num_heads": 3, "num_layers": 2, "eps": 1e-6, "out_dim": 4, "text_len": 512}
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "t2v"}))
    for shards in (1, 3):
        write_shards(tmp_path, "diffusion_pytorch_model", model.state_dict(), shards)
        loaded = weights.load_wan(tmp_path)
        assert loaded.config == model.config and same(loaded, model.state_dict())


def test_diffusers_autoencoder_folder_gives_its_latents(tmp_path):
    model = autoencoder(CONFIGS["time-first"])
    theirs = vae_twin(model)
    theirs.save_pretrained(tmp_path / "vae")
    ours = weights.load_wan_vae(tmp_path)
    assert ours.config == model.config
    pixels = clip(model)
    want = from_diffusers(theirs, pixels)
    got = from_ours(ours, pixels, want["mean"])
    assert all(error(got[name], want[name]) < 1e-5 for name in want)
    ours.state_dict()["decoder.upsamples.0.residual.2.weight"][0] += 0.1
    got = from_ours(ours, pixels, want["mean"])
    assert not all(error(got[name], want[name]) < 1e-5 for name in want)


def test_transformers_encoder_folder_gives_its_rows(tmp_path):
    model = t5(torch.float32, per_layer_bias=True)
    told = {key: value for key, value in asdict(model.config).items() if key != "per_layer_bias"}
    told = {{"num_buckets": "relative_attention_num_buckets"}.get(k, k): told[k] for k in told}
    theirs = UMT5EncoderModel(UMT5Config(**told, feed_forward_proj="gated-gelu")).eval()
    theirs.save_pretrained(tmp_path / "text_encoder", max_shard_size="10KB")
    assert len(list((tmp_path / "text_encoder").glob("*-of-*"))) > 1
    ours = weights.load_umt5(tmp_path)
    assert ours.config == model.config
    ids, mask = torch.randint(2, 60, (2, 9)), torch.arange(9) < torch.tensor([[9], [5]])
    with torch.no_grad():
        want = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
        assert error(ours(ids, mask), want) < 1e-5
        ours.encoder.block[2].layer[0].SelfAttention.relative_attention_bias.weight[:] += 0.1
        ours.encoder.block[2].layer[0].SelfAttention.relative_attention_bias.weight[0] += 1
        assert error(ours(ids, mask), want) > 1e-5


# --------------------------------------------------------------------------------- wrong files


@pytest.mark.parametrize("kind", LOAD)
@pytest.mark.parametrize("layout", ("own", "other"))
def test_one_line_tells_missing_unexpected_and_misshapen_tensors(tmp_path, kind, layout):
    model, table = small(kind)
    state = model.state_dict()
    if layout == "other":
        state = to_other(state, table)
    first, *_, last = state
    extra, wrong = "extra.weight", list(state)[len(state) // 2]
    for gone in (first, last):
        broken = {key: tensor for key, tensor in state.items() if key != gone}
        broken |= {extra: torch.ones(2), wrong: torch.ones(5)}
        save_file(broken, tmp_path / "x.safetensors")
        message = error_of(LOAD[kind], tmp_path / "x.safetensors", model.config)
        assert f"1 missing ({gone})" in message and f"1 unexpected ({extra})" in message
        assert "1 misshapen (" in message and wrong in message and "[5]" in message


def test_models_that_are_not_ours_are_named(tmp_path):
    file, state = tmp_path / "x.safetensors", tiny().state_dict()
    save_file(state, file)
    assert "num_heads is not told" in error_of(weights.load_wan, file)
    save_file(state | {"patch_embedding.weight": torch.ones(48, 36, 1, 2, 2)}, file)
    assert "as WAN 2.1 I2V does" in error_of(weights.load_wan, file)
    write_shards(tmp_path / "vae", "model", small("wan_vae")[0].state_dict(), 1)
    message = error_of(weights.load_flux_vae, tmp_path)
    assert "expected a FLUX autoencoder, found a WAN autoencoder" in message
    save_file(small("umt5")[0].state_dict(), file)
    assert "expected a T5 encoder, found a UMT5 encoder" in error_of(weights.load_t5, file)
    save_file(t5(torch.float32).state_dict(), file)
    assert "expected a UMT5 encoder, found a T5 encoder" in error_of(weights.load_umt5, file)
    broken = {k: v for k, v in small("wan_vae")[0].state_dict().items() if "decoder" not in k}
    save_file(to_other(broken, vae_table(1, 3)), file)
    assert "missing" in error_of(weights.load_wan_vae, file, small("wan_vae")[0].config)


# ------------------------------------------------------------------------------------- inspect


SIXTEEN = {"z_channels": 16, "mean": MEAN, "std": STD}  # as a file without config.json is read
with torch.device("meta"):
    WIDE = Wan(WanConfig(**SIZES["14B"] | {"depth": 1})).state_dict()
    WIDE = {name: list(tensor.shape) for name, tensor in WIDE.items()}


def inspect(capsys, *arguments) -> str:
    assert weights.main(["inspect", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_vendor_folder_and_what_it_lacks(tmp_path, capsys):
    model = tiny(in_channels=16, context_dim=24)
    write_shards(tmp_path, "diffusion_pytorch_model", model.state_dict(), 2)
    told = {"_class_name": "WanModel", "dim": 48, "num_heads": 3, "num_layers": 4}
    (tmp_path / "config.json").write_text(json.dumps(told))
    torch.save(
        autoencoder(CONFIGS["four-levels"] | SIXTEEN).state_dict(), tmp_path / PTH["wan_vae"]
    )
    out = inspect(capsys, tmp_path)
    assert "a WAN transformer, vendor layout" in out and "WanConfig(" in out
    assert "a WAN autoencoder, vendor layout" in out and "dim=4" in out
    assert "missing UMT5 encoder (text_encoder or models_t5_umt5-xxl-enc-*.pth" in out
    assert "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers" in out and '"tokenizer/*"' in out
    torch.save(vendor("umt5")[1], tmp_path / PTH["umt5"])
    write_tokenizer(tmp_path / "google")
    (tmp_path / "google/tokenizer").rename(tmp_path / "google/umt5-xxl")
    out = inspect(capsys, tmp_path)
    assert "a UMT5 encoder, vendor layout" in out and f"{tmp_path}: a whole backbone" in out


def test_diffusers_folder_and_its_parts(tmp_path, capsys):
    diffusers_twin(tiny(context_dim=24)).save_pretrained(
        tmp_path / "transformer", max_shard_size="60KB"
    )
    vae_twin(autoencoder(CONFIGS["four-levels"])).save_pretrained(tmp_path / "vae")
    write_shards(tmp_path / "text_encoder", "model", small("umt5")[0].state_dict(), 3)
    out = inspect(capsys, tmp_path)
    assert "a WAN transformer, diffusers layout" in out and "a UMT5 encoder\n" in out
    assert "a WAN autoencoder, diffusers layout" in out and "per_layer_bias=True" in out
    assert "missing UMT5 tokenizer (tokenizer/spiece.model" in out
    for part, words in (("transformer", "WanConfig("), ("vae", "dim=4"), ("text_encoder", "T5C")):
        out = inspect(capsys, tmp_path / part)
        assert words in out and "missing" not in out
    for part in ("transformer", "vae"):  # without it the folder is still known by the others
        shutil.rmtree(tmp_path / part)
        assert "missing WAN transformer (transformer or" in inspect(capsys, tmp_path)
    shutil.rmtree(tmp_path / "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/spiece.model").touch()
    assert "missing WAN transformer (transformer or" in inspect(capsys, tmp_path)


def test_single_files(tmp_path, capsys):
    for kind in PTH:
        state = vendor(kind)[1]
        if kind == "wan_vae":
            state = autoencoder(CONFIGS["four-levels"] | SIXTEEN).state_dict()
        file = tmp_path / "some.pth"
        torch.save(state, file)
        out = inspect(capsys, file, "--check-values")
        count = sum(tensor.numel() for tensor in state.values())
        assert f"{count:,} parameters, {file.stat().st_size:,} bytes" in out and "F32" in out
        assert "vendor layout" in out and "all values are finite" in out and "missing" not in out
        next(iter(state.values()))[0] = torch.nan
        torch.save(state, file)
        assert weights.main(["inspect", str(file), "--check-values"]) == 2
        assert "has NaN or infinite values" in capsys.readouterr().err
    file.unlink()
    save_file(tiny(hidden_size=128, num_heads=1).state_dict(), tmp_path / "wan.safetensors")
    out = inspect(capsys, tmp_path / "wan.safetensors")
    assert "hidden_size=128, num_heads=1" in out and "missing WAN autoencoder" in out
    file = write_header(tmp_path / "large.safetensors", WIDE)
    assert "Wan-AI/Wan2.1-T2V-14B-Diffusers" in inspect(capsys, file)
