"""--compile: each kind of block once for all blocks, the same results; no compiler, one line.

Traced and differentiated as ever, but run by PyTorch: a C++ compiler would take a minute. With one,
tests/bench/side_by_side.py compares results before it measures.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import sample
import train
import weights
from tests.oracles import flux, plain, wan
from tinybridge.checkpoints import fetched
from tinybridge.data import pictures
from tinybridge.prompt import Prompt
from tinybridge.training import machine

BOTH = pytest.mark.parametrize(("oracle", "kinds"), [(flux, 2), (wan, 1)], ids=["flux", "wan"])


@pytest.fixture(autouse=True)
def anew():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model):
    twin = copy.deepcopy(model)
    machine.compile_blocks(twin, "aot_eager")
    counters.clear()  # of what was compiled to try
    return twin


@BOTH
def test_each_kind_of_block_is_compiled_once_for_all_steps(oracle, kinds):
    model, given = oracle.tiny(), oracle.conditioned(oracle.inputs())
    prompt = oracle.a_prompt()
    twin = compiled(model)
    for t in (0.1, 0.3):
        given["t"] = torch.full_like(given["t"], t)
        with torch.no_grad():
            terms = oracle.prepare(model, [prompt], given)
            got, want = twin(**given, prompt=terms), model(**given, prompt=terms)
        assert plain.error(got, want) < 1e-6
    assert counters["stats"]["unique_graphs"] == kinds


@BOTH
def test_gradients_reach_the_prompt(oracle, kinds):
    model, given = oracle.tiny(), oracle.conditioned(oracle.inputs(B=1))
    twin, found = compiled(model), []
    for one in (model, twin):
        made = oracle.a_prompt()
        prompt = SimpleNamespace(
            residual=made.residual.requires_grad_(), gates=made.gates.requires_grad_()
        )
        one(**given, prompt=prompt).square().mean().backward()
        found.append((prompt.residual.grad, prompt.gates.grad))
    for got, want in zip(*found, strict=True):
        assert plain.error(got, want) < 1e-5


@BOTH
def test_fetched_weights_are_refused(oracle, kinds):
    model = oracle.tiny()
    fetched.fetched(next(part for part in model.blocks[0].modules() if isinstance(part, nn.Linear)))
    with pytest.raises(ValueError, match="--compile: weights that are fetched .--offload, --wei"):
        machine.compile_blocks(model, "aot_eager")


def no_compiler(*args, **options):
    raise RuntimeError("No working C++ compiler found\nin a trace of many lines")


@pytest.mark.parametrize("script", [sample, train], ids=["sample", "train"])
def test_without_a_compiler_one_line_says_so(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", no_compiler)
    backbone = weights.load_backbone("flux", device="meta")
    prompt = Prompt.init(backbone.length, backbone.width, backbone.blocks, 0)
    prompt.save(tmp_path / "prompt.safetensors")
    flags = ["--backbone", "flux", "--out", str(tmp_path / "out"), "--compile"]
    if script is sample:
        pictures.write(tmp_path / "in.png", plain.random(3, 16, 16).sigmoid())
        flags += ["--prompt", str(tmp_path / "prompt.safetensors")]
        flags += ["--input", str(tmp_path / "in.png")]
    assert script.main(flags) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: --compile: no compiler that works is found here (No working C++")
    assert "\n" not in said and "g++" in said and "leave --compile out" in said
    assert not list((tmp_path / "out").glob("*"))
