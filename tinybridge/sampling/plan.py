"""What restoring some files needs, from their headers and the model's, and what makes it fit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import bfloat16, nn

from tinybridge.backbone import Backbone
from tinybridge.data.formats import SUFFIXES
from tinybridge.sampling.files import frame_size
from tinybridge.training import machine, need

LOOKED_AT = 1000  # files whose headers are read
TOGETHER, MOST_TOGETHER = 2**20, 64  # pixels in windows that are one batch, and how many of those


def together(backbone: Backbone, frames: int) -> int:
    """How many windows of so many frames are one batch, if nobody says."""
    return min(MOST_TOGETHER, max(1, TOGETHER // (backbone.size**2 * frames)))


@dataclass
class Plan:
    """A run of sample.py: load(**changes) gives a backbone of headers with its size and tile.

    prompts: to be mixed; encoders(offload): those that will be read, of headers; frames: of a
    window; windows: in a batch, None: as `together`; offload: blocks' weights stay on the host.
    """

    load: Callable[..., Backbone]
    prompts: list
    encoders: Callable[[bool], Sequence[nn.Module]]
    device: str
    frames: int
    windows: int | None
    offload: bool

    def told(self, files: Sequence[Path]) -> str:
        """Memory for the largest of the files, in one line; ValueError in one if it cannot be had.

        "" where no file says its size.
        """
        sizes = [size for file in files[:LOOKED_AT] if (size := frame_size(file))]
        if not sizes:
            return ""
        photos = all(file.suffix.lower() in SUFFIXES for file in files)
        shape = (1 if photos else self.frames, *max(sizes, key=math.prod))
        headers = self.load()
        side = min(headers.size, max(shape[1:]))
        smaller: dict[str, dict[str, Any]] = {"--conditioning FILE": {"text": False}}
        if self.device != "cpu":
            smaller["--offload"] = {"offload": True}
        smaller |= {
            "--batch-size 1": {"windows": 1},
            "--tile 512": {"tile": 512},
            "--dtype bfloat16": {"dtype": bfloat16},
            "--weights-dtype float8": {"weights_dtype": "float8"},
            f"--size {side // 2}": {"size": side // 2},
            f"--size {side // 4}": {"size": side // 4},
        }

        def estimate(**changes: Any) -> need.Need:
            return self.estimate(shape, **changes)

        return need.check(estimate, smaller, machine.memory_there(self.device))

    def estimate(
        self,
        shape: tuple[int, int, int],
        size: int | None = None,
        tile: int | None = None,
        windows: int | None = None,
        offload: bool = False,
        text: bool = True,
        **changes: Any,
    ) -> need.Need:
        """For a picture or clip (T, H, W) with some of the flags changed."""
        offload = offload or self.offload
        backbone = self.load(offload=offload, **changes)
        backbone.size = size or backbone.size
        backbone.tile = tile or backbone.tile
        frames, *sides = shape
        n = windows or self.windows or together(backbone, frames)
        read = need.to_encode_text(self.encoders(offload), backbone.length) if text else 0
        return need.to_restore(backbone, self.prompts, tuple(sides), frames, n, read)
