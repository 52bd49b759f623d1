"""train.py --backbone wan: moving scenes and own clips, through a small random WAN's folder."""

import csv
import os
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import train
from tests.oracles.wan_files import write_wan
from tinybridge.data import moving_scenes, pictures
from tinybridge.data.pairs import clip_crops
from tinybridge.data.pairs import pairs as find_pairs
from tinybridge.metrics import psnr, temporal_difference
from tinybridge.prompt import Prompt
from tinybridge.training import loop, report
from tinybridge.training import pairs as pairs_module
from tinybridge.training.pairs import parse_size


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The flags of a short run on a small model."""
    place = tmp_path_factory.mktemp("wan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        patch.setattr(pairs_module, "CLIPS", (6, 2))
        folder = write_wan(place / "small")
        yield ["--backbone", "wan", "--weights", str(folder), "--batch-size", "2", "--lr", "0.01"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """Three pairs of clips as folders of frames, 7 frames of 20x16 pixels."""
    folder, both = tmp_path_factory.mktemp("pairs"), moving_scenes.pairs("rain", [0, 1, 2], 20, 7)
    for side, found in zip(("degraded", "clean"), both, strict=True):
        for k, clip in enumerate(found):
            for t in range(7):
                pictures.write(folder / side / f"clip{k}/{t}.png", clip[:, t, :16])
    return folder


def rows_of(file: Path) -> list[dict]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run_on_moving_scenes_leaves_what_it_promises(base, tmp_path, capsys):
    out = tmp_path / "run"
    flags = ["--size", "16x5", "--steps", "6", "--degradation", "snow", "--out", str(out)]
    assert train.main([*base, *flags]) == 0
    told = capsys.readouterr().out
    assert "drawn moving scenes (no --data), snow" in told.splitlines()[0]
    assert "2 held-out clips" in told and " change" in told
    log = rows_of(out / "log.csv")
    assert [bool(row["psnr"]) for row in log] == [True] * 6
    prompt = Prompt.load(out / "prompt.safetensors")
    assert prompt.meta["backbone"] == "wan" and prompt.meta["degradation"] == "snow"

    results = {row["picture"]: row for row in rows_of(out / "results.csv")}
    assert list(results) == ["degraded", "no prompt", "restored", "clean"]
    seeds = [pairs_module.EVALUATION_SEED, pairs_module.EVALUATION_SEED + 1]
    degraded, clean = moving_scenes.pairs("snow", seeds, 16, 5)
    found = float(results["degraded"]["psnr"]), float(results["degraded"]["change"])
    assert found[0] == pytest.approx(psnr(degraded, clean).mean().item())
    assert found[1] == pytest.approx(temporal_difference(degraded).mean().item())
    change = float(results["clean"]["change"])
    assert change == pytest.approx(temporal_difference(clean).mean().item())
    width, height = Image.open(out / "preview.png").size
    assert width > 4 * 384 and height > 2 * 128


def test_a_filmstrip_shows_the_first_the_middle_and_the_last_frame():
    clip = torch.rand(2, 3, 9, 4, 6)
    shown = report.filmstrip(clip)
    assert shown.shape == (2, 3, 4, 18)
    for k, t in enumerate((0, 4, 8)):
        assert torch.equal(shown[..., 6 * k : 6 * k + 6], clip[:, :, t])
    assert report.filmstrip(clip[:, :, 0]).shape == (2, 3, 4, 6)


def test_own_clips_are_cut_into_cubes_and_one_is_held_out(base, pairs, tmp_path, capsys):
    out = tmp_path / "run"
    flags = ["--data", str(pairs), "--size", "16x5", "--steps", "1", "--out", str(out)]
    assert train.main([*base, *flags]) == 0
    assert str(pairs) in capsys.readouterr().out
    held_out = next(clip_crops(find_pairs(pairs, video=True)[0], 16, 5))
    middle = [p[len(p) // 2][None] for p in held_out]
    found = {row["picture"]: row for row in rows_of(out / "results.csv")}
    assert float(found["degraded"]["psnr"]) == pytest.approx(psnr(*middle).item())


@pytest.mark.parametrize("space", ["embedding", "token"])
def test_stopped_and_resumed_is_bit_for_bit_the_same(base, pairs, tmp_path, monkeypatch, space):
    flags = [*base, "--data", str(pairs), "--size", "16x5", "--steps", "5", "--space", space]
    assert train.main([*flags, "--out", str(tmp_path / "whole")]) == 0
    real = loop.gradients

    def gradients(backbone, prompt, pairs, settings, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(backbone, prompt, pairs, settings, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "gradients", gradients)
        assert train.main([*flags, "--out", str(tmp_path / "cut")]) == 0
    assert len(rows_of(tmp_path / "cut/log.csv")) == 3
    assert train.main([*flags, "--out", str(tmp_path / "cut"), "--resume"]) == 0
    for name in ("prompt.safetensors", "state.safetensors"):
        whole, cut = (load_file(tmp_path / k / name) for k in ("whole", "cut"))
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[key], cut[key]) for key in whole)
    losses = [[row["loss"] for row in rows_of(tmp_path / k / "log.csv")] for k in ("whole", "cut")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("bridge", ["naive", "ddbm"])
def test_every_bridge_is_learned_and_recorded(base, tmp_path, bridge):
    flags = ["--size", "16x5", "--steps", "1", "--bridge", bridge, "--out", str(tmp_path)]
    assert train.main([*base, *flags]) == 0
    assert Prompt.load(tmp_path / "prompt.safetensors").meta["bridge"] == bridge


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--size", "16x6"], "--size 16x6: WAN takes 1 + 4k frames, as 5"),
        (["--size", "16x5x2"], "expected side x frames, as 64x9"),
        (["--size", "x5"], "expected side x frames"),
        (["--data", "gone"], "gone: no such file or folder"),
    ],
)
def test_mistakes_are_one_line_and_status_2(base, tmp_path, capsys, flags, words):
    out = tmp_path / "out"
    assert train.main([*base, *flags, "--out", str(out)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and words in lines[0]
    assert not out.exists() or not any(out.iterdir())


def test_clips_smaller_than_a_cube_are_named(base, pairs, tmp_path, capsys):
    for size in ("32x5", "16x9"):
        flags = ["--data", str(pairs), "--size", size, "--out", str(tmp_path / size)]
        assert train.main([*base, *flags]) == 2
        assert "clip" in capsys.readouterr().err.splitlines()[-1]


def test_a_side_alone_takes_the_usual_frames():
    assert parse_size("64", "480x33") == (64, 33) and parse_size("64", "64") == (64, 1)
    assert parse_size("96x17", "64x9") == (96, 17)
