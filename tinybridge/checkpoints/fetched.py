"""Weights of frozen linears that are fetched whenever they are multiplied with, and not kept.

Of a weight that autograd would keep for backward it keeps no values: backward fetches once more.
The products are those of torch itself, so results and gradients are equal bit for bit to those of
a weight that lies ready. offload.py fetches from the host's memory, float8.py out of 8 bits.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


@dataclass(eq=False, repr=False)
class Fetched:
    """Stands where a linear has its weight [rows, D]; it has a dtype, rows and F.linear.

    stored: the values, on any device and in any dtype; dtype: what they are computed in; scale
    [rows]: factors of a float8 weight; place: gives the stored values on the device, None: they
    are there. What is fetched may be overwritten by the next but one that is.
    """

    stored: Tensor
    dtype: torch.dtype
    scale: Tensor | None = None
    place: Callable[[], Tensor] | None = None

    def __getitem__(self, rows: slice) -> "Fetched":
        """Some of its rows, before it is given a place."""
        scale = None if self.scale is None else self.scale[rows]
        return replace(self, stored=self.stored[rows], scale=scale)

    def fetch(self) -> Tensor:
        """The weight as it is multiplied with, [rows, D]."""
        weight = self.stored if self.place is None else self.place()
        if self.scale is None:
            return weight
        return weight.to(self.dtype).mul_(self.scale[:, None])  # rounded once

    @classmethod
    def __torch_function__(
        cls, function: Callable, types: Any, args: tuple, kwargs: dict | None = None
    ) -> Tensor:
        """What torch calls instead of a function that is given one of these."""
        if function is not F.linear or kwargs:
            raise TypeError(f"a weight that is fetched is for linears, not for {function}")
        x, weight, *bias = args
        ready = weight.fetch()
        address = ready.data_ptr()

        def pack(saved: Tensor) -> Any:
            """The shape and the strides, where it is the weight or its transpose."""
            return (saved.shape, saved.stride()) if saved.data_ptr() == address else saved

        def unpack(kept: Any) -> Tensor:
            return kept if isinstance(kept, Tensor) else weight.fetch().as_strided(*kept)

        with saved_tensors_hooks(pack, unpack):
            return F.linear(x, ready, *bias)


def linears(block: nn.Module) -> dict[str, nn.Linear]:
    """The linears of a block by name."""
    return {name: part for name, part in block.named_modules() if isinstance(part, nn.Linear)}


def fetched(linear: nn.Linear) -> Fetched:
    """What a linear's weight is fetched from: now it is, if it was a parameter."""
    weight = linear.weight
    if not isinstance(weight, Fetched):
        del linear.weight
        linear.weight = Fetched(weight.detach(), weight.dtype)
    return linear.weight
