"""What a run is said to need: tensors counted without values, advice in one line, nothing read."""

import pytest
import torch
from torch import nn

import sample
import train
import weights
from tests.oracles.folders import write_folder
from tinybridge.checkpoints import conditioning, load
from tinybridge.data import pictures
from tinybridge.prompt import Prompt
from tinybridge.training import machine, need

MB = 2**20


def meta(*shape):
    return torch.empty(*shape, device="meta")


def test_a_tally_counts_what_lives_at_once():
    given = meta(MB)  # 4 MB, not counted: it was there before

    def run():
        a = given + 1  # 4
        view = a.view(2, -1)  # 4
        b = a * 2  # 8
        del a
        assert view.shape == (2, MB // 2)
        c = torch.cat((b, b))  # 16
        del b, view  # 8
        return (c[:MB] + c[MB:]).sum()  # 12

    assert need.peak_of(run) == 16 * MB


def test_a_step_of_learning_keeps_what_backward_needs():
    layers = nn.Sequential(*[nn.Linear(64, 64, device="meta") for _ in range(8)])
    layers.requires_grad_(False)
    x = meta(4096, 64).requires_grad_()
    block = 4096 * 64 * 4

    def forward():
        y = x
        for layer in layers:
            y = layer(y).sin()
        return y

    with torch.no_grad():
        assert need.peak_of(forward) == 3 * block  # of a linear, of the sine, of the next linear
    assert need.peak_of(lambda: forward().sum().backward()) >= 8 * block


def test_attention_without_values_holds_no_table_of_weights():
    q, usual = meta(1, 4, 4096, 16), nn.functional.scaled_dot_product_attention
    run = lambda: nn.functional.scaled_dot_product_attention(q, q, q)  # noqa: E731
    assert need.peak_of(run) < 2 * q.nbytes < 4 * 4096**2
    assert nn.functional.scaled_dot_product_attention is usual


def of(**sizes):
    return need.Need(**{"model": 0, "vae": 0, "step": 0, "coding": 0} | sizes)


def test_the_text_encoder_is_gone_before_the_others_come():
    both = of(model=4, vae=1, step=2, coding=3)
    assert both.total == 8 + need.BESIDE
    assert of(text=9, model=4).total == 9 + need.BESIDE
    said = str(of(model=4 * 10**9, step=10**8, text=11 * 10**9))
    assert said == (
        "needs about 11.0 GB (transformer 4.00, a step 0.10, text encoder, before those 11.0)"
    )


def estimate(halves=1, text=12, one=2):
    return of(model=16 * 10**9 // halves, step=4 * 10**9 // one, text=text * 10**9)


SMALLER = {"--text": {"text": 0}, "--half": {"halves": 2}, "--one": {"one": 4}}


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (18.5, None),
        (17.0, "it may not fit"),
        (11.0, "--text --half needs 10.0"),  # 8 + 2, and no text encoder of 12
        (13.0, "--half needs 12.0"),
        (9.5, "--text --half --one needs 9.04"),
        (2.0, "even --text --half --one needs 9.04"),
    ],
)
def test_what_helps_is_named_in_one_line(there, words):
    there = int(there * 1e9)
    if words is None or "may" in words:
        said = need.check(estimate, SMALLER, there)
        assert said.endswith(words or "of 18.5 GB that there are")
        return
    with pytest.raises(ValueError) as caught:
        need.check(estimate, SMALLER, there)
    said = str(caught.value)
    assert "\n" not in said and said.startswith("needs about 18.0 GB (")
    assert said.endswith(words) or words in said
    assert need.check(estimate, SMALLER, None) == str(estimate())


# ---- memory there is -----------------------------------------------------------------------------


def put(root, files):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(text))


def test_memory_is_what_the_tightest_limit_leaves(tmp_path):
    assert machine.memory_there("cpu", tmp_path) is None
    put(tmp_path, {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable: 8000 kB\n"})
    assert machine.memory_there("cpu", tmp_path) == 8000 * 1024
    put(tmp_path, {"proc/self/cgroup": "0::/a/b\n"})  # version 2
    put(tmp_path, {"sys/fs/cgroup/a/b/memory.max": "max\n"})
    assert machine.memory_there("cpu", tmp_path) == 8000 * 1024
    outer = {"memory.max": 5000, "memory.current": 2000, "memory.stat": "anon 9\ninactive_file 300"}
    put(tmp_path, {f"sys/fs/cgroup/a/{name}": text for name, text in outer.items()})
    assert machine.memory_there("cpu", tmp_path) == 5000 - 2000 + 300
    put(tmp_path, {"proc/self/cgroup": "5:cpu:/\n4:pids,memory:/c\n"})  # version 1
    old = {"memory.limit_in_bytes": 700, "memory.usage_in_bytes": 900}
    put(tmp_path, {f"sys/fs/cgroup/memory/c/{name}": text for name, text in old.items()})
    assert machine.memory_there("cpu", tmp_path) == 0


# ---- the scripts ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small FLUX folder, a prompt and a picture; values of the models must not be read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_folder(tmp_path / "flux")
    headers = weights.load_backbone("flux", tmp_path / "flux", "meta", torch.float32)
    Prompt.init(headers.length, headers.width, headers.blocks, 0).save(tmp_path / "p.safetensors")
    pictures.write(tmp_path / "a.png", torch.rand(3, 64, 64))
    for side in ("degraded", "clean"):
        for name in "ab":
            pictures.write(tmp_path / side / f"{name}.png", torch.rand(3, 48, 48))
    real = load.build

    def headers_alone(opened, device, *more, **options):
        assert torch.device(device).type == "meta", "values are read"
        return real(opened, device, *more, **options)

    monkeypatch.setattr(conditioning, "build", headers_alone)
    monkeypatch.setattr(weights, "build", headers_alone)
    monkeypatch.setitem(weights.load_backbone.__globals__, "build", headers_alone)
    return tmp_path


def calls(folder, **more):
    base = ["--backbone", "flux", "--weights", str(folder / "flux"), "--out", str(folder / "out")]
    told = ["--prompt", str(folder / "p.safetensors"), "--input", str(folder / "a.png")]
    return {
        "sample": lambda: sample.main([*base, *told]),
        "train": lambda: train.main([*base, "--data", str(folder), "--size", "32"]),
    }


@pytest.mark.parametrize("script", ["sample", "train"])
def test_what_cannot_fit_is_one_line_and_nothing_is_read(folder, monkeypatch, capsys, script):
    monkeypatch.setattr(machine, "memory_there", lambda device: 100_000)
    assert calls(folder)[script]() == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: needs about 0.0") and "of 0.00 GB that there are" in line
    assert "--dtype bfloat16" in line and "even" in line


def test_a_run_that_goes_on_otherwise_is_told_before_the_text_encoder(folder, capsys):
    from tinybridge.training import run_state

    class Kept(nn.Module):
        def __init__(self):
            super().__init__()
            self.residual = nn.Parameter(torch.zeros(1))

    prompt = Kept()
    optimizer = torch.optim.AdamW(prompt.parameters())
    prompt.residual.grad = torch.ones(1)
    optimizer.step()
    (folder / "out").mkdir()
    run_state.save_state(folder / "out", prompt, optimizer, 1, {"lr": 5, "backbone": "wan"})
    base = ["--backbone", "flux", "--weights", str(folder / "flux"), "--data", str(folder)]
    assert train.main([*base, "--size", "32", "--out", str(folder / "out"), "--resume"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "the run was begun with --" in line


def test_inspect_says_what_restoring_needs(folder, capsys):
    assert weights.main(["inspect", str(folder / "flux")]) == 0
    lines = capsys.readouterr().out.splitlines()
    for dtype in ("float32", "bfloat16"):
        [line] = [line for line in lines if f"1536x1536 in {dtype} needs about" in line]
        assert "text encoder" in line and "its maps" in line
    assert lines[-1].startswith("there are")
