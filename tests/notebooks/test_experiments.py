"""Every experiment at the small budget: its rows, that it goes on, and what it is built from."""

import importlib
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch

from notebooks.experiments import everything, heads, lab, learning, table, walks
from tinybridge import bridge
from tinybridge.prompt import Prompt
from tinybridge.training import loop
from tinybridge.training.pairs import drawn_pairs

command = importlib.import_module("notebooks.experiments.__main__")
EXPERIMENTS = [everything.name_of(experiment) for experiment in everything.ALL]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Latents and prompts, which experiments share."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def flux(store):
    return lab.Lab("flux", lab.SMALL, store)


def flags(out, store, *only: str) -> list[str]:
    places = ["--out", str(out), "--store", str(store)]
    return ["--small", "--seeds", "1", *places, "--only", *only]


@pytest.fixture(autouse=True)
def results(monkeypatch):
    """What the command sets for its processes is forgotten."""
    monkeypatch.setattr(table, "RESULTS", table.RESULTS)


@pytest.fixture(autouse=True)
def few_rates(monkeypatch):
    """One rate for each backbone: the grid has a test of its own."""
    one = {"flux": "desired x0", "wan": "desired x0"}

    def jobs(budget, backbone):
        return [{"what": one[backbone], "rate": 0.05}]

    monkeypatch.setattr(everything.rates, "jobs", jobs)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_makes_its_rows_and_goes_on(name, store, tmp_path, capsys):
    assert command.main(flags(tmp_path, store, name)) == 0
    experiment = everything.module(name)
    for file, own in experiment.COLUMNS.items():
        rows = table.read(tmp_path / file)
        assert len(rows) and list(rows.columns) == table.columns(own)
        assert set(rows["model"]) and (rows["commit"].astype(str) != "").all()
        numbers = rows.select_dtypes("number")
        assert numbers.notna().all(axis=None)
    assert set(table.read(tmp_path / "rates.csv")["what"]) == {"desired x0"}
    file = tmp_path / everything.table_of(experiment)
    before = file.read_bytes()
    capsys.readouterr()
    assert command.main(flags(tmp_path, store, name)) == 0
    assert file.read_bytes() == before
    assert "0 rows made" in capsys.readouterr().out


def test_a_missing_row_is_made_again_and_equal(store, tmp_path):
    assert command.main(flags(tmp_path, store, "unseen")) == 0
    file = tmp_path / "unseen.csv"
    whole = table.read(file)
    kept = whole[whole["degradation"] != "jpeg"]
    kept.to_csv(file, index=False)
    assert command.main(flags(tmp_path, store, "unseen")) == 0
    names = ["degradation", "prompt"]
    again = table.read(file).sort_values(names, ignore_index=True)
    want = whole.sort_values(names, ignore_index=True)
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), want.drop(columns="seconds"))


def test_rows_of_another_model_are_not_mixed_with_new_ones(store, tmp_path, capsys):
    assert command.main(flags(tmp_path, store, "unseen")) == 0
    file = tmp_path / "unseen.csv"
    model = table.read(file)["model"].iloc[0]
    file.write_text(file.read_text().replace(model, "01234567"))
    assert command.main(flags(tmp_path, store, "unseen")) == 2
    assert "01234567" in capsys.readouterr().err


def test_a_job_that_fails_does_not_end_the_others(store, tmp_path, monkeypatch, capsys):
    run = everything.unseen.run

    def spoilt(lab, key):
        if key["degradation"] == "jpeg":
            raise ValueError("no JPEG here")
        return run(lab, key)

    monkeypatch.setattr(everything.unseen, "run", spoilt)
    assert command.main(flags(tmp_path, store, "unseen")) == 1
    assert "no JPEG here" in capsys.readouterr().err
    assert set(table.read(tmp_path / "unseen.csv")["degradation"]) == {"cast", "missing"}


def test_the_command_itself_in_two_processes_makes_the_same_rows(store, tmp_path):
    assert command.main(flags(tmp_path, store, "choose")) == 0
    two = tmp_path / "two"
    line = [sys.executable, "-m", "notebooks.experiments", "--jobs", "2"]
    line += flags(two, store, "choose")
    subprocess.run(line, cwd=lab.ROOT, check=True, capture_output=True, timeout=600)
    names = ["degradation", "score", "prompt"]
    both = [
        table.read(out / "choose.csv").sort_values(names, ignore_index=True)
        for out in (tmp_path, two)
    ]
    pd.testing.assert_frame_equal(*(rows.drop(columns="seconds") for rows in both))


def test_time_that_is_up_begins_nothing(store, tmp_path):
    for jobs in ("1", "2"):
        asked = [*flags(tmp_path, store, "cross"), "--minutes", "0", "--jobs", jobs]
        assert command.main(asked) == 0
    assert table.read(tmp_path / "cross.csv").empty and table.read(tmp_path / "rates.csv").empty


# ---- the order of jobs -------------------------------------------------------------------------


def test_seed_after_seed_and_every_key_once():
    jobs = list(everything.jobs(lab.FULL, EXPERIMENTS, 3))
    assert len(set(jobs)) == len(jobs)
    first = [job for job in jobs if job.experiment == "cross"]
    seeds = [dict(job.key)["seed"] for job in first]
    calls = [dict(job.key)["calls"] for job in first]
    assert seeds[:1] == [0] and set(seeds) == {0, 1, 2}
    early = seeds[: seeds.index(1)]
    assert set(early) == {0} and set(calls[: len(early)]) == {4, 20}
    names = {job.backbone for job in jobs if job.experiment == "steps"}
    assert names == {"flux", "wan"}  # both, and WAN's videos beside them
    assert {job.backbone for job in jobs if job.experiment == "video"} == {"wan"}
    whole = [job for job in jobs if everything.rank(lab.FULL, job.experiment, dict(job.key)) < 3]
    assert jobs[: len(whole)] == whole  # what says little comes last
    for seed in range(3):
        keys = [dict(job.key) for job in first if dict(job.key)["seed"] == seed]
        kinds = {(k["degradation"], k["states"], k["loss"]) for k in keys if k["calls"] == 4}
        assert len(kinds) == 5 * (1 + 2 * 5 + 1)


def test_rates_are_looked_for_on_one_grid_for_all():
    grids = importlib.reload(importlib.import_module("notebooks.experiments.rates")).grids
    for backbone, middle in (("flux", 0.15), ("wan", 0.4)):
        found = grids(backbone)
        for states in ("naive", "ddbm", "desired"):
            assert found[f"{states} x0"] == pytest.approx([k * middle for k in (1 / 3, 1, 3, 9)])
    assert {"rung tokens", "rung sphere", "rung rows", "rung first", "head lora"} <= set(
        grids("flux")
    )
    assert {len(rates) for what, rates in grids("flux").items() if "rung" in what} == {5}


# ---- learning and walking ----------------------------------------------------------------------


def test_fit_learns_the_prompt_of_the_loop_bit_for_bit(flux):
    """minimal.py's twin: same numbers, same order of operations."""
    settings = loop.Settings(steps=3, batch_size=2, every=3)
    pairs = drawn_pairs(flux.backbone, "haze", counts=(4, 1), quiet=True)
    twin = loop.init_prompt(flux.backbone, settings)
    loop.learn(flux.backbone, twin, pairs, settings, quiet=True)
    prompt = Prompt.init(flux.backbone.length, flux.backbone.width, flux.backbone.blocks, 0)
    latents = lab.Latents(pairs.y, pairs.x0)
    parts = dict(prompt.named_parameters())

    def velocity(x, s):
        return flux.backbone.velocity(x, s, prompt)

    recipe = learning.Recipe("haze", 0)
    learning.fit(flux, parts, velocity, latents, recipe, settings.lr, 3)
    assert torch.equal(prompt.residual, twin.residual) and torch.equal(prompt.gates, twin.gates)


def test_training_at_t0_alone_is_what_train_py_does_with_t_low(flux):
    g = torch.Generator().manual_seed(3)
    alone = learning.times(learning.STATES["t0"], 5, 0.4, g)
    assert alone.tolist() == pytest.approx([0.4] * 5)
    late = learning.times(learning.STATES["late"], 500, 0.4, g)
    assert 0.3 <= late.min() < 0.301 and 0.399 < late.max() <= 0.4
    at = bridge.draw_times(5, 0.4, loop.Settings(t_low=0.4).t_low, generator=g)
    assert at.tolist() == alone.tolist()
    grid = set(bridge.times(steps=4).float().tolist())
    assert set(learning.times(learning.STATES["times"], 99, 0.4, g).tolist()) == grid
    assert len(set(learning.times(learning.STATES["visited"], 9, 0.4, g).tolist())) == 1


@pytest.mark.parametrize(("own", "name"), [("euler", "naive"), ("ddbm", "ddbm"), ("desired",) * 2])
def test_a_walk_is_bridge_sample(own, name):
    y, noise = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def velocity(x, s):
        return torch.sin(3 * x) + s[0]

    want = bridge.sample(bridge.BRIDGES[name], velocity, y, 5, noise=noise)
    estimates = walks.walk(walks.SAMPLERS[own], velocity, y, noise, 5)
    assert len(estimates) == 5 and torch.allclose(estimates[-1], want, atol=1e-6)
    for becomes in ("kept", "fresh"):
        other = walks.walk(walks.SAMPLERS[own], velocity, y, noise, 5, becomes=becomes)
        assert torch.equal(other[0], estimates[0]) and not torch.allclose(other[-1], want)


def test_ebridges_readout_is_exact_where_the_velocity_is(flux):
    """A model that says eps - x0 is read without error by E-Bridge at any t; by ours at y = x0."""
    g = torch.Generator().manual_seed(0)
    x0, y, eps = torch.randn(3, 2, 16, 8, 8, generator=g)
    at = bridge.desired(torch.tensor(0.3))
    x = at.a * x0 + at.b * y + at.c * eps
    assert torch.allclose(walks.ebridge_readout(x, eps - x0, y, at), x0, atol=1e-5)
    assert not torch.allclose(walks.readout(x, eps - x0, y, at), x0, atol=1e-1)


def test_visited_states_are_those_of_the_walk(flux):
    states = learning.STATES["visited"]
    y, eps = torch.randn(2, 2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = []

    def velocity(x, s):
        seen.append(x)
        return torch.tanh(x)

    walks.walk(walks.SAMPLERS["desired"], velocity, y, eps, 4)
    for k, t in enumerate(bridge.times(steps=4).float()):
        x = learning.visited(lambda x, s: torch.tanh(x), states, y, t.expand(2), eps, 0.4)
        assert torch.allclose(x, seen[k], atol=1e-6)


def test_lora_is_a_change_of_rank_one_of_the_prompts_weights(flux):
    b = flux.backbone
    g = torch.Generator().manual_seed(0)
    inner = torch.randn(b.blocks, b.width, generator=g)
    outer = 0.1 * torch.randn(b.blocks, 3 * b.width, generator=g)
    x, s = torch.randn(1, 16, 16, 16, generator=g), torch.tensor([0.3])
    plain = b.velocity(x, s)
    with heads.changed(b, {"in": inner, "out": outer}):
        told = b.velocity(x, s)
    assert torch.equal(b.velocity(x, s), plain) and not torch.allclose(told, plain, atol=1e-3)
    weights = [block.prompt_weight().clone() for block in b.model.blocks]
    with torch.no_grad():
        for k, block in enumerate(b.model.blocks):
            block.prompt_weight().add_(outer[k][:, None] * inner[k])
        literal = b.velocity(x, s)
        for block, weight in zip(b.model.blocks, weights, strict=True):
            block.prompt_weight().copy_(weight)
    assert torch.allclose(told, literal, atol=1e-4)


def test_rows_beyond_the_length_stay_zero(flux):
    recipe = learning.Recipe("haze", 0, rows=1)
    prompt = learning.learned(flux, recipe)
    assert prompt.residual[0].abs().min() > 0 and not prompt.residual[1:].any()
    assert learning.learned(flux, recipe).residual.equal(prompt.residual)  # from the store
    other = learning.learned(flux, replace(recipe, gate=0.0))
    assert not other.residual.equal(prompt.residual)
