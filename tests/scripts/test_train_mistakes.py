"""What a person may get wrong with train.py: one line, exit status 2, nothing left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sample
import train
from tinybridge.data import pictures

ROOT = Path(__file__).parents[2]
BASE = ["--backbone", "flux", "--batch-size", "4", "--size", "32"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """A folder of two pairs, 48x32 pixels."""
    folder = tmp_path_factory.mktemp("pairs")
    for side in ("degraded", "clean"):
        for name in "ab":
            pictures.write(folder / side / f"{name}.png", torch.zeros(3, 48, 32))
    return folder


def wrong(tmp_path: Path, pairs: Path) -> dict[str, tuple[list[object], str]]:
    """Flags that a person may get wrong, and what the line must say."""
    small, odd, broken, tiny = (tmp_path / k for k in ("small", "odd", "broken", "tiny"))
    for folder in (small, odd, broken, tiny):
        for side in ("degraded", "clean"):
            for name in ("a.png", "b.png"):
                pictures.write(folder / side / name, torch.zeros(3, 40, 40))
    pictures.write(small / "clean/a.png", torch.zeros(3, 40, 41))
    for side in ("degraded", "clean"):
        pictures.write(tiny / side / "b.png", torch.zeros(3, 31, 40))
    (odd / "clean/b.png").unlink()
    (broken / "degraded/a.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "empty/degraded").mkdir(parents=True)
    (tmp_path / "empty/clean").mkdir()
    (tmp_path / "file").write_text("")
    one = [{"image_path": "a", "target_path": "b", "degradation": "haze"}]
    (tmp_path / "one.json").write_text(json.dumps(one))
    return {
        "no data": (["--data", tmp_path / "gone"], "gone: no such file or folder"),
        "no weights": (["--weights", tmp_path / "gone"], "gone: no such file or folder"),
        "empty weights": (["--weights", tmp_path / "empty"], "hf download"),
        "empty folder": (["--data", tmp_path / "empty"], "no pictures in it"),
        "no pairs": (["--data", tmp_path], "no folder degraded in it"),
        "no partner": (["--data", odd], "b.png: no file has its name"),
        "sizes differ": (["--data", small], "41x40: both must have one size"),
        "not a picture": (["--data", broken], "a.png: not a"),
        "too small": (["--data", tiny], "use --size 31"),
        "one pair": (["--data", tmp_path / "one.json"], "at least 2 are needed"),
        "no such rows": (
            ["--data", tmp_path / "one.json", "--degradation", "fog"],
            "no rows of fog",
        ),
        "no such kind": (["--degradation", "fog"], "choose one of haze, rain"),
        "out is a file": (["--data", pairs, "--out", tmp_path / "file"], "file"),
        "t0": (["--data", pairs, "--t0", 1.5], "t0 is 1.5"),
        "steps": (["--data", pairs, "--steps", 0], "must be positive"),
        "rate": (["--data", pairs, "--lr", -1], "must be positive"),
        "no rate": (["--data", pairs, "--lr", 0], "--lr 0.0 must be positive"),
        "size": (["--data", pairs, "--size", "0"], "--size 0: expected a side in pixels"),
        "frames": (["--data", pairs, "--size", "32x9"], "expected a side in pixels, as 64"),
        "nothing to resume": (["--data", pairs, "--resume"], "nothing to resume"),
    }


CASES = [
    "no data", "no weights", "empty weights", "empty folder", "no pairs", "no partner",
    "sizes differ", "not a picture", "too small", "one pair", "no such rows", "no such kind",
    "out is a file", "t0", "steps", "rate", "no rate", "size", "frames", "nothing to resume",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_one_line_and_status_2(case, tmp_path, pairs, capsys):
    flags, words = wrong(tmp_path, pairs)[case]
    out = tmp_path / "out"
    flags = [*BASE, "--out", str(out), *map(str, flags)]
    assert train.main(flags) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and words in lines[0]
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize("script", [train, sample], ids=["train", "sample"])
def test_a_device_that_is_not_there_is_one_line(script, device, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    flags = ["--backbone", "flux", "--device", device, "--out", str(tmp_path / "out")]
    if script is sample:
        flags += ["--prompt", "none.safetensors", "--input", "none.png"]
    assert script.main(flags) == 2
    error = f"error: --device {device}: PyTorch finds none here; use --device cpu or auto\n"
    assert capsys.readouterr().err == error and not (tmp_path / "out").exists()


def test_a_mistake_in_a_real_process(tmp_path):
    command = [sys.executable, "train.py", *BASE, "--data", str(tmp_path / "gone")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/gone: no such file or folder\n"


def test_few_flags():
    """What has a sensible value gets no flag; more than these need a reason."""
    for script, most in (("train.py", 18), ("sample.py", 24)):
        source = (ROOT / script).read_text()
        assert 5 < source.count("\n    add(") <= most
