"""What of a folder is not taken, so that nothing is passed over without a word."""

from collections.abc import Iterator
from pathlib import Path

from tinybridge.data import clips
from tinybridge.data.formats import SUFFIXES

SHOWN = 20  # names that a line has room for


def shown(path: Path | str) -> str:
    """A path that takes one line whatever its letters are: line breaks and the like are escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


def passed_over_in(
    folder: Path,
    kept: set[Path],
    video: bool,
    folders: str = "folders",
    alike: str = "no partner",
) -> Iterator[tuple[str, Path]]:
    """Reason and place of everything in a folder that is not among `kept`.

    folders: the reason of folders in it; "": they are not passed over; alike: that of files which
    could be taken by their names.
    """
    known = clips.SUFFIXES if video else SUFFIXES
    special = clips.left_out(folder) if video else []
    for item in sorted(folder.iterdir()):
        suffix = item.suffix.lower()
        if item in kept:
            continue
        told = [text for text in special if text.startswith(f"{item.name} (")]
        if item.name.startswith("."):
            yield "hidden", item
        elif told:
            yield told[0].removeprefix(f"{item.name} (").removesuffix(")"), item
        elif item.is_dir():
            if folders:
                yield folders, item
        elif not item.is_file():
            yield "no files", item
        elif suffix in known:
            yield alike, item
        elif not video and suffix in clips.SUFFIXES:
            yield "clips: --backbone wan", item
        else:
            yield f"no names of {'clips' if video else 'pictures'}", item


def one_line(passed_over: dict[str, list[str]]) -> str:
    """All that was left out in one line, "" if nothing was."""
    parts = []
    for reason, names in passed_over.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        parts.append(f"{', '.join(names[:SHOWN])}{more} ({reason})")
    return f"left out: {'; '.join(parts)}" if parts else ""
