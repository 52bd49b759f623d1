"""How a picture is stored does not change what is seen of it: turned, transparent, whole."""

import resource
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_formats import RAMP, RGB, encoded
from tests.oracles.picture_bytes import chunk, exif, png
from tinybridge.data import formats, pictures


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_storage_of_a_tiff_is_turned_alike(tmp_path, mode):
    """Pillow shows some as noise if they lie on their side and come from a path."""
    image = Image.fromarray(RGB)
    if mode == "I;16":
        image = Image.fromarray(RAMP.astype(np.uint16) * 257)
    for compression in (None, "tiff_lzw"):
        stored, turned = tmp_path / "stored.tif", tmp_path / "turned.tif"
        stored.write_bytes(encoded(image.convert(mode), "TIFF", compression=compression))
        said = {0x0112: 6, 259: 1}
        turned.write_bytes(
            encoded(image.convert(mode), "TIFF", compression=compression, tiffinfo=said)
        )
        expected = pictures.read(stored).pixels.transpose(1, 2).flip(2)
        assert torch.equal(pictures.read(turned).pixels, expected)
        assert formats.size(turned) == (6, 4)


def test_no_picture_is_mapped_into_memory(tmp_path, monkeypatch):
    """A mapped file that shrinks while it is read ends the process."""
    encodings = {"tif": "TIFF", "bmp": "BMP", "tga": "TGA", "ppm": "PPM"}
    monkeypatch.setattr("mmap.mmap", None)
    for suffix, kind in encodings.items():
        (tmp_path / f"a.{suffix}").write_bytes(encoded(Image.fromarray(RAMP), kind))
        with formats.opened(tmp_path / f"a.{suffix}") as image:
            image.load()
            assert getattr(image, "map", None) is None, suffix


def test_what_stands_behind_the_pixels_of_a_png(tmp_path):
    """EXIF is allowed there, and turns the picture; texts are named; a chance match is neither."""
    plain, end = png(RGB, 2), chunk(b"IEND", b"")
    file = tmp_path / "a.png"
    said = chunk(b"eXIf", exif({0x0112: (3, 6)})[6:]) + chunk(b"tEXt", b"Title\0Sea")
    file.write_bytes(plain.removesuffix(end) + said + end)
    picture = pictures.read(file)
    assert picture.size == formats.size(file) == (6, 4)
    expected = torch.from_numpy(RGB / np.float32(255)).permute(2, 0, 1).transpose(1, 2).flip(2)
    assert torch.equal(picture.pixels, expected)
    assert {"EXIF", "texts"} <= set(picture.unread)
    file.write_bytes(plain + b"\0\0\0\5eXIf" + bytes(9))
    assert pictures.read(file).unread == ()
    assert pictures.read(file).size == (4, 6)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_colour_key_of_few_bits(tmp_path, bits):
    levels = np.arange(8) % 2**bits  # [W]
    row = "".join(format(level, f"0{bits}b") for level in levels)
    content = b"\0" + int(row, 2).to_bytes(bits)
    head = struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)
    key = 2**bits - 1
    parts = [(b"IHDR", head), (b"tRNS", struct.pack(">H", key)), (b"IDAT", zlib.compress(content))]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in (*parts, (b"IEND", b"")))
    (tmp_path / "a.png").write_bytes(data)
    alpha = pictures.read(tmp_path / "a.png").alpha
    assert np.array_equal(alpha[0, 0] == 0, levels == key)


def test_the_colour_key_of_deep_colours(tmp_path):
    array = RGB.astype(np.uint16) * 257
    key = struct.pack(">3H", *array[1, 2].tolist())
    (tmp_path / "a.png").write_bytes(png(array, 2, (b"tRNS", key)))
    alpha = pictures.read(tmp_path / "a.png").alpha
    assert np.array_equal(alpha[0] == 0, (RGB[1, 2] == RGB).all(2))


@pytest.mark.parametrize("suffix", sorted(formats.SUFFIXES))
def test_a_full_disk_ends_every_format(tmp_path, suffix):
    """JPEG 2000 was one that never ended."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    pixels = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, usual[1]))
    try:
        with pytest.raises(OSError, match="cannot be written"):
            pictures.write(tmp_path / f"a{suffix}", pixels)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not any(tmp_path.iterdir())
