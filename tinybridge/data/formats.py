"""Picture formats: opening a file safely, and what it says beside its pixels.

A header may promise anything: size and kind are looked at before a pixel is decoded, and whatever
a decoder raises on damaged bytes is one line that names the file.

Letters: H W size in pixels.
"""

import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from tinybridge.data import png
from tinybridge.data.clip import LARGEST

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".avif", ".bmp", ".dib", ".tif", ".tiff",
    ".tga", ".jp2", ".ppm",
)  # fmt: skip
TRANSPARENT = ("PNG", "WEBP", "TIFF", "AVIF", "TGA", "JPEG2000")  # get their transparency back
PROFILED = ("PNG", "WEBP", "TIFF", "AVIF", "JPEG")  # get their colour profile back
MEASURED = ("PNG", "JPEG", "TIFF", "BMP", "DIB")  # get their pixels per inch back
FORMATS = (*TRANSPARENT, "JPEG", "BMP", "DIB", "PPM", "GIF")  # what is opened
LOSSLESS_TIFF = ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "zstd")
ORIENTATION = 0x0112  # an EXIF tag
WHITE_IS_ZERO, BITS, MOST, SIGN, SIGNED_MOST = 262, 258, 281, 339, 341  # TIFF tags
FINE = 98  # quality of lossy files: a JPEG of any content keeps 40 dB at it
FINE_TABLE = 151  # sum of the luminance table of a JPEG of that quality; a smaller one is finer


class TooLarge(ValueError):
    """A picture of more pixels than are read."""


def of_name(path: Path) -> str:
    """The format that a name stands for, as pillow calls it."""
    return Image.registered_extensions()[path.suffix.lower()]


@contextmanager
def opened(path: Path, most: int = LARGEST) -> Iterator[ImageFile]:
    """A picture whose header has been read; what is done with it inside may raise anything.

    FileNotFoundError, TooLarge if it has more than `most` pixels, ValueError in one line else.
    """
    if not path.is_file():
        what = "a folder, a picture is expected" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {what}")
    Image.init()  # or only the formats that are loaded already would be known
    try:
        # A stream: of a path pillow maps some files into memory, which ends the process if they
        # shrink meanwhile, and shows TIFFs that lie on their side as noise.
        with (
            warnings.catch_warnings(action="ignore"),
            path.open("rb") as stream,
            Image.open(stream, formats=FORMATS) as image,
        ):
            W, H = image.size
            if most < W * H:
                raise TooLarge(
                    f"{path}: {W}x{H} are {W * H / 1e6:.1f} megapixels, "
                    f"up to {most / 1e6:.1f} are read"
                )
            if image.format == "PNG":
                png.scale_key(image)
                png.add_last_words(path, image.info)
            yield image
    except TooLarge:
        raise
    except Image.DecompressionBombError:
        raise TooLarge(f"{path}: far more than {most / 1e6:.1f} megapixels") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not a picture that can be read") from None
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(f"{path}: not a readable picture ({reason.splitlines()[0]})") from None


def orientation(image: ImageFile) -> int:
    """How it must be turned to stand upright, 1 to 8; 1 if its EXIF data cannot be read."""
    try:
        # PNG's own getexif would decode the picture to look for EXIF behind it.
        said = Image.Image.getexif(image).get(ORIENTATION, 1)
    except Exception:  # EXIF as cameras and editors leave it must not cost the picture
        return 1
    return said if said in range(1, 9) else 1


def header(path: Path) -> tuple[tuple[int, int], list[str]]:
    """(H, W) upright and what is `unread`, nothing being decoded. Errors as of `opened`."""
    with opened(path) as image:
        W, H = image.size
        turned = image.format == "TIFF"  # pillow turns these by itself, their size as well
        sideways = orientation(image) > 4 and not turned
        return (W, H) if sideways else (H, W), unread(path, image)


def size(path: Path) -> tuple[int, int]:
    """(H, W) upright, from the header. Errors as of `opened`."""
    return header(path)[0]


# ---- what the numbers mean ---------------------------------------------------------------------


def white(image: ImageFile) -> int:
    """The number that is white in a grey picture of integers. ValueError if the file hides it."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits = _first(tags.get(BITS, 16))
    most = tags.get(SIGNED_MOST, tags.get(MOST))
    if most:
        return _first(most)
    if bits > 16:
        raise ValueError(f"which of its {bits} bit integers is white is not said: MaxSampleValue")
    signed = _first(tags.get(SIGN, 1)) == 2
    return 2 ** (bits - signed) - 1


def white_is_zero(image: ImageFile) -> bool:
    """Whether a TIFF counts its grey from white down to black."""
    return getattr(image, "tag_v2", {}).get(WHITE_IS_ZERO) == 0


def _first(value: Any) -> int:
    return value[0] if isinstance(value, tuple) else value


def colour_space(profile: bytes) -> str:
    """What an ICC profile says of its own numbers, as "RGB", "GRAY" or "CMYK"."""
    return profile[16:20].decode("latin-1").strip()


# ---- how it is stored --------------------------------------------------------------------------


def dpi(image: ImageFile) -> tuple[float, float] | None:
    """Pixels per inch across and down as stored, or None."""
    try:
        across, down = (float(number) for number in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    sane = all(math.isfinite(number) and 1 <= number < 65536 for number in (across, down))
    return (across, down) if sane else None


def stored_as(path: Path, image: ImageFile) -> dict[str, Any]:
    """What pillow's writer of that format is told, so that the result is as fine as the file."""
    if image.format == "WEBP" and _lossless_webp(path):
        return {"lossless": True, "exact": True}
    if image.format == "TIFF" and image.info.get("compression") in LOSSLESS_TIFF:
        return {"compression": image.info["compression"]}
    if isinstance(image, JpegImageFile):
        options: dict[str, Any] = {"progressive": bool(image.info.get("progressive"))}
        tables = image.quantization
        if tables and sum(tables[min(tables)]) < FINE_TABLE:
            options["qtables"] = [tables[min(tables)], tables[max(tables)]]
        return options
    return {}


def fine(kind: str) -> dict[str, Any]:
    """What a writer is told if nothing is known: lossy formats in high quality, full chroma."""
    if kind in ("JPEG", "AVIF"):
        return {"quality": FINE, "subsampling": "4:4:4"}
    return {"quality": FINE, "use_sharp_yuv": True} if kind == "WEBP" else {}


def _lossless_webp(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", head)
            if name in (b"VP8L", b"VP8 "):
                return name == b"VP8L"
            file.seek(length + length % 2, 1)
    return False


def is_deep(path: Path, image: ImageFile) -> bool:
    """Whether a sample has more than 8 bit as the file stores it; before the picture is loaded."""
    if ";16" in str(image.tile) or image.mode[0] in "IF":
        return True
    if image.format == "PPM":
        return any(isinstance(arg, int) and arg > 255 for arg in image.tile[0].args or ())
    box, at = {"AVIF": (b"pixi", 9), "JPEG2000": (b"ihdr", 14)}.get(image.format or "", (b"", 0))
    if not box:
        return False
    with path.open("rb") as file:
        _, _, depths = file.read(2**16).partition(box)
    if len(depths) < at:
        return False
    bits = depths[at - len(box)]
    return bits > 8 if box == b"pixi" else (bits & 127) + 1 > 8


def unread(path: Path, image: ImageFile) -> list[str]:
    """What of a file is not in its first frame's pixels, in words for "not kept"."""
    lost = []
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception:  # the first one may be readable all the same
        frames = 1
    if frames > 1:
        lost.append(f"{frames - 1} of {frames} frames")
    if is_deep(path, image):
        lost.append("more than 8 bit")
    if image.mode[0] in "1LIF" and image.mode != "LAB":
        lost.append("grey, it becomes RGB")
    elif image.mode in ("CMYK", "LAB"):
        lost.append(f"{image.mode}, it becomes RGB")
    profile = image.info.get("icc_profile")
    if profile and colour_space(profile) != "RGB":
        lost.append(f"a colour profile of {colour_space(profile) or 'no'} colours")
    names = {"exif": "EXIF", "xmp": "XMP", "photoshop": "IPTC", "comment": "comment"}
    if image.format == "JPEG2000":
        names.pop("comment")  # it only tells which encoder was used
    lost += [name for key, name in names.items() if image.info.get(key)]
    if image.format == "PNG" and any(isinstance(value, str) for value in image.info.values()):
        lost.append("texts")
    if image.info.get("aspect") not in (None, (1, 1)):
        lost.append("the pixels' shape")
    return lost
