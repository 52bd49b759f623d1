"""Text conditioning as a file of its own: what the text encoders made of a text, for anybody.

One who has the encoders (11 GB for WAN) writes it once, and a folder without them is whole with it.
Tensors: `context` [1, rows, Dc], to be followed by rows of zeros, and FLUX's `pooled` [1, Dp].
Metadata: backbone, text, length (L, zeros included), encoder (files that it came from), version.
"""

import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from tinybridge import __version__
from tinybridge.checkpoints.cache import identity
from tinybridge.checkpoints.tensors import DTYPES, Checkpoint, open_checkpoint

FORMAT = "tinybridge text conditioning"
NAMES = {"wan": {"context"}, "flux": {"context", "pooled"}}
LONGEST = 1 << 14  # rows that are worth believing


@dataclass(frozen=True)
class Told:
    """What is in a file: context [1, L, Dc], pooled [1, Dp] or None, float32, and the metadata."""

    context: Tensor
    pooled: Tensor | None
    meta: dict[str, str]

    def describe(self) -> str:
        """All of it in one line, for a reader."""
        length, width = self.context.shape[1:]
        meta = self.meta
        return (
            f"text conditioning of {meta['backbone']}: {length} rows of width {width}, of the "
            f"text {meta['text']!r}, by {meta['encoder']} (tinybridge {meta['version']})"
        )


def write_conditioning(
    out: Path,
    name: str,
    text: str,
    context: Tensor,
    pooled: Tensor | None,
    encoders: Iterable[Path],
) -> None:
    """Writes what `encoders` made of a text, all or nothing: context [1, L, Dc], pooled [1, Dp].

    Values are kept bit for bit, in bfloat16 where that is enough. ValueError where they are not
    finite, OSError if nothing can be written.
    """
    if not context.isfinite().all():
        raise ValueError(f"{out}: not written, the text encoder gives NaN or infinite values")
    rows = int(context[0].any(1).nonzero().max()) + 1  # up to the zeros
    tensors = {"context": narrow(context[:, :rows])}  # [1, rows, Dc]
    if pooled is not None:
        tensors["pooled"] = narrow(pooled)  # [1, Dp]
    meta = {"format": FORMAT, "backbone": name, "text": text, "length": str(context.shape[1])}
    meta |= {"encoder": ", ".join(map(fingerprint, encoders)), "version": __version__}
    scratch = out.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        scratch.write_bytes(save(tensors, meta))
        os.replace(scratch, out)
    except OSError as error:
        raise OSError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        scratch.unlink(missing_ok=True)


def narrow(values: Tensor) -> Tensor:
    """The same values, in bfloat16 if that holds them: official encoders compute in it."""
    half = values.to(torch.bfloat16)
    exact = torch.equal(half.to(values.dtype), values)
    return (half if exact else values).cpu().contiguous()


def fingerprint(file: Path) -> str:
    """Name, size and a hash of samples of the contents: the same wherever the file lies."""
    name, size, _, digest = identity(file)
    return f"{name} ({size} bytes, {str(digest)[:16]})"


# ------------------------------------------------------------------------------------- reading


def is_conditioning(checkpoint: Checkpoint) -> bool:
    return checkpoint.metadata.get("format") == FORMAT


def read_conditioning(file: Path) -> Told:
    """A file's conditioning; ValueError or OSError in one line for any other and for a bad one."""
    checkpoint = open_checkpoint(file)
    entries, meta = checkpoint.entries, checkpoint.metadata
    if file.is_dir() or not is_conditioning(checkpoint):
        found = "a prompt" if entries.keys() & {"residual", "tokens"} else "another file"
        raise ValueError(
            f"{file}: expected text conditioning, as weights.py conditioning writes it, "
            f"found {found}"
        )
    lost = [key for key in ("backbone", "text", "length", "encoder", "version") if key not in meta]
    if lost:
        raise ValueError(f"{file}: text conditioning without its {lost[0]}: make it again")
    names = NAMES.get(meta["backbone"], set())
    if entries.keys() != names or any(e.dtype not in DTYPES for e in entries.values()):
        raise ValueError(
            f"{file}: text conditioning of {meta['backbone']!r} with the tensors "
            f"{', '.join(entries)}: make it again"
        )
    told = {key: checkpoint.read(key, torch.float32, keep=False) for key in entries}
    length = int(meta["length"]) if meta["length"].isdecimal() else 0
    axes = [told[key].ndim == 3 - (key == "pooled") and len(told[key]) == 1 for key in told]
    if not all(axes) or not 0 < told["context"].shape[1] <= length <= LONGEST:
        shapes = ", ".join(f"{key} {list(told[key].shape)}" for key in told)
        raise ValueError(f"{file}: {shapes} is no conditioning of length {meta['length']}")
    if not all(values.isfinite().all() for values in told.values()):
        raise ValueError(f"{file}: text conditioning with NaN or infinite values: make it again")
    context = F.pad(told["context"], (0, 0, 0, length - told["context"].shape[1]))  # [1, L, Dc]
    return Told(context, told.get("pooled"), meta)


def conditioning_for(
    file: Path,
    name: str,
    config: Any,
    longest: int,
    length: int | None = None,
    text: str = "",
) -> tuple[Tensor, Tensor | None]:
    """The rows [1, L, Dc] and the summary [1, Dp] of a file, as a transformer of `config` takes.

    longest: rows that the backbone `name` takes at most; length: as many as the caller needs;
    text: "" or what it must have been made of. ValueError with both numbers where it differs.
    """
    told = read_conditioning(file)
    if told.meta["backbone"] != name:
        raise ValueError(f"{file}: text conditioning of {told.meta['backbone']}, expected {name}'s")
    _, rows, width = told.context.shape
    if width != config.context_dim:
        raise ValueError(
            f"{file}: text rows of width {width}, but the transformer takes {config.context_dim}"
        )
    if told.pooled is not None and told.pooled.shape[1] != config.pooled_dim:
        raise ValueError(
            f"{file}: a summary of width {told.pooled.shape[1]}, but the transformer takes "
            f"{config.pooled_dim}"
        )
    if rows > longest or rows != (length or rows):
        needs = length or f"at most {longest}"
        raise ValueError(
            f"{file}: {rows} rows of text, expected {needs}: make it with "
            f"--length {length or longest}"
        )
    if text not in ("", told.meta["text"]):
        raise ValueError(f"{file}: made of the text {told.meta['text']!r}, not of {text!r}")
    return told.context, told.pooled
