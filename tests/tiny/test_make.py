"""The recipes, cut to a few steps, give folders that load like official ones."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import weights
from tinybridge.data import moving_scenes, scenes
from tinybridge.tiny import make, muon, pretrain, pretrain_wan

ROOT = Path(__file__).parents[2]


def test_recipe_end_to_end_and_resumed(tmp_path):
    flags = ["--pictures", "192", "--vae-steps", "2", "--batch-size", "4"]
    flags += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "flux")]
    for steps in (1, 2):  # the second run goes on after the first step
        subprocess.run(
            [sys.executable, "-m", "tinybridge.tiny.make", *flags, "--steps", str(steps)],
            cwd=ROOT, check=True, timeout=300, capture_output=True,
        )  # fmt: skip
        assert torch.load(tmp_path / "work/flux.pt", weights_only=True)["step"] == steps
    backbone = weights.load_backbone("flux", tmp_path / "flux")
    assert backbone.model.config == pretrain.FLUX
    assert backbone.context.shape == (1, pretrain.T5_LENGTH, pretrain.T5.d_model)
    average = torch.load(tmp_path / "work/flux.pt", weights_only=True)["average"]
    weight = average["flux.img_in.weight"]
    assert torch.allclose(backbone.model.img_in.weight, weight, atol=1e-3 * weight.abs().max())


def test_recipe_of_the_tiny_wan_end_to_end_and_resumed(tmp_path):
    flags = ["--backbone", "wan", "--pictures", "360", "--batch-size", "2"]
    flags += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "wan")]
    for steps in (1, 2):  # the autoencoder too goes on after its first step, in the second run
        subprocess.run(
            [sys.executable, "-m", "tinybridge.tiny.make", *flags, "--steps", str(steps),
             "--vae-steps", "2"],
            cwd=ROOT, check=True, timeout=300, capture_output=True,
        )  # fmt: skip
        assert torch.load(tmp_path / "work/wan.pt", weights_only=True)["step"] == steps
    backbone = weights.load_backbone("wan", tmp_path / "wan")
    assert backbone.model.config == pretrain_wan.WAN
    assert backbone.context.shape == (1, pretrain_wan.LENGTH, pretrain_wan.UMT5.d_model)
    assert not backbone.context[:, 1:].any() and backbone.context[:, 0].any()
    latents = torch.load(tmp_path / "work/latents-clips.pt", weights_only=True).float()
    assert latents.shape[1:] == (16, 4, 16, 16)
    measured = latents[-64:, :, :3]  # the held-out clips' first nine frames
    assert measured.mean((0, 2, 3, 4)).abs().max() < 0.01
    assert (measured.std((0, 2, 3, 4)) - 1.2).abs().max() < 0.01
    average = torch.load(tmp_path / "work/wan.pt", weights_only=True)["average"]
    weight = average["wan.patch_embedding.weight"]
    loaded = backbone.model.patch_embedding.weight
    assert torch.allclose(loaded, weight, atol=1e-3 * weight.abs().max())


def test_bundled_wan_is_what_the_recipe_describes():
    backbone = weights.load_backbone("wan")
    assert backbone.model.config == pretrain_wan.WAN
    assert backbone.vae.config.dim_mult == pretrain_wan.RAW.dim_mult
    size = sum(f.stat().st_size for f in (weights.TINY / "wan").rglob("*") if f.is_file())
    assert size < 12e6
    pictures = torch.from_numpy(moving_scenes.clip(1_000_000)[0]).transpose(0, 1)[
        None
    ]  # [1, 3, 9, 64, 64]
    error = (backbone.decode(backbone.encode(pictures)) - pictures).square().mean()
    assert -10 * error.log10() > 30  # one clip; the mean over 64 stands in README


def test_bundled_model_is_what_the_recipe_describes():
    backbone = weights.load_backbone("flux")
    assert backbone.model.config == pretrain.FLUX
    assert (backbone.vae.config.ch, backbone.vae.config.ch_mult) == (16, (1, 2, 2))
    size = sum(f.stat().st_size for f in (weights.TINY / "flux").rglob("*") if f.is_file())
    assert size < 12e6
    picture = torch.from_numpy(scenes.scene(1_000_000).picture)[None]
    error = (backbone.decode(backbone.encode(picture)) - picture).square().mean()
    assert -10 * error.log10() > 34  # one picture; the mean over 128 stands in README


def test_a_share_of_the_pictures_is_degraded_and_half_of_those_say_so():
    told = [make.web_picture(seed)[1] for seed in range(300)]
    named = [c for c in told if c.split(",")[0] in scenes.NAMES.values()]
    assert 40 <= len(named) <= 85  # 40 % of 300, half of them
    assert all("land" in caption and "sky" in caption for caption in told)


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
