"""SIGKILL at random moments: train.py and sample.py are killed and called again until they end.

What must hold: after every kill the prompt and the state of a run can be read; a training run that
was killed and resumed ends with the very prompt and losses of an undisturbed one; a folder that is
restored with --skip-existing ends with every file as it is undisturbed.
"""

import csv
import os
import random
import signal
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import sample
import train
from tests.torture import inputs
from tests.torture.doors import door, seen
from tinybridge.prompt import Prompt
from tinybridge.training.run_state import STATE, read_state


def forked(call: Callable[[], int], delay: float | None) -> int | None:
    """The exit status of `call` in a process of its own; None if it was killed after `delay` s."""
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os._exit(call() & 255)
    if delay is not None:
        end = time.monotonic() + delay
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return None if code == -signal.SIGKILL else code


def until_done(
    begin: Callable[[], Callable[[], int]],
    check: Callable[[], None],
    longest: float,
    rng: random.Random,
) -> int:
    """Kills and begins again until a process ends by itself; how often it was killed.

    begin: the call to make now; check: raises AssertionError if what lies there is not whole.
    longest: seconds of an undisturbed call. After 20 kills a last call runs undisturbed.
    """
    kills = 0
    while True:
        status = forked(begin(), rng.uniform(0, 0.8 * longest) if kills < 20 else None)
        check()
        if status is not None:
            assert status == 0, f"exit status {status} after {kills} kills"
            return kills
        kills += 1


# ---- training ----------------------------------------------------------------------------------


def pairs(folder: Path) -> None:
    """Six pairs of 16x16 pictures."""
    for side in ("degraded", "clean"):
        files = {}
        for k in range(6):
            shift = 40 if side == "degraded" else 0
            picture = inputs.Image.fromarray(np.minimum(inputs.scene(k, 16, 16), 200) + shift)
            files[f"{k}.png"] = inputs.saved(picture, "PNG")
        inputs.written(folder / side, files)


def training(scratch: Path, out: Path, resume: bool) -> int:
    """train.py on the pairs, 12 steps, a save at every second."""
    flags = [
        "--backbone",
        "flux",
        "--weights",
        scratch / "flux-vendor",
        "--data",
        scratch / "pairs",
    ]
    flags += ["--size", 16, "--steps", 12, "--batch-size", 2, "--lr", 0.1, "--out", out]
    return door(train.main, *flags, *(["--resume"] if resume else []))[0]


def trained(out: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """What a finished run must agree on: its tensors and its losses."""
    with (out / "log.csv").open(newline="") as stream:
        losses = [row["loss"] for row in csv.DictReader(stream)]
    return load_file(out / "prompt.safetensors"), losses


@cache
def undisturbed_training(scratch: Path, out: Path) -> float:
    """The run that all others are held against; its seconds."""
    pairs(scratch / "pairs")
    began = time.monotonic()
    assert forked(partial(training, scratch, out, False), None) == 0
    return time.monotonic() - began


def killed_training(rng: random.Random, folder: Path, scratch: Path) -> int:
    """One run of train.py, killed until it ends; how often it was killed."""
    expected = scratch / "undisturbed"
    longest = undisturbed_training(scratch, expected)
    out = folder / "run"

    def begin() -> Callable[[], int]:
        return partial(training, scratch, out, (out / STATE).exists())

    def whole() -> None:
        if (out / "prompt.safetensors").exists():
            Prompt.load(out / "prompt.safetensors")
        if (out / STATE).exists():
            read_state(out / STATE)

    kills = until_done(begin, whole, longest, rng)
    tensors, losses = trained(out)
    same, same_losses = trained(expected)
    assert losses == same_losses, "other losses than undisturbed"
    assert tensors.keys() == same.keys()
    for name in same:
        assert np.array_equal(tensors[name], same[name]), f"{name} differs from the undisturbed run"
    return kills


# ---- restoring ---------------------------------------------------------------------------------


def restoring(kind: str, scratch: Path, source: Path, out: Path) -> int:
    """sample.py over a folder, going on where it stopped."""
    name = {"pictures": "flux", "clips": "wan"}[kind]
    flags = ["--backbone", name, "--prompt", scratch / f"{name}.safetensors", "--steps", 2]
    return door(sample.main, *flags, "--input", source, "--out", out, "--skip-existing")[0]


@cache
def undisturbed_restoring(kind: str, scratch: Path, source: Path, out: Path) -> float:
    """The folder that all others are held against; its seconds."""
    inputs.written(source, inputs.pictures() if kind == "pictures" else inputs.clips())
    began = time.monotonic()
    assert forked(partial(restoring, kind, scratch, source, out), None) == 0
    return time.monotonic() - began


def killed_restoring(kind: str, rng: random.Random, folder: Path, scratch: Path) -> int:
    """One folder restored, killed until it ends; how often it was killed."""
    source, expected = scratch / f"{kind}-in", scratch / f"{kind}-undisturbed"
    longest = undisturbed_restoring(kind, scratch, source, expected)
    out = folder / "out"

    def begin() -> Callable[[], int]:
        return partial(restoring, kind, scratch, source, out)

    kills = until_done(begin, lambda: None, longest, rng)
    for file in source.iterdir():
        assert seen(out / file.name) == seen(expected / file.name), f"{file.name} is not whole"
    return kills


KILLED = {
    "train": killed_training,
    "pictures": partial(killed_restoring, "pictures"),
    "clips": partial(killed_restoring, "clips"),
}
