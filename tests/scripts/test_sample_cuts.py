"""sample.py on clips of several shots, with the bundled tiny WAN."""

from pathlib import Path

import torch

import sample
from tinybridge.data import clips, moving_scenes, pictures
from tinybridge.prompt import Prompt


def write(folder: Path, clip: torch.Tensor) -> None:
    """A clip [3, T, H, W] as a folder of frames."""
    for k, frame in enumerate(clip.unbind(1)):
        pictures.write(folder / f"{k:02}.png", frame)


def frames_of(folder: Path) -> torch.Tensor:
    return torch.cat(list(clips.read(clips.open_clip(folder))), 1)  # [3, T, H, W]


def test_a_cut_is_told_and_each_shot_comes_out_as_if_alone(tmp_path, capsys):
    _, drawn = moving_scenes.pairs("haze", [3, 8, 11], 32, 7)
    one, two, three = drawn
    for name, shots in {"one": [one], "two": [two], "both": [one, two], "all": [*drawn]}.items():
        write(tmp_path / "in" / name, torch.cat(shots, 1))
    Prompt.init(20, 128, 6, seed=0, std=0.2).save(tmp_path / "p.safetensors")
    flags = ["--backbone", "wan", "--prompt", tmp_path / "p.safetensors", "--steps", 2]
    for name in ("one", "two", "both", "all"):
        place = ["--input", tmp_path / "in" / name, "--out", tmp_path / "out"]
        assert sample.main([str(flag) for flag in [*flags, *place]]) == 0
    told = capsys.readouterr()
    notes = [line for line in (told.out + told.err).splitlines() if "scene cut" in line]
    assert len(notes) == 2
    assert notes[0].endswith("both: 1 scene cut (frame 7): each shot is restored by itself")
    assert notes[1].endswith("all: 2 scene cuts (frames 7, 14): each shot is restored by itself")
    restored = {name: frames_of(tmp_path / "out" / name) for name in ("one", "two", "both", "all")}
    alone = torch.cat((restored["one"], restored["two"]), 1)
    assert torch.equal(restored["both"], alone)
    assert torch.equal(restored["all"][:, :14], alone)
