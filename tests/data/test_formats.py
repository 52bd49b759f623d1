"""What a file says beside its pixels: read from bytes written by hand, kept, or named as lost."""

import io
import struct
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.oracles.picture_bytes import GREY, WIDE, chunk, exif, png, profile_chunk, tiff, with_exif
from tinybridge.data import formats, pictures

RAMP = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)  # [H, W]
RGB = np.stack((RAMP, RAMP[::-1], RAMP[:, ::-1]), 2)  # [H, W, 3]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def smooth(H: int = 24, W: int = 40) -> np.ndarray:
    """[H, W, 3], bright colours that change fast enough for halved chroma to show."""
    y, x = np.mgrid[:H, :W]
    parts = 127 + 120 * np.sin(x), 127 + 120 * np.cos(y), 127 + 120 * np.sin(x + y)
    return np.stack(parts, 2).astype(np.uint8)


def again(path) -> tuple[pictures.Picture, bytes]:
    """What is read from a file, and the file that is written with it."""
    picture = pictures.read(path)
    pictures.write(path.with_name(f"out{path.suffix}"), picture.pixels, picture)
    return picture, path.with_name(f"out{path.suffix}").read_bytes()


# ---- EXIF ----------------------------------------------------------------------------------------

ODD = {  # EXIF that cannot be written again: a slot of another type than the tag's
    "resolution as text": {0x0112: (3, 6), 0x011A: (2, b"300 dpi\0")},
    "unit as text": {0x0112: (3, 6), 0x0128: (2, b"inch\0")},
    "make as a rational": {0x0112: (3, 6), 0x010F: (5, struct.pack("<II", 1, 0))},
    "an offset past the end": {0x0112: (3, 6), 0x8769: (4, 99999)},
    "two orientations": {0x0112: (3, [6, 1])},
    "a long orientation": {0x0112: (4, 6)},
}


@pytest.mark.parametrize("case", ODD)
def test_odd_exif_does_not_cost_the_picture(tmp_path, case):
    plain = encoded(Image.fromarray(smooth()), "JPEG", quality=95)
    (tmp_path / "plain.jpg").write_bytes(plain)
    (tmp_path / "odd.jpg").write_bytes(with_exif(plain, ODD[case]))
    upright = pictures.read(tmp_path / "odd.jpg")
    if case != "two orientations":
        assert upright.size == formats.size(tmp_path / "odd.jpg") == (40, 24)
        stored = pictures.read(tmp_path / "plain.jpg").pixels
        assert torch.equal(upright.pixels, stored.transpose(1, 2).flip(2))
    assert "EXIF" in upright.unread


@pytest.mark.parametrize(
    "tags", [{0x0112: (2, b"6\0")}, {0x0112: (3, 77)}, {0x0112: (5, bytes(8))}]
)
def test_an_orientation_that_is_none_is_upright(tmp_path, tags):
    plain = encoded(Image.fromarray(smooth()), "JPEG")
    (tmp_path / "a.jpg").write_bytes(with_exif(plain, tags))
    assert pictures.read(tmp_path / "a.jpg").size == formats.size(tmp_path / "a.jpg") == (24, 40)


def test_all_formats_are_turned_once(tmp_path):
    for kind, suffix in (("TIFF", "tif"), ("PNG", "png"), ("WEBP", "webp"), ("AVIF", "avif")):
        path = tmp_path / f"a.{suffix}"
        image = Image.fromarray(smooth())
        path.write_bytes(encoded(image, kind, exif=exif({0x0112: (3, 6)})))
        assert pictures.read(path).size == formats.size(path) == (40, 24), kind


# ---- what numbers mean ---------------------------------------------------------------------------


def test_the_white_of_deep_tiffs_is_what_the_file_says(tmp_path):
    levels = np.array([0, 1000, 2047, 4095])
    packed = "".join(f"{value:012b}" for value in levels)
    twelve = int(packed, 2).to_bytes(6)
    sixteen = levels.astype("<u2").tobytes()
    bytes_ = np.array([0, 180, 255], "<i4").tobytes()
    cases = {
        "12 bit": (tiff(4, 1, 12, twelve), levels / 4095),
        "12 bit in 16": (tiff(4, 1, 16, sixteen, most=4095), levels / 4095),
        "16 bit": (tiff(4, 1, 16, sixteen), levels / 65535),
        "16 bit, white is 0": (tiff(4, 1, 16, sixteen, photometric=0), 1 - levels / 65535),
        "16 bit signed": (tiff(4, 1, 16, sixteen, sign=2), levels / 32767),
        "32 bit of bytes": (
            tiff(3, 1, 32, bytes_, sign=2, most=255),
            np.array([0, 180, 255]) / 255,
        ),
    }
    for name, (content, expected) in cases.items():
        (tmp_path / "a.tif").write_bytes(content)
        found = pictures.read(tmp_path / "a.tif").pixels[1, 0].double().numpy()
        assert np.allclose(found, expected, atol=1e-6), name
    (tmp_path / "a.tif").write_bytes(tiff(3, 1, 32, bytes_, sign=2))
    with pytest.raises(ValueError, match=r"a\.tif: .*32 bit integers is white is not said"):
        pictures.read(tmp_path / "a.tif")


@pytest.mark.parametrize("profile", [WIDE, GREY])
@pytest.mark.parametrize("form", ["rgb", "grey", "palette", "grey and alpha", "sixteen"])
def test_a_profile_is_kept_by_its_own_colours(tmp_path, profile, form):
    chunks = [profile_chunk(profile)]
    if form == "palette":
        chunks.append((b"PLTE", bytes(range(240)) * 3))
    array, colour = {
        "rgb": (RGB, 2),
        "grey": (RAMP, 0),
        "palette": (RAMP, 3),
        "grey and alpha": (RGB[..., :2], 4),
        "sixteen": (RAMP.astype(np.uint16) * 257, 0),
    }[form]
    (tmp_path / "a.png").write_bytes(png(np.ascontiguousarray(array), colour, *chunks))
    picture, written = again(tmp_path / "a.png")
    with Image.open(io.BytesIO(written)) as back:
        assert back.info.get("icc_profile") == (WIDE if profile == WIDE else None)
    told = "a colour profile of GRAY colours" in pictures.not_kept(picture, tmp_path / "a.png")
    assert told == (profile == GREY)


def test_what_else_gives_numbers_their_meaning(tmp_path):
    chunks = [(b"gAMA", struct.pack(">I", 100000)), (b"cICP", bytes((9, 16, 0, 1)))]
    chunks.append((b"cHRM", struct.pack(">8I", *range(8))))
    (tmp_path / "a.png").write_bytes(png(RGB, 2, *chunks))
    picture, written = again(tmp_path / "a.png")
    for name, content in chunks:
        assert struct.pack(">I", len(content)) + name + content in written
    assert pictures.not_kept(picture, tmp_path / "a.png") == []
    assert pictures.not_kept(picture, tmp_path / "a.jpg") == ["gAMA", "cICP", "cHRM"]


# ---- as fine as it came --------------------------------------------------------------------------


def decibels(path, pixels: torch.Tensor) -> float:
    return -10 * (pictures.read(path).pixels - pixels).square().mean().log10().item()


def test_lossy_files_lose_little_and_lossless_ones_nothing(tmp_path):
    image = Image.fromarray(smooth(96, 128))
    for name, options in {
        "fine.jpg": {"quality": 100, "subsampling": 0},
        "usual.jpg": {"quality": 75},
        "halved.jpg": {"quality": 90, "subsampling": 2, "progressive": True},
        "a.avif": {"quality": 90},
        "lossless.webp": {"lossless": True, "exact": True},
    }.items():
        image.save(tmp_path / name, **options)
        like = pictures.read(tmp_path / name)
        restored = torch.from_numpy(smooth(96, 128)).permute(2, 0, 1).flip(2) / 255
        pictures.write(tmp_path / f"out-{name}", restored, like)
        found = decibels(tmp_path / f"out-{name}", restored)
        wanted = {"fine.jpg": 50, "lossless.webp": float("inf")}.get(name, 40)
        assert found >= wanted, (name, found)
    with Image.open(tmp_path / "out-halved.jpg") as back:
        assert back.info["progressive"] and back.layer[1][1:3] == (1, 1)  # chroma is whole
    image.save(tmp_path / "a.tif", compression="tiff_lzw")
    again(tmp_path / "a.tif")
    with Image.open(tmp_path / "out.tif") as back:
        assert back.info["compression"] == "tiff_lzw"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
def test_print_size_is_kept(tmp_path, suffix):
    Image.fromarray(RGB).save(tmp_path / f"a{suffix}", dpi=(300, 150))
    again(tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as back:
        assert [round(float(number)) for number in back.info["dpi"]] == [300, 150]
    assert pictures.not_kept(pictures.read(tmp_path / f"a{suffix}"), tmp_path / "b.webp") == [
        "dots per inch"
    ]


def test_every_suffix_comes_back(tmp_path):
    for suffix in formats.SUFFIXES:
        pictures.write(tmp_path / f"a{suffix}", torch.from_numpy(smooth()).permute(2, 0, 1) / 255)
        picture, written = again(tmp_path / f"a{suffix}")
        assert picture.size == (24, 40) and written
        with Image.open(tmp_path / f"out{suffix}") as back:
            assert back.format == formats.of_name(tmp_path / f"a{suffix}")


# ---- what is lost, and what is refused -----------------------------------------------------------


def test_what_is_not_kept_is_named(tmp_path):
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy()), Image.fromarray(255 - RGB)]
    clear = Image.fromarray(np.dstack((RGB, RAMP)))
    options = {"save_all": True, "append_images": frames[1:]}
    files = {
        "pages.tif": (encoded(frames[0], "TIFF", **options), "2 of 3 frames"),
        "moving.png": (encoded(frames[0], "PNG", **options), "2 of 3 frames"),
        "moving.webp": (encoded(frames[0], "WEBP", lossless=True, **options), "2 of 3 frames"),
        "clear.jpg": (encoded(clear, "PNG"), "transparency"),
        "deep.png": (png(RGB.astype(np.uint16) * 257, 2), "more than 8 bit"),
        "grey.png": (png(RAMP, 0), "grey, it becomes RGB"),
        "cmyk.jpg": (encoded(frames[0].convert("CMYK"), "JPEG"), "CMYK, it becomes RGB"),
        "said.jpg": (encoded(frames[0], "JPEG", comment=b"mine"), "comment"),
        "shape.png": (png(RGB, 2, (b"pHYs", struct.pack(">IIB", 2, 1, 0))), "the pixels' shape"),
    }
    for name, (content, word) in files.items():
        (tmp_path / name).write_bytes(content)
        assert word in pictures.not_kept(pictures.read(tmp_path / name), tmp_path / name), name
    (tmp_path / "plain.png").write_bytes(png(RGB, 2))
    assert pictures.not_kept(pictures.read(tmp_path / "plain.png"), tmp_path / "plain.png") == []


def test_deep_files_that_pillow_makes_shallow_are_named(tmp_path):
    pixels = np.arange(48, dtype=">u2").tobytes() * 3
    jp2 = bytearray(encoded(Image.fromarray(RGB), "JPEG2000"))
    at = jp2.index(b"ihdr") + 14
    files = {
        "a.ppm": (b"P6 6 4 255\n" + RGB.tobytes(), b"P6 6 4 65535\n" + pixels),
        "b.jp2": (bytes(jp2), bytes(jp2[:at] + b"\x0f" + jp2[at + 1 :])),
    }
    for name, (shallow, deep) in files.items():
        for content, told in ((shallow, []), (deep, ["more than 8 bit"])):
            (tmp_path / name).write_bytes(content)
            assert formats.header(tmp_path / name)[1] == told, name


def test_the_depth_of_avif_is_in_its_header(tmp_path):
    """A file of 10 bit is not at hand; pillow's own has a box of the same form for 8."""
    content = encoded(Image.fromarray(RGB), "AVIF")
    at = content.index(b"pixi") + 9
    for depth in (8, 10, 12):
        (tmp_path / "a.avif").write_bytes(content[:at] + bytes([depth]) + content[at + 1 :])
        image = SimpleNamespace(format="AVIF", mode="RGB", tile=[])
        assert formats.is_deep(tmp_path / "a.avif", image) == (depth > 8)


def test_a_level_of_deep_grey_that_is_transparent(tmp_path):
    array = RAMP.astype(np.uint16) * 257
    (tmp_path / "a.png").write_bytes(png(array, 0, (b"tRNS", struct.pack(">H", 257 * 30))))
    _, written = again(tmp_path / "a.png")
    with Image.open(io.BytesIO(written)) as back:
        assert np.array_equal(np.array(back.getchannel("A")) == 0, RAMP == 30)


def test_a_header_bounds_what_a_file_may_cost(tmp_path):
    huge = tiff(4194324, 24, 8, bytes(2000))
    (tmp_path / "huge.tif").write_bytes(huge)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 40000, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", bytes(9)) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    (tmp_path / "small.png").write_bytes(png(RGB, 2))
    began = time.process_time()
    for name, line in (("huge.tif", "4194324x24 are 100.7"), ("bomb.png", "megapixels")):
        with pytest.raises(formats.TooLarge, match=f"{name}: .*{line}"):
            pictures.read(tmp_path / name)
    with pytest.raises(formats.TooLarge, match=r"small\.png: 6x4 are"):
        pictures.read(tmp_path / "small.png", most=23)
    assert pictures.read(tmp_path / "small.png", most=24).size == (4, 6)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("error", [RuntimeError, TypeError, struct.error, MemoryError, KeyError])
def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch, error):
    def breaks(self):
        raise error("first\nsecond")

    (tmp_path / "a.png").write_bytes(png(RGB, 2))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", breaks)
    with pytest.raises(ValueError, match=r"a\.png: not a readable picture \(.*first") as caught:
        pictures.read(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_postscript_is_not_run(tmp_path):
    """Pillow would start ghostscript for it, whatever the name."""
    Image.fromarray(RGB).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: not a picture that can be read"):
        pictures.read(tmp_path / "a.png")


def test_headers_are_read_without_decoding(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(RGB, 2, (b"tEXt", b"Title\0mine")))
    (tmp_path / "b.tif").write_bytes(encoded(Image.fromarray(RGB), "TIFF"))
    (tmp_path / "c.jpg").write_bytes(encoded(Image.fromarray(RGB), "JPEG"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    for name, unread in (("a.png", ["texts"]), ("b.tif", []), ("c.jpg", [])):
        assert formats.header(tmp_path / name) == ((4, 6), unread)
