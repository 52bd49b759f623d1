"""Folders without a text encoder, through the scripts: a photo with WAN, the same result, errors.

The models are small and random; the folder holds transformer, autoencoder and conditioning alone.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import sample
import train
import weights
from tests.oracles.folders import write_folder
from tests.oracles.wan_files import write_wan
from tinybridge.prompt import Prompt
from tinybridge.training import pairs as pairs_module

ROOT = Path(__file__).parents[2]
WRITE = {"flux": write_folder, "wan": write_wan}
TEXT = shutil.ignore_patterns("text_encoder*", "tokenizer*")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """For either backbone a whole folder, one without encoders, a conditioning file, a prompt."""
    place = tmp_path_factory.mktemp("told")
    rows = np.mgrid[:37, :50].sum(0).astype(np.uint8)
    Image.fromarray(np.stack((2 * rows, rows, 255 - rows), 2)).save(place / "photo.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        for name, write in WRITE.items():
            whole = write(place / name / "whole")
            shutil.copytree(whole, place / name / "bare", ignore=TEXT)
            weights.save_conditioning(whole, place / name / "bare/null.safetensors")
            backbone = weights.load_backbone(name, whole, "meta")
            prompt = Prompt.init(backbone.length, backbone.width, backbone.blocks, 1, std=2.0)
            prompt.meta = {"backbone": name, "bridge": "desired", "t0": "0.4", "grid": "true"}
            prompt.save(place / name / "prompt.safetensors")
        yield place


def flags_of(place: Path, name: str, folder: str, out: Path, *more: object) -> list[str]:
    flags = ["--backbone", name, "--weights", place / name / folder, "--out", out]
    flags += ["--prompt", place / name / "prompt.safetensors", "--input", place / "photo.jpg"]
    if folder == "bare" and "--conditioning" not in more:
        flags += ["--conditioning", place / name / "bare/null.safetensors"]
    return [*map(str, flags), *map(str, more)]


def test_the_walk_of_a_photo_with_wan_on_a_laptop(place, tmp_path):
    flags = flags_of(place, "wan", "bare", tmp_path, "--steps", 4)
    # A bar in a pipe shows itself at most every 0.1 s: here, whenever it moves.
    settings = {"TQDM_MININTERVAL": "0", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "sample.py", *flags]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shown = done.stderr.split("\r")
    for share in ("photo.jpg:   0%", "photo.jpg:  25%", "photo.jpg:  50%", "photo.jpg:  75%"):
        assert any(share in line for line in shown), done.stderr
    assert "1 of 1 clips restored" in done.stdout and "from t0 0.4 in 4 steps" in done.stdout
    assert not (tmp_path / "cache").exists()  # no encoder ran
    with Image.open(tmp_path / "photo.jpg") as restored, Image.open(place / "photo.jpg") as photo:
        assert restored.format == "JPEG" and restored.size == photo.size
        assert np.abs(np.asarray(restored) - np.asarray(photo).astype(int)).mean() > 1


@pytest.mark.parametrize("name", WRITE)
def test_the_restored_picture_is_bit_for_bit_that_of_the_whole_folder(place, tmp_path, name):
    for folder in ("whole", "bare"):
        flags = flags_of(place, name, folder, tmp_path / folder, "--steps", 2)
        assert sample.main(flags) == 0
    found = [(tmp_path / folder / "photo.jpg").read_bytes() for folder in ("whole", "bare")]
    assert found[0] == found[1] != (place / "photo.jpg").read_bytes()


@pytest.mark.parametrize("name", WRITE)
def test_what_is_no_conditioning_of_this_backbone_is_one_line(place, tmp_path, capsys, name):
    other = next(key for key in WRITE if key != name)
    wrong = {
        place / other / "bare/null.safetensors": f"of {other}, expected {name}'s",
        place / name / "prompt.safetensors": "found a prompt",
        next((place / name / "bare").glob("*small.safetensors")): "found another file",
        place / "photo.jpg": "not a whole safetensors file",
        place / "none.safetensors": "no such file",
    }
    for file, words in wrong.items():
        out = tmp_path / "out"
        assert sample.main(flags_of(place, name, "bare", out, "--conditioning", file)) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {file}: ") and words in err and err.count("\n") == 1
        assert not out.exists()
        run = ["--backbone", name, "--weights", place / name / "bare", "--out", out]
        assert train.main([*map(str, run), "--conditioning", str(file)]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {file}: ") and words in err and err.count("\n") == 1
        shutil.rmtree(out, ignore_errors=True)


def test_a_conditioning_file_is_not_replaced_by_a_result(place, tmp_path, capsys):
    file = shutil.copy(place / "wan/bare/null.safetensors", tmp_path / "photo.jpg")
    flags = flags_of(place, "wan", "bare", tmp_path, "--conditioning", file)
    assert sample.main(flags) == 2
    assert "photo.jpg" in capsys.readouterr().err
    kept = (place / "wan/bare/null.safetensors").read_bytes()
    assert Path(file).read_bytes() == kept
    own = shutil.copy(file, tmp_path / "prompt.safetensors")
    run = ["--backbone", "wan", "--weights", place / "wan/bare", "--conditioning", own]
    assert train.main([*map(str, run), "--out", str(tmp_path)]) == 2
    assert "prompt.safetensors" in capsys.readouterr().err and Path(own).read_bytes() == kept


def test_train_learns_the_same_and_resumes_with_the_same_conditioning(
    place, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(pairs_module, "CLIPS", (4, 2))
    run = ["--backbone", "wan", "--size", "16x5", "--steps", "2", "--batch-size", "2"]
    told = ["--conditioning", str(place / "wan/bare/null.safetensors")]
    for folder, more in (("whole", []), ("bare", told)):
        out = ["--weights", str(place / "wan" / folder), "--out", str(tmp_path / folder)]
        assert train.main([*run, *out, *more]) == 0
    whole, bare = (load_file(tmp_path / f"{k}/prompt.safetensors") for k in ("whole", "bare"))
    assert whole.keys() == bare.keys() and all((whole[k] == bare[k]).all() for k in whole)
    capsys.readouterr()
    other = shutil.copy(told[1], tmp_path / "other.safetensors")
    assert train.main([*run, *out, "--conditioning", str(other), "--resume"]) == 2
    assert "begun with --conditioning" in capsys.readouterr().err
    token = [*run, *out[:2], "--out", str(tmp_path / "t"), *told, "--space", "token"]
    assert train.main(token) == 2
    assert "tokens need the text encoder itself" in capsys.readouterr().err
