"""Pairs to learn from: degraded and clean files matched by name or by a list, and cut into crops.

    for pair in pairs.pairs(folder_or_list, "haze"):
        degraded, clean = pairs.crops(pair, 64)  # [n, 3, 64, 64] each

Names are compared in Unicode's composed form: macOS writes "é" as two code points, others as one.

Letters: H W size in pixels, S side of a crop, F its frames, n number of crops.
"""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import torch
from torch import Tensor

from tinybridge.data import clips, formats, pictures
from tinybridge.data.clip import differs
from tinybridge.data.left_out import one_line, passed_over_in, shown


@dataclass(frozen=True)
class Pair:
    """Two files that show one scene; clean is None where a list names no target.

    fault: one line, if this is a row of a list that names no picture or a file without a partner.
    """

    degraded: Path
    clean: Path | None
    degradation: str = ""
    fault: str = ""


# ---- matching ----------------------------------------------------------------------------------


def spellings(file: Path) -> list[tuple[str, str]]:
    """What a name is looked up by, the strictest first: name, then stem, each in two spellings."""
    name, stem = normalize("NFC", file.name), normalize("NFC", file.stem)
    return [
        ("written", file.name),
        ("name", name),
        ("name in any case", name.casefold()),
        ("stem", stem),
        ("stem in any case", stem.casefold()),
    ]


def by_name(candidates: Sequence[Path]) -> dict[tuple[str, str], list[Path]]:
    """An index of files for `namesake`, made once for all that are looked up in it."""
    index: dict[tuple[str, str], list[Path]] = {}
    for candidate in candidates:
        for spelling in spellings(candidate):
            index.setdefault(spelling, []).append(candidate)
    return index


def namesake(file: Path, index: dict[tuple[str, str], list[Path]], folder: Path) -> Path:
    """The one file of `folder`, indexed by `by_name`, with the same name or else the same stem.

    ValueError in one line if there is none, or several.
    """
    for spelling in spellings(file):
        same = index.get(spelling, [])
        if len(same) == 1:
            return same[0]
        if same:
            raise ValueError(
                f"{file}: {len(same)} files have its name in {folder}, one is expected: "
                + ", ".join(twin.name for twin in same)
            )
    raise ValueError(f"{file}: no file has its name in {folder}, one is expected")


def pairs(path: Path, degradation: str | None = None, video: bool = False) -> list[Pair]:
    """Pairs of pictures, or of clips, from DIR/degraded and DIR/clean or from a JSON list.

    degradation: only the rows of that kind. A file or a row that makes no pair has a fault.
    ValueError in one line if there are none at all.
    """
    if not path.is_dir():
        return list_pairs(path, degradation)
    list_folder = clips.clips if video else pictures.pictures
    degraded, clean = side_folder(path, "degraded"), side_folder(path, "clean")
    files, candidates = list_folder(degraded), list_folder(clean)
    if files == [degraded] and candidates == [clean]:  # both are one clip, a folder of frames
        return [Pair(degraded, clean, degradation or "")]
    index = by_name(candidates)
    found: list[Pair] = []
    taken: dict[tuple[Path, str], Path] = {}
    for file in files:
        try:
            partner = namesake(file, index, clean)
            twin = taken.setdefault((partner, normalize("NFC", file.name).casefold()), file)
            if twin != file:
                raise ValueError(f"{file}: {twin.name} has the same partner, {partner}")
            found.append(Pair(file, partner, degradation or ""))
        except ValueError as error:
            found.append(Pair(file, None, degradation or "", str(error)))
    return found


def left_out(path: Path, found: Sequence[Pair], video: bool = False) -> str:
    """One line on what `pairs` passed over in DIR/degraded and DIR/clean, "" if nothing."""
    if not path.is_dir():
        return ""
    taken = {file for pair in found for file in (pair.degraded, pair.clean) if file}
    passed_over: dict[str, list[str]] = {}
    for folder in (side_folder(path, "degraded"), side_folder(path, "clean")):
        if folder in taken:  # a clip itself
            continue
        for reason, item in passed_over_in(folder, taken, video):
            passed_over.setdefault(reason, []).append(shown(item.relative_to(path)))
        for clip in sorted(file for file in taken if file.parent == folder and file.is_dir()):
            frames = set(pictures.pictures(clip))
            for reason, item in passed_over_in(clip, frames, video, alike="among frames"):
                passed_over.setdefault(reason, []).append(shown(item.relative_to(path)))
    return one_line(passed_over)


def side_folder(path: Path, name: str) -> Path:
    """`name` in `path`, or the one folder called so in other letter case. ValueError if none."""
    if (path / name).is_dir():
        return path / name
    alike = [item for item in path.iterdir() if item.name.casefold() == name and item.is_dir()]
    if len(alike) != 1:
        raise ValueError(f"{path}: no folder {name} in it; degraded and clean are expected")
    return alike[0]


# ---- JSON lists --------------------------------------------------------------------------------


def list_pairs(path: Path, degradation: str | None = None) -> list[Pair]:
    """Pairs of a JSON list like the authors': objects of image_path, target_path, degradation.

    Its paths are absolute or relative to it. A row that names no picture becomes a Pair with a
    fault; ValueError if every row is one, or none is of that degradation.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder")
    content = path.read_bytes()
    try:
        encoding = json.detect_encoding(content)  # UTF-8 or 16, with a byte order mark or without
        rows = json.loads(content.decode(encoding, "surrogateescape"))
        if not isinstance(rows, list):
            raise ValueError(f"{type(rows).__name__} at its top")
        found = [one_row(path, number, row) for number, row in enumerate(rows, 1)]
        if found and all(pair.fault for pair in found):
            raise ValueError(found[0].fault)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a list of objects with image_path and target_path ({error})"
        ) from None
    chosen = [pair for pair in found if pair.fault or degradation in (None, pair.degradation)]
    if all(pair.fault for pair in chosen):
        kinds = ", ".join(sorted({pair.degradation for pair in found})) or "nothing"
        raise ValueError(f"{path}: no rows of {degradation or 'any degradation'}; it has {kinds}")
    return chosen


def one_row(path: Path, number: int, row: object) -> Pair:
    """A row of the list at `path`; with a fault if it names no picture."""
    fields = row if isinstance(row, dict) else {}
    image, target = fields.get("image_path"), fields.get("target_path")
    if not isinstance(image, str) or not image:
        fault = f"{path}: row {number} has no image_path, a name is expected"
        return Pair(path, None, fault=fault)
    if target is not None and not isinstance(target, str):
        fault = f"{path}: row {number} has a target_path that is no name: {target}"
        return Pair(path, None, fault=fault)
    clean = from_list(path, target) if target else None
    return Pair(from_list(path, image), clean, str(fields.get("degradation") or ""))


def from_list(path: Path, name: str) -> Path:
    """The file that a list names; Windows' separators are read where the name has no other use."""
    file = path.parent / name
    if "\\" in name and not os.path.exists(file):
        return path.parent / name.replace("\\", "/")
    return file


# ---- crops -------------------------------------------------------------------------------------


def check(pair: Pair, size: tuple[int, int], clean_size: tuple[int, int], side: int) -> None:
    """ValueError in one line unless (H, W) of both are equal and hold a square of `side`."""
    H, W = size
    if size != clean_size:
        raise ValueError(differs(pair.degraded, size, f"its pair {pair.clean}", clean_size))
    if min(H, W) < side:
        raise ValueError(
            f"{pair.degraded} is {W}x{H}, smaller than the training size: use --size {min(H, W)}"
        )


def probe(pair: Pair, side: int, frames: int | None = None) -> None:
    """ValueError in one line if training cannot use a pair of pictures, by their headers alone.

    frames: of a cube; then the pair is one of clips, which are looked through once.
    """
    if frames is None:
        clean_size = formats.size(clean_of(pair))
        check(pair, formats.size(pair.degraded), clean_size, side)
        return
    clean, degraded = clips.open_clip(clean_of(pair)), clips.open_clip(pair.degraded)
    check(pair, degraded.size, clean.size, side)
    if degraded.frames != clean.frames:
        raise ValueError(
            f"{degraded.path} and its pair {clean.path} have {degraded.frames} and "
            f"{clean.frames} frames: both must have equally many"
        )
    if degraded.frames < frames:
        raise ValueError(
            f"{degraded.path} has {degraded.frames} frames, fewer than {frames}: use fewer frames"
        )


def clean_of(pair: Pair) -> Path:
    """The clean file. ValueError if a list's row names none, or no picture."""
    if pair.fault:
        raise ValueError(pair.fault)
    if pair.clean is None:
        raise ValueError(f"{pair.degraded}: its row has no target_path, training needs one")
    return pair.clean


def crops(pair: Pair, side: int) -> tuple[Tensor, Tensor]:
    """A pair of pictures cut into as few squares as cover it: two [n, 3, S, S] in 0..1.

    Nothing is rescaled. ValueError if sizes differ or the picture is smaller than `side`.
    """
    clean = pictures.read(clean_of(pair))
    degraded = pictures.read(pair.degraded)
    check(pair, degraded.size, clean.size, side)
    return cut(degraded.pixels, side), cut(clean.pixels, side)


def clip_crops(pair: Pair, side: int, frames: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A pair of clips cut into as few cubes as cover it: two [n, 3, F, S, S] per window of frames.

    Window after window; the last one reaches back over the one before if the clip does not end
    with it. ValueError if sizes or numbers of frames differ, or the clip is smaller than a cube.
    """
    clean = clips.open_clip(clean_of(pair))
    degraded = clips.open_clip(pair.degraded)
    check(pair, degraded.size, clean.size, side)
    window: list[Tensor] = []
    new, seen = 0, 0
    for bad, good in itertools.zip_longest(clips.read(degraded), clips.read(clean)):
        if bad is None or good is None:
            raise ValueError(
                f"{degraded.path} and its pair {clean.path} have {degraded.frames} and "
                f"{clean.frames} frames: both must have equally many"
            )
        seen, new = seen + 1, new + 1
        window = [*window, torch.stack((bad, good))][-frames:]  # F of [2, 3, 1, H, W]
        if new == frames:
            yield cut_window(window, side)
            new = 0
    if seen < frames:
        raise ValueError(
            f"{degraded.path} has {seen} frames, fewer than {frames}: use fewer frames"
        )
    if new:
        yield cut_window(window, side)


def cut_window(window: list[Tensor], side: int) -> tuple[Tensor, Tensor]:
    """Degraded and clean [n, 3, F, S, S] of F frames [2, 3, 1, H, W]."""
    degraded, clean = torch.cat(window, 2)  # [3, F, H, W] each
    return cut(degraded, side), cut(clean, side)


def cut(pixels: Tensor, side: int) -> Tensor:
    """Squares [n, ..., S, S] of [..., H, W], row by row."""
    H, W = pixels.shape[-2:]
    squares = []
    for top in starts(H, side):
        for left in starts(W, side):
            squares.append(pixels[..., top : top + side, left : left + side])
    return torch.stack(squares)


def starts(length: int, side: int) -> list[int]:
    """Where the fewest stretches of `side` begin that cover `length`, evenly spread."""
    n = -(-length // side)
    return [round(k * (length - side) / max(1, n - 1)) for k in range(n)]
