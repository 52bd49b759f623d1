"""The doors that trials go through: the scripts' `main`, as the command line calls them.

With the bundled tiny models (pictures, clips, lists, prompts) or small random ones (checkpoints,
configs), all under one scratch folder.
"""

import io
import os
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import av

import sample
import weights
from tests.oracles import folders
from tests.oracles.wan_files import write_wan
from tests.torture import inputs
from tinybridge.backbone import Backbone
from tinybridge.prompt import Prompt

Verdicts = list[tuple[str, str]]  # verdict, what was spoilt and what was said of it
load_backbone = weights.load_backbone


LOADED: dict[str, Backbone] = {}


def bundled(*args: object, **options: object) -> Backbone:
    """weights.load_backbone, each combination of arguments once for all trials of a process."""
    key = repr((args, options))
    if key not in LOADED:
        LOADED[key] = load_backbone(*args, **options)
    return LOADED[key]


def prepare(scratch: Path) -> None:
    """What all trials share, under `scratch`: prompts, small checkpoints, warm models."""
    scratch.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")
    weights.load_backbone = bundled
    for name in ("flux", "wan"):
        backbone = bundled(name)
        prompt = Prompt.init(backbone.length, backbone.width, backbone.blocks, seed=1, std=1.0)
        prompt.meta = {"backbone": name, "bridge": "desired", "t0": "0.4", "grid": "true"}
        prompt.save(scratch / f"{name}.safetensors")
        # Restores something sound, so that the trials' processes find all models loaded.
        flags = ["--backbone", name, "--prompt", scratch / f"{name}.safetensors", "--steps", 1]
        file = inputs.written(scratch / "warm", {"a.png": inputs.pictures()["rgb.png"]}) / "a.png"
        status, told = door(sample.main, *flags, "--input", file, "--out", scratch / f"warm-{name}")
        assert status == 0, told
    if not (scratch / "wan-vendor").exists():
        folders.write_folder(scratch / "flux-vendor")
        folders.write_folder(scratch / "flux-diffusers", "diffusers", shards=2)
        write_wan(scratch / "wan-vendor")


def door(main: Callable, *flags: object) -> tuple[int, str]:
    """Exit status and all that was printed; -1 with the traceback if an exception came out."""
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(told):
        try:
            status = main([str(flag) for flag in flags])
        except SystemExit as error:
            status = int(error.code or 0)
        except BaseException:
            traceback.print_exc(file=told)
            status = -1
    return status, told.getvalue()


def refusal(status: int, told: str) -> tuple[str, str]:
    """The verdict on a run that did not succeed."""
    line = told.strip().splitlines()[-1:] or [""]
    if status == -1 or "Traceback" in told:
        return "traceback", told.strip()[-400:]
    if status == 2 and "error: " in told and len(line[0]) > 8:
        return "refused", line[0][:200]
    return "silent", f"exit status {status}: {line[0][:200]}"


def seen(file: Path) -> bytes:
    """What a file shows: its bytes, of a video file its frames, for containers hold random ids."""
    if file.suffix not in (".mp4", ".mov", ".mkv", ".webm"):
        return file.read_bytes()
    with av.open(str(file)) as container:
        frames = [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]
    return b"".join(frames)
