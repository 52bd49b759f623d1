"""Video files in, frame by frame: what PyAV decodes, as upright RGB.

Frames are 8 bit RGB, deeper ones are rounded. Phone videos come out upright. A file is decoded
twice: once by `probe` before anything is restored, which counts its frames, notes their times and
finds what is damaged, and once by `frames`.

Letters: H W size in pixels.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinybridge.data.clip import Clip, bounded, differs, notes
from tinybridge.data.container import (
    LONGEST,
    flowing,
    left_out,
    opened,
    promised,
    rising,
    rising_packet,
)

MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}  # number in the file: the scaler's number
FOREIGN = {8: "YCgCo", 11: "YDzDx", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-R", 17: "YCgCo-R"}
COLOURS = ("colorspace", "color_range", "color_primaries", "color_trc")
BRIGHT = {16: "PQ", 18: "HLG"}  # transfers of high dynamic range
EXACT = 4 | 0x40000 | 0x2000  # the scaler's flags: bicubic, accurate rounding, full chroma
STRETCH = 64  # pixels that are more elongated than this are a mistake in the file
UNSAID, LIMITED = 2, 1  # a matrix that is not named; the range 16..235


@dataclass
class Look:
    """What decoding a whole file shows, all its frames counted and none kept but the first."""

    first: Any = None
    starts: list[int] = field(default_factory=list)  # rising, in the track's time base
    end: int = 0
    packets: int = 0
    damaged: int = 0
    interlaced: int = 0
    moved: int = 0
    broken: str = ""
    heard: dict[int, int] = field(default_factory=dict)  # the last time of every copied track

    def hear(self, packet: Any) -> None:
        """Looks at the time of a packet that is to be copied."""
        if packet.size:
            time = rising_packet(packet, self.heard)
            self.moved += time != packet.dts
            self.heard[packet.stream.index] = time

    def add(self, path: Path, frame: Any) -> None:
        """ValueError if the frame has another size than the first."""
        self.first = frame if self.first is None else self.first
        size, expected = (frame.height, frame.width), (self.first.height, self.first.width)
        if size != expected:
            raise ValueError(differs(path, size, "its first frame", expected))
        told = self.end if frame.pts is None else frame.pts
        start = rising(told, self.starts[-1] if self.starts else None)
        self.moved += start != told
        self.starts.append(start)
        self.end = start + max(1, frame.duration or 0)
        self.damaged += frame.is_corrupt
        self.interlaced += frame.interlaced_frame

    def lost(self, codec: str, reports: list[tuple[int, str, str]]) -> list[str]:
        """What of the frames cannot be kept, in words. reports: libav's errors while decoding."""
        n, words = len(self.starts), []
        # Packets of VP8 may hold no picture, and two of interlaced video one.
        if n < self.packets and codec != "vp8" and not self.interlaced:
            words.append(f"{self.packets - n} of {self.packets} frames, which cannot be decoded")
        if self.damaged:
            words.append(f"what {self.damaged} of {n} frames showed before they were damaged")
        if reports and not words:
            _, part, message = reports[0]
            words.append(f"what is damaged ({part}: {' '.join(message.split())})")
        if self.moved:
            words.append(f"{self.moved} times that do not rise")
        if self.interlaced:
            words.append("its interlacing, which restores badly: deinterlace it first")
        trc, deep = self.first.color_trc, max(c.bits for c in self.first.format.components)
        if deep > 8:
            words.append(f"{deep} bit depth")
        if trc in BRIGHT:
            words.append(f"light levels of HDR ({BRIGHT[trc]})")
        if any(part.is_alpha for part in self.first.format.components):
            words.append("transparency")
        return words


def probe(path: Path) -> Clip:
    """What a file holds: all its frames are decoded. ValueError in one line."""
    import av

    look = Look()
    with _overheard() as reports, opened(path) as (container, video):
        context = video.codec_context
        bounded(path, context.height, context.width)
        try:
            for packet in container.demux(video, *flowing(container)):
                if packet.stream.index != video.index:
                    look.hear(packet)
                    continue
                look.packets += bool(packet.size) and not packet.is_discard
                for frame in _decoded(packet):
                    look.add(path, frame)
        except (av.FFmpegError, OSError) as error:
            look.broken = error.strerror
        _check(path, video, look)
        lost = look.lost(context.name, reports) + left_out(container, video)
        if "1" in (video.metadata.get("alpha_mode"), video.metadata.get("ALPHA_MODE")):
            lost.append("transparency")  # of VP8 and VP9, which libav decodes without it
        rate = video.average_rate or video.guessed_rate or Fraction(25)
        size = _upright(np.empty((look.first.height, look.first.width)), look.first).shape
        return Clip(
            path,
            size,
            len(look.starts),
            rate,
            "video",
            (*look.starts, look.end),
            video.time_base,
            notes(path, rate, look.starts, lost),
            _tags(video, look.first, size),
        )


@contextmanager
def _overheard() -> Iterator[list[tuple[int, str, str]]]:
    """The errors that libav reports meanwhile: level, part of libav, message."""
    import av

    level, quiet = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # or the next file would be told how often
    try:
        with av.logging.Capture(local=False) as reports:
            yield reports
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(quiet)


def _decoded(packet: Any) -> list[Any]:
    """The frames that come out with a packet; none if it is damaged, as players do."""
    import av

    try:
        return packet.decode()
    except av.InvalidDataError:
        return []


def _check(path: Path, video: Any, look: Look) -> None:
    """ValueError if the file breaks off, holds no frames, or colours that cannot be read."""
    n, size, end = len(look.starts), path.stat().st_size, promised(path)
    if size < end:
        frames = f"{n} of {video.frames or 'more'} frames"
        raise ValueError(f"{path}: breaks off: {size} of {end} bytes, {frames} are there")
    if n and look.broken:
        raise ValueError(f"{path}: breaks off after {n} frames ({look.broken})")
    if not n and look.packets:
        raise ValueError(f"{path}: none of its {look.packets} frames can be decoded")
    if not n:
        raise ValueError(f"{path}: no frames in it")
    for k, (start, end) in enumerate(itertools.pairwise((*look.starts, look.end)), 1):
        if end - start > LONGEST:
            hours = float((end - start) * video.time_base) / 3600
            raise ValueError(f"{path}: frame {k} lasts {hours:.0f} hours: its times are damaged")
    colours = FOREIGN.get(look.first.colorspace)
    if colours and not look.first.format.is_rgb:
        raise ValueError(f"{path}: its colours are {colours}; convert it to BT.709 first")


def _tags(video: Any, first: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Colours, fineness of the colours and shape of the pixels, as the encoder is told them."""
    tags = {name: int(getattr(first, name)) for name in COLOURS}
    tags["color_range"] = min(tags["color_range"], LIMITED)
    if first.format.is_rgb:
        tags["colorspace"] = UNSAID
    shape, turned = video.sample_aspect_ratio, size[0] != first.height
    if shape and 1 / STRETCH <= shape <= STRETCH:
        shape = shape.limit_denominator(4096)  # all that H.264 has room for
        tags["sample_aspect_ratio"] = 1 / shape if turned else shape
    fine = first.format.chroma_width(8), first.format.chroma_height(8)
    grey = len([part for part in first.format.components if not part.is_alpha]) == 1
    names = {(8, 8): "yuv444p", (4, 8): "yuv444p" if turned else "yuv422p"}
    tags["pix_fmt"] = "yuv420p" if grey else names.get(fine, "yuv420p")
    return tags


def matrix(colorspace: int, *size: int) -> int:
    """The scaler's matrix; what a file leaves unsaid is guessed by its size, as players do."""
    return MATRICES.get(colorspace, 1 if min(size) > 576 else 5)


def _upright(array: np.ndarray, frame: Any) -> np.ndarray:
    """[H, W, ...] turned and mirrored as the frame's display matrix says."""
    if found := frame.side_data.get("DISPLAYMATRIX"):
        a, b, _, c, d = np.frombuffer(found, np.int32)[:5].tolist()  # x' = ax + cy, y' = bx + dy
        if abs(a) < abs(b):
            array, a, d = array.swapaxes(0, 1), c, b
        array = array[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return array


def _to_tensor(frame: Any, scaler: Any) -> Tensor:
    """[3, H, W] in 0..1, upright."""
    source = matrix(frame.colorspace, frame.height, frame.width)
    rgb = scaler.reformat(frame, format="rgb24", src_colorspace=source, interpolation=EXACT)
    array = _upright(rgb.to_ndarray(), frame).astype(np.float32) / 255  # [H, W, 3]
    return torch.from_numpy(array).permute(2, 0, 1)  # [3, H, W]


def frames(path: Path) -> Iterator[Tensor]:
    """[3, H, W] in 0..1 each. ValueError if the file breaks off."""
    import av

    n, scaler = 0, av.video.reformatter.VideoReformatter()
    with opened(path) as (container, video):
        try:
            for packet in container.demux(video):
                for frame in _decoded(packet):
                    n += 1
                    yield _to_tensor(frame, scaler)
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{path}: breaks off after {n} frames ({error.strerror})") from None
