"""Video files: what a restoration must keep of its input, and what is said of files that are bad.

The files are made here, by PyAV alone. Unless a test says otherwise the restored frames are the
input's own, so everything that differs afterwards is the fault of reading and writing.
"""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tinybridge.data import clips, container, video, video_writer

TICKS = 90000
SOUND = {".webm": "libopus"}  # AAC elsewhere
BT709 = {"colorspace": 1, "color_range": 1, "color_primaries": 1, "color_trc": 1}
BT601 = {"colorspace": 6, "color_range": 1, "color_primaries": 6, "color_trc": 6}
WIDE = {"colorspace": 1, "color_range": 2, "color_primaries": 1, "color_trc": 1}


def pixels(k: int, H: int, W: int) -> np.ndarray:
    """Smooth colours that drift, [H, W, 3]; every corner is another one."""
    y, x = np.mgrid[0:H, 0:W] / (np.array([H, W])[:, None, None] - 1)
    return (np.stack([0.2 + 0.6 * x, 0.2 + 0.6 * y, 0.5 + 0.02 * k + 0 * x], -1) * 255).astype("u1")


def film_file(
    path: Path, n: int = 8, H: int = 96, W: int = 128, rate: int | Fraction = 25, tracks: int = 1,
    times: list[int] | None = None, tags: dict | None = None, turn: int = 0, codec: str = "",
    options: dict | None = None, delay: int = 0, fill: bool = True,
) -> Path:  # fmt: skip
    """n frames, and a sine for every track of sound from 0 on; times and delay in 1/90000 s."""
    webm = path.suffix == ".webm"
    with av.open(str(path), "w", options=options or {}) as out:
        v = out.add_stream(codec or ("libvpx-vp9" if webm else "libx264"), rate=rate)
        v.width, v.height, v.codec_context.time_base = W, H, Fraction(1, TICKS)
        v.pix_fmt = "yuv420p" if webm or (H % 2 + W % 2) == 0 else "yuv444p"
        v.codec_context.options = (
            {"crf": "10", "b": "0", "cpu-used": "8"}
            if webm
            else {"crf": "10", "preset": "veryfast"}
        )
        for name, value in (tags or {}).items():
            setattr(v.codec_context, name, value)
        if turn:
            v.set_display_rotation(turn)
        sounds = [out.add_stream(SOUND.get(path.suffix, "aac"), rate=48000) for _ in range(tracks)]
        for sound in sounds:  # all before the first packet
            sound.layout = "mono"
        for pitch, sound in enumerate(sounds, 1):
            wave = np.sin(np.arange(int(48000 * n / rate)) * 0.05 * pitch)[None].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(0.3 * wave, "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
            out.mux(sound.encode(frame))
            out.mux(sound.encode(None))
        for k in range(n if fill else 0):
            frame = av.VideoFrame.from_ndarray(pixels(k, H, W), "rgb24").reformat(
                format=v.pix_fmt, dst_colorspace=1 if tags in (BT709, WIDE) else 5,
                dst_color_range=2 if tags is WIDE else 1, interpolation=video.EXACT,
            )  # fmt: skip
            frame.pts = times[k] if times else round(k * TICKS / rate) + delay
            frame.time_base = Fraction(1, TICKS)
            out.mux(v.encode(frame))
        if fill:
            out.mux(v.encode(None))
    return path


def drawn(n: int, turns: int = 0) -> torch.Tensor:
    """[3, n, 96, 128] as the files were made, or turned to the left."""
    frames = np.stack([np.rot90(pixels(k, 96, 128), turns) for k in range(n)])
    return torch.from_numpy(frames).permute(3, 0, 1, 2) / 255


def told(path: Path) -> dict[str, object]:
    """What a file says of itself, by PyAV: times in seconds, sound by track, bit for bit."""
    with av.open(str(path)) as file:
        v, packets = file.streams.video[0], [p for p in file.demux() if p.size]
        return {
            "length": file.duration / 1e6,
            "rate": v.average_rate,
            "times": sorted(p.pts * p.time_base for p in packets if p.stream is v),
            "sound": [
                [(p.pts * p.time_base, bytes(p)) for p in packets if p.stream is track]
                for track in file.streams.audio
            ],
            "colour": tuple(getattr(v.codec_context, name) for name in BT709),
        }


def write(path: Path, chunks: Iterable[torch.Tensor], like: clips.Clip) -> None:
    """Chunks [3, n, H, W] into a clip, frame by frame."""
    with clips.writer(path, like) as out:
        for chunk in chunks:
            for frame in chunk.unbind(1):
                out.write(frame)


def copy(path: Path) -> tuple[torch.Tensor, torch.Tensor, Path]:
    """Frames [3, T, H, W] before and after, and the file written."""
    clip, out = clips.open_clip(path), path.with_name("out") / path.name
    write(out, clips.read(clip), clip)
    assert [f.name for f in out.parent.iterdir()] == [path.name]  # nothing temporary stays
    again = clips.open_clip(out)
    assert (again.size, again.frames) == (clip.size, clip.frames)
    return torch.cat(list(clips.read(clip)), 1), torch.cat(list(clips.read(again)), 1), out


def near(one: torch.Tensor, two: torch.Tensor) -> None:
    """PSNR above 38 dB, and no colour moved by as much as one step of 8 bit."""
    assert -10 * (one - two).square().mean().log10() > 38
    assert (one - two).mean((1, 2, 3)).abs().max() < 1 / 255


@pytest.mark.parametrize("suffix", container.MUXERS)
def test_everything_comes_back(tmp_path, suffix):
    path = film_file(tmp_path / f"a{suffix}", rate=Fraction(30000, 1001), tracks=2)
    one, two, out = copy(path)
    near(one, two)
    near(one, drawn(8))
    before, after = told(path), told(out)
    assert len(before["sound"]) == 2 and min(map(len, before["sound"])) > 8
    assert after["sound"] == before["sound"]  # times and bytes: in step with the pictures
    assert after["times"] == before["times"] and after["rate"] == before["rate"]
    assert after["length"] == pytest.approx(before["length"], abs=0.022)  # within a packet of sound


@pytest.mark.parametrize(("H", "W"), [(65, 95), (66, 95), (65, 96)])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_odd_sizes(tmp_path, suffix, H, W):
    one, two, _ = copy(film_file(tmp_path / f"a{suffix}", 3, H, W, tracks=0))
    assert one.shape == two.shape == (3, 3, H, W)
    near(one, two)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate_keeps_every_time(tmp_path, suffix):
    times = [0, 1800, 3600, 18000, 19800, 27000, 45000, 46800]
    path = film_file(tmp_path / f"a{suffix}", 8, times=times)
    notes = clips.open_clip(path).notes
    assert len(notes) == 1 and "variable frame rate" in notes[0] and str(path) in notes[0]
    _, _, out = copy(path)
    assert told(out)["times"] == told(path)["times"] == [Fraction(t, TICKS) for t in times]
    assert told(out)["sound"] == told(path)["sound"]
    assert clips.open_clip(film_file(tmp_path / f"b{suffix}", 8, rate=24)).notes == ()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_pictures_that_begin_after_the_sound(tmp_path, suffix):
    path = film_file(tmp_path / f"a{suffix}", delay=TICKS // 5)
    _, _, out = copy(path)
    before, after = told(path), told(out)
    assert after["times"] == before["times"] and before["times"][0] == Fraction(1, 5)
    assert after["sound"] == before["sound"]


@pytest.mark.parametrize("turn", [90, -90, 180])
def test_turned_videos_stand_upright(tmp_path, turn):
    path = film_file(tmp_path / "a.mp4", 3, tracks=0, turn=turn)
    one, two, out = copy(path)
    near(one, drawn(3, turn // 90))
    near(one, two)
    with av.open(str(out)) as file:
        assert next(file.decode(video=0)).rotation == 0


def test_mirrored_videos_too(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        v = out.add_stream("libx264", rate=5, options={"crf": "10"})
        v.width, v.height = 128, 96
        v.set_display_rotation(0, hflip=True)
        frame = av.VideoFrame.from_ndarray(pixels(0, 96, 128), "rgb24")
        out.mux(v.encode(frame.reformat(format="yuv420p", interpolation=video.EXACT)))
        out.mux(v.encode(None))
    near(next(clips.read(clips.open_clip(path))), drawn(1).flip(-1))


@pytest.mark.parametrize("tags", [BT709, BT601, WIDE, None], ids=["709", "601", "full", "none"])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_colours_and_what_the_file_calls_them(tmp_path, suffix, tags):
    path = film_file(tmp_path / f"a{suffix}", 3, tracks=0, tags=tags)
    one, two, out = copy(path)
    near(one, drawn(3))
    near(one, two)
    names = told(path)["colour"]
    assert told(out)["colour"] == (names if tags is not WIDE else (names[0], 1, *names[2:]))
    assert tags is None or suffix == ".webm" or names == tuple(tags.values())


def test_shape_of_pixels(tmp_path):
    path = film_file(tmp_path / "a.mp4", 2, tracks=0, tags={"sample_aspect_ratio": Fraction(4, 3)})
    with av.open(str(copy(path)[2])) as file:
        assert file.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_one_frame_at_a_time(tmp_path, monkeypatch):
    clip, pulled, written = clips.open_clip(film_file(tmp_path / "a.mp4", 24)), [], []

    def restored():
        for frame in clips.read(clip):
            assert frame.shape == (3, 1, 96, 128) and len(pulled) == len(written)
            pulled.append(frame.sum())
            yield frame

    real = video_writer.to_bytes

    def noted(shot):
        written.append(shot.sum())
        return real(shot)

    monkeypatch.setattr(video_writer, "to_bytes", noted)
    write(tmp_path / "b.mp4", restored(), clip)
    assert len(pulled) == 24 and pulled == written


def test_a_file_that_changed_after_it_was_opened(tmp_path):
    for then in (5, 11):
        clip = clips.open_clip(film_file(tmp_path / "a.mp4", 8, tracks=0))
        film_file(tmp_path / "a.mp4", then, tracks=0)
        with pytest.raises(ValueError, match=f"a.mp4: {then} frames where 8 were found at first"):
            copied = list(clips.read(clip))
            pytest.fail(f"{len(copied)} frames came")


# ---- what is said of bad files ------------------------------------------------------------------


def said(path: Path) -> str:
    """The one line with which a file is refused, whether at first sight or while it is read."""
    with pytest.raises(ValueError) as caught:
        list(clips.read(clips.open_clip(path)))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_files_that_break_off(tmp_path, suffix, share):
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    whole = film_file(tmp_path / f"a{suffix}", 20, options=options).read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    line = said(path)
    assert "breaks off" in line
    assert (
        share < 0.3 or suffix != ".mp4" or ("of 20 frames" in line and f"of {len(whole)} b" in line)
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_that_lost_its_index(tmp_path, share):
    whole = film_file(tmp_path / "a.mp4", 20).read_bytes()  # the index comes last
    (tmp_path / "b.mp4").write_bytes(whole[: int(len(whole) * share)])
    assert "breaks off" in said(tmp_path / "b.mp4")


def test_files_that_are_no_videos(tmp_path):
    for name in ("text.mp4", "text.mkv", "text.webm"):
        (tmp_path / name).write_text("a shopping list\n" * 99)
        assert "not an MP4 or Matroska file" in said(tmp_path / name)
    (tmp_path / "empty.mov").write_bytes(b"")
    assert "not an MP4 or Matroska file" in said(tmp_path / "empty.mov")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    assert "not an MP4 or Matroska file" in said(
        tmp_path / "list.mp4"
    )  # it could name any other file
    assert "no frames" in said(film_file(tmp_path / "none.mkv", fill=False))
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        sound = out.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 4800), np.float32), "fltp", "stereo")
        frame.sample_rate = 48000
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    assert "no video in it, only audio" in said(tmp_path / "sound.mp4")
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        clips.open_clip(tmp_path / "gone.mp4")
    (tmp_path / "a.avi").write_bytes(b"RIFF")
    assert "not a clip" in said(tmp_path / "a.avi") and ".mp4" in said(tmp_path / "a.avi")


def test_nothing_of_libav_reaches_the_terminal(tmp_path, capfd):
    path = film_file(tmp_path / "a.mp4", 20, options={"movflags": "faststart"})
    copy(path)
    path.write_bytes(path.read_bytes()[:3000])
    said(path)
    assert capfd.readouterr() == ("", "")
