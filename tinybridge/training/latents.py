"""Latents of a training set, part after part: in memory, or a large set in a file that is mapped.

The file lies in the run's folder, has no name and goes with the process. Reading a few samples of
it is reading a tensor: what memory is free keeps them, what is not reads them again.
"""

from mmap import mmap
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import torch
import torch.distributed as dist
from torch import Tensor

from tinybridge.training.machine import processes

IN_MEMORY = 4 * 2**30  # bytes; larger ones go to the file


class Latents:
    """Tensors [any, C, ...] that become one. folder: of the file; None: always in memory."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.parts: list[Tensor] = []  # while they are in memory
        self.bytes = 0
        self.file: IO[bytes] | None = None
        self.form: Tensor | None = None  # no samples, of their dtype and shape

    def add(self, part: Tensor) -> None:
        """One more part, on the CPU. OSError if the disk is full."""
        self.form = part[:0]
        self.bytes += part.nbytes
        if self.file is not None:
            self.file.write(part.contiguous().numpy().data)
            return
        self.parts.append(part)
        if self.folder is not None and self.bytes > IN_MEMORY:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.file = TemporaryFile(dir=self.folder)  # noqa: SIM115
            for held in self.parts:
                self.file.write(held.contiguous().numpy().data)
            self.parts.clear()

    def whole(self) -> Tensor:
        """All of them, [N, C, ...]; [0] if there is none. Nothing may be added afterwards."""
        if self.file is None:
            return torch.cat(self.parts) if self.parts else torch.empty(0)
        with self.file:
            self.file.flush()
            flat = torch.frombuffer(mmap(self.file.fileno(), 0), dtype=self.form.dtype)
        return flat.view(-1, *self.form.shape[1:])  # [N, C, ...]


def gathered(mine: Latents, device: torch.device) -> Tensor:
    """Those of all processes, one after the other, in each. device: what they talk over."""
    rank, world = processes()
    held = mine.whole()
    if world == 1:
        return held
    forms: list = [None] * world
    dist.all_gather_object(forms, (held.shape, held.dtype))
    everything = Latents(mine.folder)
    for source, (shape, dtype) in enumerate(forms):
        for k in range(0, shape[0], 16):
            part = torch.empty(min(16, shape[0] - k), *shape[1:], dtype=dtype)  # [16, C, ...]
            if rank == source:
                part = held[k : k + 16]
            part = part.to(device)
            dist.broadcast(part, source)
            everything.add(part.cpu())
    return everything.whole()
