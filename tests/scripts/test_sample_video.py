"""sample.py --backbone wan through its command line: clips of every kind, on a small random WAN."""

import csv
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import sample
import weights
from tests.oracles.wan_files import write_wan
from tinybridge import bridge
from tinybridge.data import clips, pictures
from tinybridge.metrics import psnr, ssim
from tinybridge.prompt import Prompt
from tinybridge.restoration import restore_stream
from tinybridge.sampling import files


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small random WAN, two prompts that move its clips, a cache of its own."""
    folder = tmp_path_factory.mktemp("wan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        backbone = weights.load_backbone("wan", write_wan(folder / "weights"))
        for seed in (1, 2):
            prompt = Prompt.init(backbone.length, backbone.width, backbone.blocks, seed, std=2.0)
            prompt.meta = {"backbone": "wan", "bridge": "desired", "t0": "0.4", "grid": "true"}
            prompt.save(folder / f"{seed}.safetensors")
        yield folder


@pytest.fixture(scope="module")
def backbone(folder):
    return weights.load_backbone("wan", folder / "weights")


def run(folder: Path, *flags: object) -> int:
    told = ["--backbone", "wan", "--weights", folder / "weights", "--steps", 2, "--window", 9]
    if "--prompt" not in flags:
        told += ["--prompt", folder / "1.safetensors"]
    return sample.main([*map(str, told), *map(str, flags)])


def drawn(n: int, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    """n frames [H, W, 3] uint8 of a moving gradient with a square."""
    rows, columns = np.mgrid[:height, :width]
    frames = []
    for k in range(n):
        frame = np.stack((rows * 5 + k, columns * 4 + 2 * k, rows + columns + 40 * seed), 2)
        frame[4 : 4 + height // 3, 2 * k % width : 2 * k % width + 6] = 230
        frames.append(np.clip(frame, 0, 255).astype(np.uint8))
    return frames


def write_video(path: Path, n: int, height=36, width=52, rate=Fraction(24000, 1001), sound=True):
    """H.264 with n frames, and AAC of about the same length beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        tone = out.add_stream("aac", rate=44100, layout="mono") if sound else None  # comes first
        picture = out.add_stream("libx264", rate=rate, options={"crf": "10", "preset": "veryfast"})
        picture.width, picture.height = width, height
        picture.pix_fmt = "yuv444p" if height % 2 + width % 2 else "yuv420p"
        out.start_encoding()
        for array in drawn(n, height, width):
            out.mux(picture.encode(av.VideoFrame.from_ndarray(array, "rgb24")))
        out.mux(picture.encode(None))
        if tone:
            wave = np.sin(np.arange(int(44100 * n / rate)) / 20)[None].astype(np.float32)
            sheet = av.AudioFrame.from_ndarray(wave, "fltp", layout="mono")
            sheet.rate = 44100
            out.mux(tone.encode(sheet))
            out.mux(tone.encode(None))


def write_frames(path: Path, n: int, height=20, width=28, seed=0) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for k, array in enumerate(drawn(n, height, width, seed)):
        Image.fromarray(array).save(path / f"{k:03}.png")


def facts(path: Path) -> dict:
    """What must not change: times, rate and size of the pictures, and the packets of sound."""
    with av.open(str(path)) as file:
        picture = file.streams.video[0]
        told = {"rate": picture.average_rate, "size": (picture.width, picture.height)}
        told["times"] = [frame.time for frame in file.decode(video=0)]
    with av.open(str(path)) as file:
        packets = [p for p in file.demux() if p.stream.type == "audio" and p.size]
        told["sound"] = [(bytes(p), float(p.pts * p.time_base)) for p in packets]
    return told


def frames_of(path: Path) -> torch.Tensor:
    return torch.cat(list(clips.read(clips.open_clip(path))), 1)  # [3, n, H, W]


def errors(told: str) -> list[str]:
    return [line for line in told.splitlines() if "error:" in line]


@pytest.mark.parametrize("n, height, width", ((11, 36, 52), (1, 34, 48), (6, 35, 51)))
def test_a_video_keeps_its_frames_rate_size_and_sound(folder, tmp_path, n, height, width):
    write_video(tmp_path / "a.mp4", n, height, width)
    assert run(folder, "--input", tmp_path / "a.mp4", "--out", tmp_path / "out") == 0
    before, after = facts(tmp_path / "a.mp4"), facts(tmp_path / "out/a.mp4")
    assert len(before["times"]) == n and before["sound"]
    assert before == after
    change = (frames_of(tmp_path / "a.mp4") - frames_of(tmp_path / "out/a.mp4")).abs()
    assert change.mean() > 0.01


def test_a_folder_of_clips_of_every_kind(folder, tmp_path, capsys):
    source = tmp_path / "in"
    for name in ("a.mov", "b.mkv", "f.m4v", "older/not_entered.mp4"):
        write_video(source / name, 4, 20, 28, sound=False)
    write_frames(source / "c", 6)
    first, *more = (Image.fromarray(array) for array in drawn(5, 20, 28))
    for name in ("d.gif", "e.webp", "g.png"):
        first.save(source / name, save_all=True, append_images=more, duration=80, loop=0)
    first.save(source / "a.jpg")  # a clip's thumbnail
    assert run(folder, "--input", source, "--out", tmp_path / "out") == 0
    told = capsys.readouterr()
    assert "7 of 7 clips restored" in told.out
    assert told.out.splitlines()[0].endswith("cpu, windows of 9 frames that share 4")
    reasons = "a.jpg (a clip's thumbnail); older (folders: --recursive walks them)"
    assert f"left out: {reasons}" in told.out
    found = clips.clips(source)
    for file in found:
        before, after = clips.open_clip(file), clips.open_clip(tmp_path / "out" / file.name)
        assert (before.size, before.frames, before.rate) == (after.size, after.frames, after.rate)
    assert {f.name for f in (tmp_path / "out").iterdir()} == {f.name for f in found}
    assert {f.name for f in (tmp_path / "out/c").iterdir()} == {f"00{k}.png" for k in range(6)}


def test_it_is_what_the_library_gives(folder, backbone, tmp_path):
    write_frames(tmp_path / "a", 14)
    one, two = (Prompt.load(folder / f"{k}.safetensors") for k in (1, 2))
    clip = frames_of(tmp_path / "a")
    flags = ["--input", tmp_path / "a", "--seed", 7, "--out"]

    def expected(prompts, window, **options) -> torch.Tensor:
        found = restore_stream(backbone, prompts, [clip], steps=2, seed=7, window=window, **options)
        return torch.cat(list(found), 1)

    def written(name: str) -> torch.Tensor:
        return frames_of(tmp_path / name / "a")

    assert run(folder, *flags, tmp_path / "x") == 0
    assert (written("x") - expected([one], 9)).abs().max() <= 0.5 / 255 + 1e-4
    prompts = ["--prompt", folder / "1.safetensors", folder / "2.safetensors"]
    assert run(folder, *prompts, *flags, tmp_path / "y") == 0
    assert (written("y") - expected([one, two], 9)).abs().max() <= 0.5 / 255 + 1e-4
    assert run(folder, *flags, tmp_path / "z", "--window", 13, "--overlap", 8) == 0
    assert (written("z") - expected([one], 13, overlap=8)).abs().max() <= 0.5 / 255 + 1e-4
    for a, b in ("xy", "xz"):
        assert (written(a) - written(b)).abs().mean() > 0.001
    assert (expected([one], 53) - literal(backbone, one, clip)).abs().max() < 1e-5


def literal(backbone, prompt, clip: torch.Tensor) -> torch.Tensor:
    """The whole clip at once: encode, the sampler, decode."""
    y, g = backbone.encode(clip[None]), torch.Generator().manual_seed(7)
    noise = torch.cat([torch.randn(part.shape, generator=g) for part in y.split(1, 2)], 2)
    path = bridge.BRIDGES["desired"]
    x0 = bridge.sample(path, lambda x, s: backbone.velocity(x, s, prompt), y, 2, noise=noise)
    return backbone.decode(x0, tuple(clip.shape[1:]))[0]


def test_targets_give_numbers_and_a_table(folder, tmp_path, capsys):
    for k, n in ((0, 6), (1, 1)):
        write_frames(tmp_path / f"in/{k}", n)
        write_frames(tmp_path / f"gt/{k}", n, seed=1)
    flags = ["--input", tmp_path / "in", "--target", tmp_path / "gt", "--out", tmp_path / "out"]
    assert run(folder, *flags) == 0
    with (tmp_path / "out/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["clip"] for row in rows] == ["0", "1"] and rows[1]["change"] == ""
    for k, row in enumerate(rows):
        clean = frames_of(tmp_path / f"gt/{k}")
        for place, of in (("in", "_degraded"), ("out", "")):
            shown = frames_of(tmp_path / f"{place}/{k}")
            assert float(row["psnr" + of]) == pytest.approx(psnr(shown[None], clean[None]).item())
            alike = ssim(shown.transpose(0, 1), clean.transpose(0, 1)).mean().item()
            assert float(row["ssim" + of]) == pytest.approx(alike)
    for place, of in (("in", "_degraded"), ("out", ""), ("gt", "_clean")):
        change = frames_of(tmp_path / f"{place}/0").diff(dim=1).abs().mean().item()
        assert float(rows[0]["change" + of]) == pytest.approx(change)
    told = capsys.readouterr().out
    assert "0: PSNR" in told and "(clean 0.0" in told and "mean of 2: PSNR" in told


def test_authors_list_brings_its_targets(folder, tmp_path):
    for k in range(2):  # two clips of one name
        write_frames(tmp_path / f"{k}/a", 2)
    rows = [{"image_path": f"{k}/a", "target_path": "1/a"} for k in range(2)]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    assert run(folder, "--input", tmp_path / "list.json", "--out", tmp_path / "out") == 0
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"a", "a-2", "metrics.csv"}


def test_a_picture_is_a_clip_of_one_frame(folder, tmp_path):
    Image.fromarray(drawn(1, 20, 28)[0]).save(tmp_path / "a.png")
    flags = ["--input", tmp_path / "a.png", "--target", tmp_path / "a.png"]
    assert run(folder, *flags, "--out", tmp_path / "out") == 0
    assert pictures.read(tmp_path / "out/a.png").size == (20, 28)


def test_broken_clips_do_not_stop_the_others(folder, tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.mp4", "cut.mp4", "z.mp4"):
        write_video(source / name, 5, 20, 28)
    whole = (source / "cut.mp4").read_bytes()
    (source / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (source / "not.mp4").write_text("no video")
    (source / "empty.mp4").write_bytes(b"")
    write_video(source / "none.mp4", 0, 20, 28, sound=False)
    assert run(folder, "--input", source, "--out", out) == 2
    said = capsys.readouterr()
    told = errors(said.err)
    assert len(told) == 4
    for name in ("cut", "empty", "none", "not"):
        assert len([line for line in told if f"{name}.mp4: " in line]) == 1, told
    assert {f.name for f in out.iterdir()} == {"a.mp4", "z.mp4"}
    assert "2 of 6 clips restored" in said.out


CASES = {
    "no input": "gone: no such file or folder",
    "empty folder": "no clips in it",
    "no target": "gone: no such file or folder",
    "onto itself": "choose another --out",
    "window": "window is 0 frames",
    "overlap": "overlap is 9 frames in a window of 9: 0 to 8 are possible",
    "prompt of another model": "prompt is for flux",
    "other kind of file": "not a clip",
    "steps": "steps is 0",
}


@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_one_line_and_status_2(case, folder, tmp_path, capsys):
    gone, out = tmp_path / "gone", tmp_path / "out"
    write_frames(tmp_path / "in/a", 3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    other = Prompt.load(folder / "1.safetensors")
    other.meta["backbone"] = "flux"
    other.save(tmp_path / "flux.safetensors")
    flags = {
        "no input": ["--input", gone],
        "empty folder": ["--input", tmp_path / "empty"],
        "no target": ["--target", gone],
        "onto itself": ["--out", tmp_path / "in"],
        "window": ["--window", 0],
        "overlap": ["--overlap", 9],
        "prompt of another model": ["--prompt", tmp_path / "flux.safetensors"],
        "other kind of file": ["--input", tmp_path / "notes.txt"],
        "steps": ["--steps", 0],
    }[case]
    assert run(folder, "--input", tmp_path / "in/a", "--out", out, *flags) == 2
    told = errors(capsys.readouterr().err)
    assert len(told) == 1 and CASES[case] in told[0], told
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize("what", ("not finite", "stopped", "no room"))
def test_nothing_half_written_is_left(what, folder, tmp_path, monkeypatch, capsys):
    write_video(tmp_path / "a.mp4", 9, 20, 28)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.mp4").write_text("of an earlier run")

    def breaks(backbone, prompts, frames, **options):
        yield torch.zeros(3, 2, 20, 28)
        if what == "stopped":
            raise KeyboardInterrupt
        if what == "no room":
            raise OSError("a.mp4: cannot be written (No space left on device)")
        yield torch.full((3, 2, 20, 28), torch.nan)

    monkeypatch.setattr(files, "restore_stream", breaks)
    flags = ["--input", tmp_path / "a.mp4", "--out", tmp_path / "out"]
    assert run(folder, *flags) == (130 if what == "stopped" else 2)
    words = {"not finite": "a restored frame is not finite; try --dtype float32"}
    words |= {"stopped": "stopped; ", "no room": "No space left"}
    assert words[what] in capsys.readouterr().err
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["a.mp4"]
    assert (tmp_path / "out/a.mp4").read_text() == "of an earlier run"
