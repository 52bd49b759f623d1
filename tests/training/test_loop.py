"""The loop as a notebook calls it: no flags, no files; what it returns, and too little memory."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import weights
from tests.method.test_backbone_wan import folder  # noqa: F401
from tests.training.test_pairs import together
from tinybridge.metrics import measures
from tinybridge.training import loop
from tinybridge.training.loop import Settings
from tinybridge.training.pairs import Pairs, drawn_pairs

SHORT = Settings(steps=6, batch_size=4, every=2)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Nothing may be written where the run stands."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture(scope="module")
def flux():
    return weights.load_backbone("flux")


@pytest.fixture(scope="module")
def pairs(flux) -> Pairs:
    return drawn_pairs(flux, "haze", size=32, counts=(20, 3), quiet=True)


def tensors(prompt) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in prompt.named_parameters()}


def test_a_notebook_gets_rows_and_nothing_is_written_or_said(flux, pairs, elsewhere, capsys):
    prompt = loop.init_prompt(flux, SHORT)
    before = tensors(prompt)
    rows = loop.learn(flux, prompt, pairs, SHORT, quiet=True)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all("val_loss" in row and "psnr" in row for row in rows[1::2])
    assert not any("val_loss" in row for row in rows[::2])
    assert (
        rows[-1]["val_loss"]
        < loop.validate(flux, loop.init_prompt(flux, SHORT), pairs, SHORT)["val_loss"]
    )
    assert all(not torch.equal(before[name], weight) for name, weight in tensors(prompt).items())
    told = {"backbone": "flux", "bridge": "desired", "space": "embedding", "t0": "0.4"}
    assert told.items() <= prompt.meta.items() and prompt.meta["steps"] == "6"
    assert not list(elsewhere.iterdir()) and capsys.readouterr() == ("", "")


def test_pairs_are_latents_held_out_pixels_and_a_few_that_are_learned_from(flux, pairs):
    assert len(pairs.y) == len(pairs.x0) == 20 and pairs.degraded.shape == (3, 3, 32, 32)
    degraded, clean = pairs.seen
    assert torch.allclose(flux.encode(clean), pairs.x0[[0, 16]], atol=1e-5)
    assert torch.allclose(flux.encode(degraded), pairs.y[[0, 16]], atol=1e-5)
    other = drawn_pairs(flux, "haze", size=32, seed=1, counts=(4, 3), quiet=True)
    assert torch.equal(other.clean, pairs.clean) and not torch.equal(other.x0, pairs.x0[:4])


def validation_noise(x0):
    seeds = (10**6 + eighths for eighths in (1, 3, 5, 7))
    return [torch.randn(x0.shape, generator=torch.Generator().manual_seed(k)) for k in seeds]


def error_at_t0(flux, prompt, x_t, x0):
    with torch.no_grad():
        x0_hat = x_t - 0.4 * flux.velocity(x_t, torch.full((len(x0),), 0.4), prompt)
    return (x0_hat - x0).square().mean().item()


def test_validation_is_the_bridges_loss_at_fixed_times_and_noise(flux, pairs):
    prompt, losses = loop.init_prompt(flux, SHORT), []
    got = loop.validate(flux, prompt, pairs, SHORT)
    assert loop.validate(flux, prompt, pairs, SHORT) == got
    x0, y = flux.encode(pairs.clean), flux.encode(pairs.degraded)
    for eighths in (1, 3, 5, 7):
        t = 1e-4 + eighths / 8 * (0.4 - 1e-4)
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(eighths + 10**6))
        x_t = (1 - t) * (1 - t / 0.4) * x0 + (1 - t) * t / 0.4 * y + t * eps
        with torch.no_grad():
            x0_hat = x_t - t * flux.velocity(x_t, torch.full((3,), t), prompt)
        losses.append((x0_hat - x0).square().mean())
    assert got["val_loss"] == pytest.approx(sum(losses).item() / 4, rel=1e-4)
    alone = loop.validate(flux, prompt, pairs, replace(SHORT, t_low=0.4))  # at t0 four times
    told = (0.6 * y + 0.4 * eps for eps in validation_noise(x0))
    alone_losses = [error_at_t0(flux, prompt, x_t, x0) for x_t in told]
    assert alone["val_loss"] == pytest.approx(sum(alone_losses) / 4, rel=1e-4)
    naive = loop.validate(flux, prompt, pairs, replace(SHORT, bridge="naive"))
    assert naive["val_loss"] != pytest.approx(got["val_loss"], rel=1e-2)


def test_clips_are_learned_as_pictures_are(folder):  # noqa: F811
    wan = weights.load_backbone("wan", folder)
    clips = drawn_pairs(wan, "rain", size=16, frames=5, counts=(6, 2), quiet=True)
    assert clips.x0.shape == (6, 4, 2, 2, 2) and clips.degraded.shape == (2, 3, 5, 16, 16)
    one, settings = loop.init_prompt(wan, SHORT), replace(SHORT, lr=0.01)
    rows = loop.learn(wan, one, clips, settings, quiet=True)
    assert len(rows) == 6 and 0 < rows[-1]["psnr"] < 60
    two = loop.init_prompt(wan, SHORT)
    again = loop.learn(wan, two, clips, settings, quiet=True)
    assert [row["loss"] for row in again] == [row["loss"] for row in rows]
    found = measures(clips.degraded, clips.clean)
    assert set(found) == {"psnr", "ssim", "change"} and found["change"] > 0


CPU = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to"
STARVED = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU)]


def starved(monkeypatch, often: int, error: RuntimeError) -> list[bool]:
    """The first `often` steps find no memory; returns, for every try, whether blocks are redone."""
    real, tries = loop.gradients, []

    def gradients(backbone, *args):
        tries.append(backbone.model.checkpointing)
        if len(tries) <= often:
            raise error
        return real(backbone, *args)

    monkeypatch.setattr(loop, "gradients", gradients)
    return tries


@pytest.mark.parametrize("error", STARVED, ids=["gpu", "cpu"])
def test_too_little_memory_recomputes_the_blocks_and_changes_nothing(
    flux, pairs, monkeypatch, capsys, error
):
    short = replace(SHORT, steps=2)
    want = loop.init_prompt(flux, short)
    rows = loop.learn(flux, want, pairs, short, quiet=True)
    monkeypatch.setattr(flux.model, "checkpointing", False)
    tries, got = starved(monkeypatch, 1, error), loop.init_prompt(flux, short)
    assert [r["loss"] for r in loop.learn(flux, got, pairs, short, quiet=True)] == [
        r["loss"] for r in rows
    ]
    assert tries == [False, True, True] and capsys.readouterr().out.count("out of memory") == 1
    assert torch.equal(got.residual, want.residual)

    monkeypatch.setattr(flux.model, "checkpointing", False)
    starved(monkeypatch, 99, error)
    with pytest.raises(type(error), match="memory"):
        loop.learn(flux, loop.init_prompt(flux, short), pairs, short, quiet=True)
    assert capsys.readouterr().out.count("out of memory") == 3  # the blocks, 2 samples, 1 sample


@pytest.mark.parametrize("space", ["embedding", "token"])
def test_micro_batches_add_up_to_the_batch(space):
    """Loss and gradients in float64, in parts of one size and not."""
    exact = weights.load_backbone("flux", dtype=torch.float64, keep_encoder=True)
    short = replace(SHORT, space=space, batch_size=6)
    pair = torch.randn(2, 5, 16, 4, 4, dtype=torch.float64, generator=torch.manual_seed(0))
    latents, prompt = Pairs(*pair, None, None, None), loop.init_prompt(exact, short).double()
    times, want = loop.gradients(exact, prompt, latents, short, 1)
    whole = [weight.grad.clone() for weight in prompt.parameters()]
    assert all(grad.abs().max() > 1e-6 for grad in whole)
    for n in (1, 2, 4, 6, 9):
        micro = replace(short, micro_batch=n)
        again, losses = loop.gradients(exact, prompt, latents, micro, 1)
        assert torch.equal(times, again) and losses.dtype == torch.float64
        assert torch.allclose(losses, want, rtol=1e-6, atol=0)
        for weight, grad in zip(prompt.parameters(), whole, strict=True):
            assert (weight.grad - grad).norm() < 1e-6 * grad.norm()


def small_memory(monkeypatch, most: int) -> list[tuple[int, bool]]:
    """No more than `most` samples fit; for every try: how many, and whether blocks are redone."""
    real, tries = loop.sample_losses, []

    def sample_losses(backbone, prompt, settings, x0, *rest):
        tries.append((len(x0), backbone.model.checkpointing))
        if len(x0) > most:
            raise STARVED[0]
        return real(backbone, prompt, settings, x0, *rest)

    monkeypatch.setattr(loop, "sample_losses", sample_losses)
    return tries


def test_the_batch_is_halved_until_it_fits_and_stays_so(flux, pairs, monkeypatch, capsys):
    short = replace(SHORT, steps=2, batch_size=8, every=2)
    want, got = loop.init_prompt(flux, short), loop.init_prompt(flux, short)
    rows = loop.learn(flux, want, pairs, replace(short, micro_batch=2), quiet=True)
    monkeypatch.setattr(flux.model, "checkpointing", False)
    tries = small_memory(monkeypatch, 3)
    found = loop.learn(flux, got, pairs, short, quiet=True)
    first = [(8, False), (8, True), (4, True)]
    learned = 8 * [(2, True)]  # two steps of four
    assert tries[: len(first + learned)] == first + learned
    assert max(n for n, _ in tries[len(first) :]) == 2
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and said[-1].endswith("from here on micro-batches of 2, which add up")
    assert torch.equal(got.residual, want.residual) and torch.equal(got.gates, want.gates)
    assert [{**row, "seconds": 0} for row in found] == [{**row, "seconds": 0} for row in rows]


def test_where_one_process_has_little_memory_all_take_its_micro_batches(
    flux, pairs, tmp_path, monkeypatch
):
    """So that the one size in the state is that of every process."""
    short = replace(SHORT, steps=2, batch_size=8, every=2)
    alone = loop.init_prompt(flux, short)
    losses = [row["loss"] for row in loop.learn(flux, alone, pairs, short, quiet=True)]
    monkeypatch.setattr(flux.model, "checkpointing", True)
    monkeypatch.setattr(loop, "validate", lambda *args: {"psnr": 20.0})

    def run(rank: int) -> None:
        tries = small_memory(monkeypatch, 2 if rank else 4)
        prompt = loop.init_prompt(flux, short)
        rows = loop.learn(flux, prompt, pairs, short, quiet=True)
        first = [4, 2, 2] if rank else [4]
        assert [n for n, _ in tries] == [*first, 2, 2]
        assert [row["loss"] for row in rows] == pytest.approx(losses, rel=1e-4)

    assert together(2, tmp_path / "meet", run) == [0, 0]


def test_an_evaluation_that_does_not_fit_is_halved(flux, pairs, monkeypatch):
    prompt = loop.init_prompt(flux, SHORT)
    want, real, sizes = loop.validate(flux, prompt, pairs, SHORT), loop.restore, []

    def restore(*args, batch_size, **options):
        sizes.append(batch_size)
        if batch_size > 1:
            raise STARVED[1]
        return real(*args, batch_size=batch_size, **options)

    monkeypatch.setattr(loop, "restore", restore)
    assert loop.validate(flux, prompt, pairs, SHORT) == pytest.approx(want, rel=1e-4)
    assert sizes == [4, 2, 1]


def test_a_loss_that_is_not_finite_says_when(flux, pairs, monkeypatch):
    broken = torch.tensor([0.1]), torch.tensor([float("nan")])
    monkeypatch.setattr(loop, "gradients", lambda *args: broken)
    with pytest.raises(FloatingPointError, match="the loss became nan at step 1"):
        loop.learn(flux, loop.init_prompt(flux, SHORT), pairs, SHORT, quiet=True)


# ---- what the loss is made of ------------------------------------------------------------------


def losses_by_hand(flux, pairs, prompt, settings, step) -> tuple[Tensor, Tensor]:
    """Times and losses [B] of a step, one sample after another, `desired` written out."""
    g = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    pick = torch.randint(len(pairs.x0), (settings.batch_size,), generator=g)
    t = 1e-4 + (0.4 - 1e-4) * torch.rand(settings.batch_size, generator=g) ** settings.power
    eps = torch.randn(settings.batch_size, *pairs.x0.shape[1:], generator=g)
    found = []
    for k, n in enumerate(pick.tolist()):
        x0, y, r = pairs.x0[n], pairs.y[n], t[k] / 0.4
        x_t = (1 - t[k]) * (1 - r) * x0 + (1 - t[k]) * r * y + t[k] * eps[k]
        with torch.no_grad():
            v = flux.velocity(x_t[None], t[k][None], prompt)[0]
        error = x_t - t[k] * v - x0
        if settings.loss == "velocity":
            error = error / t[k].clamp(min=0.01)
        found.append(error.square().mean())
    return t, torch.stack(found)


@pytest.mark.parametrize(("loss", "power"), [("x0", 1.0), ("velocity", 1.0), ("x0", 3.0)])
def test_the_log_tells_the_loss_of_every_quarter_of_the_times(flux, pairs, loss, power):
    settings = replace(SHORT, steps=1, batch_size=6, loss=loss, power=power)
    prompt = loop.init_prompt(flux, settings)
    t, losses = losses_by_hand(flux, pairs, prompt, settings, 0)
    [row] = loop.learn(flux, prompt, pairs, settings, quiet=True)
    assert row["loss"] == pytest.approx(losses.mean().item(), rel=1e-4)
    for k in range(4):
        inside = (t >= 0.1 * k) & (t < 0.1 * (k + 1))
        name = f"loss_t{k + 1}"
        assert (name in row) == inside.any().item()
        if name in row:
            assert row[name] == pytest.approx(losses[inside].mean().item(), rel=1e-4)
    assert prompt.meta["loss"] == loss
    assert (power == 3.0) == (t.mean() < 0.15)


def test_the_last_time_is_in_the_last_quarter():
    times, losses = torch.tensor([1e-4, 0.1, 0.2, 0.4]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = loop.by_time(times, losses, 0.4)
    assert found == {"loss_t1": 1.0, "loss_t2": 2.0, "loss_t3": 3.0, "loss_t4": 4.0}
    assert loop.by_time(times[:1], losses[:1], 0.4) == {"loss_t1": 1.0}
