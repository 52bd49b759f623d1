"""Memory and time of the FLUX autoencoder against picture size, whole and in tiles.

    python -m tests.bench.flux_vae                            # a narrow one (ch 16), a few minutes
    python -m tests.bench.flux_vae --ch 128 --sides 512       # the official widths

Every figure comes from its own process, on the CPU in float32 with random weights: the rise of the
peak resident set over what the model, the libraries and the input take, and the processor time.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from tinybridge.flux_vae import AutoEncoder, AutoEncoderConfig


def peak() -> float:
    """Largest resident set of this process so far, in MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.no_grad()
def measure(half: str, ch: int, side: int, tile: int | None) -> dict[str, float]:
    """MiB and seconds of one encode or decode of a square picture."""
    model = AutoEncoder(AutoEncoderConfig(ch=ch, groups=ch // 4))
    shape = (1, 3, side, side) if half == "encode" else (1, 16, side // 8, side // 8)
    x = torch.randn(shape)
    call = getattr(model, half)
    warm = 64 if half == "encode" else 8  # a picture of 64 x 64 either way
    call(x[..., :warm, :warm])
    before, start = peak(), time.process_time()
    call(x, tile=tile)
    return {"MiB": peak() - before, "seconds": time.process_time() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ch", type=int, default=16, help="channels of the first level")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--tile", type=int, default=256, help="side of a tile in pixels")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*json.loads(args.one))))
        return
    print(f"ch {args.ch}, tiles of {args.tile} pixels, torch {torch.__version__}, CPU, float32")
    print("| | side | whole: MiB | s | tiled: MiB | s |\n|---|---|---|---|---|---|")
    for half in ("encode", "decode"):
        for side in args.sides:
            row = []
            for tile in (None, args.tile):
                case = json.dumps((half, args.ch, side, tile))
                command = [sys.executable, "-m", "tests.bench.flux_vae", "--one", case]
                found = json.loads(subprocess.check_output(command))
                row += [f"{found['MiB']:.0f}", f"{found['seconds']:.1f}"]
            print(f"| {half} | {side} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
