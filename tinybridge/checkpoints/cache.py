"""Results of frozen encoders, kept in the user's cache folder between runs.

`cached` runs a computation once for a set of files and arguments. The folder is
$XDG_CACHE_HOME/tinybridge, by default ~/.cache/tinybridge; any file in it may be deleted.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tinybridge import __version__

SAMPLES, SAMPLE = 16, 1 << 16  # places in a file and bytes at each: small files are read whole


def cached(
    name: str,
    files: Iterable[Path],
    arguments: dict[str, str | int],
    compute: Callable[[], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """The tensors that `compute` gives, from the cache where it ran before.

    The key is made of the arguments, the identity of `files` (see `identity`) and our version, for
    a mended encoder gives other rows. A cache file
    that cannot be read or holds NaN is computed again; a folder that cannot be written only
    costs a warning on stderr.
    """
    file, key = place(name, files, arguments)
    tensors = read(file, key)
    if tensors is None:
        tensors = {label: tensor.cpu().contiguous() for label, tensor in compute().items()}
        try:
            write(file, save(tensors, {"key": key} | {k: str(v) for k, v in arguments.items()}))
        except OSError as error:
            print(f"warning: not cached, will be computed again: {error}", file=sys.stderr)
    return tensors


def place(name: str, files: Iterable[Path], arguments: dict[str, str | int]) -> tuple[Path, str]:
    """The cache file for what `cached` is given, whether it is there or not, and its key."""
    marks = {
        "arguments": arguments,
        "files": sorted(identity(file) for file in files),
        "version": __version__,
    }
    key = hashlib.sha256(json.dumps(marks, sort_keys=True).encode()).hexdigest()[:32]
    return folder() / f"{name}-{key}.safetensors", key


def folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinybridge"


def identity(file: Path) -> list[str | int]:
    """Name, size, time of change and a hash of samples of the contents.

    Neither alone is enough: archives give all files one time, and a sample may miss an edit. A
    file that moves keeps its identity; a copy with a new time is computed once more.
    """
    state = file.stat()
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for i in range(SAMPLES):
            stream.seek(max(0, state.st_size - SAMPLE) * i // (SAMPLES - 1))
            digest.update(stream.read(SAMPLE))
    return [file.name, state.st_size, state.st_mtime_ns, digest.hexdigest()]


def read(file: Path, key: str) -> dict[str, Tensor] | None:
    try:
        with safe_open(file, "pt") as stored:
            if (stored.metadata() or {}).get("key") != key:
                return None
            # A clone, because the file may be replaced while the tensors are in use.
            names = list(stored.keys())
            tensors = {name: stored.get_tensor(name).clone() for name in names}
    except (OSError, SafetensorError):
        return None
    return tensors if all(torch.isfinite(tensor).all() for tensor in tensors.values()) else None


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as stream:
        part = Path(stream.name)
        try:
            stream.write(content)
            stream.flush()
            os.replace(part, file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
