"""Time and memory of each stage of sample.py or train.py, in one process of its own.

    python -m tests.bench.stages {sample,train} OUT.json FLAGS OF THE SCRIPT ...

The functions where a stage begins and ends are wrapped, nothing else is changed. A stage that runs
inside another one (latents are asked for while a clip is decoded) is taken out of that one.
train.py is told to stop after its first step, as by Ctrl-C.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

import sample
import train
import weights
from tests.bench.wan_vae import resident
from tinybridge import flux, flux_vae, wan, wan_vae
from tinybridge.training import loop

END = object()


def shapes_only(args: tuple) -> bool:
    """A model without values among the arguments: what is done is the estimate before a run."""
    models = [arg for arg in args if isinstance(arg, nn.Module)]
    return any(next(model.parameters()).is_meta for model in models)


class Stages:
    """Of every stage seconds, those of all processors, peak GB and calls, as stages began."""

    def __init__(self):
        self.rows: dict[str, dict[str, Any]] = {}
        self.open = ["the rest"]
        self.begin()

    def begin(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self.since, self.worked = time.perf_counter(), time.process_time()

    def note(self) -> None:
        """What has passed since the last change belongs to the stage that is open."""
        name = self.open[-1]
        empty = {"name": name, "seconds": 0.0, "cpu": 0.0, "peak": 0.0, "count": 0}
        row = self.rows.setdefault(name, empty)
        row["seconds"] += time.perf_counter() - self.since
        row["cpu"] += time.process_time() - self.worked
        row["peak"] = max(row["peak"], resident("VmHWM") * 2**20 / 1e9)

    def inside(self, name: str, run: Callable) -> Callable:
        """`run` as a stage."""

        def wrapped(*args: Any, **options: Any) -> Any:
            if shapes_only(args):
                return run(*args, **options)
            self.note()
            self.open.append(name)
            self.begin()
            try:
                return run(*args, **options)
            finally:
                self.note()
                self.rows[name]["count"] += 1
                self.open.pop()
                self.begin()

        return wrapped

    def each(self, name: str, run: Callable) -> Callable:
        """`run`, which yields, as a stage at every item."""

        def wrapped(*args: Any, **options: Any) -> Iterator[Any]:
            if shapes_only(args):
                yield from run(*args, **options)
                return
            items = iter(run(*args, **options))
            following = self.inside(name, lambda: next(items, END))
            while (item := following()) is not END:
                yield item
            self.rows[name]["count"] -= 1  # the one that found the end

        return wrapped


def wrap(stages: Stages) -> None:
    """Puts the stages where both scripts pass."""
    weights.load_backbone = stages.inside("load", weights.load_backbone)
    for model in (flux.Flux, wan.Wan):
        model.forward = stages.inside("transformer, forward", model.forward)
    wan_vae.AutoEncoder.encode_chunks = stages.each("encode", wan_vae.AutoEncoder.encode_chunks)
    wan_vae.AutoEncoder.decode_chunks = stages.each("decode", wan_vae.AutoEncoder.decode_chunks)
    flux_vae.AutoEncoder.encode = stages.inside("encode", flux_vae.AutoEncoder.encode)
    flux_vae.AutoEncoder.decode = stages.inside("decode", flux_vae.AutoEncoder.decode)
    gradients = stages.inside("backward", loop.gradients)

    def one_step(*args: Any, **options: Any) -> Any:
        found = gradients(*args, **options)
        os.kill(os.getpid(), signal.SIGTERM)
        return found

    loop.gradients = one_step


def main(script: str, out: Path, flags: list[str]) -> int:
    stages = Stages()
    wrap(stages)
    try:
        return {"sample": sample, "train": train}[script].main(flags)
    finally:
        stages.note()
        out.write_text(json.dumps(list(stages.rows.values())))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
