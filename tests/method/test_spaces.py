"""Token space and text space: what is learned there, what stays frozen, files, wrong ones."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sample
import train
import weights
from tests.oracles.folders import write_folder
from tests.oracles.plain import error
from tests.oracles.prompts import sized
from tests.oracles.wan_files import write_wan
from tinybridge.backbone import Backbone
from tinybridge.data import pictures, scenes
from tinybridge.prompt import Prompt, Tokens
from tinybridge.restoration import restore
from tinybridge.training import loop
from tinybridge.training.loop import Settings
from tinybridge.training.pairs import drawn_pairs

SHORT = Settings(space="token", steps=3, batch_size=4, lr=0.1)
SHAPES = {"flux": (4, 4, 6), "wan": (4, 2, 4, 6)}  # of a latent


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Iterator[dict[str, Path]]:
    """Small random models, the same for a name."""
    place = tmp_path_factory.mktemp("folders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        yield {"flux": write_folder(place / "flux"), "wan": write_wan(place / "wan")}


@pytest.fixture(params=SHAPES)
def backbone(request, folders) -> Backbone:
    return weights.load_backbone(request.param, folders[request.param], keep_encoder=True)


def states(backbone, B=3):
    x = torch.randn(B, *SHAPES[backbone.name], generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0.1, 0.25, 0.4])[:B]


def some_tokens(backbone, seed=0) -> Tokens:
    return Tokens.init(backbone.null_embeddings(), seed, noise=0.5)


def drawn(backbone):
    return drawn_pairs(backbone, "haze", 16, 5, counts=(6, 2), quiet=True)


# ----------------------------------------------------------------------------------- the velocity


def test_the_null_prompts_embeddings_are_the_null_prompt_in_flux(folders):
    flux = weights.load_backbone("flux", folders["flux"], keep_encoder=True)
    x, s = states(flux)
    with torch.no_grad():
        want = flux.velocity(x, s)
        assert error(flux.velocity(x, s, Tokens(flux.null_embeddings())), want) < 1e-6
        assert (
            error(flux.velocity(x, s, flux.prepare([Tokens(flux.null_embeddings())], s)), want)
            < 1e-6
        )
        assert error(flux.velocity(x, s, some_tokens(flux)), want) > 1e-3


def test_in_wan_all_rows_are_true_tokens_without_a_mask(folders):
    wan = weights.load_backbone("wan", folders["wan"], keep_encoder=True)
    x, s = states(wan)
    ids = torch.tensor([[1] + [0] * (wan.length - 1)])
    with torch.no_grad():
        rows = weights.load_umt5(folders["wan"])(ids)
        want = replace(wan, context=rows).velocity(x, s)
        assert error(wan.velocity(x, s, Tokens(wan.null_embeddings())), want) < 1e-6
        assert error(wan.velocity(x, s), want) > 1e-3  # "" has one true token, then zeros


def test_words_are_those_of_the_text_that_is_told(folders):
    for name in SHAPES:
        told = weights.load_backbone(name, folders[name], text="red hills", keep_encoder=True)
        null = weights.load_backbone(name, folders[name], keep_encoder=True)
        assert (
            told.null_embeddings().shape
            == null.null_embeddings().shape
            == (null.length, null.text_width)
        )
        assert not torch.equal(told.null_embeddings()[0], null.null_embeddings()[0])


def test_prepared_tokens_and_their_average(backbone):
    x, s = states(backbone)
    made = [some_tokens(backbone, seed) for seed in (0, 1)]
    with torch.no_grad():
        each = [backbone.velocity(x, s, prompt) for prompt in made]
        assert error(each[0], each[1]) > 1e-3
        terms = backbone.prepare(made, s)
        backbone.encoder = None  # is not asked again
        both = backbone.velocity(x, s, terms)
    assert terms.count == 2 and error(both, (each[0] + each[1]) / 2) < 1e-5


def test_gradients_reach_the_tokens_alone(backbone):
    x, s = states(backbone)
    prompt = some_tokens(backbone)
    backbone.velocity(x, s, prompt).square().mean().backward()
    assert prompt.tokens.grad.abs().amax(1).all()
    for model in (backbone.encoder, backbone.model, backbone.vae):
        assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    eps = 1e-3
    direction = torch.randn(prompt.tokens.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        sides = [
            backbone.velocity(x, s, Tokens(prompt.tokens + k * eps * direction)).square().mean()
            for k in (1, -1)
        ]
    slope = (sides[0] - sides[1]).item() / (2 * eps)
    assert slope == pytest.approx((prompt.tokens.grad * direction).sum().item(), rel=0.05)


def test_what_cannot_be_is_one_line(backbone, folders):
    without = weights.load_backbone(backbone.name, folders[backbone.name])
    for call in (without.prepare, lambda made: without.velocity(*states(without), made[0])):
        with pytest.raises(ValueError, match="need the text encoder: .*keep_encoder=True"):
            call([some_tokens(backbone)])
    embedded = Prompt.init(backbone.length, backbone.width, backbone.blocks, 0)
    with pytest.raises(ValueError, match="of embedding and token space cannot be mixed"):
        backbone.prepare([embedded, some_tokens(backbone)])
    for words in (backbone.null_embeddings()[1:], backbone.null_embeddings()[:, 1:]):
        with pytest.raises(ValueError, match="tokens, this backbone's"):
            backbone.prepare([Tokens(words)])


# ------------------------------------------------------------------------------------- learning


def test_learning_moves_the_tokens_and_nothing_else(backbone):
    models = (backbone.encoder, backbone.model, backbone.vae)
    before = [{k: v.clone() for k, v in model.state_dict().items()} for model in models]
    pairs, prompt = drawn(backbone), loop.init_prompt(backbone, SHORT)
    start = prompt.tokens.detach().clone()
    assert (
        0 < (start - backbone.null_embeddings()).norm() / backbone.null_embeddings().norm() < 0.03
    )
    rows = loop.learn(backbone, prompt, pairs, SHORT, quiet=True)
    assert (prompt.tokens - start).abs().amax(1).all() and prompt.meta["space"] == "token"
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    again = loop.learn(backbone, loop.init_prompt(backbone, SHORT), pairs, SHORT, quiet=True)
    assert [row["loss"] for row in again] == [row["loss"] for row in rows]
    other = loop.init_prompt(backbone, replace(SHORT, seed=1))
    assert not torch.equal(other.tokens, start)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for side, pixels in zip(
        ("degraded", "clean"), scenes.pairs("haze", [0, 1, 2], 32), strict=True
    ):
        for k, picture in enumerate(pixels):
            pictures.write(folder / side / f"{k}.png", picture)
    return folder


def test_resumed_is_bit_for_bit_the_same(pairs, tmp_path, monkeypatch):
    base = ["--backbone", "flux", "--space", "token", "--batch-size", "4", "--size", "32"]
    base += ["--data", str(pairs), "--steps", "5"]
    assert train.main([*base, "--out", str(tmp_path / "whole")]) == 0
    real = loop.gradients

    def gradients(backbone, prompt, pairs, settings, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(backbone, prompt, pairs, settings, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "gradients", gradients)
        assert train.main([*base, "--out", str(tmp_path / "cut")]) == 0
    assert Prompt.load(tmp_path / "cut/prompt.safetensors").meta["steps"] == "3"
    assert train.main([*base, "--out", str(tmp_path / "cut"), "--resume"]) == 0
    for name in ("prompt.safetensors", "state.safetensors"):
        whole, cut = (load_file(tmp_path / k / name) for k in ("whole", "cut"))
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[key], cut[key]) for key in whole)
    show = ["--backbone", "flux", "--prompt", str(tmp_path / "cut/prompt.safetensors")]
    show += ["--input", str(pairs / "degraded/0.png"), "--out", str(tmp_path / "out")]
    assert sample.main([*show, "--steps", "2"]) == 0
    assert (tmp_path / "out/0.png").is_file()


def test_resume_refuses_another_space(pairs, tmp_path, capsys):
    base = ["--backbone", "flux", "--batch-size", "2", "--size", "32", "--data", str(pairs)]
    base += ["--steps", "2", "--out", str(tmp_path / "run")]
    assert train.main([*base, "--space", "token"]) == 0
    assert train.main([*base, "--resume", "--lr", "0.05"]) == 2
    assert "was begun with --space token, now it is embedding" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # nothing is learned there: notebooks/experiments/words.py
        train.main([*base, "--space", "text"])
    assert "invalid choice: 'text'" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- files


def test_round_trip_is_bit_exact_and_gives_the_same_pixels(backbone, tmp_path):
    prompt = some_tokens(backbone)
    prompt.meta = {"backbone": backbone.name, "space": "token"}
    prompt.save(tmp_path / "p.safetensors")
    back = Prompt.load(tmp_path / "p.safetensors")
    assert isinstance(back, Tokens) and torch.equal(back.tokens, prompt.tokens)
    assert prompt.meta.items() <= back.meta.items()
    shape = (2, 3, 5, 16, 20) if backbone.video else (2, 3, 16, 20)
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    one, two, none = (restore(backbone, k, pixels, steps=2) for k in ([prompt], [back], []))
    assert torch.equal(one, two) and (one - none).abs().max() > 1e-4


def test_sizes_are_checked_naming_both_sides():
    prompt = Tokens(torch.zeros(5, 8), {"backbone": "flux"})
    sized("flux", 5, 96, 3, 8).check(prompt)
    for fits in (("wan", 5, 96, 3, 8), ("flux", 6, 96, 3, 8), ("flux", 5, 96, 3, 9)):
        with pytest.raises(ValueError, match="flux with 5 tokens of width 8, but this") as caught:
            sized(*fits).check(prompt)
        name, length, _, _, width = fits
        assert f"{name} with {length} tokens of width {width}" in str(caught.value)


def test_files_and_values_that_are_no_tokens(tmp_path):
    path = tmp_path / "p.safetensors"
    for tensors, words in (
        ({"tokens": torch.full((5, 8), torch.nan)}, "NaN or infinite values in its tokens"),
        ({"tokens": torch.zeros(5)}, r"\[L, Dt\] is expected"),
        ({"tokens": torch.zeros(5, 8), "gates": torch.ones(3)}, "found gates, tokens"),
    ):
        save_file(tensors, path)
        with pytest.raises(ValueError, match=words) as caught:
            Prompt.load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
