"""Video files as people have them: tracks in any order, odd times, damage, and what is not kept.

Made by PyAV alone, and looked at by PyAV alone: frames are counted and placed by their packets.
"""

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from tests.data.test_video import SOUND, TICKS, copy, film_file, pixels, said
from tinybridge.data import clips, container

BASE = Fraction(1, TICKS)


def encoder(out, path: Path, H: int = 48, W: int = 64, codec: str = "", **options: str):
    """A track of video in an open container, small and fast."""
    webm = path.suffix == ".webm"
    codec = codec or ("libvpx-vp9" if webm else "libx264")
    usual = {"cpu-used": "8", "b": "0", "crf": "10"} if "vp" in codec else {"crf": "10"}
    track = out.add_stream(codec, rate=25, options=usual | options)
    track.width, track.height, track.codec_context.time_base = W, H, BASE
    track.pix_fmt = "yuv420p"
    return track


def shot(k: int, track, time: int | None = None, last: int = 3600) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(pixels(k, track.height, track.width), "rgb24")
    frame = frame.reformat(format=track.pix_fmt)
    frame.pts, frame.time_base, frame.duration = 3600 * k if time is None else time, BASE, last
    return frame


def fill(out, track, n: int = 20) -> None:
    for k in range(n):
        out.mux(track.encode(shot(k, track)))
    out.mux(track.encode(None))


def tone(out, track, seconds: float = 0.8) -> None:
    wave = np.sin(np.arange(int(48000 * seconds)) * 0.05)[None].astype(np.float32)
    frame = av.AudioFrame.from_ndarray(0.3 * wave, "fltp", "mono")
    frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
    out.mux(track.encode(frame))
    out.mux(track.encode(None))


def sound(out, path: Path):
    track = out.add_stream(SOUND.get(path.suffix, "aac"), rate=48000)
    track.layout = "mono"
    return track


def held(path: Path) -> dict[str, int]:
    """Packets by kind of track."""
    with av.open(str(path)) as file:
        found: dict[str, int] = {}
        for packet in file.demux():
            found[packet.stream.type] = found.get(packet.stream.type, 0) + bool(packet.size)
        return found


def times(path: Path) -> tuple[list[Fraction], Fraction]:
    """When the pictures begin, by their packets, and the length that the file names."""
    with av.open(str(path)) as file:
        track = file.streams.video[0]
        found = sorted(p.pts * track.time_base for p in file.demux(track) if p.size)
        told = track.duration * track.time_base if track.duration else file.duration / 10**6
        return found, told


@pytest.mark.parametrize("n", [1, 2, 3, 20])
@pytest.mark.parametrize("suffix", container.MUXERS)
def test_no_frame_is_lost_when_the_sound_comes_first(tmp_path, suffix, n):
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w", format=container.MUXERS[suffix]) as out:
        first, second = sound(out, path), encoder(out, path, **{"bf": "3"} if n > 1 else {})
        tone(out, first, n / 25)
        fill(out, second, n)
    _, _, made = copy(path)
    assert held(path)["video"] == held(made)["video"] == n
    assert held(path)["audio"] == held(made)["audio"] > 0
    assert times(path)[0] == times(made)[0]


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_track_of_an_unknown_codec_is_left_out_with_a_word(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as out:
        tracks = encoder(out, path), sound(out, path), sound(out, path)
        for track in tracks[1:]:
            tone(out, track)
        fill(out, tracks[0])
    data = path.read_bytes()  # as phones write it since 2024: apac beside AAC
    at = data.rindex(b"stsd")
    data = data[:at] + data[at:].replace(b"mp4a", b"apac").replace(b"esds", b"dapa")
    path.write_bytes(data)
    [note] = clips.open_clip(path).notes
    assert "not kept: track 3 (audio of unknown codec)" in note and str(path) in note
    _, _, made = copy(path)
    assert held(made) == {"video": 20, "audio": held(path)["audio"] // 2}


def test_sound_without_a_sampling_rate_is_left_out(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        tracks = encoder(out, path), sound(out, path)
        tone(out, tracks[1])
        fill(out, tracks[0])
    data = path.read_bytes()
    for right, wrong in (  # the element of Matroska, and the index in AAC's own header
        (b"\xb5\x88\x40\xe7\x70\x00", b"\xb5\x88\x00\x00\x00\x00"),
        (b"\x11\x88", b"\x16\x88"),
    ):
        assert right in data
        data = data.replace(right, wrong, 1)
    path.write_bytes(data)
    assert "track 2 (audio of unknown codec)" in clips.open_clip(path).notes[-1]
    assert held(copy(path)[2]) == {"video": 20}


@pytest.mark.parametrize("default", [0, 1])
def test_the_track_that_players_choose(tmp_path, default):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        tracks = [encoder(out, path, 32, 32), encoder(out, path, 48, 64)]
        for k, track in enumerate(tracks):
            track.disposition = Disposition.default if k == default else Disposition(0)
        for track in tracks:
            fill(out, track, 4)
    clip = clips.open_clip(path)
    assert clip.size == [(32, 32), (48, 64)][default]
    assert f"not kept: track {2 - default} (video)" in clip.notes[0]


def with_cover(path: Path, video: bool) -> Path:
    with av.open(str(path), "w") as out:
        cover = out.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 200, 200, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        track = encoder(out, path) if video else sound(out, path)
        out.mux(cover.encode(shot(0, cover, 0)))
        out.mux(cover.encode(None))
        fill(out, track, 4) if video else tone(out, track)
    return path


def test_a_cover_is_no_video(tmp_path):
    clip = clips.open_clip(with_cover(tmp_path / "a.mp4", True))
    assert (clip.size, clip.frames) == ((48, 64), 4)
    assert "not kept: track" in clip.notes[0] and "(cover)" in clip.notes[0]
    assert "no video in it, only audio, cover" in said(with_cover(tmp_path / "b.mp4", False))


@pytest.mark.parametrize("shape", [Fraction(64, 45), Fraction(3, 4)])
@pytest.mark.parametrize("size", [(48, 64), (288, 720)])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_the_shape_of_pixels_in_every_container(tmp_path, suffix, size, shape):
    path = tmp_path / "a.mp4"  # an MP4 says it whatever is inside
    with av.open(str(path), "w") as out:
        track = encoder(out, path, *size)
        track.codec_context.sample_aspect_ratio = shape
        fill(out, track, 2)
    clip, made = clips.open_clip(path), tmp_path / f"b{suffix}"
    with clips.writer(made, clip) as out:
        for frame in clips.read(clip):
            out.write(frame[:, 0])
    with av.open(str(made)) as file:
        found = file.streams.video[0].sample_aspect_ratio
        assert sum(1 for _ in file.decode(video=0)) == 2
    exact = shape if suffix != ".webm" else Fraction(round(size[1] * shape), size[1])
    assert found == exact
    if suffix in (".mkv", ".webm"):
        assert made.read_bytes().count(b"\x54\xb0\x84") == 1  # DisplayWidth
    assert clips.open_clip(made).tags["sample_aspect_ratio"] == exact


def without(path: Path, lost: range) -> Path:
    """A copy of a file that lacks some of its packets."""
    part = path.with_name(f"part{path.suffix}")
    with av.open(str(path)) as file, av.open(str(part), "w") as out:
        track = file.streams.video[0]
        new = out.add_stream_from_template(track)
        for k, packet in enumerate(file.demux(track)):
            if packet.size and k not in lost:
                packet.stream = new
                out.mux(packet)
    return part


def test_frames_that_cannot_be_decoded_are_told(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        fill(out, encoder(out, path, g="10", bf="0"), 30)
    clip = clips.open_clip(without(path, range(3)))  # no key frame at first
    shown = len(list(clips.read(clip)))
    lost = held(clip.path)["video"] - shown
    assert 20 <= clip.frames == shown
    assert not lost or f"not kept: {lost} of 27 frames, which cannot be decoded" in clip.notes[-1]


def test_packets_that_are_missing_are_told(tmp_path, capfd):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        fill(out, encoder(out, path, bf="3"), 30)
    clip = clips.open_clip(without(path, range(7, 11)))
    assert clip.frames == 26 and "not kept: what is damaged (h264: " in clip.notes[-1]
    made = copy(clip.path)[2]
    found = times(made)[0]
    assert len(found) == 26 and all(a < b for a, b in itertools.pairwise(found))
    assert capfd.readouterr() == ("", "")


def test_damage_is_told_and_does_not_stop_a_clip(tmp_path):
    path = film_file(tmp_path / "a.mp4", 30, 48, 64, tracks=0)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        packets = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
    at, size = packets[12]
    data[at + 4 : at + size] = bytes([255]) * (size - 4)
    path.write_bytes(data)
    clip = clips.open_clip(path)
    assert len(list(clips.read(clip))) == clip.frames >= 28
    words = ("cannot be decoded", "damaged")
    assert "not kept: 1 of" in clip.notes[-1] and any(word in clip.notes[-1] for word in words)


def test_titles_chapters_languages_and_subtitles_are_kept(tmp_path):
    path = tmp_path / "a.mkv"
    chapters = [
        {"id": k, "start": 400 * k, "end": 400 * k + 400, "time_base": Fraction(1, 1000),
         "metadata": {"title": name}}
        for k, name in enumerate(("one", "two"))
    ]  # fmt: skip
    with av.open(str(path), "w") as out:
        tracks = encoder(out, path), sound(out, path), out.add_mux_stream("subrip")
        for track, language in zip(tracks, ("fre", "ger", "eng"), strict=True):
            track.metadata["language"] = language
        tracks[2].time_base = Fraction(1, 1000)
        out.add_attachment("font.ttf", "font/ttf", b"some letters")
        out.metadata["title"] = "My film"
        out.set_chapters(chapters)
        tone(out, tracks[1])
        line = av.Packet(b"hello")
        line.stream, line.pts, line.dts, line.duration = tracks[2], 100, 100, 300
        line.time_base = Fraction(1, 1000)
        out.mux(line)
        fill(out, tracks[0])

    def kept(file: Path) -> tuple:
        with av.open(str(file)) as shown:
            lines = [bytes(p) for p in shown.demux(subtitles=0) if p.size]
            languages = [t.metadata.get("language") for t in shown.streams]
            titles = [chapter["metadata"]["title"] for chapter in shown.chapters()]
            return lines, languages, titles, shown.metadata["title"], len(shown.streams)

    _, _, made = copy(path)
    assert clips.open_clip(path).notes == ()
    assert kept(made) == kept(path)
    assert kept(path)[:3] == ([b"hello"], ["fre", "ger", "eng", None], ["one", "two"])
