"""minimal.py: one page, no help from the method's own files, and yet the very same prompt."""

import ast
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

import train
import weights
from notebooks import minimal
from tests.bench import front
from tinybridge import bridge
from tinybridge.data import scenes
from tinybridge.data.tables import load_table
from tinybridge.metrics import psnr
from tinybridge.restoration import restore
from tinybridge.training import loop
from tinybridge.training import pairs as training_pairs
from tinybridge.training.pairs import drawn_pairs

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "notebooks/minimal.py"


@pytest.fixture(scope="module")
def flux():
    return weights.load_backbone("flux")


@pytest.fixture
def few(monkeypatch):
    """The page's constants, small."""
    for name, value in {"PAIRS": 32, "STEPS": 3, "CALLS": 3}.items():
        monkeypatch.setattr(minimal, name, value)


def test_it_is_one_page_that_imports_models_scenes_and_loader():
    text = PAGE.read_text()
    assert len(text.splitlines()) <= 120
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name for name in names if name.startswith("tinybridge")}
    assert ours == {
        "tinybridge.backbone.Backbone",
        "tinybridge.checkpoints.load_backbone",
        "tinybridge.data.scenes",
    }
    others = {name.split(".")[0] for name in names - ours} - set(sys.stdlib_module_names)
    assert others == {"torch", "PIL"}


def test_its_defaults_are_those_of_train_py():
    settings = loop.Settings()
    assert settings.bridge == "desired" and settings.loss == "x0" and settings.power == 1
    ours = (minimal.STEPS, minimal.BATCH, minimal.RATE, minimal.T0, minimal.SEED)
    flags = train.parse_flags(["--backbone", "flux"])
    assert ours == (flags.steps, flags.batch_size, flags.lr, flags.t0, flags.seed)
    assert (minimal.KIND, f"{flags.size}") == (flags.degradation, "64")
    assert (minimal.PAIRS, 64) == training_pairs.SCENES
    assert training_pairs.EVALUATION_SEED == 1_000_000


def test_it_learns_the_prompt_of_the_loop_bit_for_bit(flux, few):
    """Equal bits, because every operation is the same one in the same order.

    The one that is not, the mean of all errors for the mean of each sample's, divides by powers of
    two.
    """
    y, x0 = minimal.draw_pairs(flux)
    pairs = drawn_pairs(flux, "haze", counts=(32, 1), quiet=True)
    assert torch.equal(y, pairs.y) and torch.equal(x0, pairs.x0)

    settings = loop.Settings(steps=3, every=3)
    prompt, twin = minimal.new_prompt(flux), loop.init_prompt(flux, settings)
    assert torch.equal(prompt.residual, twin.residual) and torch.equal(prompt.gates, twin.gates)
    before = prompt.residual.detach().clone()
    minimal.learn(flux, prompt, y, x0)
    loop.learn(flux, twin, pairs, settings, quiet=True)
    assert torch.equal(prompt.residual, twin.residual) and torch.equal(prompt.gates, twin.gates)
    assert (prompt.residual - before).abs().max() > 0.1 and not (prompt.gates == 1).any()


def test_it_restores_as_the_bridge_does(flux, few):
    degraded, _ = minimal.scenes.pairs("haze", [7, 8])
    y = flux.encode(degraded)
    settings = loop.Settings()
    prompt = loop.init_prompt(flux, settings)
    with torch.no_grad():
        prompt.residual *= 50  # as large as learned ones
    walked = minimal.sample(flux, prompt, y)
    noise = torch.randn(y[:1].shape, generator=torch.Generator().manual_seed(42)).expand_as(y)
    velocity = partial(flux.velocity, prompt=prompt)
    assert torch.equal(walked, bridge.sample(bridge.find("desired"), velocity, y, 3, noise=noise))
    assert not torch.allclose(walked, minimal.sample(flux, None, y), atol=0.01)
    # With terms and modulation computed once, sums are taken in another order.
    restored = restore(flux, prompt, degraded, steps=3)
    assert torch.allclose(flux.decode(walked), restored, atol=1e-4)


def reported(name: str) -> float:
    """The PSNR of train.py's run of haze, as README and the bench's table have it."""
    rows = load_table(ROOT / "tests/bench/degradations-flux.csv")
    (row,) = (row for row in rows if (row["degradation"], row["picture"]) == ("haze", name))
    return row["psnr"]


def test_its_docstring_has_the_numbers_of_train_py():
    assert front.minimal_page() == PAGE.read_text(), "run python -m tests.bench.front"
    assert f"{reported('restored'):.2f} dB" in minimal.__doc__


def test_it_prints_what_it_says_and_leaves_the_picture(few, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(minimal, "CALLS", 1)
    monkeypatch.setattr(minimal, "STEPS", 1)
    minimal.main()
    lines = capsys.readouterr().out.splitlines()
    names = [line[:9].strip() for line in lines]
    assert names == ["degraded", "no prompt", "restored"]
    degraded, clean = scenes.pairs("haze", list(range(1_000_000, 1_000_064)))
    assert lines[0].split()[1:] == [f"{psnr(degraded, clean).mean():.2f}", "dB"]
    assert Image.open(tmp_path / "runs/minimal.png").size == (6 * 64, 4 * 64)
