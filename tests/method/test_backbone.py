"""The face over FLUX, loading it whole in either layout, the null conditioning's cache."""

import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import weights
from tests.oracles import folders as make
from tests.oracles.folders import error_of
from tinybridge.backbone import Backbone
from tinybridge.prompt import Prompt


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A user's cache folder for the test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tinybridge"


@pytest.fixture
def folder(tmp_path):
    return make.write_folder(tmp_path / "flux")


# -------------------------------------------------------------------------- with a fake model


class FakeModel(torch.nn.Module):
    """Velocity = told time + guidance + its sample's number of the prompt, everywhere."""

    def __init__(self):
        super().__init__()
        self.config, self.blocks = SimpleNamespace(hidden_size=7), [None] * 5

    def forward(self, x, t, context, pooled, guidance, prompt):
        number = torch.zeros(len(x)) if prompt is None else prompt.numbers.repeat(len(x) // 2)
        return torch.zeros_like(x) + (t + guidance + number).view(-1, 1, 1, 1)


class FakeVae(torch.nn.Module):
    """Mean colour of 2x2 pixels."""

    stride = 2

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def encode(self, pixels, tile=None):
        return torch.nn.functional.avg_pool2d(pixels, 2)

    def decode(self, z, tile=None):
        return z.repeat_interleave(2, 2).repeat_interleave(2, 3)


def fake() -> Backbone:
    return Backbone("fake", FakeModel(), FakeVae(), torch.zeros(1, 5, 3), torch.zeros(1, 2), 1.0)


def test_sizes_are_the_models():
    backbone = fake()
    assert (backbone.length, backbone.width, backbone.blocks, backbone.stride) == (5, 7, 5, 4)


def test_model_is_told_the_grid_time_unless_switched_off():
    x, s = torch.zeros(3, 4, 2, 2), torch.tensor([0.12344, 0.4, 0.0])
    told = fake().velocity(x, s)[:, 0, 0, 0]
    torch.testing.assert_close(told, 1 + torch.tensor([0.123, 0.4, 0.001]))
    exact = dataclasses.replace(fake(), grid=False).velocity(x, s)[:, 0, 0, 0]
    torch.testing.assert_close(exact, 1 + s)


def test_velocities_of_several_prompts_are_averaged_for_each_sample():
    terms = SimpleNamespace(count=2, numbers=torch.tensor([10.0, 20.0]))
    out = fake().velocity(torch.zeros(2, 4, 2, 2), torch.tensor([0.1, 0.2]), terms)
    torch.testing.assert_close(out[:, 0, 0, 0], torch.tensor([16.1, 16.2]))


def test_several_prompts_are_prepared_first():
    x, s, one = torch.zeros(1, 4, 2, 2), torch.zeros(1), Prompt.init(5, 7, 5, seed=0)
    for several in ([one, one], (one,), []):
        assert f"of {len(several)} prompts: pass" in error_of(fake().velocity, x, s, several)


def test_prompts_are_prepared_on_the_models_device_and_stay_where_they_are():
    class Recording(FakeModel):
        def prepare(self, prompts, *rest):
            self.given = prompts

    backbone = dataclasses.replace(fake(), model=Recording())
    here = Prompt.init(5, 7, 5, seed=0)
    backbone.prepare([here])
    assert backbone.model.given == [here]
    elsewhere = Prompt.init(5, 7, 5, seed=0).to("meta")
    with pytest.raises(NotImplementedError):  # a meta tensor has no values to move
        backbone.prepare([elsewhere])
    dataclasses.replace(backbone, context=torch.zeros(1, 5, 3, device="meta")).prepare([here])
    (copy,) = backbone.model.given
    assert copy.residual.device.type == "meta" and here.residual.device.type == "cpu"


def test_pictures_of_any_size_come_back_in_their_size():
    for H, W in ((1, 1), (4, 8), (5, 6)):
        pictures = torch.rand(2, 3, 1, 1).expand(2, 3, H, W)
        latent = fake().encode(pictures)
        assert latent.shape == (2, 3, -(-H // 4) * 2, -(-W // 4) * 2)
        torch.testing.assert_close(latent[:, :, 0, 0], pictures[:, :, 0, 0] * 2 - 1)
        torch.testing.assert_close(fake().decode(latent, (H, W)), pictures)
    edge = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 3, 4, 5) / 5
    assert (fake().encode(edge)[..., -1] == 4 / 5 * 2 - 1).all()
    assert fake().decode(torch.full((1, 3, 2, 2), 9.0)).max() == 1


# ------------------------------------------------------------------------------- whole folders


def velocity(backbone: Backbone, prompts: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 4, 6, generator=generator)
    terms = None
    if prompts:
        made = [
            Prompt.init(backbone.length, backbone.width, backbone.blocks, seed=i, std=1.0)
            for i in range(prompts)
        ]
        terms = backbone.prepare(made) if prompts > 1 else made[0]
    with torch.no_grad():
        return backbone.velocity(x, torch.tensor([0.1, 0.4]), terms)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("guidance", [True, False])
def test_both_layouts_give_the_same_velocity_and_pictures(tmp_path, guidance):
    vendor = make.write_folder(tmp_path / "v", "vendor", guidance=guidance)
    other = make.write_folder(tmp_path / "d", "diffusers", guidance=guidance, shards=3)
    a, b = (weights.load_backbone("flux", folder) for folder in (vendor, other))
    assert a.guidance == b.guidance == (1.0 if guidance else None)
    assert (a.length, a.width, a.blocks, a.stride) == (make.LENGTH, 32, 5, 8)
    assert relative(velocity(a), velocity(b)) < 1e-5
    pictures = torch.rand(1, 3, 20, 30)
    latent = a.encode(pictures)
    assert relative(latent, b.encode(pictures)) < 1e-5
    assert relative(a.decode(latent, (20, 30)), b.decode(latent, (20, 30))) < 1e-5
    with torch.no_grad():
        b.model.final_layer.linear.weight[0] += 0.1
    assert relative(velocity(a), velocity(b)) > 1e-5


def test_prompt_prepared_terms_and_their_average(folder):
    backbone = weights.load_backbone("flux", folder)
    plain, one, two = (velocity(backbone, prompts) for prompts in (0, 1, 2))
    assert relative(one, plain) > 1e-3
    made = [Prompt.init(make.LENGTH, 32, 5, seed=i, std=1.0) for i in range(2)]
    x = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    s = torch.tensor([0.1, 0.4])
    with torch.no_grad():
        each = [backbone.velocity(x, s, prompt) for prompt in made]
        tabled = backbone.velocity(x, s, backbone.prepare(made, s))
    assert relative(two, (each[0] + each[1]) / 2) < 1e-5
    assert relative(tabled, two) < 1e-5


def test_dtypes_of_model_and_autoencoder(folder):
    for dtype, vae in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        backbone = weights.load_backbone("flux", folder, dtype=dtype)
        assert backbone.dtype == dtype == backbone.model.img_in.weight.dtype
        assert backbone.vae.encoder.conv_in.weight.dtype == vae
        assert velocity(backbone).dtype == torch.float32
        assert backbone.decode(backbone.encode(torch.rand(1, 3, 8, 8))).dtype == vae


def test_transformer_may_be_named_by_its_file(folder):
    (folder / "flux1-small.safetensors").rename(folder / "mine.safetensors")
    assert "missing FLUX transformer" in error_of(weights.load_backbone, "flux", folder)
    backbone = weights.load_backbone("flux", folder / "mine.safetensors")
    assert backbone.width == 32
    (folder / "ae.safetensors").unlink()
    message = error_of(weights.load_backbone, "flux", folder / "mine.safetensors")
    assert message.endswith(f'--local-dir {folder} --include "ae.safetensors"')


def test_missing_parts_of_schnell_come_from_its_repository(tmp_path):
    folder = make.write_folder(tmp_path, "diffusers", guidance=False)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "vae" / "config.json").unlink()
    (folder / "vae").rmdir()
    assert "black-forest-labs/FLUX.1-schnell " in error_of(weights.load_backbone, "flux", folder)


def test_missing_parts_and_wrong_names_are_one_line(folder):
    (folder / "ae.safetensors").unlink()
    (folder / "tokenizer" / "vocab.json").unlink()
    message = error_of(weights.load_backbone, "flux", folder)
    assert "hf download black-forest-labs/FLUX.1-dev" in message
    assert '--include "ae.safetensors" --include "tokenizer/*"' in message
    assert "T5" not in message
    assert "flux1-a" in error_of(weights.load_backbone, "flux", two_transformers(folder))
    assert "'sdxl': expected 'flux' or 'wan'" in error_of(weights.load_backbone, "sdxl", folder)
    assert "no such" in error_of(weights.load_backbone, "flux", folder / "absent")


def two_transformers(folder: Path) -> Path:
    for name in "ab":
        (folder / f"flux1-{name}.safetensors").write_bytes(b"")
    return folder


def test_damaged_settings_are_named(folder):
    for file in ("tokenizer_2/tokenizer_config.json", "text_encoder/config.json"):
        kept = (folder / file).read_text()
        (folder / file).write_text(kept[:-1])
        assert str(folder / file) in error_of(weights.load_backbone, "flux", folder)
        (folder / file).write_text(kept)


# ---------------------------------------------------------------------------- null conditioning


def never(*args):
    raise AssertionError("an encoder was loaded")


def test_encoders_are_never_loaded_again_for_the_same_text(folder, monkeypatch, cache):
    first = weights.load_backbone("flux", folder)
    asked = weights.load_backbone("flux", folder, text="red hills")
    assert not torch.equal(first.context, asked.context)
    assert len(list(cache.iterdir())) == 2
    (folder / "tokenizer" / ".cache").mkdir()  # as download tools leave it
    moved = folder.rename(folder.with_name("moved"))
    monkeypatch.setattr("tinybridge.checkpoints.conditioning.flux_text", never)
    for text, expected in (("", first), ("red hills", asked)):
        again = weights.load_backbone("flux", moved, text=text)
        assert torch.equal(again.context, expected.context)
        assert torch.equal(again.pooled, expected.pooled)
    with pytest.raises(AssertionError, match="encoder"):
        weights.load_backbone("flux", moved, text="blue hills")


@pytest.mark.parametrize("file", ["text_encoder_2/model.safetensors", "tokenizer_2/spiece.model"])
def test_other_encoder_files_are_computed_again(folder, cache, monkeypatch, file):
    weights.load_backbone("flux", folder)
    stamp = (folder / file).stat().st_mtime_ns
    if file.endswith("safetensors"):
        state = load_file(folder / file)
        state["shared.weight"] = state["shared.weight"] + 1
        save_file(state, folder / file, {"format": "pt"})
    else:
        make.write_tokenizers(folder, "other words entirely, and some more of them here")
    os.utime(folder / file, ns=(stamp, stamp))  # as unpacking an archive does
    monkeypatch.setattr("tinybridge.checkpoints.conditioning.flux_text", never)
    with pytest.raises(AssertionError, match="encoder"):
        weights.load_backbone("flux", folder)


@pytest.mark.parametrize("damage", ["truncated", "empty", "nan", "other key"])
def test_damaged_cache_file_is_rebuilt(folder, cache, damage):
    first = weights.load_backbone("flux", folder)
    (file,) = cache.iterdir()
    good = file.read_bytes()
    tensors = load_file(file)
    if damage == "nan":
        tensors["context"][0, 0, 0] = torch.nan
        save_file(tensors, file, json.loads(good[8 : good.index(b"}") + 1] + b"}")["__metadata__"])
    elif damage == "other key":
        save_file({"context": tensors["context"] + 1, "pooled": tensors["pooled"]}, file)
    else:
        file.write_bytes(good[: len(good) // 2] if damage == "truncated" else b"")
    again = weights.load_backbone("flux", folder)
    assert torch.equal(again.context, first.context)
    assert load_file(file)["context"].equal(first.context)
    assert [path.name for path in cache.iterdir()] == [file.name]


def test_unwritable_cache_only_warns(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    backbone = weights.load_backbone("flux", folder)
    assert backbone.length == make.LENGTH
    warning = capsys.readouterr().err
    assert warning.startswith("warning: ") and warning.count("\n") == 1


def test_null_conditioning_is_the_encoders_rows(folder):
    backbone = weights.load_backbone("flux", folder)
    ids = torch.tensor([[1] + [0] * (make.LENGTH - 1)])
    assert torch.equal(backbone.context, weights.load_t5(folder)(ids))
    end = make.CLIP.vocab_size - 1
    ids = torch.tensor([[end - 1] + [end] * 76])
    assert torch.equal(backbone.pooled, weights.load_clip(folder)(ids)[1])
