"""Where results go: names that are free, nothing replaced that is read, and what is there already.

keep_apart([job.out for job in jobs], [job.file for job in jobs])  # before anything is written
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tinybridge.data import clips, formats, pictures

NAME_MAX = 255  # bytes of a file name


def free_place(place: Path, taken: dict[Path, int]) -> Path:
    """`place`, or if an earlier result has it, the same name with the next free number."""
    wanted = place
    while place in taken:
        taken[wanted] += 1
        place = with_tail(wanted, f"-{taken[wanted]}{wanted.suffix}")
    taken[place] = 1
    return place


def with_tail(path: Path, tail: str) -> Path:
    """A name that ends in `tail` instead of its suffix, its stem cut if it would be too long."""
    stem, room = path.stem, NAME_MAX - len(tail.encode("utf-8", "surrogatepass"))
    while len(stem.encode("utf-8", "surrogatepass")) > room:
        stem = stem[:-1]
    return path.with_name(stem + tail)


def check_folder(folder: Path) -> None:
    """ValueError in one line if results cannot go to a folder, since a file is in its place."""
    for place in (folder, *folder.parents):
        if os.path.lexists(place):
            if not os.path.isdir(place):
                raise ValueError(f"{place}: no folder, which --out expects; choose another --out")
            return


def check_table(table: Path, column: str) -> None:
    """ValueError in one line if at the place of a table lies anything but one with that column."""
    if not os.path.lexists(table):
        return
    head = b""
    if table.is_file():
        with table.open("rb") as file:
            head = file.readline(1000)
    if column not in head.decode("latin-1").strip().split(","):
        raise ValueError(
            f"{table}: no table of this program's, it would be replaced; choose another --out"
        )


def keep_apart(outputs: Iterable[Path], read: Iterable[Path]) -> None:
    """ValueError in one line if a file to be written is one that is read.

    By path, links followed, and by what the file system says is the same file. Of folders every
    file in them counts.
    """
    places: dict[Path, Path] = {}
    same: dict[tuple[int, int], Path] = {}
    for path in dict.fromkeys(read):
        for file in (path, *_inside(path)):
            if os.path.exists(file):
                places[file.resolve()] = file
                same[_identity(file)] = file
    for out in outputs:
        victim = places.get(out.resolve())
        for file in (out, *_inside(out)):
            if file.exists():
                victim = victim or same.get(_identity(file))
        if victim is not None:
            raise ValueError(
                f"{out}: it would replace {victim}, which is read; choose another --out"
            )


def keep_out(out: Path, data: Path, read: Iterable[Path]) -> None:
    """ValueError in one line if `out` is a folder all of whose files are read: it would get more.

    Folders of frames are, and where `data` is no list, those that its files lie in.
    """
    for path in read:
        folder = path if path.is_dir() else path.parent
        whole = path.is_dir() or data.is_dir()
        if whole and out.exists() and folder.exists() and out.samefile(folder):
            raise ValueError(f"{out}: its files are read, no others may join; choose another --out")


def _identity(file: Path) -> tuple[int, int]:
    about = file.stat()
    return about.st_dev, about.st_ino


def _inside(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for file in path.rglob("*"):
            if file.is_file():
                yield file


def is_whole(out: Path, file: Path, video: bool) -> bool:
    """Whether a finished restoration of `file` lies at `out`: as large, and readable to its end."""
    try:
        if not video:
            return pictures.read(out).size == formats.size(file)
        made, clip = clips.open_clip(out), clips.open_clip(file)
        as_long = made.frames == clip.frames or clip.kind == "animation"  # pillow merges frames
        if file.is_dir():
            names = [[item.name for item in pictures.pictures(folder)] for folder in (out, file)]
            as_long = names[0] == names[1]
        for _ in clips.read(made):
            pass  # an error would come now
        return made.size == clip.size and as_long
    except Exception:
        return False
