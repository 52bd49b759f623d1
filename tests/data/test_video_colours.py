"""Where colours lie between the pixels, how finely they are kept, and what is said of the rest.

The files are made from planes that are computed here, not by the code that writes clips.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.test_video import copy, said
from tinybridge.data import clips

H, W, WAVE = 48, 128, 16  # a wave of colour is 16 pixels long


def planes(pix_fmt: str, shift: float = 0) -> np.ndarray:
    """Grey with a wave of Cb along x, sampled `shift` pixels to the right of every other pixel."""
    fine = {"yuv420p": (2, 2), "yuv422p": (1, 2), "yuv444p": (1, 1)}[pix_fmt]
    high, wide = H // fine[0], W // fine[1]
    x = np.arange(wide) * fine[1] + shift
    blue = 128 + 60 * np.sin(2 * np.pi * x / WAVE)
    cb = np.broadcast_to(blue.round().astype(np.uint8), (high, wide))
    parts = np.full((H, W), 128, np.uint8), cb, np.full((high, wide), 128, np.uint8)
    flat = np.concatenate([part.ravel() for part in parts])
    return flat.reshape(3, H, W) if pix_fmt == "yuv444p" else flat.reshape(-1, W)


def made(path: Path, codec="libx264", pix_fmt="yuv420p", shift=0.0, tags=None, **options) -> Path:
    """A video of four equal frames."""
    with av.open(str(path), "w") as out:
        usual = {"crf": "4"} if codec in ("libx264", "libvpx-vp9", "libx265") else {}
        track = out.add_stream(codec, rate=25, options=usual | options)
        track.width, track.height, track.pix_fmt = W, H, pix_fmt
        for name, value in (tags or {}).items():
            setattr(track.codec_context, name, value)
        base = pix_fmt if pix_fmt in ("yuv420p", "yuv422p", "yuv444p") else "yuv444p"
        for k in range(4):
            frame = av.VideoFrame.from_ndarray(planes(base, shift), base)
            frame = frame if base == pix_fmt else frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = k, Fraction(1, 25)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return path


def phase(line: np.ndarray, step: float = 1) -> float:
    """Where a wave begins, in pixels; line: its values at every `step` pixels."""
    line = line[8:-8] - line[8:-8].mean()
    x = np.arange(8, 8 + len(line)) * step
    turn = np.angle((line * np.exp(-2j * np.pi * x / WAVE)).sum()) + np.pi / 2
    place = -turn * WAVE / (2 * np.pi)
    return (place + WAVE / 2) % WAVE - WAVE / 2


def cb_phase(path: Path) -> float:
    """Where the wave of the first frame's Cb plane begins, by PyAV."""
    with av.open(str(path)) as file:
        frame = next(file.decode(video=0))
        part = frame.planes[1]
        plane = np.frombuffer(part, np.uint8).reshape(part.height, part.line_size)[:, : part.width]
        return phase(plane.mean(0), W / part.width)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_colours_stay_where_they_are_in_h264(tmp_path, suffix):
    path = made(tmp_path / f"a{suffix}")  # chroma at the left: so it is where a file says nothing
    assert abs(cb_phase(path)) < 0.05
    first = next(clips.read(clips.open_clip(path)))[:, 0]  # [3, H, W]
    assert abs(phase((first[2] - first[1]).mean(0).numpy())) < 0.05
    once = copy(path)[2]
    twice = copy(once)[2]
    assert abs(cb_phase(once)) < 0.05 and abs(cb_phase(twice)) < 0.05


@pytest.mark.parametrize(("siting", "shift"), [("left", 0.0), (None, 0.5)])
def test_colours_stay_where_they_are_in_vp9(tmp_path, siting, shift):
    options = {"chroma_sample_location": siting} if siting else {}
    path = made(tmp_path / "a.webm", "libvpx-vp9", shift=shift, **options)
    first = next(clips.read(clips.open_clip(path)))[:, 0]  # [3, H, W]
    assert abs(phase((first[2] - first[1]).mean(0).numpy())) < 0.05
    again = copy(copy(path)[2])[2]
    assert abs(cb_phase(again) - cb_phase(path)) < 0.05
    first = next(clips.read(clips.open_clip(again)))[:, 0]
    assert abs(phase((first[2] - first[1]).mean(0).numpy())) < 0.05


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt", "kept"),
    [
        (".mp4", "libx264", "yuv444p", "yuv444p"),
        (".mkv", "libx264", "yuv422p", "yuv422p"),
        (".mkv", "ffv1", "bgr0", "yuv444p"),
        (".mov", "qtrle", "rgb24", "yuv444p"),
        (".mkv", "ffv1", "gray", "yuv420p"),
        (".webm", "libvpx-vp9", "yuv444p", "yuv444p"),
    ],
)
def test_colours_stay_as_fine_as_they_were(tmp_path, suffix, codec, pix_fmt, kept):
    one, two, out = copy(made(tmp_path / f"a{suffix}", codec, pix_fmt))
    with av.open(str(out)) as file:
        assert file.streams.video[0].pix_fmt == kept
    assert -10 * (one - two).square().mean().log10() > 40


HDR = {"color_primaries": 9, "color_trc": 16, "colorspace": 9}
LOST = {
    "deep": (".mkv", "ffv1", "yuv420p10le", {}, "10 bit depth"),
    "hdr": (".mp4", "libx264", "yuv420p", HDR, "light levels of HDR (PQ)"),
    "clear": (".mov", "qtrle", "argb", {}, "transparency"),
    "interlaced": (".mp4", "libx264", "yuv420p", {}, "interlacing"),
}


@pytest.mark.parametrize("case", LOST)
def test_what_is_not_kept_is_told(tmp_path, case):
    suffix, codec, pix_fmt, tags, word = LOST[case]
    options = {"x264-params": "interlaced=1:tff=1"} if case == "interlaced" else {}
    path = made(tmp_path / f"a{suffix}", codec, pix_fmt, tags=tags, **options)
    [note] = clips.open_clip(path).notes
    assert note == f"{path}: not kept: {note.split('kept: ')[1]}" and word in note


def test_clear_parts_of_webm(tmp_path):
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as out:
        track = out.add_stream("libvpx-vp9", rate=25)
        track.width, track.height, track.pix_fmt = W, H, "yuv420p"
        track.metadata["alpha_mode"] = "1"
        frame = av.VideoFrame.from_ndarray(planes("yuv420p"), "yuv420p")
        out.mux(track.encode(frame))
        out.mux(track.encode(None))
    assert "not kept: transparency" in clips.open_clip(path).notes[0]


def test_colours_that_are_not_understood(tmp_path):
    path = made(tmp_path / "a.mp4", tags={"colorspace": 8})
    assert "its colours are YCgCo; convert it to BT.709 first" in said(path)


def test_frames_too_large_to_be_read(tmp_path, monkeypatch):
    path = made(tmp_path / "a.mp4")
    monkeypatch.setattr("tinybridge.data.clip.LARGEST", H * W)
    assert clips.open_clip(path).frames == 4
    monkeypatch.setattr("tinybridge.data.clip.LARGEST", H * W - 1)
    with pytest.raises(ValueError, match=f"a.mp4: frames of {W}x{H}; up to"):
        clips.open_clip(path)


def test_another_container_by_a_wrong_name(tmp_path):
    made(tmp_path / "a.avi").rename(tmp_path / "a.mp4")
    assert "not an MP4 or Matroska file" in said(tmp_path / "a.mp4")
