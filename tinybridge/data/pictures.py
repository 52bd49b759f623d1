"""Pictures in and out, pairs of them from folders and JSON lists, and sheets to look at.

Pictures are [3, H, W] float32 in 0..1. What comes in: upright by its EXIF flag, RGB whatever the
file holds (palette, grey, CMYK, 16 bit). Transparency and an RGB colour profile are kept aside and
put back into the restored file. What cannot be read is one ValueError that names the file.

Letters: H W size in pixels, S side of a training square, n number of squares, B batch.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

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
    """Writes to a temporary name beside `path` and moves it into place; OSError with one line."""
    scratch = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(scratch, format=Image.registered_extensions()[path.suffix.lower()], **options)
        os.replace(scratch, path)
    except (OSError, ValueError) as error:
        with suppress(OSError):
            scratch.unlink()
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


# ---- pairs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two files that show one scene; clean is None where a list names no target."""

    degraded: Path
    clean: Path | None
    degradation: str = ""


def partner(file: Path, folder: Path) -> Path:
    """The file of `folder` that has the same name, or the same stem. ValueError if none has."""
    if (folder / file.name).is_file():
        return folder / file.name
    hits = [f for f in listed(folder) if f.stem == file.stem]
    hits = [f for f in hits if f.suffix.lower() in SUFFIXES]
    if len(hits) != 1:
        found = f"{len(hits)} files have" if hits else "no file has"
        raise ValueError(f"{file}: {found} its name in {folder}, one is expected")
    return hits[0]


def pairs(
    path: Path,
    degradation: str | None = None,
    inside: Callable[[Path], list[Path]] = pictures,
    match: Callable[[Path, Path], Path] = partner,
) -> list[Pair]:
    """Pairs of DIR/degraded and DIR/clean by name, or of a JSON list like the authors'.

    A list holds objects with image_path, target_path and degradation; its paths are absolute or
    relative to it. degradation: only the rows of that kind. inside, match: how a folder is listed
    and partners are found. ValueError names what does not fit.
    """
    if path.is_dir():
        for name in ("degraded", "clean"):
            if not (path / name).is_dir():
                raise ValueError(f"{path}: no folder {name} in it; degraded and clean are expected")
        files = inside(path / "degraded")
        return [Pair(f, match(f, path / "clean"), degradation or "") for f in files]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found = [
            Pair(
                path.parent / row["image_path"],
                path.parent / row["target_path"] if row.get("target_path") else None,
                row.get("degradation") or "",
            )
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a list of objects with image_path and target_path "
            f"({type(error).__name__}: {error})"
        ) from None
    chosen = [pair for pair in found if degradation in (None, pair.degradation)]
    if not chosen:
        kinds = ", ".join(sorted({pair.degradation for pair in found})) or "nothing"
        raise ValueError(f"{path}: no rows of {degradation or 'any degradation'}; it has {kinds}")
    return chosen


def read_pair(pair: Pair) -> tuple[Tensor, Tensor]:
    """Degraded and clean pixels, [3, H, W] each; ValueError names both files if sizes differ."""
    if pair.clean is None:
        raise ValueError(f"{pair.degraded}: its row has no target_path, training needs one")
    degraded, clean = read(pair.degraded), read(pair.clean)
    if degraded.size != clean.size:
        (H, W), (h, w) = degraded.size, clean.size
        raise ValueError(
            f"{pair.degraded} is {W}x{H} but its pair {pair.clean} is {w}x{h}: "
            "both must have one size"
        )
    return degraded.pixels, clean.pixels


def squares(pair: Pair, side: int) -> tuple[Tensor, Tensor]:
    """A pair cut into as few squares as cover it: two [n, 3, S, S], nothing is rescaled.

    ValueError if the picture is smaller than `side`.
    """
    degraded, clean = read_pair(pair)
    H, W = clean.shape[1:]
    if min(H, W) < side:
        raise ValueError(
            f"{pair.degraded} is {W}x{H}, smaller than the training size: use --size {min(H, W)}"
        )
    corners = [(top, left) for top in starts(H, side) for left in starts(W, side)]
    cut = [
        torch.stack([p[:, top : top + side, left : left + side] for top, left in corners])
        for p in (degraded, clean)
    ]
    return cut[0], cut[1]


def starts(length: int, side: int) -> list[int]:
    """Where the fewest stretches of `side` begin that cover `length`, evenly spread."""
    n = -(-length // side)
    return [round(k * (length - side) / max(1, n - 1)) for k in range(n)]


# ---- a sheet to look at ------------------------------------------------------------------------


def sheet(
    path: Path,
    columns: Sequence[Tensor],
    titles: Sequence[str],
    notes: Sequence[Sequence[str]] | None = None,
    labels: Sequence[str] | None = None,
    side: int = 192,
) -> None:
    """A PNG with a row per sample and a column per kind of picture, captions in words.

    columns: K tensors [B, 3, H, W] in 0..1, shown `side` pixels wide; titles: K; notes: B rows of
    K lines under the pictures; labels: B lines at the left edge.
    """
    B, _, H, W = columns[0].shape
    high, line, gap, edge = round(side * H / W), 22, 6, 96 if labels else 6
    step = high + gap + (line if notes else 0)
    canvas = Image.new("RGB", (edge + len(columns) * (side + gap), line + B * step), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    for k, (column, title) in enumerate(zip(columns, titles, strict=True)):
        left = edge + k * (side + gap)
        draw.text((left + side / 2, line / 2), title, "black", font, anchor="mm")
        for b in range(B):
            array = (column[b].cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            shown = Image.fromarray(array).resize((side, high), Image.Resampling.BICUBIC)
            canvas.paste(shown, (left, line + b * step))
            if notes:
                at = (left + side / 2, line + b * step + high + line / 2)
                draw.text(at, notes[b][k], "black", font, anchor="mm")
    for b, label in enumerate(labels or []):
        draw.text((8, line + b * step + high / 2), label, "black", font, anchor="lm")
    save(canvas, path)
