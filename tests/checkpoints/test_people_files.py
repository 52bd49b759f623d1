"""Files as people have them: other spellings equal the plain one, what is not ours is named."""

import pytest
import torch

import weights
from tests.oracles import folders as make
from tests.oracles.folders import error_of
from tests.oracles.people import CLIP, FLUX, OTHER, T5, VAE, saved, wrapped
from tests.oracles.wan import tiny
from tests.oracles.wan_files import same, small

# ------------------------------------------------------------------------------ other spellings

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.", "transformer.", "net.")


@pytest.mark.parametrize(
    "prefix", [*PREFIXES, "module.", "module.model.", "base_model.model.", "unet."]
)
def test_words_before_every_name(tmp_path, prefix):
    for state in (FLUX, OTHER):
        file = saved(tmp_path, wrapped(prefix, state))
        assert same(weights.load_flux(file, make.FLUX), FLUX)
    for kind, load in (("wan", weights.load_wan), ("wan_vae", weights.load_wan_vae)):
        model, _ = small(kind)
        file = saved(tmp_path, wrapped(prefix, model.state_dict()))
        assert same(load(file, model.config), model.state_dict())


@pytest.mark.parametrize("prefix", ["vae.", "first_stage_model.", "model."])
def test_words_before_an_autoencoders_names(tmp_path, prefix):
    file = saved(tmp_path, wrapped(prefix, VAE))
    assert same(weights.load_flux_vae(file, make.VAE), VAE)


def test_every_part_of_an_all_in_one_checkpoint_loads(tmp_path, capsys):
    parts = {"model.diffusion_model.": FLUX, "vae.": VAE}
    parts |= {"text_encoders.clip_l.transformer.": CLIP, "text_encoders.t5xxl.transformer.": T5}
    state = {k: t for prefix, part in parts.items() for k, t in wrapped(prefix, part).items()}
    for encoder in ("clip_l", "t5xxl"):
        state[f"text_encoders.{encoder}.logit_scale"] = torch.ones(())
    file = saved(tmp_path, state)
    assert same(weights.load_flux(file, make.FLUX), FLUX)
    assert same(weights.load_flux_vae(file, make.VAE), VAE)
    assert same(weights.load_clip(file, make.CLIP), CLIP)
    assert same(weights.load_t5(file, make.T5), T5)
    assert weights.main(["inspect", str(file)]) == 0
    assert "a FLUX transformer, vendor layout, in an all-in-one" in capsys.readouterr().out
    assert "expected a WAN transformer" in error_of(weights.load_wan, file)


def test_norms_as_comfyui_spells_them_since_2026(tmp_path):
    state = {name.replace("_norm.scale", "_norm.weight"): t for name, t in FLUX.items()}
    assert state.keys() != FLUX.keys()
    for prefix in ("", "model.diffusion_model."):
        assert same(weights.load_flux(saved(tmp_path, wrapped(prefix, state)), make.FLUX), FLUX)


@pytest.mark.parametrize("kind", ["flux", "wan"])
def test_float8_of_five_bits_of_exponent(tmp_path, kind):
    state = FLUX if kind == "flux" else tiny().state_dict()
    config = make.FLUX if kind == "flux" else tiny().config
    raw = {name: tensor.to(torch.float8_e5m2) for name, tensor in state.items()}
    load = weights.load_flux if kind == "flux" else weights.load_wan
    loaded = load(saved(tmp_path, raw), config).state_dict()
    assert all(torch.equal(loaded[name].float(), raw[name].float()) for name in raw)
    assert torch.bfloat16 in {tensor.dtype for tensor in loaded.values()}


@pytest.mark.parametrize("twice", ["img_in.weight", "double_blocks.0.img_attn.proj.bias"])
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "net."])
def test_two_tensors_of_one_name_are_refused(tmp_path, twice, prefix):
    other = {twice: FLUX[twice] + 1}
    for state in (FLUX | wrapped(prefix, other), wrapped(prefix, FLUX) | other):
        message = error_of(weights.load_flux, saved(tmp_path, state))
        assert twice in message and prefix + twice in message
    both = FLUX | wrapped(prefix, FLUX)
    assert "two tensors of one name" in error_of(weights.load_flux, saved(tmp_path, both))
    scale = "double_blocks.0.img_attn.norm.query_norm."
    both = FLUX | {scale + "weight": FLUX[scale + "scale"] + 1}
    assert scale + "weight" in error_of(weights.load_flux, saved(tmp_path, both))


# ------------------------------------------------------------------------------- what is not ours

ONE = torch.ones(2, 2)
BYTES = torch.ones(8, 1, dtype=torch.uint8)
PACKED = {name: BYTES.clone() for name in FLUX if name.endswith("weight")}
NF4 = {"img_in.weight.absmax": ONE, "img_in.weight.quant_map": ONE}
NF4 |= {"img_in.weight.quant_state.bitsandbytes__nf4": BYTES}
PACKED_OTHER = {name: BYTES.clone() for name in OTHER if name.endswith("weight")}
QUANTO = {name.replace("weight", "weight._data"): t for name, t in FLUX.items()}
QUANTO |= {"img_in.weight._scale": ONE, "img_in.input_scale": ONE}
NAMES = tuple(FLUX)
NOT_OURS = {
    "nf4": (FLUX | PACKED | NF4, "bitsandbytes nf4"),
    "nf4 of diffusers": (PACKED_OTHER | {"x_embedder.weight.absmax": ONE}, "bitsandbytes nf4"),
    "quanto": (QUANTO, "quanto"),
    "SVDQuant": ({"transformer_blocks.0.qkv_proj.qweight": ONE}, "SVDQuant"),
    "nvfp4": (FLUX | {"img_in.weight_scale_2": ONE}, "nvfp4"),
    "kohya": ({"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": ONE}, "LoRA"),
    "PEFT": ({"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": ONE}, "LoRA"),
    "LoHa": ({"double_blocks.0.img_attn.proj.hada_w1_a": ONE}, "LoRA"),
    "LyCORIS": ({"diffusion_model.blocks.0.ffn.0.diff": ONE}, "LoRA"),
    "XLabs LoRA": ({"double_blocks.0.processor.proj_lora1.down.weight": ONE}, "LoRA"),
    "XLabs": ({"double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": ONE}, "IP-Ada"),
    "ControlNet": (OTHER | {"controlnet_x_embedder.weight": ONE}, "ControlNet"),
    "XLabs ControlNet": (FLUX | {"controlnet_blocks.0.weight": ONE}, "ControlNet"),
    "Chroma": (FLUX | {"distilled_guidance_layer.in_proj.weight": ONE}, "Chroma"),
    "FLUX.2": (FLUX | {"double_stream_modulation_img.lin.weight": ONE}, "FLUX.2"),
    "Hunyuan": (FLUX | {"txt_in.individual_token_refiner.x": ONE}, "HunyuanVideo"),
    "Hunyuan of diffusers": (OTHER | {"context_embedder.token_refiner.x": ONE}, "HunyuanVideo"),
    "SD3": (OTHER | {"pos_embed.proj.weight": ONE}, "Diffusion 3"),
    "Redux": ({"redux_down.weight": ONE, "redux_up.weight": ONE}, "Redux"),
    "VACE": (tiny().state_dict() | {"vace_blocks.0.before_proj.weight": ONE}, "VACE"),
    "I2V": (tiny().state_dict() | {"img_emb.proj.0.weight": ONE}, "I2V"),
    "VAE 2.2": ({"encoder.downsamples.0.downsamples.0.residual.0.gamma": ONE}, "WAN 2.2"),
    "VAE 2.2 of diffusers": ({"encoder.down_blocks.0.resnets.0.norm1.gamma": ONE}, "WAN 2.2"),
    "VAE of FLUX.2": (VAE | {"bn.running_mean": ONE}, "FLUX.2"),
    "VAE of SDXL": (VAE | {"quant_conv.weight": ONE}, "Stable Diffusion autoencoder"),
    "VAE of Hunyuan": ({"encoder.down.0.block.0.conv1.conv.weight": ONE}, "HunyuanVideo"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_OURS)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_what_is_not_ours_is_told_by_its_name(tmp_path, case, prefix, capsys):
    state, words = NOT_OURS[case]
    file = saved(tmp_path, wrapped(prefix, state))
    assert weights.main(["inspect", str(file)]) == 0
    out = capsys.readouterr().out
    messages = [out, *(error_of(load, file) for load in (weights.load_flux, weights.load_flux_vae))]
    for message in (*messages, error_of(weights.load_wan, file)):
        assert words in message
        assert "Fill" not in message and "a FLUX transformer" not in message
        assert "x_embedder" not in message and "missing" not in message


def test_a_gguf_file_is_named(tmp_path):
    (tmp_path / "flux1-dev-Q4.gguf").write_bytes(b"GGUF" + bytes(64))
    assert "GGUF" in error_of(weights.load_flux, tmp_path / "flux1-dev-Q4.gguf")
    message = error_of(weights.load_backbone, "flux", tmp_path)
    assert "flux1-dev-Q4.gguf is a GGUF file" in message


def test_models_of_other_channels(tmp_path):
    state = tiny().state_dict()
    for channels, out, words in (
        (36, 16, "I2V"), (48, 16, "Fun-Control"), (48, 48, "TI2V"), (20, 16, "other tasks"),
    ):  # fmt: skip
        given = {"patch_embedding.weight": torch.ones(48, channels, 1, 2, 2)}
        given |= {
            "head.head.weight": torch.ones(4 * out, 48),
            "head.head.bias": torch.ones(4 * out),
        }
        assert words in error_of(weights.load_wan, saved(tmp_path, state | given))
