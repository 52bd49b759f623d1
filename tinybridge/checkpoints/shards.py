"""Which files a checkpoint is made of: one, or shards and the index that lists them."""

import json
from pathlib import Path

PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def locate(path: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The files of a checkpoint; for shards also the index: tensor name -> file name.

    OSError where something is not there or not whole, ValueError where two files could be meant.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: {absent(path)}")
    if path.is_file():
        return read_index(path) if path.name.endswith(".json") else ([path], None)
    files = sorted([*path.glob("*.safetensors"), *path.glob("*.sft")])
    whole = [file for file in files if "-of-" not in file.name]
    # A variant (model.fp16.safetensors) may lie beside the full file.
    whole = [file for file in whole if file.stem.count(".") == 0] or whole
    if indexes := sorted(path.glob("*.safetensors.index*.json"), key=lambda p: len(p.name)):
        shards = set(weight_map(indexes[0]).values())
        if whole and not any((path / shard).is_file() for shard in shards):
            return one_of(path, whole), None  # the index is a leftover
        stem = indexes[0].name.split(".safetensors")[0]
        one_of(path, [indexes[0], *(file for file in whole if file.stem != stem)])
        return read_index(indexes[0])
    if len(whole) < len(files):
        part = next(file.name for file in files if "-of-" in file.name)
        raise FileNotFoundError(
            f"{path}: {part} is one of several shards, and the index that lists them "
            "(*.safetensors.index.json) is missing: download it too"
        )
    if not whole:
        others = [file.name for file in path.iterdir() if file.suffix in PICKLES]
        found = f"only {others[0]}, a pickle, which is never opened" if others else "none"
        raise FileNotFoundError(f"{path}: expected a .safetensors file, found {found}")
    return one_of(path, whole), None


def absent(path: Path) -> str:
    """Why there is nothing at `path`."""
    if path.is_symlink():
        return "a link to a file that is not there, of a download that was not finished: repeat it"
    return "no such file or folder"


def one_of(path: Path, files: list[Path]) -> list[Path]:
    """The only one of these files of a folder; ValueError where they are several."""
    if len(files) == 1:
        return files
    stems = {file.stem.rstrip("0123456789") for file in files}
    if len(stems) == 1 and len(files) > 2:
        names = f"{files[0].name}, {files[1].name}, ..."
        raise ValueError(
            f"{path}: a model in {len(files)} pieces ({names}) without an index "
            "(*.safetensors.index.json): take the shards that were published, or one file"
        )
    names = ", ".join(file.name for file in files[:3])
    raise ValueError(f"{path}: has {len(files)} safetensors files ({names}): name one of them")


def weight_map(index: Path) -> dict[str, str]:
    """An index: tensor name -> file name; ValueError where it is none."""
    try:
        placed = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        if not all(isinstance(name, str) for name in placed.values()):
            raise TypeError("names of files are expected")
        if odd := [name for name in (*placed, *placed.values()) if not name.isprintable()]:
            raise ValueError(f"it names {odd[0]!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{index}: not an index of shards ({error!r}): download it again"
        ) from None
    return placed


def read_index(index: Path) -> tuple[list[Path], dict[str, str]]:
    """The shards that an index names, all present and no other beside them."""
    placed = weight_map(index)
    names = sorted(set(placed.values()))
    if bad := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{index}: names {bad[0]}, which is not a file of this folder")
    if gone := [name for name in names if not (index.parent / name).is_file()]:
        raise FileNotFoundError(
            f"{index.parent}: shard {gone[0]} is missing ({len(gone)} of {len(names)}): download it"
        )
    stem = index.name.split(".safetensors")[0]
    if extra := [
        p.name for p in index.parent.glob(f"{stem}-*-of-*.safetensors") if p.name not in names
    ]:
        raise ValueError(
            f"{index.parent}: {extra[0]} is not in {index.name}: a leftover of another download? "
            "remove it"
        )
    return [index.parent / name for name in names], placed


def check_shard(file: Path, found: set[str], expected: set[str]) -> None:
    if lost := sorted(expected - found):
        raise ValueError(
            f"{file}: the index places {lost[0]} here, but the file does not have it "
            f"({len(lost)} such): index and shards are of different downloads"
        )
    if extra := sorted(found - expected):
        raise ValueError(
            f"{file}: has {extra[0]}, which the index does not place here ({len(extra)} such): "
            "index and shards are of different downloads"
        )
