"""compare.py: which runs it makes, that it goes on, its arithmetic; the committed results."""

import importlib
import json
import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tinybridge import bridge
from tinybridge.data import scenes
from tinybridge.prompt import Prompt
from tinybridge.tiny import recipes
from tinybridge.training.sentences import sentences

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "notebooks/results"
sys.path[:0] = [str(ROOT / "notebooks")]
tables, compare = importlib.import_module("tables"), importlib.import_module("compare")


def rows_of(file: Path) -> list[dict]:
    return tables.read(file).to_dict("records")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A whole comparison of four steps and two seeds: its folder and how to run it again."""
    folder = tmp_path_factory.mktemp("comparison")

    def again(*flags: str) -> int:
        places = ["--out", str(folder), "--store", str(folder / "prompts")]
        return compare.main(["--small", "--seeds", "2", *places, *flags])

    assert again() == 0
    return folder, again


def test_a_row_for_every_run(small):
    runs = rows_of(small[0] / "runs.csv")
    counts = Counter((r["space"], r["bridge"], r["t0"], r["rows"], r["sampler"]) for r in runs)
    rows = recipes.T5_LENGTH
    wanted = {("embedding", name, 0.4, rows, n): 2 for name in bridge.BRIDGES for n in (1, 2)}
    wanted |= {(space, "desired", 0.4, rows, 2): 2 for space in ("text", "token")}
    wanted |= {("embedding", "desired", 0.2, rows, 2): 2, ("embedding", "desired", 0.4, 1, 2): 2}
    assert counts == wanted
    assert all(math.isfinite(row[name]) for row in runs for name in tables.MEASURES)
    assert {row["seed"] for row in runs} == {0, 1}


def test_curves_begin_before_the_first_step_and_end_after_the_last(small):
    curves = rows_of(small[0] / "curves.csv")
    steps = {row["space"]: [] for row in curves}
    for row in curves:
        steps[row["space"]].append(row["step"])
    assert steps == {"text": [0, 0], "token": 2 * [0, 2, 4], "embedding": 2 * [0, 2, 4]}
    tried = rows_of(small[0] / "sentences.csv")
    assert Counter(r["sentence"] for r in tried) == {k: 2 for k in sentences("haze", False)}


def test_what_is_there_is_not_computed_again(small, monkeypatch):
    folder, again = small
    before = (folder / "runs.csv").read_bytes()
    monkeypatch.setattr(compare.Lab, "measure", None)  # would fail if called
    assert again() == 0
    assert (folder / "runs.csv").read_bytes() == before
    assert rows_of(folder / "machine.csv")[-1]["runs"] == 0


def test_only_what_is_missing_is_computed(small, tmp_path, capsys):
    folder, _ = small
    lines = (folder / "runs.csv").read_text().splitlines(keepends=True)
    lost = next(
        k for k, line in enumerate(lines) if f",embedding,naive,0.4,{recipes.T5_LENGTH},2," in line
    )
    (tmp_path / "runs.csv").write_text("".join(lines[:lost] + lines[lost + 1 :]))
    places = ["--out", str(tmp_path), "--store", str(folder / "prompts")]
    assert compare.main(["--small", "--seeds", "2", "--only", "bridges", *places]) == 0
    assert "1 runs computed" in capsys.readouterr().out
    again = (tmp_path / "runs.csv").read_text().splitlines()[-1].split(",")
    assert again[:-2] == lines[lost].strip().split(",")[:-2]  # but for the times


def test_a_stopped_run_ends_the_command(tmp_path, monkeypatch):
    def stopped(backbone, prompt, pairs, settings, quiet):
        return [{"step": 1}]  # what `learn` returns after a signal

    monkeypatch.setattr(compare.loop, "learn", stopped)
    places = ["--out", str(tmp_path), "--store", str(tmp_path)]
    assert compare.main(["--small", "--only", "bridges", *places]) == 130
    assert rows_of(tmp_path / "runs.csv") == []
    assert rows_of(tmp_path / "machine.csv")[0]["runs"] == 0


def test_rows_beyond_the_length_stay_zero(small):
    files = [f for f in (small[0] / "prompts").iterdir() if "-0-1-0.15-" in f.name]
    assert len(files) == 1  # seed 0, one row
    prompt = Prompt.load(files[0])
    assert prompt.residual.shape == (recipes.T5_LENGTH, recipes.FLUX.hidden_size)
    assert prompt.residual[0].abs().min() > 0 and not prompt.residual[1:].any()
    assert json.loads(prompt.meta["curve"]) == []


def test_mean_and_spread_are_those_of_numpy(small):
    runs = rows_of(small[0] / "runs.csv")
    rows = tables.summary(tables.read(small[0] / "runs.csv")).reset_index().to_dict("records")
    assert sum(row["n"] for row in rows) == len(runs)
    for row in rows:
        group = [r for r in runs if all(r[k] == row[k] for k in tables.INPUTS)]
        for name in ("psnr", "ssim"):
            values = np.array([r[name] for r in group])
            assert row[name] == pytest.approx(values.mean(), abs=1e-12)
            assert row[f"{name}_spread"] == pytest.approx(values.std(ddof=1), abs=1e-12)
    (alone,) = tables.summary(tables.read(small[0] / "runs.csv")[:1]).to_dict("records")
    assert math.isnan(alone["psnr_spread"])  # of a single seed


def test_differences_are_of_the_same_seed():
    rows = [
        {"bridge": name, "seed": seed, "psnr": value}
        for name, values in {"desired": (5.0, 7.0), "naive": (1.0, 4.0)}.items()
        for seed, value in enumerate(values)
    ]
    found = tables.differences(pd.DataFrame(rows[::-1]), "desired", "naive")
    assert found.to_dict() == {0: 4.0, 1: 3.0}


def test_pairs_from_files_and_their_degradations(tmp_path):
    listed = []
    for kind in ("snow", "rain"):
        for k, (bad, good) in enumerate(zip(*scenes.pairs(kind, [1, 2]), strict=True)):
            names = [f"{kind}{k}-{side}.png" for side in ("bad", "good")]
            for name, pixels in zip(names, (bad, good), strict=True):
                array = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
                Image.fromarray(array).save(tmp_path / name)
            listed.append({"image_path": names[0], "target_path": names[1], "degradation": kind})
    (tmp_path / "pairs.json").write_text(json.dumps(listed))
    places = {"files": tmp_path / "pairs.json", "out": tmp_path, "store": tmp_path}
    lab = compare.Lab(**places, budget=compare.SMALL)
    assert lab.kinds == ("rain", "snow")
    one, other = lab.of(lab.job("snow", 0)), lab.of(lab.job("snow", 1))
    assert one is other and len(one.x0) == 1 and len(one.clean) == 1
    assert lab.job("snow").backbone == "tiny flux pairs.json"
    assert torch.isfinite(torch.tensor(lab.measure(lab.job("snow"))["psnr"]))


# ---- what is committed -------------------------------------------------------------------------


PAPERS = ("naive", "ddbm", "desired")  # a bridge or a degradation of later is not committed
OURS = ("haze", "rain", "snow", "blur", "lowlight")


def test_committed_results_are_complete():
    runs = tables.read(RESULTS / "runs.csv")
    common = tables.usual(runs)
    middle = tables.where(runs, common, "degradation", "bridge")
    found = set(zip(middle["degradation"], middle["bridge"], middle["seed"], strict=True))
    assert found == {(d, b, s) for d in OURS for b in PAPERS for s in range(3)}
    assert len(middle) == 45
    spaces = tables.where(runs, common, "degradation", "space", *tables.LEARNED)
    found = Counter(zip(spaces["degradation"], spaces["space"], strict=True))
    assert all(found[kind, space] == 3 for kind in ("haze", "rain") for space in tables.SPACES)
    for name, values in {"t0": compare.T0S, "rows": (1, 2, 5, 10, 20)}.items():
        found = Counter(tables.where(runs, common, name)[name])
        assert found == {value: 3 for value in values}
    for name in PAPERS:
        rows = tables.where(runs, common, "sampler", bridge=name)
        assert Counter(rows["sampler"]) == {n: 3 for n in compare.SAMPLERS}
    assert len(tables.keys(runs)) == len(runs)


def test_a_bridge_of_later_has_its_column(tmp_path, monkeypatch):
    """Runs with a fourth bridge: tables and figures show it without a line of tables.py."""
    runs = tables.read(RESULTS / "runs.csv")
    fourth = runs[runs["bridge"] == "naive"].assign(bridge="fourth")
    monkeypatch.setitem(tables.COLOURS, "fourth", "tab:orange")
    tables.append(tmp_path / "runs.csv", pd.concat([runs, fourth]).to_dict("records"))
    tables.write(tmp_path)
    text = (tmp_path / "tables.md").read_text()
    heads = ("naive | ddbm | desired | fourth |", "desired - fourth", "| sampler, fourth | 1 | 2 |")
    assert all(head in text for head in heads)
    labels = tables.bridges_figure(tables.read(tmp_path / "runs.csv")).axes[1].get_legend()
    assert [label.get_text() for label in labels.get_texts()] == [*PAPERS, "fourth"]


def test_committed_tables_are_those_of_the_rows(tmp_path):
    for name in ("runs.csv", "curves.csv"):
        (tmp_path / name).write_bytes((RESULTS / name).read_bytes())
    tables.write(tmp_path)
    for name in ("summary.csv", "tables.md"):
        assert (tmp_path / name).read_text() == (RESULTS / name).read_text()
    for name in ("bridges.png", "spaces.png", "sensitivity.png"):
        assert (RESULTS / name).stat().st_size < 150_000
    machine = rows_of(RESULTS / "machine.csv")
    assert sum(row["runs"] for row in machine) == len(tables.read(RESULTS / "runs.csv"))
    assert all(row["commit"] and row["torch"] and row["threads"] for row in machine)
