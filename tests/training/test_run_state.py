"""What a stopped, killed or moved run leaves, and how it goes on: bit for bit, or not at all."""

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import weights
from tinybridge.data.tables import load_table, save_table
from tinybridge.prompt import Prompt
from tinybridge.training import loop, run_state
from tinybridge.training.loop import Settings
from tinybridge.training.pairs import Pairs

SHORT = Settings(steps=6, batch_size=2, every=2)


@pytest.fixture(scope="module")
def flux():
    return weights.load_backbone("flux")


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Random latents and tiny pictures: what they show does not matter here."""
    g = torch.Generator().manual_seed(0)
    y, x0 = torch.randn(2, 5, 16, 2, 2, generator=g)
    degraded, clean = torch.rand(2, 1, 3, 16, 16, generator=g)
    return Pairs(y, x0, degraded, clean, (degraded, clean))


@pytest.fixture(scope="module")
def learn(flux, pairs) -> Callable:
    """A run in a folder, from the first step or resumed: its rows."""

    def run(out: Path | None, settings: Settings = SHORT, **options) -> list[dict]:
        prompt = loop.init_prompt(flux, settings)
        return loop.learn(flux, prompt, pairs, settings, out, quiet=True, **options)

    return run


@pytest.fixture(scope="module")
def whole(learn, tmp_path_factory) -> Path:
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "not" / "there" / "yet"
    assert len(learn(out)) == 6
    return out


def same(one: Path, two: Path) -> bool:
    """Whether two folders hold the same prompt, state and log, but for the seconds."""
    for name in ("prompt.safetensors", "state.safetensors"):
        a, b = load_file(one / name), load_file(two / name)
        if a.keys() != b.keys() or not all(torch.equal(a[key], b[key]) for key in a):
            return False
    return untimed(load_table(one / "log.csv")) == untimed(load_table(two / "log.csv"))


def untimed(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def stop_after(monkeypatch, step: int) -> None:
    real = loop.take_step

    def take_step(*args):
        if args[-1] == step:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(loop, "take_step", take_step)


def test_rows_after_a_resume_are_those_of_a_whole_run(learn, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert len(learn(tmp_path)) == 3
    rows = learn(tmp_path, resume=True)
    assert untimed(rows) == untimed(load_table(whole / "log.csv"))  # numbers, not strings
    assert same(tmp_path, whole)


def test_how_often_to_look_may_change_and_nothing_else(learn, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        learn(tmp_path)
    for other in ({"lr": 0.1}, {"seed": 1}, {"loss": "velocity"}, {"power": 2.0}, {"t0": 0.3}):
        (name,) = other
        with pytest.raises(ValueError, match=f"the run was begun with --{name} "):
            learn(tmp_path, replace(SHORT, **other), resume=True)
    assert len(learn(tmp_path, replace(SHORT, every=4), resume=True)) == 6


def most_at_once(monkeypatch, most: int) -> list[int]:
    """Memory for `most` samples; how many were tried."""
    real, tried = loop.sample_losses, []

    def sample_losses(backbone, prompt, settings, x0, *rest):
        tried.append(len(x0))
        if len(x0) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(backbone, prompt, settings, x0, *rest)

    monkeypatch.setattr(loop, "sample_losses", sample_losses)
    return tried


@pytest.mark.parametrize("asked", [None, 3, 1], ids=["found", "flag and found", "flag"])
def test_micro_batches_go_on_as_they_were(learn, flux, tmp_path, monkeypatch, asked):
    """What was found is in the state: a resumed run does not try what would round otherwise."""
    settings = replace(SHORT, batch_size=8, micro_batch=asked)
    for name, resume in (("whole", False), ("cut", False), ("cut", True)):
        with monkeypatch.context() as patch:
            tried = most_at_once(patch, 99 if resume else 2)
            if name == "cut" and not resume:
                stop_after(patch, 2)
            learn(tmp_path / name, settings, resume=resume)
        assert not resume or max(tried) <= 2
    assert same(tmp_path / "whole", tmp_path / "cut")
    flux.model.checkpointing = False


def test_the_size_of_micro_batches_may_change(learn, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        learn(tmp_path)
    with monkeypatch.context() as patch:
        tried = most_at_once(patch, 1)
        assert len(learn(tmp_path, replace(SHORT, micro_batch=1), resume=True)) == 6
    assert set(tried) == {1}


def test_a_run_without_its_log_goes_on(learn, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        learn(tmp_path)
    (tmp_path / "log.csv").unlink()
    assert [row["step"] for row in learn(tmp_path, resume=True)] == [4, 5, 6]
    (tmp_path / "log.csv").unlink()
    assert learn(tmp_path, resume=True) == []  # it was finished
    assert Prompt.load(tmp_path / "prompt.safetensors").meta["steps"] == "6"


def test_resuming_needs_a_folder_with_a_state(learn, tmp_path):
    with pytest.raises(ValueError, match="`out` must name its folder"):
        learn(None, resume=True)
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        learn(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_it_learns_outside_the_main_thread(learn, whole, tmp_path):
    found = []
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=lambda: found.append(learn(tmp_path)))
    thread.start()
    thread.join()
    assert len(found) == 1 and len(found[0]) == 6 and same(tmp_path, whole)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_environment_does_not_make_it_one_of_many(learn, whole, tmp_path, monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    assert len(learn(tmp_path)) == 6 and same(tmp_path, whole)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"steps": 0}, "must be positive"),
        ({"batch_size": 0}, "must be positive"),
        ({"micro_batch": 0}, "--micro-batch 0 must be positive"),
        ({"lr": 0.0}, "must be positive"),
        ({"lr": float("nan")}, "must be positive"),
        ({"power": float("inf")}, "must be positive"),
        ({"t0": 1.0}, "t0 is 1.0"),
        ({"bridge": "other"}, "no bridge 'other'"),
        ({"space": "text"}, "no space 'text'"),
        ({"loss": "l1"}, "no loss 'l1' to learn with; choose x0, velocity"),
    ],
)
def test_settings_that_cannot_be(learn, tmp_path, other, words):
    with pytest.raises(ValueError, match=words):
        learn(tmp_path / "run", replace(SHORT, **other))
    assert not (tmp_path / "run").exists()


def test_a_batch_is_a_multiple_of_the_processes():
    loop.check(replace(SHORT, batch_size=4), 2)
    with pytest.raises(ValueError, match="the batch a multiple of the 2 processes"):
        loop.check(replace(SHORT, batch_size=3), 2)


# ---- killed ------------------------------------------------------------------------------------


def killed_at(monkeypatch, count: int, before: bool) -> Callable[[], bool]:
    """In a child, dies of SIGKILL at the count-th file that is moved into its place, or after."""
    real, left = os.replace, [count]

    def replace_or_die(*args, **options):
        left[0] -= 1
        if left[0] == 0 and before:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args, **options)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(os, "replace", replace_or_die)


def in_a_child(run: Callable[[], object]) -> int:
    """What became of `run` in a process of its own: the exit status, or minus the signal."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # a forked process has no other threads
        try:
            run()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_any_file_it_goes_on_bit_for_bit(learn, tmp_path, monkeypatch, before):
    whole, cut, often = tmp_path / "whole", tmp_path / "cut", replace(SHORT, every=1)
    assert in_a_child(lambda: learn(whole, often)) == 0
    kills, resume = 0, False
    for count in (2, 3, 4, 5, 6, 1, 50):
        with monkeypatch.context() as patch:
            killed_at(patch, count, before)
            status = in_a_child(lambda resume=resume: learn(cut, often, resume=resume))
        kills += status == -signal.SIGKILL
        assert status in (0, -signal.SIGKILL)
        if (cut / "prompt.safetensors").exists():
            Prompt.load(cut / "prompt.safetensors")
        resume = (cut / "state.safetensors").exists()
        if resume:
            run_state.read_state(cut / "state.safetensors")
        if status == 0:
            break
    assert kills >= 3 and status == 0 and same(cut, whole)


# ---- damaged -----------------------------------------------------------------------------------


def without_gates(tensors: dict) -> None:
    del tensors["gates"]


def without_moments(tensors: dict) -> None:
    del tensors["residual.exp_avg"]


def of_another_size(tensors: dict) -> None:
    tensors["residual"] = tensors["residual"][1:].clone()


def not_finite(tensors: dict) -> None:
    tensors["gates.exp_avg_sq"][0] = float("nan")


@pytest.mark.parametrize("change", [without_gates, without_moments, of_another_size, not_finite])
def test_a_damaged_state_is_one_line(learn, whole, tmp_path, change):
    state = tmp_path / "state.safetensors"
    state.write_bytes((whole / "state.safetensors").read_bytes())
    step, settings, tensors = run_state.read_state(state)
    change(tensors)
    save_file(tensors, state, {"step": str(step), "settings": json.dumps(settings)})
    with pytest.raises(ValueError, match="not the state of this prompt") as caught:
        learn(tmp_path, resume=True)
    assert str(state) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", [[{"step": "x"}], [{"loss": 1.0}]])
def test_a_log_that_is_none_is_one_line(learn, whole, tmp_path, rows):
    (tmp_path / "state.safetensors").write_bytes((whole / "state.safetensors").read_bytes())
    save_table(tmp_path / "log.csv", "step loss", rows)
    with pytest.raises(ValueError, match="log.csv: not the log of a run"):
        learn(tmp_path, resume=True)
