"""Clips in and out: video files, animations, folders of frames.

A clip is read frame by frame and never whole in memory, and written frame by frame. Its
restoration keeps name, format, size, frame times, number of frames and sound; README.md beside
this file says what is not kept. video.py, animations.py and folders.py have the three kinds, each
with a `probe`, its `frames` and a writer.

Letters: H W size in pixels, n frames in a chunk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from tinybridge.data import animations, container, folders, pictures, video
from tinybridge.data.animations import AnimationWriter
from tinybridge.data.clip import Clip, differs
from tinybridge.data.folders import FolderWriter
from tinybridge.data.tables import replacing
from tinybridge.data.video_writer import VideoWriter

SUFFIXES = (*container.MUXERS, *animations.FORMATS)  # files that may hold a clip each

# ---- what there is -----------------------------------------------------------------------------


def clips(path: Path) -> list[Path]:
    """The clips that a path means: a file, a folder of pictures, or a folder of several of these.

    Pictures beside clips are passed over, see `left_out`. ValueError if there is no clip.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    found, stills = _sorted(path)
    if not stills and not found:
        raise ValueError(f"{path}: no clips in it ({', '.join(SUFFIXES)}, folders of pictures)")
    return found or [path]


def left_out(path: Path) -> list[str]:
    """What of a folder `clips` passes over though it could be a clip, each with the reason."""
    if not path.is_dir():
        return []
    found, stills = _sorted(path)
    stems = {item.stem for item in found if item.suffix.lower() in container.MUXERS}
    left = []
    for item in stills if found else []:
        what = "a clip's thumbnail" if item.stem in stems else "pictures beside clips"
        left.append(f"{item.name} ({what})")
    return left


def _sorted(folder: Path) -> tuple[list[Path], list[Path]]:
    """The clips and the pictures of a folder."""
    found, stills = [], []
    for item in pictures.listed(folder):
        suffix = item.suffix.lower()
        if item.is_dir():
            found += [item] if _holds_pictures(item) else []
        elif suffix in (*container.MUXERS, ".gif") or animations.moves(item):
            found.append(item)
        elif suffix in pictures.SUFFIXES:
            stills.append(item)
    return found, stills


def _holds_pictures(folder: Path) -> bool:
    try:
        return any(file.suffix.lower() in pictures.SUFFIXES for file in pictures.listed(folder))
    except OSError:  # a folder that must not be looked into
        return False


def open_clip(path: Path) -> Clip:
    """Looks through a clip once: all frames of a video or animation, the headers of pictures.

    FileNotFoundError, or ValueError in one line: no video, no frames, cut off, sizes that differ.
    """
    suffix = path.suffix.lower()
    if path.is_file() and suffix in container.MUXERS:
        return video.probe(path)
    if path.is_file() and (suffix == ".gif" or animations.moves(path)):
        return animations.probe(path)
    if path.is_file() and suffix not in pictures.SUFFIXES:
        known = ", ".join(dict.fromkeys((*SUFFIXES, *pictures.SUFFIXES)))
        raise ValueError(f"{path}: not a clip; a name ending in {known} or a folder is expected")
    return folders.probe(path)


# ---- frames in and out -------------------------------------------------------------------------


def read(clip: Clip) -> Iterator[Tensor]:
    """The frames in order, [3, 1, H, W] float32 in 0..1 each.

    ValueError if the file breaks off, or is no longer the one that was opened.
    """
    readers = {"video": video.frames, "animation": animations.frames, "pictures": folders.frames}
    n = 0
    for pixels in readers[clip.kind](clip.path):  # [3, H, W]
        n += 1
        if tuple(pixels.shape[1:]) != clip.size:
            raise ValueError(differs(clip.path, pixels.shape[1:], "its first frame", clip.size))
        if n <= clip.frames:
            yield pixels[:, None]
    if n != clip.frames:
        raise ValueError(f"{clip.path}: {n} frames where {clip.frames} were found at first")


def in_time(made: Clip, like: Clip) -> Iterator[Tensor]:
    """Frames of a written clip, one for each of `like`, [3, 1, H, W] each.

    pillow makes one longer frame of equal neighbours: such a one comes as often as `like` has
    frames while it lasts.
    """
    given = 0
    for n, frame in enumerate(read(made), 1):
        if like.kind != "animation":
            yield frame
            continue
        while given < like.frames and (n == made.frames or like.times[given] < made.times[n]):
            yield frame
            given += 1


class Writer:
    """Takes the frames of a restored clip, one after another."""

    def __init__(self, like: Clip, made: VideoWriter | AnimationWriter | FolderWriter) -> None:
        self.like, self.made, self.n = like, made, 0

    def write(self, frame: Tensor) -> None:
        """[3, H, W] in 0..1. ValueError if it is one too many or of another size."""
        like = self.like
        if tuple(frame.shape[1:]) != like.size:
            raise ValueError(differs(like.path, like.size, "what came back", frame.shape[1:]))
        if self.n == like.frames:
            raise ValueError(f"{like.path}: more frames came back than the {self.n} it has")
        self.n += 1
        self.made.write(frame)


@contextmanager
def writer(path: Path, like: Clip) -> Iterator[Writer]:
    """Writes a clip at `path` with the times and the sound of `like`, frame after frame.

    All or nothing: what stood at `path` goes when the block ends well. ValueError then if fewer
    frames came than `like` has, and at the beginning if the format cannot hold the sound; OSError
    in one line if writing fails.
    """
    formats = {"video": container.MUXERS, "animation": animations.FORMATS}.get(like.kind)
    if like.kind == "pictures" and like.path.is_file():
        formats = dict.fromkeys(pictures.SUFFIXES)
    if formats and path.suffix.lower() not in formats:
        raise ValueError(f"{path}: expected a name ending in {', '.join(formats)}")
    kinds = {"video": VideoWriter, "animation": AnimationWriter, "pictures": FolderWriter}
    with replacing(path) as scratch:
        made = kinds[like.kind](path, scratch, like)
        try:
            out = Writer(like, made)
            yield out
            if out.n < like.frames:
                raise ValueError(
                    f"{like.path}: only {out.n} frames came back, it has {like.frames}"
                )
            made.finish()
        finally:
            made.close()
