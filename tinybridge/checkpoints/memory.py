"""Weights one behind the other in a piece of memory; page-locked memory, which a GPU reads from."""

import torch
from torch import Tensor

from tinybridge.checkpoints.fetched import Fetched

PIECE = 2**30  # bytes


def size(weights: list[Fetched]) -> int:
    return sum(weight.stored.nbytes for weight in weights)


def copy(weights: list[Fetched], buffer: Tensor) -> list[Tensor]:
    """The stored values of weights in a buffer of bytes, as long as their sizes or longer."""
    copies = []
    for weight in weights:
        stored = weight.stored
        here, buffer = buffer[: stored.nbytes], buffer[stored.nbytes :]
        here = here.view(stored.dtype).view(stored.shape)
        copies.append(here.copy_(stored, non_blocking=True))
    return copies


def pieces(weights: list[Fetched]) -> list[list[Fetched]]:
    """Weights in their order, as many to a piece as fit into PIECE; one alone if it is larger.

    torch rounds page-locked memory up to powers of 2, block by block that would be up to twice a
    model's size.
    """
    found: list[list[Fetched]] = [[]]
    for weight in weights:
        if found[-1] and size([*found[-1], weight]) > PIECE:
            found.append([])
        found[-1].append(weight)
    return found


def pin(weights: list[Fetched]) -> None:
    """Moves the stored values of weights into page-locked memory, piece by piece."""
    for piece in pieces(weights):
        memory = torch.empty(size(piece), dtype=torch.uint8, pin_memory=True)
        for weight, pinned in zip(piece, copy(piece, memory), strict=True):
            weight.stored = pinned
