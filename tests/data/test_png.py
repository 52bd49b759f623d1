"""PNGs written by hand, whole and with lines too few: what pillow leaves black is told."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.oracles.picture_bytes import chunk
from tinybridge.data import pictures

H, W = 13, 9
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8)]
KINDS += [(4, 8), (4, 16), (6, 8), (6, 16)]
ADAM7 = ["8 8 0 0", "8 8 0 4", "8 4 4 0", "4 4 0 2", "4 2 2 0", "2 2 0 1", "2 1 1 0"]


def lines(values: np.ndarray, bits: int) -> bytes:
    """Rows of an array [h, w, C] as a PNG stores them, without a filter."""
    stored = b""
    for row in values.reshape(len(values), -1):
        digits = "".join(f"{value:0{bits}b}" for value in row)
        digits += "0" * (-len(digits) % 8)
        stored += b"\0" + int(digits, 2).to_bytes(len(digits) // 8)
    return stored


def png(
    path: Path, colour: int, bits: int, interlaced: bool, lost: int = 0, parts: int = 1
) -> np.ndarray:
    """Writes a PNG without the last `lost` bytes of its lines; its numbers [H, W, C]."""
    rng = np.random.default_rng([colour, bits])
    values = rng.integers(0, 2**bits, (H, W, CHANNELS[colour]))
    passes = [values]
    if interlaced:
        steps = [[int(k) for k in told.split()] for told in ADAM7]
        passes = [values[top::down, left::across] for down, across, top, left in steps]
    stored = b"".join(lines(part, bits) for part in passes if part.size)
    content = zlib.compress(stored[: len(stored) - lost])
    head = struct.pack(">IIBBBBB", W, H, bits, colour, 0, 0, interlaced)
    palette = b"".join(bytes([k, k, k]) for k in range(256))
    told = [chunk(b"IHDR", head), chunk(b"PLTE", palette[: 3 * 2**bits]) if colour == 3 else b""]
    size = -(-len(content) // parts)
    told += [chunk(b"IDAT", content[k : k + size]) for k in range(0, len(content), size)]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(told) + chunk(b"IEND", b""))
    return values


@pytest.mark.parametrize("interlaced", (False, True), ids=("in lines", "interlaced"))
@pytest.mark.parametrize(("colour", "bits"), KINDS)
def test_a_whole_one_is_read_and_one_byte_less_is_told(tmp_path, colour, bits, interlaced):
    file = tmp_path / "a.png"
    values = png(file, colour, bits, interlaced, parts=3)
    read = pictures.read(file).pixels
    white = 255 if colour == 3 else 2**bits - 1
    grey = values[..., :3] if colour in (2, 6) else values[..., :1]
    want = np.broadcast_to(grey / white, (H, W, 3)).transpose(2, 0, 1)
    assert np.abs(read.numpy() - want).max() < 1 / 128  # pillow keeps 8 bit of colours
    png(file, colour, bits, interlaced, lost=1)
    with pytest.raises(ValueError, match=r"a.png: not a readable picture \("):
        pictures.read(file)


@pytest.mark.parametrize("lost", (9 * 3 + 1, 6 * (9 * 3 + 1)))
def test_lines_that_are_missing_are_told_by_their_share(tmp_path, lost):
    png(tmp_path / "a.png", 2, 8, False, lost)
    whole = 13 * (9 * 3 + 1)
    share = 100 * (whole - lost) // whole
    with pytest.raises(ValueError, match=rf"its pixels end after {share} %"):
        pictures.read(tmp_path / "a.png")


def test_a_flat_picture_in_small_chunks_is_whole(tmp_path):
    """A few bytes hold many lines: what is still inside the decoder between two chunks counts."""
    side = 1000
    content = zlib.compress((b"\0" + b"\xff" * 3 * side) * side, 9)
    parts = [chunk(b"IDAT", content[k : k + 7]) for k in range(0, len(content), 7)]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + b"".join(parts) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    assert pictures.read(tmp_path / "a.png").pixels.min() == 1
