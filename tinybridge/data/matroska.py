"""The shape of pixels in a Matroska file that libav has written.

Its muxer takes that from a field which PyAV does not fill. So the finished file gets the elements
that are missing; the room comes from the padding that libav leaves behind the list of contents, so
that nothing but the headers has to move. Matroska's terms: an element is its name, its length and
its content, which may be elements again.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

PADDING = b"\xec"
SEGMENT, INFO, TRACKS = b"\x18\x53\x80\x67", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b"
TRACK, VIDEO = b"\xae", b"\xe0"
WIDTH, HEIGHT, UNIT = b"\x54\xb0", b"\x54\xba", b"\x54\xb2"
ASPECT_RATIO = b"\x03"  # the unit of which DisplayWidth and DisplayHeight are
HEADERS = 1 << 20  # bytes that are looked at


def write_shape(file: Path, shown: Fraction, height: int, webm: bool) -> None:
    """Tells at which width / height the frames are shown. The video is the file's first track.

    WebM has whole pixels only. ValueError if the file is not as libav writes it.
    """
    with file.open("r+b") as stream:
        head = stream.read(HEADERS)
        start = head.index(SEGMENT)
        inside = _begin(head, start + 4)
        places: dict[bytes, tuple[int, int, int]] = {}
        for name, at, content, end in _parts(head, inside):
            places.setdefault(name, (at, content, end))
        (padding, _, info), (tracks, content, end) = places[PADDING], places[TRACKS]
        size = (
            (max(1, round(shown * height)), height)
            if webm
            else (shown.numerator, shown.denominator)
        )
        wide, high = (number.to_bytes(4) for number in size)
        shape = _element(WIDTH, wide) + _element(HEIGHT, high)
        shape += b"" if webm else _element(UNIT, ASPECT_RATIO)
        longer = _element(TRACKS, _with_shape(head[content:end], shape))
        moved = len(longer) - (end - tracks)
        empty = bytes(info - padding - 9 - moved)
        stream.seek(padding)
        stream.write(PADDING + b"\x01" + len(empty).to_bytes(7) + empty)
        stream.write(head[info:tracks] + longer)
        for name in (INFO, TRACKS):  # where the list of contents says that they begin
            entry = head.index(b"\x53\xab\x84" + name + b"\x53\xac") + 9
            number = slice(entry + 1, _end(head, entry))
            stream.seek(entry + 1)
            place = int.from_bytes(head[number]) - moved
            stream.write(place.to_bytes(len(head[number])))


def _with_shape(tracks: bytes, shape: bytes) -> bytes:
    """The tracks with the shape told in the first one."""
    _, _, content, end = next(_parts(tracks, 0))
    track = b""
    for name, at, inner, behind in _parts(tracks[:end], content):
        part = tracks[at:behind]
        if name == VIDEO:
            old = [tracks[a:d] for n, a, _, d in _parts(tracks[:behind], inner) if n != UNIT]
            part = _element(VIDEO, b"".join(old) + shape)
        track += part
    return _element(TRACK, track) + tracks[end:]


def _parts(data: bytes, at: int) -> Iterator[tuple[bytes, int, int, int]]:
    """The elements from `at` on: name, and where each begins, its content begins, and it ends."""
    while at < len(data):
        named = at + 9 - data[at].bit_length()
        end = _end(data, named)
        yield data[at:named], at, _begin(data, named), end
        at = end


def _begin(data: bytes, length: int) -> int:
    """Where a content begins whose length is told at `length`: the first byte says how long."""
    return length + 9 - data[length].bit_length()


def _end(data: bytes, length: int) -> int:
    begin = _begin(data, length)
    bits = 7 * (begin - length)
    return begin + (int.from_bytes(data[length:begin]) & ((1 << bits) - 1))


def _element(name: bytes, content: bytes) -> bytes:
    width = 1
    while len(content) >= (1 << 7 * width) - 1:
        width += 1
    return name + (len(content) | 1 << 7 * width).to_bytes(width) + content
