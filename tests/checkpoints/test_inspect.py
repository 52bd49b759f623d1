"""`python weights.py inspect`: what a file or folder is, what a backbone lacks, bad values."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weights
from tests.oracles import folders as make


@pytest.fixture
def folder(tmp_path):
    return make.write_folder(tmp_path / "flux")


def inspect(capsys, *arguments: str | Path) -> str:
    """What is printed for a path where nothing is wrong."""
    assert weights.main(["inspect", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refusal(capsys, *arguments: str | Path) -> str:
    """The one line on stderr for a path where something is."""
    assert weights.main(["inspect", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_backbone_folder_and_what_it_lacks(folder, capsys):
    out = inspect(capsys, folder)
    assert "a FLUX transformer, vendor layout" in out and "a T5 encoder" in out
    parameters = sum(t.numel() for t in make.models()["flux"].state_dict().values())
    size = (folder / "flux1-small.safetensors").stat().st_size
    assert f"{parameters:,} parameters, {size:,} bytes" in out and "F32" in out
    assert "a whole backbone" in out
    (folder / "ae.safetensors").unlink()
    out = inspect(capsys, folder)
    assert "missing FLUX autoencoder (ae.safetensors or vae)" in out
    assert "hf download black-forest-labs/FLUX.1-dev" in out and '"ae.safetensors"' in out


def test_diffusers_folder_its_parts_and_an_empty_folder(tmp_path, capsys):
    folder = make.write_folder(tmp_path / "flux", "diffusers", shards=3)
    out = inspect(capsys, folder)
    assert "a FLUX transformer, diffusers layout" in out and "a whole backbone" in out
    out = inspect(capsys, folder / "transformer")
    size = sum(file.stat().st_size for file in (folder / "transformer").glob("*.safetensors"))
    assert "FluxConfig" in out and f"{size:,} bytes" in out and "missing" not in out
    assert "a FLUX autoencoder, diffusers layout" in inspect(capsys, folder / "vae")
    (tmp_path / "empty").mkdir()
    assert "empty: no model found" in refusal(capsys, tmp_path / "empty")
    assert make.error_of(weights.load_backbone, "flux", tmp_path / "empty").count(" (") == 6


def test_file_of_a_transformer_and_what_lies_around_it(tmp_path, folder, capsys):
    file = folder / "flux1-small.safetensors"
    assert f"{file}: a whole backbone" in inspect(capsys, file)
    alone = file.rename(tmp_path / "alone.safetensors")
    out = inspect(capsys, alone)
    assert "missing FLUX autoencoder" in out and "FLUX transformer (" not in out
    assert f"--local-dir {tmp_path} " in out
    assert "missing" not in inspect(capsys, folder / "ae.safetensors")


def test_files_that_are_no_model_of_ours_are_named(tmp_path, capsys):
    save_file({"x.lora_A.weight": torch.ones(2)}, tmp_path / "lora.safetensors")
    assert "LoRA" in inspect(capsys, tmp_path / "lora.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "ae.safetensors")
    assert "pickle" in refusal(capsys, tmp_path / "ae.safetensors")
    assert "no such file" in refusal(capsys, tmp_path / "absent")


def test_wrong_model_in_the_right_place(folder, capsys):
    (folder / "ae.safetensors").write_bytes((folder / "flux1-small.safetensors").read_bytes())
    assert "expected a FLUX autoencoder, found a FLUX transformer" in refusal(capsys, folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn])
def test_nan_is_refused_only_on_request(folder, capsys, dtype):
    file = folder / "flux1-small.safetensors"
    state = make.models()["flux"].state_dict()
    state["txt_in.weight"][3, 5] = torch.nan
    state["txt_in.weight"] = state["txt_in.weight"].to(dtype)
    save_file(state, file)
    assert "FluxConfig" in inspect(capsys, file)
    line = f"error: {file}: tensor txt_in.weight has NaN or infinite values\n"
    assert refusal(capsys, file, "--check-values") == line


def test_integers_are_no_bad_values(tmp_path, capsys):
    ids = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(make.models()["clip"].state_dict() | ids, tmp_path / "clip_l.safetensors")
    out = inspect(capsys, tmp_path / "clip_l.safetensors", "--check-values")
    assert "all values are finite" in out and "1 I64" in out


def test_as_a_command(folder):
    command = [sys.executable, weights.__file__, "inspect", str(folder / "absent")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {folder / 'absent'}: no such file or folder\n"
