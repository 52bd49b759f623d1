"""Names and shapes of every tensor in the official checkpoints, in official.json.xz beside this.

    python -m tests.oracles.official FOLDER     # made again from FOLDER/*.json, one list per file

Each list is {tensor: shape} in the file's own order: FLUX.1-dev and -schnell, WAN 2.1 T2V 1.3B and
14B, their autoencoders and encoders, the vendor's layout (_bfl, _vendor) and diffusers' (_diff).
They were read from the headers of the published files. FOLDER is by default keys/ in the folder
that TINYBRIDGE_SHARED names, or in shared/ beside the repository.
"""

import json
import lzma
import os
import sys
from functools import cache
from pathlib import Path

SHARED = Path(os.environ.get("TINYBRIDGE_SHARED", Path(__file__).parents[3] / "shared"))
COMMITTED = Path(__file__).with_suffix(".json.xz")

Shapes = dict[str, list[int]]


@cache
def committed() -> dict[str, Shapes]:
    """All lists: that of a file by its name, as "flux_dev_bfl"."""
    return json.loads(lzma.decompress(COMMITTED.read_bytes()))


def shapes(name: str) -> Shapes:
    """The tensors of one official file, a copy that a test may change."""
    return dict(committed()[name])


def gathered(folder: Path) -> dict[str, Shapes]:
    """The lists in a folder. ValueError where there are none."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(f"{folder}: has no lists (*.json)")
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def main(folder: Path) -> None:
    text = json.dumps(gathered(folder), separators=(",", ":"))
    COMMITTED.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{COMMITTED}: {COMMITTED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED / "keys")
