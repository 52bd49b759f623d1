"""Pictures: every kind of file a person may bring, read as the person sees it."""

import numpy as np
import pytest
import torch
from PIL import Image

from tinybridge.data import pictures

COLOURS = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 0], [9, 99, 199], [0, 0, 0]]]
)
PROFILE = bytes(16) + b"RGB " + bytes(108)  # a header is all that is looked at


def rgb() -> Image.Image:
    """3 wide, 2 high, six colours."""
    return Image.fromarray(COLOURS.astype(np.uint8))


def expected() -> torch.Tensor:
    return torch.from_numpy(COLOURS).permute(2, 0, 1) / 255


def test_rgb_round_trip(tmp_path):
    pictures.write(tmp_path / "a.png", expected())
    assert torch.equal(pictures.read(tmp_path / "a.png").pixels, expected().float())
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
def test_lossless_formats(tmp_path, suffix):
    pictures.write(tmp_path / f"a{suffix}", expected())
    assert torch.equal(pictures.read(tmp_path / f"a{suffix}").pixels, expected().float())


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_stay_near(tmp_path, suffix):
    smooth = torch.linspace(0, 1, 32).expand(3, 32, 32)
    pictures.write(tmp_path / f"a{suffix}", smooth)
    assert (pictures.read(tmp_path / f"a{suffix}").pixels - smooth).abs().max() < 0.03


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    turns = {  # the flag says how the stored picture must be turned to stand upright
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb().save(tmp_path / "a.png", exif=exif)
    upright = rgb().transpose(turns[orientation]) if turns[orientation] is not None else rgb()
    array = torch.from_numpy(np.array(upright)).permute(2, 0, 1) / 255
    assert torch.equal(pictures.read(tmp_path / "a.png").pixels, array)


def test_transparency_and_profile_come_back(tmp_path):
    alpha = np.array([[0, 128, 255], [255, 7, 0]], np.uint8)
    image = Image.fromarray(np.dstack([COLOURS.astype(np.uint8), alpha]))
    image.save(tmp_path / "a.png", icc_profile=PROFILE)
    picture = pictures.read(tmp_path / "a.png")
    assert torch.equal(picture.alpha[0], torch.from_numpy(alpha) / 255)
    pictures.write(tmp_path / "b.png", picture.pixels, picture)
    with Image.open(tmp_path / "b.png") as back:
        assert back.mode == "RGBA" and back.info["icc_profile"] == PROFILE
        assert np.array_equal(np.array(back), np.array(image))
    pictures.write(tmp_path / "b.jpg", picture.pixels, picture)  # no room for transparency there
    assert pictures.read(tmp_path / "b.jpg").alpha is None


def test_palette_with_transparent_colour(tmp_path):
    image = rgb().quantize(6)
    image.info["transparency"] = image.getpixel((0, 0))
    image.save(tmp_path / "a.png", transparency=image.getpixel((0, 0)))
    picture = pictures.read(tmp_path / "a.png")
    assert picture.alpha[0, 0, 0] == 0 and picture.alpha.sum() == 5
    assert torch.allclose(picture.pixels, expected().float(), atol=0.02)


def test_sixteen_bits_keep_their_precision(tmp_path):
    values = np.array([[0, 1, 257], [30000, 65534, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = pictures.read(tmp_path / "a.png").pixels
    assert torch.allclose(pixels[1], torch.from_numpy(values.astype(np.float32)) / 65535, atol=1e-7)
    assert torch.equal(pixels[0], pixels[2])


def test_grey_and_cmyk(tmp_path):
    Image.fromarray(np.array([[0, 51, 255]], np.uint8)).save(tmp_path / "grey.png")
    assert pictures.read(tmp_path / "grey.png").pixels[2].tolist() == [[0, pytest.approx(0.2), 1]]
    rgb().resize((30, 20), 0).convert("CMYK").save(tmp_path / "cmyk.tif")
    cmyk = pictures.read(tmp_path / "cmyk.tif").pixels
    assert torch.allclose(cmyk[:, ::10, ::10], expected().float(), atol=0.02)
    pictures.write(tmp_path / "out.tif", cmyk)
    assert Image.open(tmp_path / "out.tif").mode == "RGB"


def test_floats_must_lie_in_range(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5]], np.float32)).save(tmp_path / "good.tif")
    assert pictures.read(tmp_path / "good.tif").pixels[0].tolist() == [[0.0, 0.5]]
    Image.fromarray(np.array([[0.0, 7.0]], np.float32)).save(tmp_path / "bad.tif")
    with pytest.raises(ValueError, match=r"bad.tif: .*outside 0..1"):
        pictures.read(tmp_path / "bad.tif")


def test_unreadable_files_are_one_line(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name in ("text.png", "empty.jpg", "cut.png"):
        with pytest.raises(ValueError, match=name) as caught:
            pictures.read(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"gone.png"):
        pictures.read(tmp_path / "gone.png")


def test_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written"):
        pictures.write(tmp_path / "file" / "a.png", expected())
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_folder_is_sorted_and_filtered(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [f.name for f in pictures.pictures(tmp_path)] == ["a.jpg", "b.PNG"]
