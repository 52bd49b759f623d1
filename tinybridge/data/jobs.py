"""What a run of sample.py restores: inputs found, targets matched, outputs that replace nothing.

jobs, passed_over = find_jobs([Path("photos")], Path("clean"), Path("restored"))
keep_apart([job.out for job in jobs], [job.file for job in jobs])  # before anything is written
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tinybridge.data import clips, pairs, pictures
from tinybridge.data.formats import SUFFIXES
from tinybridge.data.left_out import one_line, passed_over_in, shown
from tinybridge.data.outputs import check_folder, free_place

ANY_SUFFIX = dict.fromkeys((*SUFFIXES, *clips.SUFFIXES))


@dataclass(frozen=True)
class Job:
    """What is restored, its clean target if there is one, and where the result goes.

    fault: why nothing can be restored, in one line; unmatched: why there is no target, likewise.
    """

    file: Path
    target: Path | None
    out: Path
    fault: str = ""
    unmatched: str = ""

    def fit(self, mine: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        """ValueError unless (H, W), of a clip (H, W, frames), are those of the target."""
        if mine == wanted:
            return
        form, both = "{1}x{0}", "size"
        if len(mine) > 2:
            form, both = "{1}x{0} with {2} frames", "size and length"
        raise ValueError(
            f"{self.file} is {form.format(*mine)} but its target {self.target} is "
            f"{form.format(*wanted)}: both must have one {both}"
        )

    def describe(self, error: Exception) -> str:
        """An error in one line that names the file, whatever library raised it."""
        line = str(error)
        for path in (self.file, self.out, self.target):
            line = line.replace(str(path), shown(path)) if path else line
        line = (line.strip().splitlines() or [""])[0]
        named = shown(self.file) in line or shown(self.out) in line
        if isinstance(error, ValueError | OSError) and named:
            return line
        return f"{shown(self.file)}: {type(error).__name__}: {line}".removesuffix(": ")


@dataclass(frozen=True)
class Found:
    """An input: the file, its place below --out, and what a list says of it."""

    file: Path
    place: Path
    target: Path | None = None
    fault: str = ""


def find_jobs(
    inputs: list[Path],
    target: Path | None,
    out: Path,
    video: bool = False,
    recursive: bool = False,
) -> tuple[list[Job], str]:
    """Jobs in the order of the inputs, and one line on what of the folders is left out, or "".

    inputs: pictures or clips, folders of them, JSON lists, which name targets of their own. out: a
    folder, or the name of the one result. ValueError or OSError if nothing can be done at all.
    """
    passed_over: dict[str, list[str]] = {}
    found: list[Found] = []
    for path in inputs:
        try:
            found += _from_input(path, out, video, recursive, passed_over)
        except (ValueError, OSError) as error:
            if len(inputs) == 1:
                raise
            found.append(Found(path, _name(path), fault=str(error)))
    if target is not None and not target.exists():
        raise FileNotFoundError(f"{target}: no such file or folder")
    single = out.suffix.lower() in ANY_SUFFIX and not os.path.isdir(out)
    check_folder(out.parent if single else out)
    if single:
        _check_single(out, found, video)
    targets = Targets(target, video) if target is not None else None
    taken: dict[Path, int] = {}
    jobs = []
    for one in found:
        place = out if single else free_place(out / one.place, taken)
        clean, unmatched = one.target, ""
        if targets is not None:
            try:
                clean = targets.of(one)
            except ValueError as error:
                clean, unmatched = None, str(error)
        jobs.append(Job(one.file, clean, place, one.fault, unmatched))
    return jobs, one_line(passed_over)


def _check_single(out: Path, found: list[Found], video: bool) -> None:
    """ValueError in one line if --out names a file that the inputs cannot become."""
    if len(found) > 1:
        raise ValueError(f"{out}: one file's name for {len(found)} results; name a folder as --out")
    if found[0].file.is_dir():
        raise ValueError(f"{out}: {found[0].file} is a folder, its result is one too")
    if not video and out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{out}: expected a name ending in {', '.join(SUFFIXES)}")


# ---- inputs ------------------------------------------------------------------------------------


def _from_input(
    path: Path, out: Path, video: bool, recursive: bool, passed_over: dict[str, list[str]]
) -> list[Found]:
    """What one --input stands for: a file, a folder, or the rows of a list."""
    if os.path.isdir(path):
        return _in_folder(path, out, video, recursive, passed_over)
    if path.suffix.lower() != ".json":
        return [Found(path, _name(path), fault=_fault(path, video))]
    rows = []
    for pair in pairs.pairs(path):
        fault = pair.fault or _fault(pair.degraded, video)
        rows.append(Found(pair.degraded, _name(pair.degraded), pair.clean, fault))
    return rows


def _name(path: Path) -> Path:
    """The last name of a path; of "." and "..", which would lead out of --out, the folder's own."""
    return Path(path.name if path.name not in ("", "..") else path.resolve().name)


def _fault(file: Path, video: bool) -> str:
    """Why a file that was named can be no input, or ""."""
    if not os.path.exists(file):  # false for names that no file can have, too
        return f"{file}: no such file or folder"
    if video:
        return ""
    if file.is_dir():
        return f"{file}: a folder, a picture is expected"
    if file.suffix.lower() not in SUFFIXES:
        advice = "; clips: --backbone wan" if file.suffix.lower() in clips.SUFFIXES else ""
        return f"{file}: expected a name ending in {', '.join(SUFFIXES)}{advice}"
    return ""


def _in_folder(
    folder: Path, out: Path, video: bool, recursive: bool, passed_over: dict[str, list[str]]
) -> list[Found]:
    """The pictures or clips of a folder; what it holds besides goes to passed_over, by reason."""
    list_folder = clips.clips if video else pictures.pictures
    found: dict[Path, Found] = {}
    for place in _walk(folder, out) if recursive else [folder]:
        if place in found:  # a clip: a folder of frames
            continue
        try:
            files = list_folder(place)
        except (ValueError, OSError) as error:
            if not recursive:
                raise
            if isinstance(error, OSError):
                passed_over.setdefault("cannot be read", []).append(shown(place))
                continue
            files = []
        if out.exists():  # results of an earlier run are no input
            files = [f for f in files if f == place or not (f.is_dir() and f.samefile(out))]
        for file in files:
            name = _name(file) if file == folder else file.relative_to(folder)
            found[file] = Found(file, name)
        folders = "" if recursive else "folders: --recursive walks them"
        for clip in files:
            if clip != place and clip.is_dir():
                frames = set(pictures.pictures(clip))
                for reason, item in passed_over_in(clip, frames, video, folders, "among frames"):
                    passed_over.setdefault(reason, []).append(shown(item.relative_to(folder)))
        kept = pictures.pictures(place) if files == [place] else files
        for reason, item in passed_over_in(place, set(kept), video, folders):
            passed_over.setdefault(reason, []).append(shown(item.relative_to(folder)))
    if not found:
        raise ValueError(f"{folder}: no {'clips' if video else 'pictures'} in it or below it")
    return list(found.values())


def _walk(folder: Path, out: Path) -> Iterator[Path]:
    """A folder and those below it, but for hidden ones, links and the one that is written to."""
    yield folder
    try:
        items = pictures.listed(folder)
    except OSError:  # whoever takes the folder finds out, too
        return
    for item in items:
        if item.is_dir() and not item.is_symlink() and item.resolve() != out.resolve():
            yield from _walk(item, out)


# ---- targets -----------------------------------------------------------------------------------


class Targets:
    """Clean files by the names of degraded ones; a folder is listed once."""

    def __init__(self, path: Path, video: bool) -> None:
        self.path, self.video = path, video
        self.indexes: dict[Path, dict[tuple[str, str], list[Path]] | Path | str] = {}

    def of(self, found: Found) -> Path:
        """The target of an input. ValueError in one line if none fits, or several do."""
        if self.path.is_file():
            return self.path
        folder = self.path / found.place.parent
        if folder not in self.indexes:
            self.indexes[folder] = self._index(folder)
        index = self.indexes[folder]
        if isinstance(index, str):
            raise ValueError(f"{found.file}: {index}")
        if isinstance(index, Path):
            return index
        return pairs.namesake(found.file, index, folder)

    def _index(self, folder: Path) -> dict[tuple[str, str], list[Path]] | Path | str:
        """The files of a folder by name; itself if it is a clip; or why there is nothing."""
        if not folder.is_dir():
            return f"no folder {folder}"
        try:
            files = clips.clips(folder) if self.video else pictures.pictures(folder)
        except ValueError as error:
            return str(error)
        return folder if files == [folder] else pairs.by_name(files)
