"""Clean targets of sample.py: what does not fit costs numbers, never the restoration."""

import csv

import pytest
from PIL import Image

from tests.scripts.test_sample_video import drawn, folder, frames_of, run, write_frames, write_video
from tinybridge.metrics import psnr

__all__ = ["folder"]  # a fixture


TARGETS = {
    "others": "no file has its name",
    "small": "a is 28x20 with 3 frames but its target",
    "short": "28x20 with 2 frames: both must have one size and length",
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_does_not_fit_costs_the_numbers_alone(target, folder, tmp_path, capsys):
    write_frames(tmp_path / "in/a", 3)
    write_frames(tmp_path / "small/a", 3, 18)
    write_frames(tmp_path / "short/a", 2)
    write_frames(tmp_path / "others/b", 3)
    out = tmp_path / "out"
    flags = ["--input", tmp_path / "in/a", "--target", tmp_path / target, "--out", out]
    assert run(folder, *flags) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "without numbers" in line]
    assert len(told) == 1 and TARGETS[target] in told[0]
    assert [file.name for file in out.iterdir()] == ["a"]


def test_numbers_are_of_the_file_that_was_written(folder, tmp_path):
    """H.264 and a GIF's palette lose something, and pillow merges equal frames of a GIF."""
    for name, seed in (("in", 0), ("gt", 1)):
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / "a.mp4", 5, 20, 28, sound=False)
        frames = [Image.fromarray(frame) for frame in drawn(3, 20, 28, seed)]
        options = {"save_all": True, "duration": [40, 50, 60, 70], "loop": 0}
        frames[0].save(tmp_path / name / "b.gif", append_images=[*frames[1:], frames[0]], **options)
    flags = ["--input", tmp_path / "in", "--target", tmp_path / "gt", "--out", tmp_path / "out"]
    assert run(folder, *flags) == 0
    with (tmp_path / "out/metrics.csv").open(newline="") as file:
        rows = {row["clip"]: row for row in csv.DictReader(file)}
    for name, row in rows.items():
        made, clean = (frames_of(tmp_path / place / name) for place in ("out", "gt"))
        assert float(row["psnr"]) == pytest.approx(psnr(made[None], clean[None]).item(), abs=0.01)
    assert rows.keys() == {"a.mp4", "b.gif"}


def test_clips_below_a_folder_and_those_that_are_there(folder, tmp_path, capsys):
    write_video(tmp_path / "in/a.mp4", 3, 20, 28, sound=False)
    write_frames(tmp_path / "in/day/walk", 2)
    Image.fromarray(drawn(1, 20, 28)[0]).convert("L").save(tmp_path / "in/day/walk/000.png")
    out = tmp_path / "out"
    flags = ["--input", tmp_path / "in", "--out", out, "--recursive"]
    assert run(folder, *flags) == 0
    assert "walk: not kept: grey, it becomes RGB" in capsys.readouterr().out
    made = {out / "a.mp4", out / "day/walk/000.png", out / "day/walk/001.png"}
    assert {file for file in out.rglob("*") if file.is_file()} == made
    whole = (out / "day/walk/001.png").read_bytes()
    (out / "day/walk/001.png").write_bytes(whole[:60])
    before = (out / "a.mp4").stat().st_mtime_ns
    assert run(folder, *flags, "--skip-existing") == 0
    assert "2 of 2 clips restored" in (told := capsys.readouterr().out) and ", 1 of them" in told
    assert (out / "a.mp4").stat().st_mtime_ns == before
    assert (out / "day/walk/001.png").read_bytes() == whole


def test_one_clip_under_a_name_of_its_own(folder, tmp_path, capsys):
    write_video(tmp_path / "a.mp4", 3, 20, 28)
    assert run(folder, "--input", tmp_path / "a.mp4", "--out", tmp_path / "new/b.mkv") == 0
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["b.mkv"]
    assert frames_of(tmp_path / "new/b.mkv").shape == (3, 3, 20, 28)
    assert run(folder, "--input", tmp_path / "a.mp4", "--out", tmp_path / "new/b.gif") == 2
    assert "b.gif: expected a name ending in .mp4" in capsys.readouterr().err
    write_frames(tmp_path / "walk", 2)
    assert run(folder, "--input", tmp_path / "walk", "--out", tmp_path / "b.mp4") == 2
    assert "is a folder, its result is one too" in capsys.readouterr().err
