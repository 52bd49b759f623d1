"""Folders of frames, and single pictures, as clips. Pictures keep what pictures.py keeps.

Letters: H W size in pixels.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from tinybridge.data import formats, pictures
from tinybridge.data.clip import Clip, differs, notes


def probe(path: Path) -> Clip:
    """Only the headers are read. ValueError if one cannot be, or the sizes differ."""
    files = pictures.pictures(path)
    first, _ = formats.header(files[0])
    lost: dict[str, None] = {}
    for file in files:
        size, unread = formats.header(file)
        lost |= dict.fromkeys(unread)
        if size != first:
            raise ValueError(differs(file, size, files[0], first))
    return Clip(path, first, len(files), None, "pictures", notes=notes(path, None, (), list(lost)))


def frames(path: Path) -> Iterator[Tensor]:
    """[3, H, W] in 0..1 each."""
    for file in pictures.pictures(path):
        yield pictures.read(file).pixels


class FolderWriter:
    """A folder with the names and formats of another, or one picture."""

    def __init__(self, path: Path, scratch: Path, like: Clip) -> None:
        """OSError if the folder holds files that the other one does not."""
        self.path, self.scratch, self.n = path, scratch, 0
        self.single = like.path.is_file()
        self.files = pictures.pictures(like.path)
        # One picture is made in a folder too: its format is known by its name.
        self.folder = scratch.with_suffix(".one") if self.single else scratch
        names = {file.name for file in self.files}
        strange = {f.name for f in path.iterdir()} - names if path.is_dir() else set()
        if strange:
            raise OSError(
                f"{path}: it holds other files, {min(strange)} for one; choose another --out"
            )

    def write(self, frame: Tensor) -> None:
        """[3, H, W] in 0..1."""
        file = self.files[self.n]
        place = self.path if self.single else self.path / file.name
        made = self.folder / place.name
        self.n += 1
        try:
            pictures.write(made, frame, pictures.read(file))
        except OSError as error:
            raise OSError(str(error).replace(str(made), str(place))) from None

    def finish(self) -> None:
        if self.single:
            (self.folder / self.path.name).replace(self.scratch)

    def close(self) -> None:
        if self.single:
            shutil.rmtree(self.folder, ignore_errors=True)
