"""Pictures in and out.

Pictures are [3, H, W] float32 in 0..1. What comes in: upright by its EXIF flag, RGB whatever the
file holds (palette, grey, CMYK, 16 bit). What their file says beside them is kept aside and put
back into the restored file, see formats.py and README.md beside it; what is not kept is named.
What cannot be read is one ValueError that names the file.

Letters: H W size in pixels, C channels.
"""

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from tinybridge.data import formats, png
from tinybridge.data.clip import LARGEST
from tinybridge.data.formats import SUFFIXES
from tinybridge.data.tables import replacing

UNREADABLE = (Exception,)  # decoders may raise anything on damaged bytes
UPRIGHT = {  # by the EXIF flag, which says how the stored picture must be turned
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """pixels [3, H, W] float32 in 0..1, alpha [1, H, W] likewise or None, and what goes with them.

    profile: an RGB colour profile (ICC); chunks: a PNG's names and contents of colour meaning;
    dpi: pixels per inch across and down; kind: the file's format; options: what that format's
    writer is told; unread: in words, what of the file is not here.
    """

    pixels: Tensor
    alpha: Tensor | None = None
    profile: bytes | None = None
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    dpi: tuple[float, float] | None = None
    kind: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        _, H, W = self.pixels.shape
        return H, W


def to_tensor(image: Image.Image) -> Tensor:
    """[C, H, W] float32 in 0..1 of an 8 bit image."""
    array = np.asarray(image, np.float32) / 255  # [H, W] or [H, W, C]
    return torch.from_numpy(np.atleast_3d(array)).permute(2, 0, 1)  # [C, H, W]


def read(path: Path, most: int = LARGEST) -> Picture:
    """The picture in a file. FileNotFoundError, or ValueError for what is no readable picture.

    16 bit grey keeps its precision; of several frames or pages the first is taken. most: pixels
    that it may have, by its header.
    """
    with formats.opened(path, most) as image:
        about = _about(path, image)
        flag = formats.orientation(image)  # 1 of a TIFF, which pillow has turned already
        upright = image.transpose(UPRIGHT[flag]) if flag in UPRIGHT else image
        if image.mode[0] in "IF":  # grey in 16 bit or more
            if "transparency" in image.info:  # one of its levels
                seen = np.asarray(upright) != image.info["transparency"]  # [H, W]
                about["alpha"] = torch.from_numpy(seen[None].astype(np.float32))
            return Picture(_deep_grey(image, upright), **about)
        if image.has_transparency_data:
            upright = upright.convert("RGBA")
            about["alpha"] = to_tensor(upright.getchannel("A"))
        return Picture(to_tensor(upright.convert("RGB")), **about)


def _about(path: Path, image: ImageFile) -> dict[str, Any]:
    """The fields of a Picture beside its pixels; loads the image."""
    unread = formats.unread(path, image)  # before load, which forgets how the pixels are stored
    about: dict[str, Any] = {"kind": image.format, "options": formats.stored_as(path, image)}
    sideways = formats.orientation(image) > 4
    image.load()
    profile = image.info.get("icc_profile")
    if profile and formats.colour_space(profile) == "RGB":
        about["profile"] = profile
    if image.format == "PNG":
        png.check_lines(path)
        about["chunks"] = png.colour_chunks(path)
    dpi = formats.dpi(image)
    if dpi:
        about["dpi"] = dpi[::-1] if sideways else dpi
    return about | {"unread": tuple(unread)}


def _deep_grey(image: ImageFile, upright: Image.Image) -> Tensor:
    """[3, H, W] in 0..1 of integers or floats. ValueError if some lie outside of black to white."""
    white = 1 if image.mode == "F" else formats.white(image)
    grey = np.asarray(upright).astype(np.float32) / white  # [H, W]
    if not (np.isfinite(grey).all() and grey.min() >= 0 and grey.max() <= 1):
        raise ValueError(f"mode {image.mode} has values outside 0..{white}")
    if formats.white_is_zero(image):
        grey = 1 - grey
    return torch.from_numpy(grey).expand(3, -1, -1).contiguous()


def not_kept(like: Picture, path: Path) -> list[str]:
    """In words, what of a picture is not in the file that `write` makes at `path`."""
    kind, lost = formats.of_name(path), list(like.unread)
    if like.alpha is not None and kind not in formats.TRANSPARENT:
        lost.append("transparency")
    if like.profile and kind not in formats.PROFILED:
        lost.append("its colour profile")
    if like.dpi and kind not in formats.MEASURED:
        lost.append("dots per inch")
    if kind != "PNG":
        lost += [name.decode() for name, _ in like.chunks]
    return lost


def write(path: Path, pixels: Tensor, like: Picture | None = None) -> None:
    """Saves [3, H, W] in 0..1 as 8 bit in the format of the name, all or nothing.

    like: the picture that its transparency, colours and print size are taken from; if that was a
    file of the same format, how finely it was stored as well. OSError with one line if it fails.
    """
    kind, channels = formats.of_name(path), pixels.detach().cpu().clamp(0, 1)
    options = formats.fine(kind)
    if like is not None:
        if like.alpha is not None and kind in formats.TRANSPARENT:
            channels = torch.cat((channels, like.alpha))  # [4, H, W]
        if like.profile and kind in formats.PROFILED:
            options["icc_profile"] = like.profile
        if like.dpi and kind in formats.MEASURED:
            options["dpi"] = like.dpi
        if like.chunks and kind == "PNG":
            options["pnginfo"] = PngInfo()
            for name, content in like.chunks:
                options["pnginfo"].add(name, content)
        if like.kind.replace("MPO", "JPEG") == kind:
            options |= like.options
    if "qtables" in options or "lossless" in options:
        options.pop("quality")
    array = (channels * 255).round().byte().permute(1, 2, 0).numpy()  # [H, W, C]
    save(Image.fromarray(array), path, **options)


def save(image: Image.Image, path: Path, **options: object) -> None:
    """Writes the file whole or not at all; OSError with one line."""
    with replacing(path) as scratch:
        try:
            encoded = io.BytesIO()  # pillow's JPEG 2000 writer never ends where a disk is full
            image.save(encoded, format=formats.of_name(path), **options)
            scratch.write_bytes(encoded.getvalue())
        except Exception as error:  # encoders may raise anything, too
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"{path}: cannot be written ({reason})") from None


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
