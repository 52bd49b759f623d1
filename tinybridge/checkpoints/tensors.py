"""Tensors on disk: safetensors files and WAN's pickles, mapped; wrong files are told by name.

`open_checkpoint` reads headers and checks all that can be checked without the values;
`Checkpoint.read` then maps one tensor at a time. No model is known here: names are only text.
WAN's vendor ships two pickles (.pth): they are read where the caller expects one, as tensors only.
"""

import json
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tinybridge.checkpoints.shards import absent, check_shard, locate

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
FLOAT8 = ("F8_E4M3", "F8_E5M2")

IMPOSTORS = (  # first bytes of what people find where a safetensors file should be
    (b"PK\x03\x04", "a pickle (torch.save), which may run code and is never opened"),
    (b"\x80", "a pickle (torch.save), which may run code and is never opened"),
    (b"GGUF", "a GGUF file, which is not supported"),
    (b"version https://git-lfs", "a git-lfs pointer, not the weights: run git lfs pull"),
    (b"<", "a web page, not the weights: the download went wrong"),
)


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: file, name there, shape, dtype as the header spells it, first byte."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str
    start: int | None  # None: in a pickle, which tells no places


@dataclass
class Checkpoint:
    """The tensors of one model, a file or several shards; no value is read until `read`."""

    path: Path
    entries: dict[str, Entry]
    scales: dict[str, Entry]  # of those float8 tensors that have one
    metadata: dict[str, str]
    handles: dict[Path, Any]  # safe_open, or the dictionary of a mapped pickle

    def dtype(self) -> torch.dtype:
        """The dtype of most values; bfloat16 for float8, in which nothing is computed."""
        sizes: dict[torch.dtype, int] = {}
        for entry in self.entries.values():
            dtype = DTYPES.get(entry.dtype, torch.float32)
            sizes[dtype] = sizes.get(dtype, 0) + torch.Size(entry.shape).numel()
        most = max(sizes, key=sizes.__getitem__, default=torch.float32)
        return torch.bfloat16 if most.itemsize == 1 else most

    def read(
        self,
        name: str,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        keep: bool = True,
    ) -> Tensor:
        """One tensor, times its float8 scale if it has one, on `device` in `dtype`.

        keep: where neither dtype nor device changes, the result is a view of the mapped file,
        which costs no copy. What is cast, moved or joined is read past the mapping, for mapped
        pages would stay in the host's memory beside the copy: peak is the model plus one tensor.
        A pickle has only its mapping; the system drops those pages when it needs the memory.
        """
        entry, scale = self.entries[name], self.scales.get(name)
        same = DTYPES[entry.dtype] == dtype and torch.device(device).type == "cpu" and not scale
        if same and keep and entry.start is not None:
            return self.stored(entry, keep)
        tensor = self.stored(entry)
        if scale:
            factor = self.stored(scale).float().flatten()  # [1] or [rows]
            tensor = tensor.float() * factor.view(-1, *[1] * (tensor.dim() - 1))
        return tensor.to(device, dtype)

    def stored(self, entry: Entry, keep: bool = False) -> Tensor:
        """A tensor as it is on the disk, in memory of its own unless keep; a pickle's is mapped."""
        handle = self.handles[entry.file]
        if entry.start is None:
            return handle[entry.key]
        return handle.get_tensor(entry.key) if keep else values(entry)

    def check_values(self) -> None:
        """Read every value; ValueError names the first tensor that has NaN or infinity, or a
        weight that is all zeros, as a download leaves it that was broken off."""
        for name, entry in self.entries.items():
            if entry.dtype not in DTYPES:  # integers, as CLIP's position_ids
                continue
            stored = DTYPES[entry.dtype]
            dtype = torch.float32 if stored.itemsize == 1 else stored
            tensor = self.read(name, dtype, keep=False)
            if not tensor.isfinite().all():
                raise ValueError(f"{entry.file}: tensor {entry.key} has NaN or infinite values")
            if tensor.dim() > 1 and not tensor.any():
                raise ValueError(
                    f"{entry.file}: tensor {entry.key} {list(tensor.shape)} is all zeros, as a "
                    "download leaves it that was broken off: download it again"
                )


def values(*entries: Entry) -> Tensor:
    """A tensor in memory of its own, or several of one dtype stacked along their rows.

    Reading into place is about twice as fast as joining tensors of a mapping, whose pages come
    from the disk in small steps. OSError: the file became shorter since it was opened.
    """
    rows = sum(entry.shape[0] for entry in entries) if len(entries) > 1 else 0
    shape = (rows, *entries[0].shape[1:]) if rows else entries[0].shape
    tensor = torch.empty(shape, dtype=DTYPES[entries[0].dtype])
    raw, end = tensor.flatten().view(torch.uint8).numpy(), 0
    for entry in entries:
        begin, end = end, end + torch.Size(entry.shape).numel() * tensor.itemsize
        with entry.file.open("rb") as stream:
            stream.seek(entry.start)
            if stream.readinto(raw[begin:end]) != end - begin:
                raise OSError(f"{entry.file}: became shorter while it was read: download it again")
    return tensor


def listed(file: Path) -> list[Entry]:
    """The tensors of a safetensors file whose header is known to be sound."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    return [
        Entry(file, key, tuple(told["shape"]), told["dtype"], 8 + length + told["data_offsets"][0])
        for key, told in header.items()
        if key != "__metadata__"
    ]


def open_checkpoint(path: Path, pickles: bool = False) -> Checkpoint:
    """The tensors of a safetensors file, or of a folder with one such file or shards + index.

    pickles: a file named .pth may be a pickle of tensors. OSError when there is no file,
    ValueError when it is not a whole checkpoint; the message names the file, what was found and
    what to do.
    """
    files, placed = locate(path)
    handles: dict[Path, Any] = {}
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for file in files:
        if not file.exists():
            raise FileNotFoundError(f"{file}: {absent(file)}")
        if file.with_name(file.name + ".aria2").exists():
            raise ValueError(
                f"{file}: a download that was not finished ({file.name}.aria2 says so)"
            )
        if pickles and file.suffix == ".pth":
            handles[file], found = open_pickle(file)
        else:
            handles[file], found = open_file(file)
            metadata |= handles[file].metadata() or {}
        if odd := [entry.key for entry in found if not entry.key.isprintable()]:
            raise ValueError(f"{file}: has a tensor named {odd[0]!r}, which no model has")
        if placed is not None:
            names = {name for name, part in placed.items() if part == file.name}
            check_shard(file, {entry.key for entry in found}, names)
        entries |= {entry.key: entry for entry in sorted(found, key=lambda entry: entry.key)}
    return Checkpoint(path, entries, {}, metadata, handles)


def open_file(file: Path) -> tuple[safe_open, list[Entry]]:
    """A safetensors file, mapped, and its tensors; ValueError says what it is instead."""
    try:
        return safe_open(file, "pt"), listed(file)
    except SafetensorError as error:
        with file.open("rb") as stream:
            start = stream.read(32).lstrip()
        for magic, what in IMPOSTORS:
            if start.startswith(magic):
                raise ValueError(f"{file}: expected safetensors, found {what}") from None
        raise ValueError(
            f"{file}: not a whole safetensors file ({error}): download it again"
        ) from None
    except RuntimeError as error:
        raise OSError(
            f"{file}: cannot be mapped ({error}): add swap or set vm.overcommit_memory=1"
        ) from None


def open_pickle(file: Path) -> tuple[dict[str, Tensor], list[Entry]]:
    """The tensors of a .pth file, mapped; ValueError where it holds anything else.

    Such a file is a program; weights_only runs nothing of it but the making of tensors.
    """
    with file.open("rb") as stream:
        start = stream.read(32).lstrip()
    if found := [what for magic, what in IMPOSTORS[2:] if start.startswith(magic)]:
        raise ValueError(f"{file}: expected a PyTorch file, found {found[0]}")
    try:
        state = torch.load(file, "cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        asks = f"asks for {name[1]}" if name else "is damaged or asks for code"
        raise ValueError(f"{file}: a pickle that {asks}: refused, nothing of it was run") from None
    except Exception as error:  # damaged files make torch raise nearly anything, in many lines
        told = str(error).split("\n")[0].split(". ")[0]
        raise ValueError(f"{file}: not a whole PyTorch file ({told}): download it again") from None
    if not isinstance(state, dict):
        raise ValueError(f"{file}: expected a dictionary of tensors, found {type(state).__name__}")
    names = {dtype: name for name, dtype in DTYPES.items()}
    entries, dense = [], (torch.strided, "cpu")  # not sparse, not without values
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor) or (tensor.layout, tensor.device.type) != dense:
            raise ValueError(f"{file}: expected only tensors, {key} is {type(tensor).__name__}")
        dtype = names.get(tensor.dtype, str(tensor.dtype))
        entries.append(Entry(file, str(key), tuple(tensor.shape), dtype, None))
    return {str(key): tensor.detach().contiguous() for key, tensor in state.items()}, entries
