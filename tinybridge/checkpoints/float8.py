"""`--weights-dtype float8`: the blocks' weights in 8 bits, decoded one by one as they are needed.

e4m3 has 4 bits of exponent and 3 of mantissa: numbers up to 448, steps of an eighth of the power
of 2 below them. With one factor for each row the largest of a row becomes 448. What a file holds
in float8 stays as it is, with its own factors, e5m2 too.
"""

import torch
from torch import Tensor

from tinybridge.checkpoints.layout import join
from tinybridge.checkpoints.tensors import FLOAT8, Checkpoint

KIND = torch.float8_e4m3fn
LARGEST = torch.finfo(KIND).max
SMALLEST = torch.finfo(torch.float32).tiny  # factor of a row of zeros, and of rows near them


def check_weights_dtype(weights_dtype: str | None, device: torch.device | str) -> None:
    """ValueError for what is not offered, or not on this device."""
    if weights_dtype not in (None, "float8"):
        raise ValueError(f"--weights-dtype {weights_dtype}: expected float8, or leave it out")
    if weights_dtype == "float8" and torch.device(device).type == "mps":
        raise ValueError("--weights-dtype float8: PyTorch has no float8 on mps: leave this out")


def encode(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Values [rows, D] in e4m3 and factors [rows] in float32, whose product is about the weight."""
    weight = weight.float()
    scale = (weight.abs().amax(1) / LARGEST).clamp(min=SMALLEST)  # [rows]
    return (weight / scale[:, None]).to(KIND), scale


def read_float8(
    checkpoint: Checkpoint, parts: list[str], rule: str, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """A weight of ours in float8 and its factors, made of a checkpoint's tensors by a table's rule.

    As it is stored where all parts are float8 of one kind: a single part on the CPU stays mapped.
    """
    kinds = {checkpoint.entries[part].dtype for part in parts}
    if len(kinds) > 1 or not kinds <= set(FLOAT8):
        return encode(join([checkpoint.read(part, torch.float32, device) for part in parts], rule))
    keep = len(parts) == 1 and torch.device(device).type == "cpu"
    values, scales = [], []
    for part in parts:
        entry, scale = checkpoint.entries[part], checkpoint.scales.get(part)
        factor = checkpoint.stored(scale).float() if scale else torch.ones(1)
        values.append(checkpoint.stored(entry, keep))  # [rows of the part, D]
        scales.append(factor.flatten().expand(entry.shape[0]))  # [rows of the part]
    return join(values, rule).to(device), join(scales, rule).to(device)
