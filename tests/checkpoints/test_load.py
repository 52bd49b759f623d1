"""Name tables, layouts, shards, dtypes and accounting of the loader, against diffusers' files."""

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.loaders import single_file_utils as converter
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, T5EncoderModel
from transformers import T5Config as HubT5Config

import weights
from tests.oracles import folders as make
from tests.oracles import official
from tinybridge.checkpoints import layout
from tinybridge.checkpoints.flux import CLIP_TABLE, FLUX_TABLE, FLUX_VAE_TABLE
from tinybridge.checkpoints.flux import T5 as T5_KIND
from tinybridge.checkpoints.load import load, open_model
from tinybridge.flux import FluxConfig
from tinybridge.flux_vae import AutoEncoderConfig
from tinybridge.text.encoders import ClipConfig, T5Config

OFFICIAL = (  # key list, model, its config, its parameters
    ("flux_dev_bfl", "flux", FluxConfig(), 11_901_408_320),
    ("flux_dev_diff", "flux", FluxConfig(), 11_901_408_320),
    ("flux_schnell_bfl", "flux", FluxConfig(guidance=False), 11_891_178_560),
    ("flux_schnell_diff", "flux", FluxConfig(guidance=False), 11_891_178_560),
    ("fluxae_bfl", "flux_vae", AutoEncoderConfig(), 83_819_683),
    ("fluxae_diff", "flux_vae", AutoEncoderConfig(), 83_819_683),
    ("clip_l", "clip", ClipConfig(), 123_060_480),
    ("t5xxl", "t5", T5Config(), 4_762_310_656),
)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


# ---------------------------------------------------------------------------- official tables


@pytest.mark.parametrize(("name", "kind", "config", "parameters"), OFFICIAL)
def test_official_keys_are_used_once_and_fill_every_parameter(
    tmp_path, name, kind, config, parameters
):
    shapes = official.shapes(name)
    # One byte a value: a 12 GB hole can be mapped on machines where one of 24 GB cannot.
    file = make.write_header(tmp_path / "x.safetensors", shapes, "F8_E4M3")
    model = load(kind, file, None, "meta", None)
    assert model.config == config
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}

    table = open_model(kind, file).table
    used = [part for parts, _ in layout.plan(model.state_dict(), table).values() for part in parts]
    assert sorted(used) == sorted(set(shapes) - {T5_KIND.twins[1]})

    last = list(shapes)[-1]
    without = {key: shape for key, shape in shapes.items() if key != last}
    other = make.write_header(tmp_path / "y.safetensors", without, "F8_E4M3")
    assert last in make.error_of(load, kind, other, config, "meta", None)


def test_tables_agree_with_diffusers_converters():
    """Every value is a number of its own, so that a wrong row or order cannot hide."""
    for name, table in (("flux_dev_bfl", FLUX_TABLE), ("fluxae_bfl", FLUX_VAE_TABLE)):
        numbered, n = {}, 0
        for key, shape in official.shapes(name).items():
            thin = shape[:2] if shape[2:] == [1, 1] else shape[:1]  # columns are never touched
            size = torch.Size(thin).numel()
            numbered[key] = torch.arange(n, n + size, dtype=torch.float64).view(*thin)
            if len(shape) == 4 and shape[2:] == [1, 1]:
                numbered[key] = numbered[key][..., None, None]
            n += size
        if table is FLUX_TABLE:
            theirs = converter.convert_flux_transformer_checkpoint_to_diffusers(dict(numbered))
        else:
            config = {"down_block_types": [0] * 4, "up_block_types": [0] * 4}
            theirs = converter.convert_ldm_vae_checkpoint(dict(numbered), config)
        plan = layout.plan(numbered, table)
        assert {part for parts, _ in plan.values() for part in parts} == set(theirs)
        for key, (parts, rule) in plan.items():
            assert torch.equal(layout.join([theirs[part] for part in parts], rule), numbered[key])


def test_there_and_back_is_the_identity(tmp_path):
    for kind, table in (
        ("flux", FLUX_TABLE),
        ("flux_vae", FLUX_VAE_TABLE),
        ("clip", CLIP_TABLE),
    ):
        model = make.models()[kind]
        state = model.state_dict()
        other = make.to_other(state, table, make.FLUX.hidden_size)
        assert not set(state) & set(other) or kind == "flux_vae"
        save_file(other, tmp_path / "x.safetensors")
        back = load(kind, tmp_path / "x.safetensors", model.config, "cpu", None)
        for key, tensor in back.state_dict().items():
            assert torch.equal(tensor, state[key]), key


# ------------------------------------------------------- folders that the other packages write


def test_diffusers_transformer_folder_gives_its_velocity(tmp_path):
    torch.manual_seed(0)
    told = make.config_json("flux", make.FLUX)
    theirs = FluxTransformer2DModel(**{k: v for k, v in told.items() if k[0] != "_"}).eval()
    for weight in theirs.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    theirs.save_pretrained(tmp_path / "transformer", max_shard_size="60KB")
    assert len(list((tmp_path / "transformer").glob("*-of-*"))) > 2
    ours = weights.load_flux(tmp_path)
    assert ours.config == make.FLUX

    x, t = torch.randn(2, 4, 6, 4), torch.tensor([0.3, 0.7])  # [B, C, H, W]
    context, pooled = torch.randn(2, 5, 24), torch.randn(2, 64)
    grid = torch.cartesian_prod(torch.zeros(1), torch.arange(3.0), torch.arange(2.0))  # [N, 3]
    tokens = x.unflatten(3, (2, 2)).unflatten(2, (3, 2)).permute(0, 2, 4, 1, 3, 5)
    with torch.no_grad():
        out = theirs(
            hidden_states=tokens.reshape(2, 6, 16),
            timestep=t,
            guidance=torch.ones(2),
            encoder_hidden_states=context,
            pooled_projections=pooled,
            txt_ids=torch.zeros(5, 3),
            img_ids=grid,
            return_dict=False,
        )[0]  # [B, N, 4C]
        out = out.view(2, 3, 2, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
        assert relative(ours(x, t, context, pooled, torch.ones(2)), out) < 1e-5
        ours.double_blocks[0].txt_attn.qkv.weight[0] += 0.1
        assert relative(ours(x, t, context, pooled, torch.ones(2)), out) > 1e-5


def test_diffusers_autoencoder_folder_gives_its_latents(tmp_path):
    torch.manual_seed(0)
    told = make.config_json("flux_vae", make.VAE)
    theirs = AutoencoderKL(**{k: v for k, v in told.items() if k[0] != "_"}).eval()
    theirs.save_pretrained(tmp_path / "vae")
    ours = weights.load_flux_vae(tmp_path)
    assert ours.config == make.VAE
    pixels = torch.rand(1, 3, 16, 24) * 2 - 1  # [B, 3, H, W]
    with torch.no_grad():
        mean = theirs.encode(pixels).latent_dist.mode()  # [B, Z, h, w]
        expected = (mean - theirs.config.shift_factor) * theirs.config.scaling_factor
        assert relative(ours.encode(pixels), expected) < 1e-5
        assert relative(ours.decode(expected), theirs.decode(mean).sample) < 1e-5
        ours.decoder.up[1].block[0].conv1.weight[0] += 0.1
        assert relative(ours.decode(expected), theirs.decode(mean).sample) > 1e-5


def test_transformers_encoder_folders_give_their_rows(tmp_path):
    torch.manual_seed(0)
    told = make.config_json("t5", make.T5)
    t5 = T5EncoderModel(HubT5Config(**told)).eval()
    t5.save_pretrained(tmp_path / "text_encoder_2", max_shard_size="20KB")
    assert len(list((tmp_path / "text_encoder_2").glob("*-of-*"))) > 1
    clip = CLIPTextModel(CLIPTextConfig(**make.config_json("clip", make.CLIP))).eval()
    clip.save_pretrained(tmp_path / "text_encoder")
    ours_t5, ours_clip = weights.load_t5(tmp_path), weights.load_clip(tmp_path)
    assert (ours_t5.config, ours_clip.config) == (make.T5, make.CLIP)
    ids = torch.randint(3, 90, (2, 9))  # [B, L]
    ids[:, -1] = make.CLIP.vocab_size - 1
    with torch.no_grad():
        assert relative(ours_t5(ids % 96), t5(ids % 96).last_hidden_state) < 1e-5
        assert relative(ours_clip(ids)[1], clip(ids).pooler_output) < 1e-5
        ours_t5.shared.weight[ids[0, 0] % 96] += 0.1
        assert relative(ours_t5(ids % 96), t5(ids % 96).last_hidden_state) > 1e-5


def test_clip_with_and_without_its_prefix_and_vision_tower(tmp_path):
    state = make.models()["clip"].state_dict()
    vision = {"vision_model.post_layernorm.weight": torch.ones(3), "logit_scale": torch.ones(())}
    ids = torch.arange(77).expand(len(state), -1)[:1].contiguous()
    position = {"text_model.embeddings.position_ids": ids}
    save_file(state | vision | position, tmp_path / "x.safetensors")
    save_file(make.to_other(state, CLIP_TABLE), tmp_path / "y.safetensors")
    for name in "xy":
        model = weights.load_clip(tmp_path / f"{name}.safetensors", make.CLIP)
        assert all(torch.equal(t, state[k]) for k, t in model.state_dict().items())


def test_t5_embedding_under_either_name_or_both_when_they_are_equal(tmp_path):
    state = make.models()["t5"].state_dict()
    shared, twin = T5_KIND.twins
    rest = {key: tensor for key, tensor in state.items() if key not in T5_KIND.twins}
    embedding = state[shared]
    decoder = {"decoder.block.0.weight": torch.ones(2), "lm_head.weight": torch.ones(2)}
    for names in ({shared}, {twin}, {shared, twin}):
        found = {name: embedding.clone() for name in names}
        save_file(rest | found | decoder, tmp_path / "x.safetensors")
        model = weights.load_t5(tmp_path / "x.safetensors")
        assert torch.equal(model.state_dict()[shared], embedding)
    save_file(rest | {shared: embedding, twin: embedding + 1}, tmp_path / "x.safetensors")
    assert "differ" in make.error_of(weights.load_t5, tmp_path / "x.safetensors")
