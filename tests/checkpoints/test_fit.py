"""Parts of a backbone that are sound and do not fit each other; parts that are named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sample
import weights
from tests.oracles import folders as make
from tests.oracles.folders import error_of, random_model, write_folder
from tests.oracles.text import t5
from tests.oracles.wan import tiny
from tests.oracles.wan_files import write_wan
from tests.oracles.wan_vae import CONFIGS, autoencoder
from tinybridge.checkpoints import load as loading
from tinybridge.checkpoints.fill import fill
from tinybridge.data import pictures
from tinybridge.flux import Flux
from tinybridge.flux_vae import AutoEncoder
from tinybridge.prompt import Prompt
from tinybridge.text.encoders import ClipText, T5Encoder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def unread(monkeypatch):
    """No value may be read, only headers."""

    def headers_alone(model, checkpoint, table, device, *more):
        assert torch.device(device).type == "meta", "values are read"
        return fill(model, checkpoint, table, device, *more)

    monkeypatch.setattr(loading, "fill", headers_alone)


def refused(name: str, folder: Path, capsys, **more) -> str:
    """One line, the same for the loader and for inspect."""
    message = error_of(lambda: weights.load_backbone(name, folder, **more))
    parts = [f"--part={part}={file}" for part, file in more.get("parts", {}).items()]
    assert weights.main(["inspect", str(folder), *parts]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    return message


def swap(file: Path, model: torch.nn.Module, config: dict | None = None) -> None:
    """Another model's tensors in the place of a part's."""
    save_file(model.state_dict(), file, {"config": json.dumps(config or {})})
    file.with_name("config.json").unlink(missing_ok=True)


FLUX = {  # part: its file, another model, both numbers
    "t5": (
        "text_encoder_2/model.safetensors",
        lambda: random_model(T5Encoder, replace(make.T5, d_model=28), 0),
        ("rows of width 28", "takes 24"),
    ),
    "clip": (
        "text_encoder/model.safetensors",
        lambda: random_model(ClipText, replace(make.CLIP, hidden_size=128, num_heads=2), 0),
        ("width 128", "takes 64"),
    ),
    "flux_vae": (
        "ae.safetensors",
        lambda: random_model(AutoEncoder, replace(make.VAE, z_channels=8), 0),
        ("32 channels", "takes 16"),
    ),
    "flux": (
        "flux1-small.safetensors",
        lambda: random_model(Flux, replace(make.FLUX, context_dim=20), 0),
        ("rows of width 24", "takes 20"),
    ),
    "t5 vocabulary": (
        "text_encoder_2/model.safetensors",
        lambda: random_model(T5Encoder, replace(make.T5, vocab_size=20), 0),
        ("the T5 encoder, of 20",),
    ),
    "t5 embedding": (
        "text_encoder_2/model.safetensors",
        lambda: random_model(T5Encoder, replace(make.T5, vocab_size=7000), 0),
        ("the T5 encoder, of 7000",),
    ),
    "clip vocabulary": (
        "text_encoder/model.safetensors",
        lambda: random_model(ClipText, replace(make.CLIP, vocab_size=515), 0),
        ("vocabulary is of 516", "the CLIP text model, of 515"),
    ),
}


@pytest.mark.parametrize("case", FLUX)
def test_parts_of_flux_that_do_not_fit_are_told_before_values_are_read(
    tmp_path, capsys, unread, case
):
    file, other, numbers = FLUX[case]
    folder = write_folder(tmp_path / "flux")
    swap(folder / file, other(), {"groups": 4} if case == "flux_vae" else {})
    message = refused("flux", folder, capsys)
    place = folder / file
    assert any(str(name) in message for name in (place, place.parent))
    assert message.count(str(folder)) == 2 and all(number in message for number in numbers)


WAN = {
    "umt5": (
        "text_encoder/model.safetensors",
        lambda: t5(torch.float32, 0, per_layer_bias=True, vocab_size=400, d_model=32),
        ("rows of width 32", "takes 24"),
    ),
    "wan_vae": (
        "wan_2.1_vae.safetensors",
        lambda: autoencoder(
            CONFIGS["time-first"] | dict(z_channels=5, mean=(0.0,) * 5, std=(1.0,) * 5)
        ),
        ("5 latent channels", "takes 4"),
    ),
    "wan": (
        "wan2.1_t2v_small.safetensors",
        lambda: tiny(context_dim=20),
        ("rows of width 24", "takes 20"),
    ),
    "umt5 vocabulary": (
        "text_encoder/model.safetensors",
        lambda: t5(torch.float32, 0, per_layer_bias=True, vocab_size=20),
        ("the UMT5 encoder, of 20",),
    ),
}


@pytest.mark.parametrize("case", WAN)
def test_parts_of_wan_that_do_not_fit_are_told_before_values_are_read(
    tmp_path, capsys, unread, case
):
    file, other, numbers = WAN[case]
    folder = write_wan(tmp_path / "wan")
    model = other()
    told = {"num_heads": 3} if case == "wan" else {}
    if case == "wan_vae":
        told = {"mean": model.config.mean, "std": model.config.std}
    swap(folder / file, model, told)
    message = refused("wan", folder, capsys)
    assert message.count(str(folder)) == 2 and all(number in message for number in numbers)


def test_a_word_whose_id_has_no_row_is_told(tmp_path):
    folder = write_folder(tmp_path / "flux")
    weights.load_backbone("flux", folder, text="red")
    message = error_of(lambda: weights.load_backbone("flux", folder, text="<extra_id_0> red"))
    assert "text_encoder_2" in message and "its embedding has 96 rows" in message


def test_a_prompt_of_another_model_is_told_before_values_are_read(tmp_path, capsys, unread):
    folder = write_folder(tmp_path / "flux")
    file = tmp_path / "p.safetensors"
    Prompt(torch.zeros(16, 33), torch.ones(5)).save(file)
    pictures.write(tmp_path / "a.png", torch.rand(3, 16, 16))
    flags = ["--backbone", "flux", "--weights", folder, "--prompt", file, "--input"]
    flags += [tmp_path / "a.png", "--out", tmp_path / "out"]
    assert sample.main([*map(str, flags)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(file) in error and str(folder) in error
    assert "16 rows of width 33" in error and "16 rows of width 32" in error


def test_on_meta_all_shapes_are_there_and_no_value(tmp_path, unread):
    folder, other = write_folder(tmp_path / "flux"), write_wan(tmp_path / "wan")
    for name, place in (("flux", folder), ("wan", other), ("flux", None), ("wan", None)):
        headers = weights.load_backbone(name, place, "meta")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loading, "fill", fill)
            filled = weights.load_backbone(name, place)
        for part in ("length", "width", "text_width", "blocks", "stride", "video", "window"):
            assert getattr(headers, part) == getattr(filled, part)
        assert headers.context.is_meta and headers.context.shape == filled.context.shape
        assert all(weight.is_meta for weight in headers.model.parameters())


# ------------------------------------------------------------------------------- parts by name


def test_two_encoders_side_by_side_are_named_and_one_can_be_chosen(tmp_path, capsys):
    folder = write_folder(tmp_path / "flux")
    t5_folder = folder / "text_encoder_2"
    config = json.loads((t5_folder / "config.json").read_text())
    state = load_file(t5_folder / "model.safetensors")
    shutil.rmtree(t5_folder)
    for name, scale in (("t5xxl_fp16", 1.0), ("t5xxl_fp8", 0.5)):
        told = {"config": json.dumps(config)}
        changed = {key: scale * value for key, value in state.items()}
        save_file(changed, folder / f"{name}.safetensors", told)
    message = error_of(lambda: weights.load_backbone("flux", folder))
    assert "t5xxl_fp16.safetensors" in message and "t5xxl_fp8.safetensors" in message
    assert "--part t5=" in message
    found = []
    for name in ("t5xxl_fp16", "t5xxl_fp8"):
        file = folder / f"{name}.safetensors"
        found.append(weights.load_backbone("flux", folder, parts={"t5": file}).context)
        assert weights.main(["inspect", str(folder), "--part", f"t5={file}"]) == 0
        assert "a whole backbone" in capsys.readouterr().out
    whole = weights.load_backbone("flux", write_folder(tmp_path / "whole"))
    assert torch.equal(found[0], whole.context) and not torch.equal(*found)


def test_any_part_may_lie_elsewhere(tmp_path):
    folder, other = write_wan(tmp_path / "wan"), write_wan(tmp_path / "other", seed=5)
    backbone = weights.load_backbone("wan", folder)
    moved = {"wan_vae": other / "wan_2.1_vae.safetensors", "umt5": other / "text_encoder"}
    moved["umt5 tokens"] = other / "tokenizer/spiece.model"
    found = weights.load_backbone("wan", folder, parts=moved)
    want = weights.load_backbone("wan", other)
    assert torch.equal(found.context, want.context)
    for (_, a), (_, b) in zip(
        found.vae.named_parameters(), want.vae.named_parameters(), strict=True
    ):
        assert torch.equal(a, b)
    for a, b in zip(found.model.parameters(), backbone.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("text", ["t5", "=x", "t5=", "vae=x", "t5=gone", ""])
def test_mistakes_in_a_name_are_one_line(tmp_path, capsys, text):
    folder = write_folder(tmp_path / "flux")
    assert weights.main(["inspect", str(folder), "--part", text]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and any(
        word in error for word in ("PART=FILE", "vae", "gone: no such file")
    )
