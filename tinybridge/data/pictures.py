"""Pictures in and out.

Pictures are [3, H, W] float32 in 0..1. What comes in: upright by its EXIF flag, RGB whatever the
file holds (palette, grey, CMYK, 16 bit). Transparency and an RGB colour profile are kept aside and
put back into the restored file. What cannot be read is one ValueError that names the file.

Letters: H W size in pixels, C channels.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from tinybridge.data.tables import replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
TRANSPARENT = (".png", ".webp", ".tif", ".tiff")  # formats that we give their transparency back
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

# ---- one picture -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """pixels [3, H, W] float32 in 0..1, alpha [1, H, W] likewise or None, ICC profile or None."""

    pixels: Tensor
    alpha: Tensor | None = None
    profile: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        return tuple(self.pixels.shape[1:])


def to_tensor(image: Image.Image) -> Tensor:
    """[C, H, W] float32 in 0..1 of an 8 bit image."""
    array = np.asarray(image, np.float32) / 255  # [H, W] or [H, W, C]
    return torch.from_numpy(np.atleast_3d(array)).permute(2, 0, 1)  # [C, H, W]


def read(path: Path) -> Picture:
    """The picture in a file. FileNotFoundError, or ValueError for what is no readable picture.

    16 bit pictures keep their precision; of several frames or pages the first is taken.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with Image.open(path) as image:
            profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
            image = ImageOps.exif_transpose(image)
            if image.mode[0] in "IF":  # 16 bit grey, or numbers wider than that
                scale = 1.0 if image.mode == "F" else 65535.0
                grey = np.asarray(image).astype(np.float32) / scale  # [H, W]
                if not (np.isfinite(grey).all() and grey.min() >= 0 and grey.max() <= 1):
                    raise ValueError(f"mode {image.mode} has values outside 0..{scale:.0f}")
                return Picture(torch.from_numpy(grey).expand(3, -1, -1).contiguous())
            alpha = None
            if image.has_transparency_data:
                image = image.convert("RGBA")
                alpha = to_tensor(image.getchannel("A"))
            return Picture(to_tensor(image.convert("RGB")), alpha, profile)
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not a picture that can be read") from None
    except UNREADABLE as error:
        raise ValueError(f"{path}: not a readable picture ({error})") from None


def write(path: Path, pixels: Tensor, like: Picture | None = None) -> None:
    """Saves [3, H, W] in 0..1 as 8 bit in the format of the name, all or nothing.

    like: the picture whose transparency and profile it gets. OSError with one line if it fails.
    """
    channels, options = pixels.detach().cpu().clamp(0, 1), {}
    if like is not None and like.alpha is not None and path.suffix.lower() in TRANSPARENT:
        channels = torch.cat((channels, like.alpha))  # [4, H, W]
    if like is not None and like.profile:
        options["icc_profile"] = like.profile
    if path.suffix.lower() in (".jpg", ".jpeg", ".webp"):
        options["quality"] = 95
    array = (channels * 255).round().byte().permute(1, 2, 0).numpy()  # [H, W, C]
    save(Image.fromarray(array), path, **options)


def save(image: Image.Image, path: Path, **options: object) -> None:
    """Writes the file whole or not at all; OSError with one line."""
    kind = Image.registered_extensions()[path.suffix.lower()]
    with replacing(path) as scratch:
        try:
            image.save(scratch, format=kind, **options)
        except (OSError, ValueError) as error:
            raise OSError(f"{path}: cannot be written ({error})") from None


def listed(folder: Path) -> list[Path]:
    """What a folder holds, hidden files left out, numbers in names in their order: 2 before 10."""
    shown = [item for item in folder.iterdir() if not item.name.startswith(".")]
    return sorted(shown, key=lambda item: (by_number(item.name), item.name))


def by_number(name: str) -> list[str | int]:
    """A name in parts to sort it by: words and numbers in turn."""
    parts = re.split("([0-9]+)", name)
    return [int(part) if k % 2 else part for k, part in enumerate(parts)]


def pictures(path: Path) -> list[Path]:
    """The picture files of a folder, in the order of `listed`, or one file. ValueError if none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    files = [f for f in listed(path) if f.suffix.lower() in SUFFIXES and f.is_file()]
    if not files:
        raise ValueError(f"{path}: no pictures in it ({', '.join(SUFFIXES)} are looked for)")
    return files
