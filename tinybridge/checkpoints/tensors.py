"""Tensors on disk: safetensors files, shards with their index, float8 scales, wrong files.

`open_checkpoint` reads headers and checks all that can be checked without the values;
`Checkpoint.read` then maps one tensor at a time. No model is known here: names are only text.
WAN's vendor ships two pickles (.pth): they are read where the caller expects one, as tensors only.
"""

import json
import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}

# float8 files: X.weight has a factor X.scale_weight (ComfyUI) or X.weight_scale (diffusers, newer
# ComfyUI); scales of activations and marks of the format say nothing that the header does not.
SCALES = (".scale_weight", ".weight_scale")
MARKS = (".scale_input", ".input_scale", ".comfy_quant")

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
    handles: dict[Path, safe_open | dict[str, Tensor]]  # a dictionary: a mapped pickle's

    def dtype(self) -> torch.dtype:
        """The dtype of most values; bfloat16 for float8, in which nothing is computed."""
        sizes: dict[torch.dtype, int] = {}
        for entry in self.entries.values():
            dtype = DTYPES.get(entry.dtype, torch.float32)
            sizes[dtype] = sizes.get(dtype, 0) + torch.Size(entry.shape).numel()
        most = max(sizes, key=sizes.__getitem__, default=torch.float32)
        return torch.bfloat16 if most == torch.float8_e4m3fn else most

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
        handle = self.handles[entry.file]
        if same and keep and entry.start is not None:
            return handle.get_tensor(entry.key)
        tensor = handle[entry.key] if entry.start is None else values(entry)
        if scale:
            factor = values(scale).float().flatten()  # [1] or [rows]
            tensor = tensor.float() * factor.view(-1, *[1] * (tensor.dim() - 1))
        return tensor.to(device, dtype)

    def check_values(self) -> None:
        """Read every value; ValueError names the first tensor that has NaN or infinity."""
        for name, entry in self.entries.items():
            if entry.dtype not in DTYPES:  # integers, as CLIP's position_ids
                continue
            stored = DTYPES[entry.dtype]
            dtype = torch.float32 if stored.itemsize == 1 else stored
            if not self.read(name, dtype, keep=False).isfinite().all():
                raise ValueError(f"{entry.file}: tensor {entry.key} has NaN or infinite values")


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
        if "data_offsets" in told
    ]


def open_checkpoint(path: Path, prefix: str = "", pickles: bool = False) -> Checkpoint:
    """The tensors of a safetensors file, or of a folder with one such file or shards + index.

    `prefix` is cut off the names that have it. pickles: a file named .pth may be a pickle of
    tensors. OSError when there is no file, ValueError when it is not a whole checkpoint; the
    message names the file, what was found and what to do.
    """
    files, placed = locate(path)
    handles: dict[Path, safe_open | dict[str, Tensor]] = {}
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for file in files:
        if pickles and file.suffix == ".pth":
            handles[file], found = open_pickle(file)
        else:
            handles[file], found = open_file(file), listed(file)
            metadata |= handles[file].metadata() or {}
        if placed is not None:
            names = {name for name, part in placed.items() if part == file.name}
            check_shard(file, {entry.key for entry in found}, names)
        for entry in sorted(found, key=lambda entry: entry.key):
            entries[entry.key.removeprefix(prefix)] = entry
    scales = take_scales(entries)
    return Checkpoint(path, entries, scales, metadata, handles)


def locate(path: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The files of a checkpoint; for shards also the index: tensor name -> file name."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_file():
        return read_index(path) if path.name.endswith(".json") else ([path], None)
    if indexes := sorted(path.glob("*.safetensors.index*.json"), key=lambda p: len(p.name)):
        return read_index(indexes[0])
    files = sorted(path.glob("*.safetensors"))
    if parts := [file.name for file in files if "-of-" in file.name]:
        raise FileNotFoundError(
            f"{path}: {parts[0]} is one of several shards, and the index that lists them "
            "(*.safetensors.index.json) is missing: download it too"
        )
    # A variant (model.fp16.safetensors) may lie beside the full file.
    files = [file for file in files if file.stem.count(".") == 0] or files
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:3])
        raise ValueError(f"{path}: has {len(files)} safetensors files ({names}): name one of them")
    if not files:
        others = [p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        found = f"only {others[0]}, a pickle, which is never opened" if others else "none"
        raise FileNotFoundError(f"{path}: expected a .safetensors file, found {found}")
    return files, None


def read_index(index: Path) -> tuple[list[Path], dict[str, str]]:
    """The shards that an index names, all present and no other beside them."""
    try:
        placed = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{index}: not an index of shards ({error!r}): download it again"
        ) from None
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


def open_file(file: Path) -> safe_open:
    try:
        return safe_open(file, "pt")
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


def take_scales(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Move the scales of float8 weights out of `entries`: name of the weight -> its scale."""
    scales: dict[str, Entry] = {}
    entries.pop("scaled_fp8", None)
    for name in list(entries):
        stem, _, leaf = name.rpartition(".")
        weight = entries.get(stem + ".weight")
        if weight is None or weight.dtype != "F8_E4M3" or f".{leaf}" not in SCALES + MARKS:
            continue
        entry = entries.pop(name)
        if f".{leaf}" in MARKS:
            continue
        count = torch.Size(entry.shape).numel()
        if entry.dtype not in DTYPES or count not in (1, weight.shape[0]):
            raise ValueError(
                f"{entry.file}: {name} is {entry.dtype} {list(entry.shape)}; only one scale for "
                f"all of {stem}.weight {list(weight.shape)} or one for each row can be read"
            )
        scales[stem + ".weight"] = entry
    return scales
