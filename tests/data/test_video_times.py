"""When pictures and sound of a video file begin and end: odd times that files have."""

import itertools
from fractions import Fraction

import av
import pytest

from tests.data.test_video import TICKS, copy, film_file, said
from tests.data.test_video_files import encoder, fill, held, shot, sound, times, tone
from tinybridge.data import clips


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_the_last_picture_keeps_its_length(tmp_path, suffix):
    path, starts = tmp_path / f"a{suffix}", [0, 1, 3, 4, 9]  # slides of 1, 2, 1 and 5 seconds
    # Equal ones: an encoder that may would decode the last before others.
    with av.open(str(path), "w") as out:
        track = encoder(out, path, bf="0")
        track.codec_context.flags |= av.codec.context.Flags.frame_duration
        for k in range(4):
            last = (starts[k + 1] - starts[k]) * TICKS
            out.mux(track.encode(shot(0, track, starts[k] * TICKS, last)))
        out.mux(track.encode(None))
    _, _, made = copy(path)
    assert times(path)[1] == times(made)[1] == 9
    assert times(made)[0] == starts[:4]


def test_times_that_do_not_rise_are_moved_by_a_tick(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        track = encoder(out, path, codec="mjpeg", H=48)
        track.pix_fmt, packets = "yuvj420p", []
        for k in range(8):
            packets += track.encode(shot(k, track))
        for k, packet in enumerate([*packets, *track.encode(None)]):
            stamp = {3: 2, 5: 1}.get(k, k) * 3600  # one time twice, and one that goes back
            packet.pts, packet.dts = stamp + 900, 90 * k
            out.mux(packet)
    clip = clips.open_clip(path)
    assert clip.frames == 8 and "2 times that do not rise" in clip.notes[-1]
    _, _, made = copy(path)
    found = times(made)[0]
    assert len(found) == 8 and all(a < b for a, b in itertools.pairwise(found))
    assert [found[k] - found[0] for k in (4, 7)] == [Fraction(4, 25), Fraction(7, 25)]


def test_a_frame_that_lasts_for_weeks(tmp_path):
    path = film_file(tmp_path / "a.mkv", 2, 48, 64, tracks=0, times=[0, (2**31 + 999) * 90])
    assert "frame 1 lasts 597 hours: its times are damaged" in said(path)


def test_times_of_sound_that_do_not_rise(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        tracks = encoder(out, path), sound(out, path)
        tone(out, tracks[1])
        fill(out, tracks[0])
    data, clusters = path.read_bytes(), []
    with av.open(str(path)) as file:
        clusters = [p.pos for p in file.demux(audio=0) if p.size]
    at = data.index(b"\x82", clusters[9])  # track 2 of a block, its time follows
    path.write_bytes(data[: at + 1] + b"\x00\x01" + data[at + 3 :])
    assert "1 times that do not rise" in clips.open_clip(path).notes[-1]
    _, _, made = copy(path)
    assert held(made) == held(path)
