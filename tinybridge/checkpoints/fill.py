"""A model's tensors from a checkpoint: looked up, every name accounted for, filled one by one."""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, nn

from tinybridge.checkpoints.float8 import KIND, read_float8
from tinybridge.checkpoints.layout import Has, Shape, Table, join, joined, plan
from tinybridge.checkpoints.tensors import DTYPES, Checkpoint, values


def one_embedding(checkpoint: Checkpoint, twins: tuple[str, ...]) -> None:
    """ValueError where the two names of one tensor have different values."""
    own, other = (checkpoint.read(name, checkpoint.dtype()) for name in twins)
    if not torch.equal(own, other):
        told = f"{twins[0]} and {twins[1]} differ, expected one embedding"
        raise ValueError(f"{checkpoint.path}: {told}")


def lookup(checkpoint: Checkpoint, table: Table | None) -> tuple[Shape, Has]:
    """`shape` and `has` of one of our tensor names in a checkpoint of either layout."""
    entries = checkpoint.entries

    def source(name: str) -> str:
        return plan([name], table)[name][0][0]

    def shape(name: str, axes: int) -> tuple[int, ...]:
        key = source(name)
        if key not in entries:
            raise ValueError(f"tensor {key} is missing, without it the size is unknown")
        found = entries[key].shape
        if len(found) != axes or 0 in found:
            told = f"expected {axes} axes, none of them empty"
            raise ValueError(f"tensor {key} has shape {list(found)}, {told}")
        return found

    return shape, lambda name: source(name) in entries


def summary(checkpoint: Checkpoint) -> str:
    """How much a checkpoint has of what: "2 tensors, 30 parameters, 400 bytes, 2 F32"."""
    entries = checkpoint.entries.values()
    parameters = sum(math.prod(entry.shape) for entry in entries)
    size = sum(file.stat().st_size for file in checkpoint.handles)
    counts = Counter([entry.dtype for entry in entries] + ["scale"] * len(checkpoint.scales))
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in counts.most_common())
    return f"{len(entries)} tensors, {parameters:,} parameters, {size:,} bytes, {dtypes}"


def fill(
    model: nn.Module,
    checkpoint: Checkpoint,
    table: Table | None,
    device: torch.device | str,
    dtype: torch.dtype,
    wide: tuple[str, ...] = (),
    twins: tuple[str, ...] = (),
    narrow: Collection[str] = (),
) -> dict[str, Tensor]:
    """Give a model built on the meta device its tensors, one at a time, frozen.

    Every tensor of the file is used once and every tensor of the model is filled, otherwise one
    ValueError lists the first missing, unexpected and misshapen ones, before a value is read.
    On the device "meta" that check is all that happens. wide: modules and parameters by their
    name in the tree that are float32 at least, whatever dtype is. twins: two names that a file may
    have for one tensor, the second of which is then only compared. narrow: names of matrices that
    become float8; returned are the factors of their rows, by name.
    """

    def at(name: str) -> torch.dtype:
        here = any(part in wide for part in name.split("."))
        return torch.promote_types(dtype, torch.float32) if here else dtype

    wanted = model.state_dict()
    rows = plan(wanted, table)
    both = bool(twins) and checkpoint.entries.keys() >= set(twins)
    used = checkpoint
    if both:
        entries = {name: e for name, e in checkpoint.entries.items() if name != twins[1]}
        used = replace(checkpoint, entries=entries)
    account(used, rows, {name: tuple(meta.shape) for name, meta in wanted.items()})
    model.eval().requires_grad_(False)
    if torch.device(device).type == "meta":
        kinds = {name: KIND if name in narrow else at(name) for name in wanted}
        state = {name: meta.to(kinds[name]) for name, meta in wanted.items()}
        model.load_state_dict(state, assign=True)
        return {name: wanted[name].new_empty(len(wanted[name])) for name in narrow}
    if both:
        one_embedding(checkpoint, twins)
    state, scales = {}, {}
    for name, (parts, rule) in rows.items():
        if name in narrow:
            state[name], scales[name] = read_float8(checkpoint, parts, rule, device)
            continue
        found = [checkpoint.entries[part] for part in parts]
        plain = len({entry.dtype for entry in found}) == 1 and not checkpoint.scales.keys() & parts
        if rule.startswith("rows") and plain:
            state[name] = values(*found).to(device, at(name))
        else:
            keep = rule in ("copy", "squeeze 1x1")
            state[name] = join([checkpoint.read(p, at(name), device, keep) for p in parts], rule)
    model.load_state_dict(state, assign=True)
    return scales


def account(
    checkpoint: Checkpoint,
    rows: dict[str, tuple[list[str], str]],
    wanted: dict[str, tuple[int, ...]],
) -> None:
    """Compare what a model wants with what a checkpoint has; ValueError with the differences."""
    entries = checkpoint.entries
    used = [part for parts, _ in rows.values() for part in parts]
    missing = [part for part in used if part not in entries]
    unexpected = sorted(entries.keys() - set(used))
    misshapen = []
    for name, (parts, rule) in rows.items():
        found = [entries[part].shape for part in parts if part in entries]
        if len(found) == len(parts) and joined(found, rule) != wanted[name]:
            shown = " + ".join(str(list(shape)) for shape in found)
            misshapen.append(f"{name} {list(wanted[name])} from {'/'.join(parts)} {shown}")
    unread = [f"{n} {e.dtype}" for n, e in entries.items() if e.dtype not in DTYPES]
    lists = {
        "missing": missing,
        "unexpected": unexpected,
        "misshapen": misshapen,
        "of a dtype that cannot be read": unread,
    }
    if any(lists.values()):
        told = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in lists.items()
            if names
        ]
        raise ValueError(f"{checkpoint.path}: tensors do not fit: {'; '.join(told)}")
