"""Official checkpoints into our models, either published layout, every tensor accounted for.

    python weights.py inspect PATH [--check-values] [--conditioning FILE]
    python weights.py conditioning DIR --out null.safetensors [--text TEXT]

FLUX.1-dev and -schnell, WAN 2.1 T2V 1.3B and 14B: the vendor's files (flux1-dev.safetensors,
ae.safetensors; Wan2.1_VAE.pth, ...) or the diffusers folder. The loaders are those of
tinybridge/checkpoints; what files look like is a row a model in its flux.py and wan.py.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from tinybridge.checkpoints import (
    load_backbone,
    load_clip,
    load_flux,
    load_flux_vae,
    load_t5,
    load_umt5,
    load_wan,
    load_wan_vae,
    save_conditioning,
    text_encoders,
    with_texts,
)
from tinybridge.checkpoints.backbones import (
    SIZES,
    TINY,
    find_parts,
    missing_parts,
    named_parts,
    usual_length,
)
from tinybridge.checkpoints.conditioning_files import (
    conditioning_for,
    is_conditioning,
    read_conditioning,
)
from tinybridge.checkpoints.fill import summary
from tinybridge.checkpoints.fit import check_fit, check_prompts
from tinybridge.checkpoints.folders import family_of, holds_weights, home
from tinybridge.checkpoints.identify import FAMILIES, KINDS, identify
from tinybridge.checkpoints.load import build, open_part, recognise
from tinybridge.checkpoints.relatives import check_names, check_pipeline
from tinybridge.checkpoints.scales import take_scales
from tinybridge.checkpoints.tensors import open_checkpoint
from tinybridge.training import machine, need

PART = "PART=FILE: a part that lies elsewhere or beside another one, as umt5=FILE; repeatable"
CONDITIONING = "file of `weights.py conditioning`, which stands for text encoder and tokenizer"
FLOAT8 = "hold the blocks' weights in 8 bits: half of bfloat16's memory, some loss"
OFFLOAD = "keep the blocks' weights in the host's memory, two at a time on the GPU; the same result"

__all__ = [
    "CONDITIONING",
    "FLOAT8",
    "OFFLOAD",
    "PART",
    "SIZES",
    "TINY",
    "check_prompts",
    "inspect",
    "load_backbone",
    "load_clip",
    "load_flux",
    "load_flux_vae",
    "load_t5",
    "load_umt5",
    "load_wan",
    "load_wan_vae",
    "named_parts",
    "save_conditioning",
    "text_encoders",
    "with_texts",
]


def inspect(
    path: Path,
    check_values: bool,
    parts: Mapping[str, Path] | None = None,
    conditioning: Path | None = None,
) -> None:
    """Print what a file or folder is and what a backbone lacks, reading headers alone.

    check_values: read the values too. parts: files of single parts, wherever they lie.
    conditioning: a file that stands for the text encoders. ValueError or OSError at the first thing
    that is wrong, parts that do not fit each other among them.
    """
    folder = home(path)
    name = "" if path.is_file() else family_of(folder)
    told = conditioning is not None
    files = find_parts(folder, name, parts, told) if name else {}
    for part, file in files.items():
        if part in KINDS and file:
            describe(file, part, check_values)
    if not name:
        for family in FAMILIES.values():
            check_pipeline(folder, family)
        if path.is_dir() and not holds_weights(folder):
            raise ValueError(f"{path}: no model found: expected files of FLUX.1 or of WAN 2.1")
        name = describe(path, "", check_values)
        if name not in FAMILIES or path.is_dir():
            return
        files = find_parts(path, name, parts, told)
    there = {part: file for part, file in files.items() if file}
    opened = {part: open_part(part, file) for part, file in there.items() if part in KINDS}
    check_fit(FAMILIES[name], opened, there)
    if conditioning and name in opened:
        longest = usual_length(name, opened)
        conditioning_for(conditioning, name, opened[name].config, longest)
        print(f"{conditioning}: {read_conditioning(conditioning).describe()}")
    lacks = missing_parts(path, name, files)
    print(f"{path}: {lacks or 'a whole backbone'}")
    if not lacks:
        for line in what_it_needs(name, path, parts, conditioning):
            print(line)


def what_it_needs(
    name: str, path: Path, parts: Mapping[str, Path] | None, conditioning: Path | None
) -> list[str]:
    """Memory to restore what the model sees at once, on this machine's CPU in either dtype."""
    size, frames, what = (SIZES[name], SIZES[name]), 1, "a picture of {1}x{0}"
    if name == "wan":
        size, frames, what = (480, 832), 33, "33 frames of {1}x{0}"
    where = {"path": path, "parts": parts, "conditioning": conditioning}
    encoders = text_encoders(name, **where)
    lines = []
    for dtype in (torch.float32, torch.bfloat16):
        headers = load_backbone(name, device="meta", dtype=dtype, **where)
        read = need.to_encode_text(encoders, headers.length)
        found = need.to_restore(headers, [], size, frames, text=read)
        lines.append(f"{what.format(*size)} in {str(dtype).removeprefix('torch.')} {found}")
    there = machine.memory_there("cpu")
    if there is not None:
        lines.append(f"there are {need.gb(there)} GB")
    return lines


def describe(path: Path, part: str, check_values: bool) -> str:
    """Print a checkpoint's model, layout, size and dtypes; return its kind. part "": whatever."""
    checkpoint = open_checkpoint(path, not part or KINDS[part].pickled)
    if is_conditioning(checkpoint) and not part:
        print(f"{path}: {read_conditioning(path).describe()}")
        return ""
    looks_like, title = identify(checkpoint.entries)
    print(f"{path}: {title}")
    if looks_like or part:
        kind = KINDS[part or looks_like]
        opened = recognise(kind, checkpoint)
        check_names(kind, path, checkpoint.metadata)
        build(opened, "meta", None)  # every tensor used once, every parameter filled
        print(f"  {opened.config}")
        checkpoint = take_scales(checkpoint)
    print(f"  {summary(checkpoint)}")
    if check_values:
        checkpoint.check_values()
        print("  all values are finite")
    return looks_like


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="weights.py", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "inspect", help="say what a file or folder is and what a backbone lacks"
    )
    command.add_argument("path", type=Path, help="a checkpoint's file or folder, or a backbone's")
    command.add_argument("--check-values", action="store_true", help="refuse NaN and infinity")
    command.add_argument("--part", action="append", default=[], help=PART)
    command.add_argument("--conditioning", type=Path, help=CONDITIONING)
    command = commands.add_parser(
        "conditioning", help="write what the text encoders make of a text, for folders without them"
    )
    command.add_argument("path", type=Path, help="a backbone's folder, text encoders in it")
    command.add_argument("--out", type=Path, required=True, help="the file, a new one")
    command.add_argument("--text", default="", help="default: nothing, as in the paper")
    command.add_argument("--length", type=int, help="rows; 512 for the vendor's WAN prompts")
    command.add_argument("--part", action="append", default=[], help=PART)
    flags = parser.parse_args(argv)
    try:
        parts = named_parts(flags.part)
        if flags.command == "inspect":
            inspect(flags.path, flags.check_values, parts, flags.conditioning)
        else:
            save_conditioning(flags.path, flags.out, flags.text, flags.length, parts)
            print(f"{flags.out}: {read_conditioning(flags.out).describe()}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
