"""The recipes, cut to a few steps, give folders that load like official ones."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import weights
from tinybridge.data import moving_scenes, scenes
from tinybridge.tiny import make, muon, pretrain, recipes


@pytest.fixture
def few(monkeypatch):
    """The recipes on little data: short clips, a checkpoint every two steps, four held out."""
    monkeypatch.setattr(pretrain, "EVERY", 2)
    monkeypatch.setattr(recipes, "PICTURES_HELD_OUT", 4)
    monkeypatch.setattr(recipes, "HELD_OUT", 4)
    monkeypatch.setattr(recipes, "FRAMES", 13)
    monkeypatch.setattr(recipes, "LONG", ((5, 1), (13, 1)))


class Stopped(Exception):
    """What Ctrl-C is to the recipe."""


def stop_at(monkeypatch, count: int):
    """From now on the optimiser's step number `count` (from 1 on, over all models) never comes."""
    learned, step = [], pretrain.Optimizer.step

    def counted(self, loss, lr):
        learned.append(lr)
        if len(learned) == count:
            raise Stopped
        step(self, loss, lr)

    monkeypatch.setattr(pretrain.Optimizer, "step", counted)


def made(folder: Path, *flags: str) -> Path:
    """Runs the recipe with its work in `folder`; the folder of the models that it writes."""
    places = ["--work", str(folder / "work"), "--out", str(folder / "out")]
    make.main([*flags, *places, "--vae-steps", "4", "--steps", "4", "--batch-size", "2"])
    return folder / "out"


@pytest.mark.parametrize(("name", "pictures"), [("flux", "24"), ("wan", "80")], ids=["flux", "wan"])
def test_recipe_end_to_end_and_stopped_twice(name, pictures, few, tmp_path, monkeypatch):
    """Stopped in both trainings between two checkpoints, it ends with the same bits."""
    flags = ("--backbone", name, "--pictures", pictures)
    out = made(tmp_path / "whole", *flags)
    CHECKS[name](out, tmp_path / "whole/work")
    (tmp_path / "parts/work").mkdir(parents=True)
    for corpus in (tmp_path / "whole/work").glob("*.npz"):
        shutil.copy(corpus, tmp_path / "parts/work")
    for count, file in ((4, "autoencoder.pt"), (2 + 4, f"{name}.pt")):
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            stop_at(patch, count)  # the autoencoder's fourth; then its two and the model's fourth
            made(tmp_path / "parts", *flags)
        assert torch.load(tmp_path / "parts/work" / file, weights_only=True)["step"] == 2
    again = made(tmp_path / "parts", *flags)
    files = sorted(f.relative_to(out) for f in out.rglob("*") if f.is_file())
    assert len(files) > 4
    for file in files:
        if file.suffix == ".safetensors":  # whose header has no order
            one, other = load_file(out / file), load_file(again / file)
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one), file
        else:
            assert (out / file).read_bytes() == (again / file).read_bytes(), file


def check_flux(out: Path, work: Path):
    backbone = weights.load_backbone("flux", out)
    assert backbone.model.config == recipes.FLUX
    assert backbone.context.shape == (1, recipes.T5_LENGTH, recipes.T5.d_model)
    latents = torch.load(work / "latents.pt", weights_only=True).float()
    measured = latents[-recipes.PICTURES_HELD_OUT :]
    assert measured.mean().abs() < 0.01 and (measured.std() - 1.2).abs() < 0.01
    average = torch.load(work / "flux.pt", weights_only=True)["average"]
    weight = average["flux.img_in.weight"]
    assert torch.allclose(backbone.model.img_in.weight, weight, atol=1e-3 * weight.abs().max())


def check_wan(out: Path, work: Path):
    backbone = weights.load_backbone("wan", out)
    assert backbone.model.config == recipes.WAN
    assert backbone.context.shape == (1, recipes.LENGTH, recipes.UMT5.d_model)
    assert not backbone.context[:, 1:].any() and backbone.context[:, 0].any()
    latents = torch.load(work / "latents-clips.pt", weights_only=True).float()
    assert latents.shape[1:] == (16, 4, 16, 16)
    measured = latents[-recipes.HELD_OUT :, :, :3]  # the held-out clips' first nine frames
    assert measured.mean((0, 2, 3, 4)).abs().max() < 0.01
    assert (measured.std((0, 2, 3, 4)) - 1.2).abs().max() < 0.01
    average = torch.load(work / "wan.pt", weights_only=True)["average"]
    weight = average["wan.patch_embedding.weight"]
    loaded = backbone.model.patch_embedding.weight
    assert torch.allclose(loaded, weight, atol=1e-3 * weight.abs().max())


CHECKS = {"flux": check_flux, "wan": check_wan}


def test_the_module_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(make.__file__, run_name="__main__")
    assert "--backbone {flux,wan}" in capsys.readouterr().out


def test_bundled_wan_is_what_the_recipe_describes():
    backbone = weights.load_backbone("wan")
    assert backbone.model.config == recipes.WAN
    assert backbone.vae.config.dim_mult == recipes.WAN_VAE.dim_mult
    size = sum(f.stat().st_size for f in (weights.TINY / "wan").rglob("*") if f.is_file())
    assert size < 12e6
    frames = torch.from_numpy(moving_scenes.clip(1_000_000)[0])  # [9, 3, 64, 64]
    pictures = frames.transpose(0, 1)[None]  # [1, 3, 9, 64, 64]
    error = (backbone.decode(backbone.encode(pictures)) - pictures).square().mean()
    assert -10 * error.log10() > 30  # one clip; the mean over 64 stands in README


def test_bundled_model_is_what_the_recipe_describes():
    backbone = weights.load_backbone("flux")
    assert backbone.model.config == recipes.FLUX
    assert backbone.vae.config.ch_mult == recipes.FLUX_VAE.ch_mult
    size = sum(f.stat().st_size for f in (weights.TINY / "flux").rglob("*") if f.is_file())
    assert size < 12e6
    picture = torch.from_numpy(scenes.scene(1_000_000).picture)[None]
    error = (backbone.decode(backbone.encode(picture)) - picture).square().mean()
    assert -10 * error.log10() > 34  # one picture; the mean over 128 stands in README


def says(caption: str) -> str | None:
    """The degradation that a caption names."""
    kinds = [kind for kind, words in make.SAID.items() if caption.split(",")[0] in words]
    return kinds[0] if kinds else None


def test_a_share_of_the_pictures_is_degraded_and_half_of_those_say_so():
    told = [make.web_picture(seed)[1] for seed in range(300)]
    assert 40 <= sum(says(caption) is not None for caption in told) <= 85  # 40 % of 300, half
    for place in ("land", "sky"):
        assert all(any(w in c for w in scenes.WORDS[place]) for c in told)
    used = {word.strip(",") for caption in told for word in caption.split()}
    assert {"fir", "oak", "cottage", "fog", "mist", "snowfall", "dim", "sunshine"} <= used


def test_what_a_model_has_seen_is_one_thing_changed():
    """The same seeds: never named, never degraded, or all but one kind; the rest stays."""
    usual = [make.as_found(seed, "x") for seed in range(400)]
    for seen in make.SEEN[1:]:
        found = [make.as_found(seed, "x", seen) for seed in range(400)]
        for (kind, severity, said), (other, same, other_said) in zip(usual, found, strict=True):
            if seen in ("clean", "scrambled") or seen == f"without-{kind}":
                assert other is None and says(other_said) is None
            else:
                assert (other, same) == (kind, severity)
                assert says(other_said) == (None if seen == "unnamed" else says(said))
    kinds = {kind for kind, _, _ in usual if kind}
    assert kinds == set(make.SAID)


@pytest.mark.parametrize("shape", [(3, 24, 10), (2, 10, 24), (1, 8, 8)])
def test_muon_keeps_directions_and_evens_out_sizes(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    back = u.mT @ muon.orthogonal(x) @ v.mT  # diagonal, if directions are kept
    sizes = back.diagonal(dim1=1, dim2=2)
    assert (back - torch.diag_embed(sizes)).abs().max() < 0.02
    large = s > 0.1 * s.amax(1, keepdim=True)  # the quintic does not reach the smallest ones
    assert sizes[large].min() > 0.5 and sizes.max() < 1.3


def test_muon_step_is_momentum_made_orthogonal():
    weight = torch.nn.Parameter(torch.zeros(4, 6))
    optimizer, gradients = muon.Muon([weight], momentum=0.9), torch.randn(2, 4, 6)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step(0.01)
    first, second = gradients[0], 0.9 * gradients[0] + gradients[1]
    steps = [g + 0.9 * kept for g, kept in zip(gradients, (first, second), strict=True)]
    expected = -sum(0.2 * 0.01 * 6**0.5 * muon.orthogonal(s[None])[0] for s in steps)
    assert torch.allclose(weight.detach(), expected, atol=1e-6)
