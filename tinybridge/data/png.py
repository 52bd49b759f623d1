"""What pillow leaves open of a PNG: its chunks of colour, words behind the pixels, lines too few.

A PNG is a row of chunks, each a length, a name of four letters, content and a checksum.

Letters: H W size in pixels.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL.ImageFile import ImageFile

COLOUR_CHUNKS = (b"cHRM", b"gAMA", b"cICP", b"sRGB")  # what its numbers mean
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
TAIL = 2**16  # bytes at the end of a file in which its last words are looked for
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the colour type
WHOLE = ((0, 0, 1, 1),)  # of passes: first column and row, steps across and down
INTERLACED = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip
BLOCK = 2**20  # bytes that are inflated at once


def chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each chunk, as far as the file goes."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            yield head[4:], file.read(int.from_bytes(head[:4]))
            file.seek(4, 1)  # its checksum


def colour_chunks(path: Path) -> tuple[tuple[bytes, bytes], ...]:
    """Names and contents of the COLOUR_CHUNKS, which stand before the pixels."""
    found = []
    for name, content in chunks(path):
        if name == b"IDAT":
            break
        if name in COLOUR_CHUNKS and len(content) < 100:
            found.append((name, content))
    return tuple(found)


def check_lines(path: Path) -> None:
    """ValueError if the pixels end before the last line: pillow would leave the rest black."""
    expected = found = 0
    inflated = zlib.decompressobj()
    for name, content in chunks(path):
        if name == b"IHDR":
            expected = stored_bytes(content)
        if name == b"IEND" or found >= expected:
            break
        if name != b"IDAT":
            continue
        while content and not inflated.eof and found < expected:
            found += len(inflated.decompress(content, BLOCK))
            content = inflated.unconsumed_tail
    if found < expected:
        raise ValueError(f"its pixels end after {100 * found // expected} %")


def stored_bytes(header: bytes) -> int:
    """Bytes of all lines, each with one for its filter, by the content of IHDR."""
    W, H = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    bits = header[8] * CHANNELS[header[9]]  # of a pixel
    total = 0
    for left, top, across, down in INTERLACED if header[12] else WHOLE:
        columns, lines = -(-(W - left) // across), -(-(H - top) // down)
        if columns > 0:
            total += max(0, lines) * (1 + -(-columns * bits // 8))
    return total


def scale_key(image: ImageFile) -> None:
    """Pillow leaves the colour that is transparent as stored, in other steps than its pixels."""
    form, key = str(image.tile), image.info.get("transparency")
    if isinstance(key, tuple) and ";16" in form:
        image.info["transparency"] = tuple(part >> 8 for part in key)
    for bits in (2, 4):
        if isinstance(key, int) and f"'L;{bits}'" in form:
            image.info["transparency"] = key * 255 // (2**bits - 1)


def add_last_words(path: Path, info: dict[str, Any]) -> None:
    """EXIF and texts behind the pixels, which pillow reads with these: they turn the picture."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        tail = file.read()
    for name in (b"eXIf", *TEXT_CHUNKS):
        at = tail.find(name)
        if at < 4:
            continue
        end = at + 4 + int.from_bytes(tail[at - 4 : at])
        if zlib.crc32(tail[at:end]) != int.from_bytes(tail[end : end + 4]):  # pixels, by chance
            continue
        if name == b"eXIf":
            info.setdefault("exif", b"Exif\0\0" + tail[at + 4 : end])
        else:
            info.setdefault("texts", "")
