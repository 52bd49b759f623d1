"""Video files in and out, frame by frame, with their sound: what PyAV is needed for.

The frames of a file are decoded, those that take their place are encoded anew (H.264 in .mp4, .mov
and .mkv, VP9 in .webm), each at its own time, and the audio packets are copied bit for bit. Frames
are 8 bit RGB, deeper ones are rounded; they go back with the colour matrix and transfer that the
file names, so HDR stays HDR in 8 bit, always in limited range: the scaler's full range is off by
half a step. Phone videos come out upright. Left out: transparency, subtitles, data tracks, further
video tracks, titles.

Letters: H W size in pixels, n frames of a chunk.
"""

import itertools
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MUXERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
H264 = {"crf": "13", "preset": "medium"}
VP9 = {"crf": "13", "b": "0", "deadline": "good", "cpu-used": "4"}
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}  # number in the file: the scaler's number
COLOURS = ("colorspace", "color_range", "color_primaries", "color_trc")
EXACT = 4 | 0x40000 | 0x2000  # the scaler's flags: bicubic, accurate rounding, full chroma
UNSAID, LIMITED = 2, 1  # a matrix that is not named; the range 16..235


@dataclass(frozen=True)
class Clip:
    """What is known of a clip before it is restored.

    size (H, W) upright; frames as the packets of the file tell, before any is decoded;
    rate in frames per second, their mean where it varies, None for pictures; kind "video",
    "animation" or "pictures"; notes: lines to be told once; tags: colour and shape of the pixels,
    by the names of the encoder's attributes.
    """

    path: Path
    size: tuple[int, int]
    frames: int
    rate: Fraction | None
    kind: str
    notes: tuple[str, ...] = ()
    tags: dict[str, Any] = field(default_factory=dict)


# ---- what every kind of clip shares ------------------------------------------------------------


def differs(path: Path, size: Sequence[int], other: object, expected: Sequence[int]) -> str:
    (H, W), (h, w) = size, expected
    return f"{path} is {W}x{H} but {other} is {w}x{h}: both must have one size"


def matched(
    marks: Iterable[Any], frames: Iterable[Tensor], like: Clip
) -> Iterator[tuple[Any, Tensor]]:
    """Each mark with its frame [3, H, W], pulled one at a time; ValueError if one is left over."""
    shots, n = (chunk[:, k] for chunk in frames for k in range(chunk.shape[1])), 0
    for n, mark in enumerate(marks, 1):
        pixels = next(shots, None)
        if pixels is None:
            raise ValueError(f"{like.path}: only {n - 1} frames came back, it has more")
        if tuple(pixels.shape[1:]) != like.size:
            raise ValueError(differs(like.path, like.size, "what came back", pixels.shape[1:]))
        yield mark, pixels
    if next(shots, None) is not None:
        raise ValueError(f"{like.path}: more frames came back than the {n} it has")


def to_bytes(pixels: Tensor) -> np.ndarray:
    """[H, W, 3] in 0..255 of [3, H, W] in 0..1."""
    whole = (pixels.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    return whole.permute(1, 2, 0).contiguous().numpy()


def put(path: Path, call: Callable, *args: object) -> Any:
    """What `call` returns; whatever goes wrong in it is an OSError about `path`."""
    try:
        return call(*args)
    except (OSError, ValueError) as error:  # libav's errors are the one or the other
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{path}: cannot be written ({reason})") from None


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, moved into its place at the end, or removed."""
    scratch, older = path.with_name(path.name + ".tmp"), path.with_name(path.name + ".old")
    put(path, partial(path.parent.mkdir, parents=True, exist_ok=True))
    try:
        yield scratch
        if path.is_dir() and scratch.is_dir():  # not replaced in one step
            put(path, os.replace, path, older)
        put(path, os.replace, scratch, path)
        shutil.rmtree(older, ignore_errors=True)
    finally:
        with suppress(OSError):
            shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()


# ---- video files -------------------------------------------------------------------------------


@contextmanager
def _source(path: Path) -> Iterator[tuple[Any, Any]]:
    """An open container and its video stream."""
    import av

    allowed = {"format_whitelist": "mov,matroska"}  # playlists could name other files
    early = path.stat().st_size < _promised(path) and "breaks off before its first frame"
    try:
        container = av.open(str(path), options=allowed, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: {early or f'not a video ({error.strerror})'}") from None
    with container:
        cover = av.stream.Disposition.attached_pic
        videos = [s for s in container.streams.video if not s.disposition & cover]
        if not videos:
            held = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise ValueError(f"{path}: {early or f'no video in it, only {held}'}")
        yield container, videos[0]


def _promised(path: Path) -> int:
    """Where a file ends by its own word: its MP4 boxes or Matroska segment; 0 if it has none."""
    with path.open("rb") as file:
        head, at, end = file.read(4096), 0, 0
        if segment := head.find(b"\x18S\x80g") + 4 if head[:4] == b"\x1aE\xdf\xa3" else 0:
            width = 9 - head[segment].bit_length()
            size = int.from_bytes(head[segment : segment + width]) & ((1 << 7 * width) - 1)
            live = size + 1 == 1 << 7 * width  # written without knowing its end
            return 0 if live else segment + width + size
        file.seek(0)
        while len(box := file.read(16)) >= 8:
            size, kind = struct.unpack(">I4s", box[:8])
            size = int.from_bytes(box[8:]) if size == 1 else size
            if size < 8:  # up to the end of the file, or no box
                break
            at += size
            end = at if kind in (b"moov", b"mdat", b"moof") else end
            file.seek(at)
    return end


def _play(path: Path, container: Any, video: Any) -> Iterator[Any]:
    """The packets of sound and the decoded frames, in the order of the file."""
    import av

    n = 0
    try:
        for packet in container.demux(video, *container.streams.audio):
            if packet.stream_index == video.index:
                for frame in packet.decode():
                    n += 1
                    yield frame
            elif packet.size:
                yield packet
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: breaks off after {n} frames ({error.strerror})") from None


def probe(path: Path) -> Clip:
    """All packets are looked at, and the first frame. ValueError in one line."""
    import av

    times, first = [], None
    with _source(path) as (container, video):
        try:
            for packet in container.demux(video):
                if packet.size and not packet.is_discard:
                    times.append(packet.pts)
                first = next(iter(packet.decode()), None) if first is None else first
        except (av.FFmpegError, OSError):
            first = None
        size, promised = path.stat().st_size, _promised(path)
        if size < promised:
            frames = f"{len(times)} of {video.frames or 'more'} frames"
            raise ValueError(f"{path}: breaks off: {size} of {promised} bytes, {frames} are there")
        if first is None:
            told = f"none of its {len(times)} frames can be decoded" if times else "no frames in it"
            raise ValueError(f"{path}: {told}")
        rate = video.average_rate or video.guessed_rate or Fraction(25)
        tags = {name: int(getattr(first, name)) for name in COLOURS}
        tags["color_range"] = min(tags["color_range"], LIMITED)
        if first.format.is_rgb:
            tags["colorspace"] = UNSAID
        upright = _upright(np.empty((first.height, first.width)), first).shape
        if shape := video.sample_aspect_ratio:
            tags["sample_aspect_ratio"] = shape if upright[0] == first.height else 1 / shape
    gaps = [late - early for early, late in itertools.pairwise(sorted(times))]
    return Clip(path, upright, len(times), rate, "video", notes(path, rate, gaps), tags)


def notes(path: Path, rate: Fraction | None, gaps: Sequence[int]) -> tuple[str, ...]:
    """What to tell of times between frames that differ by more than their rounding."""
    if not gaps or (max(gaps) - min(gaps)) * 4 <= min(gaps):
        return ()
    about = f", {float(rate):.2f} frames per second on the average" if rate else ""
    return (f"{path}: variable frame rate{about}; every frame keeps its time",)


def _matrix(colorspace: int, *size: int) -> int:
    """The scaler's matrix; what a file leaves unsaid is guessed by its size, as players do."""
    return MATRICES.get(colorspace, 1 if min(size) > 576 else 5)


def _upright(array: np.ndarray, frame: Any) -> np.ndarray:
    """[H, W, ...] turned and mirrored as the frame's display matrix says."""
    if matrix := frame.side_data.get("DISPLAYMATRIX"):
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5]  # x' = ax + cy, y' = bx + dy
        if abs(a) < abs(b):
            array, a, d = array.swapaxes(0, 1), c, b
        array = array[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return array


def frames(path: Path) -> Iterator[Tensor]:
    """[3, H, W] in 0..1 each. ValueError if the file breaks off."""
    import av

    scaler = av.video.reformatter.VideoReformatter()
    with _source(path) as (container, video):
        for shot in _play(path, container, video):
            if isinstance(shot, av.VideoFrame):
                matrix = _matrix(shot.colorspace, shot.height, shot.width)
                rgb = scaler.reformat(
                    shot, format="rgb24", src_colorspace=matrix, interpolation=EXACT
                )
                array = _upright(rgb.to_ndarray(), shot).astype(np.float32) / 255  # [H, W, 3]
                yield torch.from_numpy(array).permute(2, 0, 1)


def save(path: Path, scratch: Path, frames: Iterable[Tensor], like: Clip) -> None:
    """Plays `like` again beside the new frames: for its times, and for its sound as it lies."""
    import av

    (H, W), scaler = like.size, av.video.reformatter.VideoReformatter()
    with _source(like.path) as (container, video):
        out = put(path, partial(av.open, str(scratch), "w", format=MUXERS[path.suffix.lower()]))
        try:
            vp9 = path.suffix.lower() == ".webm"
            codec, options = ("libvpx-vp9", VP9) if vp9 else ("libx264", H264)
            encoder = out.add_stream(codec, rate=like.rate, options=options)
            context = encoder.codec_context
            context.width, context.height, context.time_base = W, H, video.time_base
            context.pix_fmt = "yuv420p" if vp9 or H % 2 + W % 2 == 0 else "yuv444p"
            context.flags |= av.codec.context.Flags.frame_duration
            for name, value in like.tags.items():
                setattr(context, name, value)
            sound = {s.index: _copied(path, out, s) for s in container.streams.audio}
            put(path, out.start_encoding)

            def marks() -> Iterator[Any]:
                for shot in _play(like.path, container, video):
                    if isinstance(shot, av.VideoFrame):
                        yield shot
                    else:
                        shot.stream = sound[shot.stream_index]
                        put(path, out.mux, shot)

            for mark, pixels in matched(marks(), frames, like):
                frame = scaler.reformat(
                    av.VideoFrame.from_ndarray(to_bytes(pixels), "rgb24"), format=context.pix_fmt,
                    dst_colorspace=_matrix(like.tags["colorspace"], H, W),
                    dst_color_range=LIMITED, interpolation=EXACT,
                )  # fmt: skip
                frame.pts, frame.time_base, frame.duration = mark.pts, mark.time_base, mark.duration
                put(path, out.mux, put(path, encoder.encode, frame))
            put(path, out.mux, put(path, encoder.encode, None))
            put(path, out.close)
        finally:
            with suppress(av.FFmpegError, OSError):
                out.close()


def _copied(path: Path, out: Any, track: Any) -> Any:
    """A track of `out` for the packets of another; ValueError if its format has none such."""
    try:
        copy = out.add_stream_from_template(track)
    except (ValueError, OSError):
        codec = track.codec_context.name if track.codec_context else "unknown"
        raise ValueError(
            f"{path}: {path.suffix} cannot hold the sound of the input ({codec}); "
            "convert the input to .mkv first"
        ) from None
    copy.metadata.update(track.metadata)
    copy.disposition = track.disposition
    return copy
