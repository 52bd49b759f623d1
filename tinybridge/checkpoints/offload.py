"""`--offload`: the blocks' weights stay on the host and stream through two buffers of the device.

While a block computes out of one buffer, the next is copied into the other; in backward the one
before. Nothing is copied back, for it is frozen. Biases, norms and what is outside the blocks lie
on the device. For a GPU the host's copy is page-locked; else what is mapped from a file stays so.
"""

from functools import partial

import torch
from torch import Tensor, nn

from tinybridge.checkpoints.fetched import Fetched, fetched, linears
from tinybridge.checkpoints.memory import copy, pin, size

Unit = list[Fetched]  # weights that are copied together, most of a block
Row = list[Unit]  # units that are used one after the other


class Ring:
    """Two buffers on the device, and the unit that each of them holds."""

    def __init__(self, device: torch.device, size: int):
        self.buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2)]
        self.held: list[Unit] = [[], []]
        self.copies: list[list[Tensor]] = [[], []]  # its weights
        self.used = 0  # the buffer that was asked for last
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.copied = [torch.cuda.Event(), torch.cuda.Event()] if self.stream else []

    def get(self, row: Row, i: int, index: int) -> Tensor:
        """A weight of a row's unit i on the device; the unit that follows begins to be copied."""
        last = self.held[self.used]
        if row[i] != last:
            ahead = i - 1 if last in row[i + 1 : i + 2] else i + 1  # backward, forward
            self.bring(row[i])
            self.used = self.held.index(row[i])
            if 0 <= ahead < len(row):
                self.bring(row[ahead])
        if self.stream:
            torch.cuda.current_stream(self.stream.device).wait_event(self.copied[self.used])
        return self.copies[self.used][index]

    def bring(self, unit: Unit) -> None:
        """Begins to copy a unit into the buffer that is not in use, unless it is there already."""
        if unit in self.held:
            return
        k = 1 - self.used
        self.held[k] = []  # until it is whole
        if self.stream is None:
            self.copies[k] = copy(unit, self.buffers[k])
        else:  # what reads the buffer was asked for earlier: the copy waits for that
            self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
            with torch.cuda.stream(self.stream):
                self.copies[k] = copy(unit, self.buffers[k])
                self.copied[k].record()
        self.held[k] = unit


def stream_blocks(
    model: nn.Module, blocks: list[nn.Module], device: torch.device, ahead: tuple[str, ...]
) -> None:
    """Moves a model from the host to the device, all but the weights of its blocks' linears.

    ahead: beginnings of names of linears that are read for every block before the first one runs.
    """
    if device.type == "cuda":
        pin([fetched(linear) for block in blocks for linear in linears(block).values()])
    rows: list[Row] = [[], [], []]
    for block in blocks:
        early, late, alone = [], [], []
        for name, linear in linears(block).items():
            (early if name.startswith(ahead) else late).append(fetched(linear))
        if hasattr(block, "prompt_weight"):  # is read without the rest of its block, too
            alone.append(block.prompt_weight()[:])
            block.prompt_weight = lambda weight=alone[0]: weight
        for row, unit in zip(rows, (early, late, alone), strict=True):
            row.append(unit)
    ring = Ring(device, max(size(unit) for row in rows for unit in row))
    for row in rows:
        for i, unit in enumerate(row):
            for index, weight in enumerate(unit):
                weight.place = partial(ring.get, row, i, index)
    for k, buffer in enumerate(ring.buffers):
        model.register_buffer(f"ring{k}", buffer)
    model.to(device)
