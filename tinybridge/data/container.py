"""A video file as a container: opened, its length checked, its tracks sorted.

MP4 (.mp4, .m4v, .mov) and Matroska (.mkv, .webm), through PyAV. Of the video tracks the one that
players choose is restored; sound, subtitles and attachments are copied, the rest is named.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LONGEST = 2**31 - 1  # ticks from one frame or packet to the next: no more can be written
MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """An open container and the video track that players choose. ValueError in one line."""
    import av

    allowed = {"format_whitelist": "mov,matroska"}  # playlists could name other files
    early = path.stat().st_size < promised(path) and "breaks off before its first frame"
    try:
        container = av.open(str(path), options=allowed, metadata_errors="replace")
    except (av.FFmpegError, OSError):
        raise ValueError(f"{path}: {early or 'not an MP4 or Matroska file'}") from None
    with container:
        video = _chosen(container)
        if video is None:
            held = ", ".join(sorted({_kind(track) for track in container.streams})) or "nothing"
            raise ValueError(f"{path}: {early or f'no video in it, only {held}'}")
        yield container, video


def _chosen(container: Any) -> Any:
    """libav's choice: the default track, then the best one; a cover is none. None: no video."""
    films = [track for track in container.streams.video if _kind(track) == "video"]
    best = container.streams.best("video")
    for track in films:
        if track.index == best.index:
            return track
    return films[0] if films else None


def _kind(track: Any) -> str:
    """What a track holds, in a word."""
    import av

    if track.type == "video" and track.disposition & av.stream.Disposition.attached_pic:
        return "cover"
    readable = track.type not in ("video", "audio", "subtitle") or track.codec_context
    if track.type == "audio" and readable:
        readable = track.codec_context.sample_rate
    return track.type if readable else f"{track.type} of unknown codec"


def copied(container: Any) -> list[Any]:
    """The tracks that are copied: sound, subtitles, and the files that Matroska has attached."""
    return [
        track for track in container.streams if _kind(track) in ("audio", "subtitle", "attachment")
    ]


def flowing(container: Any) -> list[Any]:
    """Those of them that come in packets."""
    return [track for track in copied(container) if track.type != "attachment"]


def rising(time: int | None, last: int | None, step: int = 1) -> int:
    """A time stamp that is at least `step` after the last one, moved if it was not."""
    if last is None:
        return time or 0
    return last + step if time is None or time < last + step else time


def rising_packet(packet: Any, last: dict[int, int]) -> int:
    """The same of a packet that is copied; last: times by track. Subtitles may share a time."""
    step = int(packet.stream.type == "audio")
    return rising(packet.dts, last.get(packet.stream.index), step)


def left_out(container: Any, video: Any) -> list[str]:
    """The tracks that are neither restored nor copied, in words."""
    kept = [video.index, *(track.index for track in copied(container))]
    numbers: dict[str, list[str]] = {}
    for track in container.streams:
        if track.index not in kept:
            numbers.setdefault(_kind(track), []).append(str(track.index + 1))
    return [
        f"track{'s' * (len(found) > 1)} {' '.join(found)} ({kind})"
        for kind, found in numbers.items()
    ]


def centred(path: Path, video: Any) -> bool:
    """Whether the chroma of 4:2:0 is read as lying at the centre of four pixels.

    libav does so where nobody says otherwise: the codecs of WebM do not, Matroska's headers can.
    """
    with path.open("rb") as file:
        told = b"\x55\xb7\x81" in file.read(4096)
    return video.codec_context.name in ("vp8", "vp9", "libdav1d", "av1") and not told


def promised(path: Path) -> int:
    """Where a file ends by its own word: its MP4 boxes or Matroska segment; 0 if it has none."""
    with path.open("rb") as file:
        head = file.read(4096)
        if head[:4] == b"\x1aE\xdf\xa3":
            return _segment_end(head)
        file.seek(0)
        at, end = 0, 0
        while len(box := file.read(16)) >= 8:
            size, kind = struct.unpack(">I4s", box[:8])
            size = int.from_bytes(box[8:]) if size == 1 else size
            if size < 8:  # up to the end of the file, or no box
                break
            at += size
            end = at if kind in (b"moov", b"mdat", b"moof") else end
            file.seek(at)
    return end


def _segment_end(head: bytes) -> int:
    """Where the Matroska segment that begins in `head` ends; 0 if it does not say."""
    segment = head.find(b"\x18S\x80g") + 4
    if segment < 4:
        return 0
    width = 9 - head[segment].bit_length()
    known = (1 << 7 * width) - 1
    size = int.from_bytes(head[segment : segment + width]) & known
    return 0 if size == known else segment + width + size  # all ones: written without an end
