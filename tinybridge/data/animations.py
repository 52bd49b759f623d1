"""Animated GIF, WebP and PNG in and out, through pillow.

Every frame keeps its time, but pillow makes one longer frame of neighbours that are equal. What is
written is held in memory until it is whole.

Letters: H W size in pixels.
"""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.ImageFile import ImageFile
from torch import Tensor

from tinybridge.data import formats, pictures
from tinybridge.data.clip import Clip, as_oserror, notes, to_bytes

FORMATS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
ROOM = 2**32  # bytes that the frames of one animation may take


def moves(path: Path) -> bool:
    """Whether a file is an animation of a kind that can be written too."""
    if path.suffix.lower() not in FORMATS:
        return False
    try:
        with formats.opened(path) as image:
            return image.format in FORMATS.values() and getattr(image, "is_animated", False)
    except ValueError:
        return False


def _images(path: Path) -> Iterator[tuple[Image.Image, dict[str, Any]]]:
    """The frames as they are seen, upright RGB, each with what pillow knows of it."""
    k = 0
    try:
        with formats.opened(path) as image:
            turn = pictures.UPRIGHT.get(formats.orientation(image))
            for k in range(_still(image), getattr(image, "n_frames", 1)):
                image.seek(k)
                image.load()
                info = dict(image.info, clear=image.has_transparency_data)
                frame = image.convert("RGB")
                yield frame if turn is None else frame.transpose(turn), info
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: breaks off after {k} frames: {reason}") from None


def _still(image: ImageFile) -> int:
    """1 if before the frames there is a picture for programs that show no animation, else 0."""
    return int(bool(image.info.get("default_image")))


def frames(path: Path) -> Iterator[Tensor]:
    """[3, H, W] in 0..1 each. ValueError if the file breaks off."""
    for image, _ in _images(path):
        yield pictures.to_tensor(image)


def probe(path: Path) -> Clip:
    """All frames are decoded, if their number and size allow it. ValueError in one line."""
    with formats.opened(path) as image:
        n, (W, H) = getattr(image, "n_frames", 1) - _still(image), image.size
        H, W = (W, H) if formats.orientation(image) > 4 else (H, W)
        tags = formats.stored_as(path, image)
        lost = [words for words in formats.unread(path, image) if not words.endswith("frames")]
        lost += ["the picture before its frames"] * _still(image)
    if 3 * n * H * W > ROOM:
        raise ValueError(f"{path}: {n} frames of {W}x{H} are too many; convert it to a video first")
    durations, clear, info = [], False, {}
    for _, info in _images(path):
        durations.append(round(info.get("duration") or 0))
        clear = clear or info["clear"]
    whole = sum(durations)
    times = tuple(itertools.accumulate(durations, initial=0))
    rate = Fraction(1000 * n, whole) if whole else None
    tags |= {name: info[name] for name in ("loop", "icc_profile") if name in info}
    told = notes(path, rate, times, lost + ["transparency"] * clear)
    return Clip(path, (H, W), n, rate, "animation", times, Fraction(1, 1000), told, tags)


class AnimationWriter:
    """Takes the frames of a clip one by one; `finish` when all are in."""

    def __init__(self, path: Path, scratch: Path, like: Clip) -> None:
        self.path, self.scratch, self.like = path, scratch, like
        self.format = FORMATS[path.suffix.lower()]
        self.images: list[Image.Image] = []

    def write(self, frame: Tensor) -> None:
        """[3, H, W] in 0..1."""
        image = Image.fromarray(to_bytes(frame))
        self.images.append(image.quantize(256) if self.format == "GIF" else image)

    def finish(self) -> None:
        durations = [late - early for early, late in itertools.pairwise(self.like.times)]
        first, *more = self.images
        told = {"duration": durations, **formats.fine(self.format), **self.like.tags}
        with as_oserror(self.path):
            first.save(self.scratch, self.format, save_all=True, append_images=more, **told)

    def close(self) -> None:
        self.images.clear()
