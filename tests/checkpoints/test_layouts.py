"""One small FLUX in both published layouts: train.py and sample.py cannot tell them apart."""

from argparse import Namespace

import pytest
import torch

import sample
import train
import weights
from tests.oracles.folders import write_folder
from tinybridge.data import pictures, scenes
from tinybridge.prompt import Prompt
from tinybridge.restoration import restore


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """The same random model as the vendor lays it out, and as diffusers does, in shards."""
    folder = tmp_path_factory.mktemp("layouts")
    vendor = write_folder(folder / "vendor", "vendor")
    return {
        "vendor": vendor,
        "diffusers": write_folder(folder / "diffusers", "diffusers", shards=3),
    }


@pytest.fixture
def pairs(tmp_path):
    degraded, clean = scenes.pairs("rain", list(range(4)), 32)
    for k in range(4):
        pictures.write(tmp_path / f"pairs/degraded/{k}.png", degraded[k])
        pictures.write(tmp_path / f"pairs/clean/{k}.png", clean[k])
    return tmp_path / "pairs"


def test_prompts_learned_and_pictures_restored_are_the_same(layouts, pairs, tmp_path):
    pixels, prompts, restored, written = torch.rand(1, 3, 37, 51), {}, {}, {}
    pictures.write(tmp_path / "in/a.png", pixels[0])
    pixels = pictures.read(tmp_path / "in/a.png").pixels[None]
    for name, folder in layouts.items():
        flags = ["--backbone", "flux", "--weights", str(folder)]
        run, out = tmp_path / f"run-{name}", tmp_path / f"out-{name}"
        learn = ["--data", str(pairs), "--size", "32", "--steps", "2", "--batch-size", "2"]
        assert train.main([*flags, *learn, "--out", str(run)]) == 0
        prompts[name] = Prompt.load(run / "prompt.safetensors")
        one = tmp_path / "run-vendor/prompt.safetensors"
        show = ["--prompt", str(one), "--input", str(tmp_path / "in"), "--out", str(out)]
        assert sample.main([*flags, *show, "--steps", "4"]) == 0
        written[name] = pictures.read(out / "a.png").pixels
        backbone = weights.load_backbone("flux", folder)
        restored[name] = restore(backbone, [prompts["vendor"]], pixels, steps=4)[0]
    assert torch.allclose(prompts["vendor"].residual, prompts["diffusers"].residual, atol=1e-5)
    assert (restored["vendor"] - restored["diffusers"]).abs().max() < 1e-5
    assert (written["vendor"] - restored["diffusers"]).abs().max() < 0.5 / 255 + 1e-5
    assert (written["diffusers"] - restored["vendor"]).abs().max() < 0.5 / 255 + 1e-5
    assert restored["vendor"].std() > 0.01


def test_another_model_gives_another_picture(layouts, tmp_path):
    pixels = torch.rand(1, 3, 32, 32)
    other = write_folder(tmp_path / "other", "vendor", seed=50)
    a, b = (weights.load_backbone("flux", f) for f in (layouts["vendor"], other))
    assert (restore(a, [], pixels, steps=2) - restore(b, [], pixels, steps=2)).abs().max() > 0.01


@pytest.mark.parametrize(("rows", "length"), [(226, None), (512, 512)])
def test_a_wan_prompt_of_512_rows_asks_for_the_vendors_length(rows, length, monkeypatch):
    def load_backbone(*_, length, **__):
        raise ValueError(f"asked for {length}")

    monkeypatch.setattr(weights, "load_backbone", load_backbone)
    flags = Namespace(backbone="wan", weights=None, device="cpu", dtype="auto", text="", part=[])
    flags.conditioning = flags.weights_dtype = None
    with pytest.raises(ValueError, match=f"asked for {length}"):
        sample.load_backbone(flags, [Prompt.init(rows, 8, 2, seed=0)], "cpu", torch.float32)
