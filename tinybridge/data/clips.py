"""Clips in and out: video files, animated GIF and WebP, folders of frames; pairs of them.

A clip is read and written frame by frame and is never whole in memory. Its restoration keeps name,
format, size, frame times, number of frames and sound. video.py has the video files and what is
left out there. GIF and WebP lose their transparency; pictures in folders keep theirs, as in
pictures.py.

Letters: H W size in pixels, F frames of a cube, S its side, n frames in a chunk or cubes in a
window.
"""

import itertools
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import GifImagePlugin, Image
from torch import Tensor

from tinybridge.data import pictures, video
from tinybridge.data.video import Clip

SUFFIXES = (*video.MUXERS, ".gif", ".webp")  # files that hold a clip each

# ---- what there is -----------------------------------------------------------------------------


def clips(path: Path) -> list[Path]:
    """The clips that a path means: a file, a folder of pictures, or a folder of several of these.

    ValueError if there is none, or pictures lie beside clips.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    stills, found = [], []
    for item in pictures.listed(path):
        suffix = item.suffix.lower()
        if item.is_dir():
            inside = any(f.suffix.lower() in pictures.SUFFIXES for f in pictures.listed(item))
            found += [item] if inside else []
        elif suffix in SUFFIXES and (suffix not in pictures.SUFFIXES or _moves(item)):
            found.append(item)
        elif suffix in pictures.SUFFIXES:
            stills.append(item)
    if stills and found:
        raise ValueError(
            f"{path}: {stills[0].name} is a picture and {found[0].name} a clip; "
            "give the pictures a folder of their own"
        )
    if not stills and not found:
        raise ValueError(f"{path}: no clips in it ({', '.join(SUFFIXES)}, folders of pictures)")
    return found or [path]


def open_clip(path: Path) -> Clip:
    """Looks through a clip once: all packets and the first frame of a video, headers of pictures.

    FileNotFoundError, or ValueError in one line: no video, no frames, cut off, sizes that differ.
    """
    suffix = path.suffix.lower()
    if path.is_file() and suffix in video.MUXERS:
        return video.probe(path)
    if path.is_file() and (suffix == ".gif" or _moves(path)):
        return _open_animation(path)
    if path.is_file() and suffix not in pictures.SUFFIXES:
        known = ", ".join(dict.fromkeys((*SUFFIXES, *pictures.SUFFIXES)))
        raise ValueError(f"{path}: not a clip; a name ending in {known} or a folder is expected")
    files = pictures.pictures(path)
    sizes = [_picture_size(file) for file in files]
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(video.differs(file, size, files[0], sizes[0]))
    return Clip(path, sizes[0], len(files), None, "pictures")


def read(clip: Clip) -> Iterator[Tensor]:
    """The frames in order, [3, 1, H, W] float32 in 0..1 each. ValueError if the file breaks off."""
    shots = {"video": video.frames, "animation": _animation_frames, "pictures": _picture_frames}
    for pixels in shots[clip.kind](clip.path):  # [3, H, W]
        if tuple(pixels.shape[1:]) != clip.size:
            raise ValueError(
                video.differs(clip.path, pixels.shape[1:], "its first frame", clip.size)
            )
        yield pixels[:, None]


def write(path: Path, frames: Iterable[Tensor], like: Clip) -> None:
    """Writes chunks [3, n, H, W] as they come, with the times and the sound of `like`.

    All or nothing: what stood at `path` goes when the last frame is in. ValueError if there are
    more or fewer frames than `like` has or they are of another size, and before the first one is
    asked for if the format cannot hold the sound; OSError in one line if writing fails.
    """
    if like.kind == "pictures":
        _write_pictures(path, frames, like)
        return
    formats = video.MUXERS if like.kind == "video" else (".gif", ".webp")
    if path.suffix.lower() not in formats:
        raise ValueError(f"{path}: expected a name ending in {', '.join(formats)}")
    with video.placed(path) as scratch:
        save = video.save if like.kind == "video" else _write_animation
        save(path, scratch, frames, like)


# ---- animations and pictures -------------------------------------------------------------------


def _moves(path: Path) -> bool:
    """Whether a picture file is an animation."""
    try:
        with Image.open(path) as image:
            return image.format in ("GIF", "WEBP", "PNG") and getattr(image, "is_animated", False)
    except pictures.UNREADABLE:
        return False


def _reel(path: Path) -> Iterator[tuple[Image.Image, dict[str, Any]]]:
    """The frames of an animation as they are seen, RGB, each with what pillow knows of it."""
    k = 0
    try:
        with Image.open(path) as image:
            for k in range(image.n_frames):
                image.seek(k)
                image.load()
                yield image.convert("RGB"), dict(image.info)
    except (*pictures.UNREADABLE, IndexError) as error:
        raise ValueError(f"{path}: breaks off after {k} frames ({error})") from None


def _animation_frames(path: Path) -> Iterator[Tensor]:
    return (pictures.to_tensor(image) for image, _ in _reel(path))


def _open_animation(path: Path) -> Clip:
    durations, size = [], (0, 0)
    for image, info in _reel(path):
        durations.append(round(info.get("duration") or 0))
        size = image.size[::-1]
    rate = Fraction(1000 * len(durations), sum(durations)) if any(durations) else None
    notes = video.notes(path, rate, durations)
    return Clip(path, size, len(durations), rate, "animation", notes)


def _write_animation(path: Path, scratch: Path, frames: Iterable[Tensor], like: Clip) -> None:
    """Every frame whole, one after another; pillow would keep all and merge equal neighbours."""
    gif, (H, W) = path.suffix.lower() == ".gif", like.size
    marks = (info for _, info in _reel(like.path))
    for k, (info, pixels) in enumerate(video.matched(marks, frames, like)):
        if k == 0:
            video.put(
                path, _append, scratch, (_gif_head if gif else _webp_head)(W, H, info.get("loop"))
            )
        image, duration = Image.fromarray(video.to_bytes(pixels)), round(info.get("duration") or 0)
        video.put(path, _append, scratch, (_gif_frame if gif else _webp_frame)(image, duration))
    if gif:
        video.put(path, _append, scratch, b";")
    else:
        with scratch.open("r+b") as file:  # a RIFF file begins with its length
            file.seek(4)
            file.write(struct.pack("<I", scratch.stat().st_size - 8))


def _append(scratch: Path, content: bytes) -> None:
    with scratch.open("ab") as file:
        file.write(content)


def _gif_head(W: int, H: int, loop: int | None) -> bytes:
    head = b"GIF89a" + struct.pack("<HHxxx", W, H)
    return (
        head if loop is None else head + b"!\xff\x0bNETSCAPE2.0" + struct.pack("<BBHx", 3, 1, loop)
    )


def _gif_frame(image: Image.Image, duration: int) -> bytes:
    options = {"duration": duration, "include_color_table": True}
    return b"".join(GifImagePlugin.getdata(image.quantize(256), **options))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _three(*values: int) -> bytes:
    return b"".join(value.to_bytes(3, "little") for value in values)


def _webp_head(W: int, H: int, loop: int | None) -> bytes:
    moving, repeat = bytes((2, 0, 0, 0)) + _three(W - 1, H - 1), struct.pack("<IH", 0, loop or 0)
    return b"RIFF....WEBP" + _chunk(b"VP8X", moving) + _chunk(b"ANIM", repeat)


def _webp_frame(image: Image.Image, duration: int) -> bytes:
    still, (W, H) = BytesIO(), image.size
    image.save(still, "WEBP", quality=95)
    place = bytes(6) + _three(W - 1, H - 1, duration) + b"\x02"  # whole, not blended
    return _chunk(b"ANMF", place + still.getvalue()[12:])


def _picture_size(file: Path) -> tuple[int, int]:
    """(H, W) upright, from the header."""
    try:
        with Image.open(file) as image:
            W, H = image.size
            return (W, H) if image.getexif().get(0x0112, 1) > 4 else (H, W)
    except pictures.UNREADABLE:
        raise ValueError(f"{file}: not a picture that can be read") from None


def _picture_frames(path: Path) -> Iterator[Tensor]:
    return (pictures.read(file).pixels for file in pictures.pictures(path))


def _write_pictures(path: Path, frames: Iterable[Tensor], like: Clip) -> None:
    """A folder with the names and formats of another, or one picture."""
    files = pictures.pictures(like.path)
    if like.path.is_file():
        [(file, pixels)] = video.matched(files, frames, like)
        return pictures.write(path, pixels, pictures.read(file))
    strange = {f.name for f in path.iterdir()} - {f.name for f in files} if path.is_dir() else ()
    if strange:
        raise OSError(f"{path}: it holds other files, {min(strange)} for one; choose another --out")
    with video.placed(path) as scratch:
        for file, pixels in video.matched(files, frames, like):
            pictures.write(scratch / file.name, pixels, pictures.read(file))


# ---- pairs to learn from -----------------------------------------------------------------------


def pairs(path: Path, degradation: str | None = None) -> list[pictures.Pair]:
    """Pairs of clips, from DIR/degraded and DIR/clean or a JSON list, as data.pairs has them."""
    return pictures.pairs(path, degradation, clips, _partner)


def _partner(clip: Path, folder: Path) -> Path:
    """The clip of `folder` with the same name or stem, or `folder` if both sides are one clip."""
    found = clips(folder)
    if clip.parent == folder.parent and found == [folder]:
        return folder
    hits = [c for c in found if c.name == clip.name] or [c for c in found if c.stem == clip.stem]
    if len(hits) != 1:
        raise ValueError(f"{clip}: {len(hits)} clips have its name in {folder}, one is expected")
    return hits[0]


def cubes(pair: pictures.Pair, side: int, frames: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A pair cut into as few cubes as cover it: degraded and clean [n, 3, F, S, S] per window.

    Window after window; the last one reaches back over the one before if the clip does not end
    with it. ValueError if sizes or numbers of frames differ, or the clip is smaller than a cube.
    """
    if pair.clean is None:
        raise ValueError(f"{pair.degraded}: its row has no target_path, training needs one")
    one, two = open_clip(pair.degraded), open_clip(pair.clean)
    H, W = one.size
    if one.size != two.size:
        raise ValueError(video.differs(one.path, one.size, f"its pair {two.path}", two.size))
    if min(H, W) < side:
        raise ValueError(
            f"{one.path} is {W}x{H}, smaller than the training size: use --size {min(H, W)}"
        )
    corners = [(y, x) for y in pictures.starts(H, side) for x in pictures.starts(W, side)]
    window, new, seen = [], 0, 0
    for both in itertools.zip_longest(read(one), read(two)):
        if both[0] is None or both[1] is None:
            raise ValueError(
                f"{one.path} and its pair {two.path} have {one.frames} and {two.frames} frames: "
                "both must have equally many"
            )
        seen, new = seen + 1, new + 1
        window = [*window, torch.stack(both)][-frames:]  # F of [2, 3, 1, H, W]
        if new == frames:
            yield _cut(window, corners, side)
            new = 0
    if seen < frames:
        raise ValueError(f"{one.path} has {seen} frames, fewer than {frames}: use fewer frames")
    if new:
        yield _cut(window, corners, side)


def _cut(window: list[Tensor], corners: list[tuple[int, int]], side: int) -> tuple[Tensor, Tensor]:
    """Two [n, 3, F, S, S] of F frames [2, 3, 1, H, W]."""
    both = torch.cat(window, 2)  # [2, 3, F, H, W]
    cut = torch.stack([both[..., y : y + side, x : x + side] for y, x in corners], 1)
    return cut[0], cut[1]
