"""A model's tensors from a checkpoint: every name accounted for, then filled one at a time."""

import torch
from torch import nn

from tinybridge.checkpoint import DTYPES, Checkpoint, values
from tinybridge.keys import Table, join, joined, plan


def fill(
    model: nn.Module,
    checkpoint: Checkpoint,
    table: Table | None,
    device: torch.device | str,
    dtype: torch.dtype,
) -> None:
    """Give a model built on the meta device its tensors, one at a time, frozen.

    Every tensor of the file is used once and every tensor of the model is filled, otherwise one
    ValueError lists the first missing, unexpected and misshapen ones, before a value is read.
    On the device "meta" that check is all that happens.
    """
    wanted = model.state_dict()
    rows = plan(wanted, table)
    account(checkpoint, rows, {name: tuple(meta.shape) for name, meta in wanted.items()})
    model.eval().requires_grad_(False)
    if torch.device(device).type == "meta":
        model.to(dtype)
        return
    state = {}
    for name, (parts, rule) in rows.items():
        found = [checkpoint.entries[part] for part in parts]
        plain = len({entry.dtype for entry in found}) == 1 and not checkpoint.scales.keys() & parts
        if rule.startswith("rows") and plain:
            state[name] = values(*found).to(device, dtype)
        else:
            keep = rule in ("copy", "squeeze 1x1")
            state[name] = join([checkpoint.read(p, dtype, device, keep) for p in parts], rule)
    model.load_state_dict(state, assign=True)


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
