"""train.py through its command line, on the bundled tiny FLUX and a few drawn pairs."""

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file

import sample
import train
from tinybridge.data import pictures, scenes
from tinybridge.data.pairs import crops
from tinybridge.data.pairs import pairs as find_pairs
from tinybridge.data.tables import load_table
from tinybridge.metrics import psnr
from tinybridge.prompt import Prompt
from tinybridge.training import loop, run_state
from tinybridge.training import pairs as pairs_module

ROOT = Path(__file__).parents[2]
BASE = ["--backbone", "flux", "--batch-size", "4", "--size", "32"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """A folder of 12 hazy and clean pictures, 48x32 pixels."""
    folder = tmp_path_factory.mktemp("pairs")
    degraded, clean = scenes.pairs("haze", list(range(12)), 48)
    for k in range(12):
        pictures.write(folder / f"degraded/{k:02}.png", degraded[k, :, :32])
        pictures.write(folder / f"clean/{k:02}.png", clean[k, :, :32])
    return folder


@pytest.fixture(scope="module")
def whole(pairs, tmp_path_factory) -> tuple[list[str], Path]:
    """Flags of a run, and the folder of one that was not stopped."""
    out = tmp_path_factory.mktemp("whole")
    flags = [*BASE, "--data", str(pairs), "--steps", "9", "--seed", "3"]
    assert train.main([*flags, "--out", str(out)]) == 0
    return flags, out


def rows_of(out: Path) -> list[dict]:
    return load_table(out / "log.csv")


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in rows_of(out)]


def test_a_run_leaves_what_it_promises(pairs, tmp_path, capsys):
    out = tmp_path / "run"
    assert train.main([*BASE, "--data", str(pairs), "--steps", "12", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    first = told.splitlines()[0]
    assert "the bundled tiny FLUX (no --weights)" in first and str(pairs) in first
    files = {file.name for file in out.iterdir()}
    assert files == {
        "prompt.safetensors",
        "state.safetensors",
        "log.csv",
        "results.csv",
        "preview.png",
    }
    prompt = Prompt.load(out / "prompt.safetensors")
    assert prompt.meta["steps"] == "12" and prompt.meta["bridge"] == "desired"
    assert {"backbone", "t0", "grid", "seed", "version"} <= prompt.meta.keys()

    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == loop.COLUMNS.split()
    quarters = [[row[f"loss_t{k}"] for k in range(1, 5)] for row in rows]
    assert all(any(row) for row in quarters)
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    for measure in ("psnr", "ssim", "val_loss"):
        assert [bool(row[measure]) for row in rows] == [False, True] * 6
    assert float(rows[0]["lr"]) == 0.15 and float(rows[-1]["lr"]) < 0.01

    with (out / "results.csv").open(newline="") as file:
        results = {row["picture"]: row for row in csv.DictReader(file)}
    held_out = [crops(pair, 32) for pair in find_pairs(pairs)[::10]]
    middle = [torch.stack([s[k][len(s[k]) // 2] for s in held_out]) for k in (0, 1)]
    assert float(results["degraded"]["psnr"]) == pytest.approx(psnr(*middle).mean().item())
    for name, row in results.items():  # the table says what the file says
        assert re.search(rf"{name} +{float(row['psnr']):.2f} +{float(row['ssim']):.3f}", told)
    assert Image.open(out / "preview.png").size[1] > 2 * 192


def test_learning_helps_on_the_bundled_model(tmp_path, monkeypatch, capsys):
    """Haze of drawn scenes, a tenth of the default budget: at least 3 dB above the input."""
    monkeypatch.setattr(pairs_module, "SCENES", (256, 8))
    out = tmp_path / "run"
    assert train.main(["--backbone", "flux", "--steps", "30", "--out", str(out)]) == 0
    assert "drawn scenes (no --data), haze" in capsys.readouterr().out
    with (out / "results.csv").open(newline="") as file:
        quality = {row["picture"]: float(row["psnr"]) for row in csv.DictReader(file)}
    assert quality["restored"] > quality["degraded"] + 3
    assert quality["restored"] > quality["no prompt"] + 3


def same_tensors(one: Path, two: Path) -> bool:
    a, b = load_file(one), load_file(two)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def stop_in_step(monkeypatch, step: int, number: int) -> None:
    """Sends this process a signal while it computes that step's gradients."""
    real = loop.gradients

    def gradients(backbone, prompt, pairs, settings, now):
        if now == step:
            os.kill(os.getpid(), number)
        return real(backbone, prompt, pairs, settings, now)

    monkeypatch.setattr(loop, "gradients", gradients)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed_is_bit_for_bit_the_same(whole, tmp_path, monkeypatch, capsys, number):
    flags, untouched = whole
    with monkeypatch.context() as patch:
        stop_in_step(patch, 4, number)
        assert train.main([*flags, "--out", str(tmp_path / "cut")]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "stopped after step 5 of 9; the same command with --resume goes on"
    assert len(losses(tmp_path / "cut")) == 5
    assert not (tmp_path / "cut/preview.png").exists()
    assert train.main([*flags, "--out", str(tmp_path / "cut"), "--resume"]) == 0
    assert losses(tmp_path / "cut") == losses(untouched)
    for name in ("prompt.safetensors", "state.safetensors"):
        assert same_tensors(untouched / name, tmp_path / "cut" / name)


def test_another_seed_is_another_run(pairs, tmp_path):
    for seed in "01":
        flags = [*BASE, "--data", str(pairs), "--steps", "1", "--seed", seed]
        assert train.main([*flags, "--out", str(tmp_path / seed)]) == 0
    assert losses(tmp_path / "0") != losses(tmp_path / "1")


@pytest.mark.parametrize("bridge", ["naive", "ddbm", "desired"])
def test_every_bridge_is_learned_recorded_and_walked(bridge, pairs, tmp_path, capsys):
    out = tmp_path / "run"
    flags = [*BASE, "--data", str(pairs), "--steps", "2", "--bridge", bridge, "--out", str(out)]
    assert train.main(flags) == 0
    prompt = out / "prompt.safetensors"
    assert Prompt.load(prompt).meta["bridge"] == bridge
    show = ["--backbone", "flux", "--prompt", str(prompt), "--steps", "2", "--input"]
    show += [str(pairs / "degraded/00.png"), "--out", str(tmp_path / "restored")]
    for flag, told in (([], bridge), (["--bridge", "naive"], "naive")):
        assert sample.main([*show, *flag]) == 0
        assert f"{told} bridge from t0 0.4 in 2 steps" in capsys.readouterr().out


def test_a_finished_run_without_its_log_is_reported_again(whole, tmp_path, capsys):
    flags, untouched = whole
    for name in ("prompt.safetensors", "state.safetensors"):
        (tmp_path / name).write_bytes((untouched / name).read_bytes())
    assert train.main([*flags, "--resume", "--out", str(tmp_path)]) == 0
    assert "held-out pictures" in capsys.readouterr().out
    assert (tmp_path / "results.csv").read_bytes() == (untouched / "results.csv").read_bytes()
    assert same_tensors(tmp_path / "prompt.safetensors", untouched / "prompt.safetensors")


def test_the_loss_and_the_grid_are_chosen_and_recorded(pairs, tmp_path, monkeypatch, capsys):
    out, used = tmp_path / "run", []
    real = train.weights.load_backbone
    keep = lambda *args, **options: used.append(real(*args, **options)) or used[-1]  # noqa: E731
    monkeypatch.setattr(train.weights, "load_backbone", keep)
    flags = [*BASE, "--data", str(pairs), "--steps", "1", "--out", str(out)]
    assert train.main([*flags, "--loss", "velocity", "--no-grid"]) == 0
    meta = Prompt.load(out / "prompt.safetensors").meta
    assert (meta["loss"], meta["grid"], used[0].grid) == ("velocity", "false", False)
    for other, words in (
        (["--no-grid"], "begun with --loss velocity, now it is x0"),
        (["--loss", "velocity"], "begun with --grid false, now it is true"),
    ):
        assert train.main([*flags, *other, "--resume"]) == 2
        assert words in capsys.readouterr().err
    assert train.main([*flags, "--out", str(tmp_path / "usual")]) == 0
    assert used[-1].grid and losses(tmp_path / "usual") != losses(out)


def test_a_real_process_is_stopped_by_sigterm(pairs, tmp_path):
    """Among variables as clusters set them, into a folder whose name is not UTF-8."""
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run-\xe9"))
    flags = [*BASE, "--data", str(pairs), "--steps", "100000", "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "train.py", *flags],
        cwd=ROOT,
        env={**os.environ, "WORLD_SIZE": "4", "RANK": "2", "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        shown = ""
        while "loss=" not in shown and process.poll() is None:  # the bar shows the first step
            shown += process.stderr.read(1)
        process.send_signal(signal.SIGTERM)
        said, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err, shown + err
    assert "the same command with --resume goes on" in said.splitlines()[-1]
    assert load((out / "prompt.safetensors").read_bytes())["residual"].isfinite().all()
    assert run_state.read_state(out / "state.safetensors")[0] > 0


def test_two_processes_learn_what_one_does(pairs, tmp_path):
    flags = [*BASE, "--data", str(pairs), "--steps", "4", "--out"]
    assert train.main([*flags, str(tmp_path / "one")]) == 0
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    start += ["--master-port", str(29500 + os.getpid() % 1000), "train.py"]
    done = subprocess.run(
        [*start, *flags, str(tmp_path / "two")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held-out pictures  PSNR") == 1
    one, two = (Prompt.load(tmp_path / name / "prompt.safetensors") for name in ("one", "two"))
    begun = Prompt.init(*one.residual.shape, len(one.gates), 0)
    moved = (one.residual - begun.residual).norm()
    assert moved > 0.1
    assert (one.residual - two.residual).norm() < 1e-3 * moved
    assert torch.allclose(one.gates, two.gates, atol=1e-4)
    for a, b in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() & {"loss", "loss_t1", "loss_t2", "loss_t3", "loss_t4", "val_loss"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4)


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(pairs, tmp_path, monkeypatch, capsys):
    real = loop.gradients

    def gradients(backbone, prompt, pairs, settings, step):
        times, losses = real(backbone, prompt, pairs, settings, step)
        return times, losses if step < 4 else losses * float("nan")

    monkeypatch.setattr(loop, "gradients", gradients)
    out = tmp_path / "run"
    assert train.main([*BASE, "--data", str(pairs), "--steps", "12", "--out", str(out)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the loss became nan at step 5" in error and "--lr below 0.15" in error
    assert Prompt.load(out / "prompt.safetensors").meta["steps"] == "4"


def test_a_rate_that_explodes_is_noticed(pairs, tmp_path, capsys):
    flags = ["--data", str(pairs), "--steps", "12", "--lr", "1e30", "--out", str(tmp_path / "run")]
    assert train.main([*BASE, *flags]) == 2
    assert " became " in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run/prompt.safetensors").exists()


def test_resume_refuses_other_settings_and_unfinished_runs_are_not_lost(
    pairs, tmp_path, monkeypatch, capsys
):
    flags = [*BASE, "--data", str(pairs), "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        stop_in_step(patch, 1, signal.SIGTERM)
        assert train.main([*flags, "--steps", "9"]) == 0
    before = (tmp_path / "run/state.safetensors").read_bytes()
    assert train.main([*flags, "--steps", "9"]) == 2
    assert "an unfinished run of 9 steps lies here, 2 done" in capsys.readouterr().err
    assert train.main([*flags, "--steps", "10", "--resume"]) == 2
    assert "begun with --steps 9, now it is 10" in capsys.readouterr().err
    (tmp_path / "run/state.safetensors").write_bytes(before[:100])
    assert train.main([*flags, "--steps", "9", "--resume"]) == 2
    assert "state.safetensors: not a readable state" in capsys.readouterr().err
