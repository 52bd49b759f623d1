"""What learning a prompt needs, from the model's headers, and what makes it fit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tinybridge.backbone import Backbone
from tinybridge.prompt import Prompt, Tokens
from tinybridge.training import machine, need
from tinybridge.training.pairs import AT_ONCE


@dataclass
class Plan:
    """A run of train.py: load(**changes) gives a backbone of headers.

    encoders(offload): those that will be read, of headers; shape: of a crop, (H, W) or (T, H, W);
    share: samples of a process in a step, of which at_once go through the model together; offload:
    the blocks' weights stay on the host.
    """

    load: Callable[..., Backbone]
    encoders: Callable[[bool], Sequence[nn.Module]]
    device: str
    shape: tuple[int, ...]
    share: int
    at_once: int
    offload: bool

    def told(self) -> str:
        """Memory for a step, in one line; ValueError in one if it cannot be had."""
        side = self.shape[-1]
        smaller: dict[str, dict[str, Any]] = {"--conditioning FILE": {"text": False}}
        if self.device != "cpu":
            smaller["--offload"] = {"offload": True}
        smaller |= {
            "--micro-batch 1": {"single": True},
            "--dtype bfloat16": {"dtype": torch.bfloat16},
            "--weights-dtype float8": {"weights_dtype": "float8"},
            f"--size {side // 2}": {"side": side // 2},
            f"--size {side // 4}": {"side": side // 4},
        }
        return need.check(self.estimate, smaller, machine.memory_there(self.device))

    def estimate(
        self,
        single: bool = False,
        side: int | None = None,
        offload: bool = False,
        text: bool = True,
        **changes: Any,
    ) -> need.Need:
        """With some of the flags changed; single: one sample at once, its blocks recomputed."""
        offload = offload or self.offload
        backbone = self.load(offload=offload, **changes)
        backbone.model.checkpointing = single  # as the loop does before it halves a batch
        shape = self.shape if side is None else (*self.shape[:-2], side, side)
        coded = max(1, min(self.share, AT_ONCE // math.prod(shape)))
        read = need.to_encode_text(self.encoders(offload), backbone.length) if text else 0
        n = 1 if single else self.at_once
        return need.to_learn(backbone, prompt_for(backbone), shape, n, coded, read)


def prompt_for(backbone: Backbone) -> Prompt | Tokens:
    """A prompt without values that fits a backbone of headers."""
    if backbone.encoder is not None:
        return Tokens(torch.zeros(backbone.length, backbone.text_width)).to("meta")
    residual = torch.zeros(backbone.length, backbone.width)
    return Prompt(residual, torch.zeros(backbone.blocks)).to("meta")
