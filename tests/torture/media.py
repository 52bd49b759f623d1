"""Trials of pictures, clips and lists: folders of spoilt files with sound ones among them."""

import json
import random
import struct
from pathlib import Path

from PIL import Image

import sample
from tests.torture import inputs, mutate
from tests.torture.doors import Verdicts, door, refusal, seen


def told_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) by the header of PNG or BMP bytes, read by hand; None: another format."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
        return struct.unpack(">II", data[16:24])
    if data[:2] == b"BM" and data[14:18] == b"(\0\0\0":
        width, height = struct.unpack("<ii", data[18:26])
        return width, abs(height)
    return None


def media(kind: str, rng: random.Random, folder: Path, scratch: Path) -> Verdicts:
    """A folder of spoilt files with sound ones before, between and behind them."""
    sound = inputs.pictures() if kind == "pictures" else inputs.clips()
    spoil, keep = (8, 2) if kind == "pictures" else (3, 1)
    name = {"pictures": "flux", "clips": "wan"}[kind]
    files, good = {}, {}
    for k in range(spoil):
        of = rng.choice(sorted(sound))
        files[f"{k}-{of}"] = mutate.of_bytes(sound[of], rng)
    for k in range(keep):
        of = rng.choice(sorted(sound))
        good[f"{rng.randrange(10)}{k}good-{of}"] = sound[of]
    inputs.written(folder / "in", files | good)
    flags = ["--backbone", name, "--prompt", scratch / f"{name}.safetensors", "--steps", 1]
    status, told = door(sample.main, *flags, "--input", folder / "in", "--out", folder / "out")
    if status == -1:
        return [("traceback", told.strip()[-400:])] * spoil
    alone = folder / "alone"
    inputs.written(alone / "in", good)
    door(sample.main, *flags, "--input", alone / "in", "--out", alone / "out")
    found: Verdicts = []
    for file in good:
        mine, expected = folder / "out" / file, alone / "out" / file
        if not expected.is_file():
            found.append(("wrong", f"{file} alone was not restored"))
        elif not mine.is_file() or seen(mine) != seen(expected):
            found.append(("lost", f"{file}: {told.strip()[-300:]}"))
    for file, data in files.items():
        found.append(medium(file, data, folder / "out" / file, told, kind))
    return found


def medium(file: str, data: bytes, out: Path, told: str, kind: str) -> tuple[str, str]:
    """The verdict on one spoilt picture or clip."""
    lines = [line for line in told.splitlines() if file in line]
    if not out.exists():
        if any("error: " in line for line in lines):
            return "refused", lines[0][:200]
        return ("refused", lines[0][:200]) if lines else ("silent", f"{file}: {told[-200:]}")
    if kind == "pictures":
        try:
            with Image.open(out) as image:
                image.load()
                size = image.size
        except Exception as error:
            return "wrong", f"{file}: what was written cannot be read: {error}"
        expected = told_size(data)
        if expected and size not in (expected, expected[::-1]):
            return "wrong", f"{file}: {size} for {expected}"
    return "accepted", file


def lists(rng: random.Random, folder: Path, scratch: Path) -> Verdicts:
    """A JSON list of two sound pictures, spoilt."""
    good = dict(list(inputs.pictures().items())[:2])
    inputs.written(folder, good)
    rows = [
        {"image_path": name, "target_path": name, "degradation": "haze", "dataset": "d"}
        for name in good
    ]
    text = mutate.of_json(json.dumps(rows), rng)
    (folder / "list.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    prompt = scratch / "flux.safetensors"
    flags = ["--backbone", "flux", "--prompt", prompt, "--steps", 1, "--out", folder / "out"]
    status, told = door(sample.main, *flags, "--input", folder / "list.json")
    return [("accepted", "") if status == 0 else refusal(status, told)]
