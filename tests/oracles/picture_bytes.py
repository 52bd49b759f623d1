"""Picture files written by hand, byte by byte, so that no library of ours or pillow's has a say."""

import struct
import zlib

import numpy as np

WIDE = bytes(16) + b"RGB " + bytes(108)  # headers of colour profiles: only the colours are said
GREY = bytes(16) + b"GRAY" + bytes(108)


def chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def png(array: np.ndarray, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of [H, W] or [H, W, C] samples; colour: 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6."""
    H, W = array.shape[:2]
    depth = 8 * array.dtype.itemsize
    rows = array.astype(array.dtype.newbyteorder(">")).reshape(H, -1)
    content = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", W, H, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(content)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def profile_chunk(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"p\0\0" + zlib.compress(profile)


def entries(tags: dict[int, tuple[int, object]], start: int) -> bytes:
    """A TIFF directory at `start`; tags: number to (type, value), value a number, text or bytes."""
    table, heap = b"", b""
    at = start + 2 + 12 * len(tags) + 4
    for number, (kind, value) in sorted(tags.items()):
        form = {1: "B", 3: "H", 4: "I"}.get(kind)
        values = [value] if isinstance(value, int) else value
        raw = value if isinstance(value, bytes) else struct.pack(f"<{len(values)}{form}", *values)
        count = len(raw) // {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}[kind]
        if len(raw) > 4:
            heap, raw = heap + raw, struct.pack("<I", at + len(heap))
        table += struct.pack("<HHI", number, kind, count) + raw.ljust(4, b"\0")
    return struct.pack("<H", len(tags)) + table + bytes(4) + heap


def tiff(W: int, H: int, bits: int, content: bytes, **more: int) -> bytes:
    """A grey TIFF in one strip; more: tags by name."""
    numbers = {"photometric": 262, "most": 281, "sign": 339}
    tags = {256: (4, W), 257: (4, H), 258: (3, bits), 259: (3, 1), 262: (3, 1), 277: (3, 1)}
    tags |= {273: (4, 8), 278: (4, H), 279: (4, len(content))}
    tags |= {numbers[name]: (3, value) for name, value in more.items()}
    content += bytes(len(content) % 2)
    return (
        b"II*\0" + struct.pack("<I", 8 + len(content)) + content + entries(tags, 8 + len(content))
    )


def exif(tags: dict[int, tuple[int, object]]) -> bytes:
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + entries(tags, 8)


def with_exif(jpeg: bytes, tags: dict[int, tuple[int, object]]) -> bytes:
    """A JPEG with an APP1 segment put behind its start."""
    content = exif(tags)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + jpeg[2:]
