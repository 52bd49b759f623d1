"""Models of the same shapes that prompts were not learned on: refused, or one warning."""

import json
import shutil

import pytest
from safetensors.torch import save_file

import weights
from tests.oracles import folders as make
from tests.oracles.folders import error_of
from tests.oracles.people import FLUX, both, inspect
from tests.oracles.wan import tiny
from tests.oracles.wan_files import same

FILE = "flux1-small.safetensors"


@pytest.mark.parametrize(
    "pipeline", ["FluxKontextPipeline", "FluxFillPipeline", "StableDiffusion3"]
)
def test_another_pipeline_is_refused(tmp_path, folder, capsys, pipeline):
    diffusers = make.write_folder(tmp_path / "d", "diffusers")
    for path in (folder, diffusers):
        index = path / "model_index.json"
        index.write_text(json.dumps({"_class_name": pipeline}))
        assert pipeline in both(capsys, "flux", path)
        file = path / FILE if path == folder else path / "transformer"
        for given in (path, file):
            assert pipeline in error_of(weights.load_flux, given)
        index.write_text(json.dumps({"_class_name": "FluxPipeline"}))
        assert inspect(capsys, path)[0] == 0
        assert weights.load_backbone("flux", path).name == "flux"


@pytest.mark.parametrize(
    "told",
    [
        {"boundary_ratio": 0.875},
        {"transformer_2": ["diffusers", "WanTransformer3DModel"]},
        {"expand_timesteps": True},
        {"_class_name": "WanImageToVideoPipeline"},
        {"_class_name": "WanVACEPipeline"},
    ],
)
def test_wan_2_2_and_other_tasks_are_refused(wan, capsys, told):
    index = wan / "model_index.json"
    index.write_text(json.dumps({"_class_name": "WanPipeline", "transformer_2": [None, None]}))
    assert inspect(capsys, wan)[0] == 0
    index.write_text(json.dumps({"_class_name": "WanPipeline"} | told))
    message = both(capsys, "wan", wan)
    assert "WAN 2.2" in message or told["_class_name"] in message
    index.unlink()
    (wan / "transformer_2").mkdir()
    assert "WAN 2.2" in both(capsys, "wan", wan)


def test_the_vendors_folder_of_wan_2_2(wan, capsys):
    for part in ("high_noise_model", "low_noise_model"):
        shutil.copytree(wan / "text_encoder", wan / part)
    assert "WAN 2.2" in both(capsys, "wan", wan)
    alone = wan.with_name("alone")
    for part in ("high_noise_model", "low_noise_model"):
        (alone / part).mkdir(parents=True)
    status, told = inspect(capsys, alone)
    assert status == 2 and "WAN 2.2" in told and "FLUX" not in told


def test_metadata_of_a_relative_is_refused_and_a_name_is_one_warning(tmp_path, capsys):
    told = {"modelspec.architecture": "flux-1-dev/kontext"}
    save_file(FLUX, tmp_path / "x.safetensors", told)
    assert "Kontext" in error_of(weights.load_flux, tmp_path / "x.safetensors")
    model = tiny()
    for name, words, load, config in (
        ("flux1-kontext-dev", "Kontext", weights.load_flux, make.FLUX),
        ("flux1-krea-dev", "Krea", weights.load_flux, make.FLUX),
        ("FLUX.1-Krea-dev/transformer/model", "Krea", weights.load_flux, make.FLUX),
        ("wan2.2_t2v_high_noise_14B_fp16", "WAN 2.2", weights.load_wan, model.config),
        ("Wan2_2-T2V-A14B-LOW_bf16", "WAN 2.2", weights.load_wan, model.config),
    ):
        state = FLUX if load is weights.load_flux else model.state_dict()
        file = tmp_path / f"{name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, file)
        assert same(load(file, config), state)
        warning = capsys.readouterr().err
        assert warning.count("\n") == 1 and words in warning and str(file) in warning
    title = {"modelspec.title": "Flux.1-Krea-dev"}
    save_file(FLUX, tmp_path / "x.safetensors", title)
    weights.load_flux(tmp_path / "x.safetensors", make.FLUX)
    assert "Krea" in capsys.readouterr().err
    saved = {"_name_or_path": "black-forest-labs/FLUX.1-Kontext-dev"}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    save_file(FLUX, tmp_path / "x.safetensors")
    weights.load_flux(tmp_path / "x.safetensors", make.FLUX)
    assert "Kontext" in capsys.readouterr().err
    (tmp_path / "config.json").unlink()
    for name in ("flux1-dev", "wan2.1_t2v_1.3B_fp16", "Wan2_1-T2V-1_3B_bf16"):
        save_file(FLUX, tmp_path / f"{name}.safetensors")
        weights.load_flux(tmp_path / f"{name}.safetensors", make.FLUX)
        assert not capsys.readouterr().err
