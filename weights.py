"""Official checkpoints into our models, either published layout, every tensor accounted for.

    python weights.py inspect PATH [--check-values]

FLUX.1-dev and -schnell, WAN 2.1 T2V 1.3B and 14B: the vendor's files (flux1-dev.safetensors,
ae.safetensors; Wan2.1_VAE.pth, ...) or the diffusers folder. The loaders are those of
tinybridge/checkpoints; what files look like is a row a model in its flux.py and wan.py.
"""

import argparse
import sys
from contextlib import suppress
from pathlib import Path

from tinybridge.checkpoints import (
    layout,
    load_backbone,
    load_clip,
    load_flux,
    load_flux_vae,
    load_t5,
    load_umt5,
    load_wan,
    load_wan_vae,
    with_texts,
)
from tinybridge.checkpoints.backbones import FAMILIES, TINY, find_parts, missing_parts
from tinybridge.checkpoints.fill import summary
from tinybridge.checkpoints.load import KINDS, build, find, identify, recognise
from tinybridge.checkpoints.tensors import open_checkpoint

__all__ = [
    "TINY",
    "inspect",
    "load_backbone",
    "load_clip",
    "load_flux",
    "load_flux_vae",
    "load_t5",
    "load_umt5",
    "load_wan",
    "load_wan_vae",
    "with_texts",
]


def inspect(path: Path, check_values: bool) -> None:
    """Print what a file or folder is and what a backbone lacks, reading headers alone.

    check_values: read the values too. ValueError or OSError at the first thing that is wrong.
    """
    name = "" if path.is_file() else backbone_name(path)
    files = find_parts(path, name) if name else {}
    models = {part: file for part, file in files.items() if part in KINDS and file}
    for part, file in models.items():
        describe(file, part, check_values)
    if path.is_file() or (not models and any(path.glob("*.safetensors*"))):
        name = describe(path, "", check_values)
        if name not in FAMILIES or path.is_dir():
            return
        files = find_parts(path, name)
    print(f"{path}: {missing_parts(path, name, files) or 'a whole backbone'}")


def backbone_name(path: Path) -> str:
    """Which backbone folder `path` holds: "wan" or, where nothing says so, "flux"."""
    places = FAMILIES["wan"].places
    for part in ("wan", "wan_vae", "umt5"):
        with suppress(ValueError, OSError):  # what cannot be read is told when it is described
            if file := find(places[part], path):
                checkpoint = open_checkpoint(file, layout.PREFIX, KINDS[part].pickled)
                found, words = identify(checkpoint.entries)
                # diffusers' transformer at the top: the folder is that of the part alone
                if found == part and (part != "wan" or file.is_dir() or "vendor" in words):
                    return "wan"
    return "wan" if find(places["umt5 tokens"], path) else "flux"


def describe(path: Path, part: str, check_values: bool) -> str:
    """Print a checkpoint's model, layout, size and dtypes; return its kind. part "": whatever."""
    checkpoint = open_checkpoint(path, layout.PREFIX, not part or KINDS[part].pickled)
    looks_like, title = identify(checkpoint.entries)
    print(f"{path}: {title}")
    if looks_like or part:
        opened = recognise(KINDS[part or looks_like], checkpoint)
        build(opened, "meta", None)  # every tensor used once, every parameter filled
        print(f"  {opened.config}")
    print(f"  {summary(checkpoint)}")
    if check_values:
        checkpoint.check_values()
        print("  all values are finite")
    return looks_like


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="weights.py", description=__doc__.split("\n")[0])
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "inspect", help="say what a file or folder is and what a backbone lacks"
    )
    command.add_argument("path", type=Path, help="a checkpoint's file or folder, or a backbone's")
    command.add_argument("--check-values", action="store_true", help="refuse NaN and infinity")
    flags = parser.parse_args(argv)
    try:
        inspect(flags.path, flags.check_values)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
