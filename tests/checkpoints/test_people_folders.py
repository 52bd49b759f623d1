"""Folders as people lay them out: found, refused by name, or told what looks like a part."""

import shutil

import torch
from safetensors.torch import save_file

import weights
from tests.oracles import folders as make
from tests.oracles.folders import error_of
from tests.oracles.people import both, inspect
from tests.oracles.wan import tiny
from tests.oracles.wan_files import same, write_wan

FILE = "flux1-small.safetensors"


# ------------------------------------------------------------------------- two candidates for one


def test_two_files_for_one_part_are_refused_by_name(tmp_path, capsys):
    for part, kind in (("vae", "flux_vae"), ("transformer", "flux")):
        folder = make.write_folder(tmp_path / part, "diffusers", shards=3)
        state = make.models(seed=9)[kind].state_dict()
        name = "ae" if kind == "flux_vae" else "flux1-x"
        save_file(state, folder / part / f"{name}.safetensors")
        load = weights.load_flux_vae if kind == "flux_vae" else weights.load_flux
        for message in (
            both(capsys, "flux", folder),
            error_of(load, folder / part),
            error_of(load, folder),
        ):
            assert f"{name}.safetensors" in message and "diffusion_pytorch_model" in message


def test_another_file_of_the_same_model_beside_the_usual_one(folder, capsys):
    other = make.models(seed=9)["flux"].state_dict()
    save_file(other, folder / "mine.safetensors")
    message = both(capsys, "flux", folder)
    assert FILE in message and "mine.safetensors" in message
    assert same(weights.load_flux(folder / "mine.safetensors", make.FLUX), other)
    assert weights.load_backbone("flux", folder / FILE).width == 32


def test_what_only_has_the_name_is_no_rival(folder, capsys):
    save_file({"redux_down.weight": torch.ones(2, 2)}, folder / "flux1-redux-dev.safetensors")
    save_file({"x.lora_A.weight": torch.ones(2, 2)}, folder / "flux1-lora.safetensors")
    assert inspect(capsys, folder)[0] == 0
    assert weights.load_backbone("flux", folder).width == 32


# -------------------------------------------------------------------- found, or named in the advice


def shared_folder(folder, names):
    """As ComfyUI's models/: files of many models in folders by their use."""
    for old, new in names.items():
        (folder / new).parent.mkdir(exist_ok=True)
        (folder / old).rename(folder / new)
    for part in ("text_encoder", "text_encoder_2"):
        shutil.rmtree(folder / part)
    return folder


COMFY = {
    FILE: "diffusion_models/FLUX1-dev.safetensors",
    "ae.safetensors": "vae/ae.safetensors",
    "text_encoder/model.safetensors": "text_encoders/clip_l.safetensors",
    "text_encoder_2/model.safetensors": "text_encoders/t5xxl_fp16.safetensors",
}


def test_the_models_folder_of_comfyui(folder, capsys):
    want = weights.load_backbone("flux", folder)
    shared_folder(folder, COMFY)
    autoencoder = tiny().state_dict()
    save_file(autoencoder, folder / "vae/wan.safetensors")  # another model's, side by side
    message = error_of(weights.load_backbone, "flux", folder)
    assert "diffusion_models/FLUX1-dev.safetensors looks like the FLUX transformer" in message
    assert "hf download" not in message
    got = weights.load_backbone("flux", folder / COMFY[FILE])
    assert torch.equal(got.context, want.context) and torch.equal(got.pooled, want.pooled)
    assert same(got.vae, want.vae.state_dict()) and same(got.model, want.model.state_dict())
    status, told = inspect(capsys, folder / COMFY[FILE])
    assert status == 0 and "a whole backbone" in told
    (folder / "diffusion_models/flux").mkdir()  # as people sort them
    inner = (folder / COMFY[FILE]).rename(folder / "diffusion_models/flux/FLUX1-dev.safetensors")
    comfy = folder.parent / "ComfyUI/models"
    comfy.parent.mkdir()
    inner = folder.rename(comfy) / inner.relative_to(folder)
    assert "flux/FLUX1-dev.safetensors looks" in error_of(
        weights.load_backbone, "flux", comfy.parent
    )
    assert torch.equal(weights.load_backbone("flux", inner).context, want.context)


def test_the_transformers_file_inside_its_folder(tmp_path):
    folder = make.write_folder(tmp_path / "d", "diffusers", shards=3)
    index = "transformer/diffusion_pytorch_model.safetensors.index.json"
    assert weights.load_backbone("flux", folder / index).width == 32
    wan = write_wan(tmp_path / "w", "diffusers")
    file = wan / "transformer/diffusion_pytorch_model.safetensors"
    assert weights.load_backbone("wan", file).video


def test_a_flat_folder_inside_one_called_checkpoints(folder):
    inner = folder.rename(folder.parent / "checkpoints")
    assert weights.load_backbone("flux", inner / FILE).width == 32


def test_flat_files_of_any_name(folder, capsys):
    want = weights.load_backbone("flux", folder)
    flat = {"ae.safetensors": "ae.sft", "text_encoder/model.safetensors": "the_clip.safetensors"}
    flat["text_encoder_2/model.safetensors"] = "google_t5.safetensors"
    shared_folder(folder, flat)
    got = weights.load_backbone("flux", folder)
    assert torch.equal(got.context, want.context) and same(got.vae, want.vae.state_dict())
    (folder / "ae.sft").rename(folder / "diffusion_pytorch_model.safetensors")
    assert inspect(capsys, folder)[0] == 0
    shutil.copy(folder / "google_t5.safetensors", folder / "t5_again.safetensors")
    message = error_of(weights.load_backbone, "flux", folder)
    assert "google_t5.safetensors" in message and "t5_again.safetensors" in message


def test_a_folder_without_weights_hides_no_file(folder):
    (folder / "text_encoder/model.safetensors").rename(folder / "clip_l.safetensors")
    assert (folder / "text_encoder/config.json").is_file()
    assert weights.load_backbone("flux", folder).width == 32


def test_wan_files_of_other_names(wan, capsys):
    names = {"wan2.1_t2v_small": "Wan2_1-T2V-1_3B_bf16", "wan_2.1_vae": "Wan2_1_VAE_bf16"}
    for old, new in names.items():
        (wan / f"{old}.safetensors").rename(wan / f"{new}.safetensors")
    message = error_of(weights.load_backbone, "wan", wan)
    assert "Wan2_1-T2V-1_3B_bf16.safetensors looks like the WAN transformer" in message
    assert "hf download" not in message and "autoencoder" not in message
    assert weights.load_backbone("wan", wan / "Wan2_1-T2V-1_3B_bf16.safetensors").video
    status, told = inspect(capsys, wan)
    assert status == 0 and "looks like" in told and "FLUX" not in told


def test_only_what_is_not_there_is_to_be_downloaded(folder):
    (folder / FILE).rename(folder / "mine.safetensors")
    (folder / "tokenizer/vocab.json").unlink()
    message = error_of(weights.load_backbone, "flux", folder)
    assert "mine.safetensors looks like" in message
    assert message.endswith('--include "tokenizer/*"')


def test_the_other_backbones_folder_is_told(folder, wan):
    message = error_of(weights.load_backbone, "flux", wan)
    assert "holds a wan backbone" in message and "download" not in message
    assert "holds a flux backbone" in error_of(weights.load_backbone, "wan", folder)


def test_a_folder_of_pointers_is_no_reason_to_download_another_model(wan, capsys):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for file in wan.rglob("*"):
        if file.suffix in (".safetensors", ".model"):
            file.write_bytes(pointer)
    message = both(capsys, "wan", wan)
    assert "git-lfs pointer" in message and "FLUX" not in message
    for file in list(wan.iterdir()):
        if file.name != "wan_2.1_vae.safetensors":
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    status, told = inspect(capsys, wan)
    assert status == 2 and "git-lfs pointer" in told and "FLUX" not in told
