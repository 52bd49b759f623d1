"""Files that appear whole or not at all, and tables of numbers among them.

Whatever this program writes is made under a scratch name beside its place and moved there when it
is complete: a run that is stopped, or a disk that is full, leaves what was there before.
"""

import csv
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A scratch name beside `path` to make a file or a folder at; it takes its place at the end.

    Folders above `path` are made. The name is new and hidden, and short, so that it fits wherever
    the final one does. If anything goes wrong, what was made there is removed and what was at
    `path` stays. OSError in one line for what the system refuses to write here; other errors, and
    those of other files, pass as they are.
    """
    scratch = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        if path.is_dir() and scratch.is_dir():
            _replace_folder(scratch, path)
        else:
            os.replace(scratch, path)
    except OSError as error:
        if not _of_the_system(error, path, scratch):
            raise
        raise OSError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):
            shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()


def _replace_folder(scratch: Path, path: Path) -> None:
    """Folders cannot be replaced in one step: the old one steps aside, and back if need be."""
    older = path.with_name(f".{secrets.token_hex(8)}.old")
    try:
        os.replace(path, older)
        os.replace(scratch, path)
    finally:  # an interrupt may come between any two lines
        if older.exists() and not path.exists():
            os.replace(older, path)
        shutil.rmtree(older, ignore_errors=True)


def _of_the_system(error: OSError, path: Path, scratch: Path) -> bool:
    """Whether the system raised it about this place, and not about a file that is read."""
    if error.errno is None:
        return False
    if not isinstance(error.filename, str | bytes):
        return True
    name = Path(os.fsdecode(error.filename))
    return name in path.parents or name == path or scratch in (name, *name.parents)


def save_table(file: Path, fields: str, rows: Iterable[Mapping[str, object]]) -> None:
    """Rows as CSV; fields: the columns' names, space between; what a row lacks stays empty.

    UTF-8; a file name that is not UTF-8 keeps its bytes.
    """
    with (
        replacing(file) as scratch,
        scratch.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        table = csv.DictWriter(stream, fields.split(), restval="")
        table.writeheader()
        table.writerows(rows)


def add_row(file: Path, fields: str, row: dict[str, object]) -> None:
    """Appends a row to a table of `save_table`, at once: a run that is stopped keeps its rows."""
    with file.open("a", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        csv.DictWriter(stream, fields.split(), restval="").writerow(row)


def load_table(file: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file: what reads as a number is one, what is empty is left out.

    FileNotFoundError, or ValueError that names the file.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    rows = []
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
            for row in csv.DictReader(stream, strict=True):
                rows.append({name: _number(text) for name, text in row.items() if text})
    except (csv.Error, TypeError) as error:
        raise ValueError(f"{file}: not a readable table ({error})") from None
    return rows


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
